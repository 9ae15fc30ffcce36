"""Inference under policies that really stops: windows that leave are taken out of the batch, and nothing runs for them any more.

At each exit that a policy consults, and at no other, a head answers for the windows that are still there. Those that stay are put
together into a smaller batch, the encoder's whole state with what is remembered of them, and the pass goes on with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from array_api_compat import array_namespace
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.encoders.base import StagedEncoder, State
from offramp.encoders.taps import inference
from offramp.encoders.view import TaskView
from offramp.errors import PolicyError
from offramp.policies.criteria import Array
from offramp.policies.policy import Memory, Policy
from offramp.policies.simulation import Decisions, check_finite

Indices = Array | slice
"""Windows by their places in the present batch."""


@dataclass(frozen=True, eq=False)
class Cascade:
    """What one task brings to a pass.

    Attributes:
        heads: For each exit that the policy consults, from its tap to logits ``(n, classes)`` or values ``(n, dimensions)``.
        policy: Decides where windows leave.
        pooling: Of the taps that the heads take.
        view: The encoder as the task sees it; its state is that of the encoder of the pass. That encoder itself if None.
    """

    heads: Mapping[str, nn.Module]
    policy: Policy
    pooling: str = "default"
    view: TaskView | None = None

    @property
    def seen(self) -> Hashable:
        """Tasks that see the same share their taps."""
        return self.pooling if self.view is None else self.view.seen

    def tap(self, encoder: StagedEncoder, exit: int, state: State) -> Tensor:
        """What its heads take at an exit."""
        return (self.view or encoder).tap(exit, state, self.pooling)


def run_cascade(
    encoder: StagedEncoder,
    heads: Mapping[str, nn.Module],
    policy: Policy,
    x: Tensor,
    pooling: str = "default",
    first: int = 0,
) -> Decisions:
    """Answer windows under a policy, each at the exit where it leaves.

    The answers are those that :func:`~offramp.policies.simulation.simulate` finds in the outputs of all exits, computed no further
    than needed. On a processor the policy works on NumPy views of the outputs. On an accelerator it works there, and one number is
    read back per exit consulted: how many windows stay.

    Args:
        encoder: In evaluation mode.
        heads: A head on the encoder's device for each exit that the policy consults.
        policy: Decides where windows leave.
        x: Input ``(N, *encoder.input.shape)`` on the encoder's device; N may be 0.
        pooling: Of the taps that the heads take.
        first: Number of the first window, for messages.

    Returns:
        Exits, outputs as the heads give them, and rejections, in the order of the windows.

    Raises:
        PolicyError: An exit that the policy consults has no head, or the exits are not in order of depth.
        EncoderError: The encoder lacks an exit, or the input has another shape or dtype.
        DataError: A window's answer is not finite.
    """
    return run_cascades(encoder, [Cascade(heads, policy, pooling)], x, first)[0]


@inference()
def run_cascades(encoder: StagedEncoder, cascades: Sequence[Cascade], x: Tensor, first: int = 0) -> list[Decisions]:
    """Answer several tasks from one pass: a window leaves the batch once all of them have answered it.

    Arguments and errors are those of :func:`run_cascade`.
    """
    asking = _asking(encoder, cascades)
    encoder.input.check(tuple(x.shape[1:]))
    if not len(x):  # not every encoder runs on no windows, and one window shows how wide the answers are
        decided = run_cascades(encoder, cascades, x.new_zeros(1, *x.shape[1:]))
        return [Decisions(each.exit[:0], each.outputs[:0], each.rejected[:0]) for each in decided]
    encoder.input.check_values(x)
    if len(x) == 1 and len(cascades) == 1:
        return [_one_window(encoder, cascades[0], tuple(asking), x, first)]
    present, gone = window_numbers(len(x), x.device), []
    tasks = [_Task(cascade, present) for cascade in cascades]
    state, stages, last = encoder.begin(x), 0, max(asking)
    for exit, asked in asking.items():
        for stage in range(stages, exit + 1):
            state = encoder.advance(stage, state)
        stages = exit + 1
        seen = {cascades[index].seen: cascades[index] for index in asked}
        taps = {key: cascade.tap(encoder, exit, state) for key, cascade in seen.items()}
        answered = [tasks[index].consult(encoder.exits[exit].name, taps) for index in asked]
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
        state = compacted(state, stay)
    for task in tasks:
        task.part(slice(None), slice(0))
    order = _to_numpy([*gone, present])
    return [task.decisions(order, first) for task in tasks]


def _one_window(encoder: StagedEncoder, cascade: Cascade, exits: tuple[int, ...], x: Tensor, first: int) -> Decisions:
    """One window leaves or stays: there is no batch to keep account of, which would cost more than small stages do."""
    policy, state, stages = cascade.policy, encoder.begin(x), 0
    memory = policy.start(1)
    for exit, name in zip(exits, policy.exits, strict=True):
        for stage in range(stages, exit + 1):
            state = encoder.advance(stage, state)
        stages = exit + 1
        outputs: Array = cascade.heads[name](cascade.tap(encoder, exit, state))
        if outputs.device.type == "cpu":
            outputs = outputs.numpy()
        leave, memory = policy.step(name, outputs, memory)
        if leave[0]:
            break
    answers = _to_numpy([outputs])
    check_finite(answers, first)
    return Decisions(np.asarray([policy.exits.index(name)]), answers, np.asarray(policy.rejects(name, answers)))


class _Task:
    """A task's part in a pass: what it knows of the windows in the present batch, and its answers for those gone."""

    def __init__(self, cascade: Cascade, present: Array) -> None:
        self.cascade = cascade
        self.exit = 0 * present - 1
        """Index into the policy's exits, -1 for windows that are not answered."""
        self.outputs: Array | None = None
        """Of that exit; None before any window is answered."""
        self.memory = _memory_beside(present, cascade.policy.start(len(present)))
        self.gone: list[tuple[Array, Array]] = []

    def consult(self, exit: str, taps: Mapping[Hashable, Tensor]) -> bool:
        """Answer the windows that leave at an exit. False if there are none, which is not looked up on an accelerator."""
        policy = self.cascade.policy
        outputs: Array = self.cascade.heads[exit](taps[self.cascade.seen])
        if isinstance(self.exit, np.ndarray):
            outputs = outputs.numpy()
        leave, self.memory = policy.step(exit, outputs, self.memory)
        if isinstance(leave, np.ndarray) and not leave.any():
            return False
        xp = array_namespace(outputs)
        now = leave & (self.exit < 0)
        self.exit = self.exit + now * (policy.exits.index(exit) + 1)
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
        exit, answers = (_to_numpy(parts) for parts in zip(*self.gone, strict=True))
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


def _asking(encoder: StagedEncoder, cascades: Sequence[Cascade]) -> dict[int, list[int]]:
    """Which cascades consult an exit, by index of the exit, in order of depth."""
    asking: dict[int, list[int]] = {}
    for number, cascade in enumerate(cascades):
        exits = cascade.policy.exits
        indices = [encoder.exit_index(exit) for exit in exits]
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
    order = torch.argsort(answered.to(torch.uint8), stable=True)
    count = len(answered) - int(answered.sum())  # the one number that is read back
    return order[count:], order[:count]


def compacted(state: State, stay: Array) -> State:
    """The state of the windows that stay."""
    keep = stay if isinstance(stay, Tensor) else torch.from_numpy(stay)
    return tuple(_selected(part, keep) for part in state)


def _selected(part: Tensor, keep: Tensor) -> Tensor:
    """Rows of a batch, laid out in memory as the batch is: ``index_select`` alone would undo channels_last, and cost more."""
    if len(part) == 1:  # shared by all windows, for a batch of one is never compacted
        return part
    if part.stride(0) == 0:  # one row, expanded
        return part[: len(keep)]
    order = sorted(range(part.dim()), key=part.stride, reverse=True)
    if order == list(range(part.dim())):
        return part.index_select(0, keep)
    rows = part.permute(order).index_select(order.index(0), keep)
    return rows.permute([order.index(axis) for axis in range(part.dim())])


def window_numbers(count: int, device: torch.device) -> Array:
    """0, 1, ... as an array of the kind that decisions are made on: NumPy on a processor, for small operations are faster there."""
    return np.arange(count) if device.type == "cpu" else torch.arange(count, device=device)


def _memory_beside(present: Array, memory: Memory) -> Memory:
    if isinstance(present, np.ndarray):
        return memory
    streak, previous = (torch.from_numpy(part).to(present.device) for part in memory)
    return streak, previous


def _to_numpy(parts: Sequence[Array]) -> NDArray[Any]:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts)).cpu().numpy()
    return np.concatenate(parts)
