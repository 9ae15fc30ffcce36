"""Inference under policies that really stops: windows that leave are taken out of the batch, and nothing runs for them any more.

At each exit that a policy consults, and at no other, a head answers for the windows that are still there. Those that stay are put
together into a smaller batch, the encoder's whole state with what is remembered of them, and the pass goes on with it. What runs the
pieces of the encoder is a back end, see :class:`Segments`; this loop is the same for all of them, and knows nothing of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.errors import PolicyError
from offramp.policies.criteria import Array, namespace_of
from offramp.policies.policy import Memory, Policy
from offramp.policies.simulation import Decisions, check_finite

Indices = Array | slice
"""Windows by their places in the present batch."""
State = tuple[Any, ...]
"""What goes from one segment to the next: arrays of the back end, the batch first."""
RunHead = Callable[[Any], Array]
"""From a tap to logits ``(n, classes)`` or values ``(n, dimensions)``."""


class Segments(Protocol):
    """An encoder cut at exits, and a back end that runs the pieces one after the other."""

    def __len__(self) -> int:
        """How many pieces there are."""

    def order(self, exit: str) -> int:
        """Index of an exit by depth. Raises :class:`~offramp.errors.EncoderError` if there is none."""

    def running(self) -> AbstractContextManager[None]:
        """Entered around a pass."""

    def begin(self, x: Any) -> State:
        """The state before the first stage; windows that the encoder does not take are refused."""

    def advance(
        self, after: int, to: int, state: State, seen: Collection[Hashable]
    ) -> tuple[State, dict[Hashable, Any]]:
        """From the state at exit ``after`` (-1: the beginning) to that at exit ``to``, with its tap as each of ``seen`` has it."""

    def through(self, state: State, asked: Mapping[int, Collection[Hashable]]) -> Mapping[int, Mapping[Hashable, Any]]:
        """From the state before the first stage to the deepest of some exits, with the taps asked for at each; nothing leaves."""

    def keep(self, state: State, stay: Array) -> State:
        """The state of the windows that stay."""

    def numbers(self, x: Any) -> Array:
        """0, 1, ... for the windows of a batch, as an array of the kind that decisions are made on."""

    def outputs(self, given: Array) -> Array:
        """What a head gave, as an array of that kind."""

    def blank(self, x: Any) -> Any:
        """One window of zeros like those of a batch."""

    def repeated(self, window: Any, count: int) -> Any:
        """A batch of ``count`` times the same window."""

    def joined(self, at: int, states: Sequence[State]) -> State:
        """The states behind exit ``at`` (-1: inputs) of several batches as that of one."""

    def divided(self, at: int, state: State, counts: Sequence[int]) -> list[State]:
        """And back again, into batches of so many windows."""


@dataclass(frozen=True, eq=False)
class Cascade:
    """What one task brings to a pass.

    Attributes:
        heads: For each exit that the policy consults.
        policy: Decides where windows leave.
        seen: Names what the heads see of the encoder's state; tasks that see the same share their taps.
    """

    heads: Mapping[str, RunHead]
    policy: Policy
    seen: Hashable = "default"


def run_cascades(segments: Segments, cascades: Sequence[Cascade], x: Any, first: int = 0) -> list[Decisions]:
    """Answer several tasks from one pass: a window leaves the batch once all of them have answered it.

    The answers are those that :func:`~offramp.policies.simulation.simulate` finds in the outputs of all exits, computed no further
    than needed. On a processor policies work on NumPy arrays. On an accelerator they work there, and one number is read back per exit
    consulted: how many windows stay.

    Args:
        segments: The encoder.
        cascades: The tasks.
        x: Input ``(N, *shape)`` as the back end has it; N may be 0.
        first: Number of the first window, for messages.

    Returns:
        By task exits, outputs as the heads give them, and rejections, in the order of the windows.

    Raises:
        PolicyError: An exit that a policy consults has no head, or the exits are not in order of depth.
        EncoderError: The encoder lacks an exit, or the input has another shape or dtype.
        DataError: A window's answer is not finite.
    """
    asking = _asking(segments, cascades)
    with segments.running():
        if not len(x):  # not every encoder runs on no windows, and one window shows how wide the answers are
            decided = _pass(segments, cascades, asking, segments.blank(x), first)
            return [Decisions(each.exit[:0], each.outputs[:0], each.rejected[:0]) for each in decided]
        return _pass(segments, cascades, asking, x, first)


def run_tap(segments: Segments, exit: str, seen: Hashable, x: Any) -> NDArray[np.float32]:
    """The tap at one exit, ``(N, width)`` or ``(N, positions, width)``; nothing behind the exit runs.

    Args:
        segments: The encoder.
        exit: Its name.
        seen: Names the view of the state.
        x: Input ``(N, *shape)`` as the back end has it.

    Raises:
        EncoderError: The encoder lacks the exit, or the input has another shape or dtype.
    """
    order = segments.order(exit)
    with segments.running():
        tap = segments.through(segments.begin(x), {order: (seen,)})[order][seen]
        rows: NDArray[np.float32] = to_numpy([segments.outputs(tap)])
    return rows


def _pass(
    segments: Segments, cascades: Sequence[Cascade], asking: Mapping[int, list[int]], x: Any, first: int
) -> list[Decisions]:
    state = segments.begin(x)
    if all(len(cascade.policy.exits) == 1 for cascade in cascades):
        return _fixed(segments, cascades, asking, state, first)
    if len(x) == 1 and len(cascades) == 1:
        return [_one_window(segments, cascades[0], tuple(asking), state, first)]
    present, gone, after, last = segments.numbers(x), [], -1, max(asking)
    tasks = [_Task(segments, cascade, present) for cascade in cascades]
    for exit, asked in asking.items():
        state, taps = segments.advance(after, exit, state, {cascades[index].seen for index in asked})
        after = exit
        answered = [tasks[index].consult(exit, taps) for index in asked]
        if exit == last:
            break
        if not any(answered):
            continue
        leave, stay = _parted(tasks)
        if not len(leave):
            continue
        gone.append(present[leave])
        for task in tasks:
            task.part(leave, stay)
        present = present[stay]
        if not len(present):
            break
        state = segments.keep(state, stay)
    for task in tasks:
        task.part(slice(None), slice(0))
    order = to_numpy([*gone, present])
    return [task.decisions(order, first) for task in tasks]


def _fixed(
    segments: Segments, cascades: Sequence[Cascade], asking: Mapping[int, list[int]], state: State, first: int
) -> list[Decisions]:
    """Every task has one exit: nothing is decided, and all windows go to the deepest of them."""
    asked = {exit: {cascades[index].seen for index in indices} for exit, indices in asking.items()}
    taps = segments.through(state, asked)
    decided = {}
    for exit, indices in asking.items():
        for index in indices:
            cascade = cascades[index]
            name = cascade.policy.exits[0]
            outputs = to_numpy([segments.outputs(cascade.heads[name](taps[exit][cascade.seen]))])
            check_finite(outputs, first)
            rejected = np.asarray(cascade.policy.rejects(name, outputs))
            decided[index] = Decisions(np.zeros(len(outputs), np.int64), outputs, rejected)
    return [decided[index] for index in range(len(cascades))]


def _one_window(segments: Segments, cascade: Cascade, exits: tuple[int, ...], state: State, first: int) -> Decisions:
    """One window leaves or stays: there is no batch to keep account of, which would cost more than small stages do."""
    policy, after, seen = cascade.policy, -1, (cascade.seen,)
    memory = policy.start(1)
    for exit, name in zip(exits, policy.exits, strict=True):
        state, taps = segments.advance(after, exit, state, seen)
        after = exit
        outputs = segments.outputs(cascade.heads[name](taps[cascade.seen]))
        leave, memory = policy.step(name, outputs, memory)
        if leave[0]:
            break
    answers = to_numpy([outputs])
    check_finite(answers, first)
    return Decisions(np.asarray([policy.exits.index(name)]), answers, np.asarray(policy.rejects(name, answers)))


class _Task:
    """A task's part in a pass: what it knows of the windows in the present batch, and its answers for those gone."""

    def __init__(self, segments: Segments, cascade: Cascade, present: Array) -> None:
        self.segments, self.cascade = segments, cascade
        self.names = {segments.order(exit): exit for exit in cascade.policy.exits}
        self.exit = 0 * present - 1
        """Index into the policy's exits, -1 for windows that are not answered."""
        self.outputs: Array | None = None
        """Of that exit; None before any window is answered."""
        self.memory = _memory_beside(present, cascade.policy.start(len(present)))
        self.gone: list[tuple[Array, Array]] = []

    def consult(self, exit: int, taps: Mapping[Hashable, Any]) -> bool:
        """Answer the windows that leave at an exit. False if there are none, which is not looked up on an accelerator."""
        policy, name = self.cascade.policy, self.names[exit]
        outputs = self.segments.outputs(self.cascade.heads[name](taps[self.cascade.seen]))
        leave, self.memory = policy.step(name, outputs, self.memory)
        if isinstance(leave, np.ndarray) and not leave.any():
            return False
        xp = namespace_of(outputs)
        now = leave & (self.exit < 0)
        self.exit = self.exit + now * (policy.exits.index(name) + 1)
        self.outputs = outputs if self.outputs is None else xp.where(now[:, None], outputs, self.outputs)
        return True

    def part(self, leave: Indices, stay: Indices) -> None:
        """Let windows that are answered go out of the batch."""
        assert self.outputs is not None
        self.gone.append((self.exit[leave], self.outputs[leave]))
        self.exit, self.outputs = self.exit[stay], self.outputs[stay]
        self.memory = (self.memory[0][stay], self.memory[1][stay])

    def decisions(self, order: NDArray[np.int64], first: int) -> Decisions:
        """All answers, where ``order`` says which windows left one after the other; ``first`` is the number of the first one."""
        policy = self.cascade.policy
        exit, answers = (to_numpy(parts) for parts in zip(*self.gone, strict=True))
        if len(self.gone) > 1:  # else all left together, in order
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            exit, answers = exit[back], answers[back]
        check_finite(answers, first)
        rejected = np.zeros(len(order), dtype=np.bool_)
        if policy.reject_below is not None:
            at_last = np.flatnonzero(exit == len(policy.exits) - 1)
            rejected[at_last] = policy.rejects(policy.exits[-1], answers[at_last])
        return Decisions(exit, answers, rejected)


def _asking(segments: Segments, cascades: Sequence[Cascade]) -> dict[int, list[int]]:
    """Which cascades consult an exit, by index of the exit, in order of depth."""
    asking: dict[int, list[int]] = {}
    for number, cascade in enumerate(cascades):
        exits = cascade.policy.exits
        indices = [segments.order(exit) for exit in exits]
        if indices != sorted(indices):
            raise PolicyError(f"the policy consults {', '.join(exits)}: name the exits in order of depth")
        if missing := [exit for exit in exits if exit not in cascade.heads]:
            raise PolicyError(f"a policy needs scores: there is no head at exit {missing[0]!r}")
        for index in indices:
            asking.setdefault(index, []).append(number)
    return dict(sorted(asking.items()))


def _parted(tasks: Sequence[_Task]) -> tuple[Array, Array]:
    """Which windows of the batch leave, those that all tasks have answered, and which stay; both in order."""
    answered = tasks[0].exit >= 0
    for task in tasks[1:]:
        answered = answered & (task.exit >= 0)
    if isinstance(answered, np.ndarray):
        return np.flatnonzero(answered), np.flatnonzero(~answered)
    xp = namespace_of(answered)
    order = xp.argsort(xp.astype(answered, xp.uint8), stable=True)
    count = len(answered) - int(answered.sum())  # the one number that is read back
    return order[count:], order[:count]


def _memory_beside(present: Array, memory: Memory) -> Memory:
    if isinstance(present, np.ndarray):
        return memory
    xp = namespace_of(present)
    streak, previous = (xp.asarray(part, device=present.device) for part in memory)
    return streak, previous


def to_numpy(parts: Sequence[Array]) -> NDArray[Any]:
    """Arrays of a back end, one behind the other, as one of NumPy."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    host: NDArray[Any] = namespace_of(parts[0]).concat(list(parts)).cpu().numpy()
    return host
