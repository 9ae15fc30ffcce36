"""The passes of an engine: which tasks share one, and what a batch does in one of its units."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.errors import BundleError, ComputationFailed, OfframpError, SuiteError
from offramp.policies.policy import Policy
from offramp.policies.simulation import Decisions
from offramp.runtime.backends import Backend
from offramp.runtime.engine.counts import BatchRun, QueueDepth
from offramp.runtime.engine.levels import ServiceLevel
from offramp.runtime.engine.requests import Answer, Ask, Why, WindowsJob
from offramp.runtime.engine.scheduler import PassQueue
from offramp.runtime.engine.tables import MeasuredPass, blank_window, cut_exits, measure_pass, run_once, stored_table
from offramp.runtime.execution import Cascade, RunHead, Segments
from offramp.runtime.predictor import prediction_of
from offramp.runtime.stored import FIXED, policies_of


@dataclass(frozen=True, eq=False)
class Lane:
    """One pass: tasks with the same transform, BatchNorm statistics and window shape.

    Attributes:
        number: Of the passes of an engine.
        exits: Where it is cut, in order of depth.
        segments: The encoder.
        queue: What waits for each of its units.
        measured: How long units and heads take.
        seen: Names of views, by what a task must have in common to have that view.
    """

    number: int
    exits: tuple[str, ...]
    segments: Segments
    queue: PassQueue[WindowsJob]
    measured: MeasuredPass
    seen: Mapping[Hashable, Hashable]


@dataclass(frozen=True, eq=False)
class ServedTask:
    """A task as requests see it; it is replaced as a whole.

    Attributes:
        stored: From the bundle.
        levels: Where windows can leave by name of the policy.
        at_exit: And by exit, for a service level that names one.
        heads: By exit that is cut.
        seen: Its view of the state.
        lane: Its pass.
        exits: Those with heads, from the deepest to the shallowest.
    """

    stored: BundleTask
    levels: Mapping[str, LevelChoice]
    at_exit: Mapping[str, LevelChoice]
    heads: Mapping[str, RunHead]
    seen: Hashable
    lane: Lane
    exits: tuple[str, ...]

    @cached_property
    def by_depth(self) -> Mapping[int, LevelChoice]:
        """By segment, for windows that leave there."""
        return {choice.last: choice for choice in self.at_exit.values()}

    def choose(self, level: ServiceLevel, steps: int = 0) -> LevelChoice:
        """Where windows of a service level leave, moved by so many exits towards the input."""
        chosen = self.levels[FIXED]
        if level.policy in self.levels:
            chosen = self.levels[str(level.policy)]
        elif level.exit in self.at_exit:
            chosen = self.at_exit[str(level.exit)]
        if not steps:
            return chosen
        reach = self.exits.index(chosen.policy.exits[-1])
        lower = min(reach + steps, len(self.exits) - 1)
        return replace(self.at_exit[self.exits[lower]], why="load") if lower > reach else chosen

    def least_depth(self, level: ServiceLevel) -> int:
        """The shallowest segment at which a level lets windows leave."""
        chosen = self.choose(level, len(self.exits) if level.under_load == "shallower" else 0)
        return min(chosen.consults)


@dataclass(frozen=True, eq=False)
class LevelChoice:
    """Where windows leave, and why.

    Attributes:
        named: Its name in the bundle; ``fixed`` for one exit.
        why: What made it so.
        cascade: The policy with the task's heads.
        consults: By segment, the exit that the policy consults behind it.
        last: The deepest of these segments.
    """

    named: str
    why: Why
    cascade: Cascade
    consults: Mapping[int, str]
    last: int

    @property
    def policy(self) -> Policy:
        """It says where windows leave."""
        return self.cascade.policy


def lanes_of(tasks: Sequence[BundleTask], backend: Backend, most_windows: int) -> dict[Hashable, Lane]:
    """A lane for all tasks that can share one, with the times of its units: those that are stored, or else measured now."""
    lanes, table = {}, stored_table(backend)
    for number, sharing in enumerate(sharing_passes(tasks)):
        shared = backend.together([task.name for task in sharing])
        measured = measure_pass(sharing, shared, backend, table)
        run_once(shared, backend.inputs(blank_window(sharing[0])))
        seen = {_view_of(task): name for task, name in zip(sharing, shared.seen, strict=True)}
        queue: PassQueue[WindowsJob] = PassQueue(measured.timing, most_windows)
        order = {index: exit for task in sharing for exit, index in cut_exits(task, shared.segments).items()}
        exits = tuple(order[index] for index in range(len(shared.segments)))
        lanes[_pass_of(sharing[0])] = Lane(number, exits, shared.segments, queue, measured, seen)
    return lanes


def sharing_passes(tasks: Sequence[BundleTask]) -> list[list[BundleTask]]:
    """Tasks by the pass that they can share."""
    together: dict[Hashable, list[BundleTask]] = {}
    for task in tasks:
        together.setdefault(_pass_of(task), []).append(task)
    return list(together.values())


def served(task: BundleTask, lanes: Mapping[Hashable, Lane], backend: Backend) -> ServedTask:
    """A task in its lane.

    Raises:
        BundleError: None of the lanes has its transform, statistics, window shape and view, or cuts at its exits; its policies are
            damaged.
    """
    lane = lanes.get(_pass_of(task))
    if lane is None or _view_of(task) not in lane.seen:
        raise BundleError(
            f"task {task.name!r} sees windows as no task of this engine does (transform, window shape, statistics, poolings, side "
            "features): load a bundle that has it"
        )
    policies = policies_of(task)
    order = cut_exits(task, lane.segments)
    heads = {exit: backend.head(task, exit) for exit in sorted(order, key=order.__getitem__, reverse=True)}
    for name, policy in policies.items():
        depths = [order[exit] for exit in policy.exits if exit in order]
        if depths != sorted(depths):
            raise BundleError(
                f"policy {name!r} of task {task.name!r} consults {', '.join(policy.exits)}: name exits in order of depth"
            )
        for exit in policy.exits:
            if exit not in heads:
                raise BundleError(
                    f"task {task.name!r} leaves at {exit!r}, where the engine's encoder is not cut: export it with --exit"
                )
    seen = lane.seen[_view_of(task)]

    def choice(named: str, why: Why, policy: Policy) -> LevelChoice:
        consults = {lane.segments.order(exit): exit for exit in policy.exits}
        return LevelChoice(named, why, Cascade(heads, policy, seen), consults, max(consults))

    levels = {name: choice(name, "fixed" if name == FIXED else "policy", policy) for name, policy in policies.items()}
    kind = policies[FIXED].kind
    at_exit = {
        exit: choice(FIXED, "budget", Policy.fixed(kind, exit, task.temperatures.get(exit, 1.0))) for exit in heads
    }
    return ServedTask(task, levels, at_exit, heads, seen, lane, tuple(heads))


def check_heads(served: ServedTask, backend: Backend) -> None:
    """Try the heads of a task on a window of zeros. Raises :class:`~offramp.errors.BundleError` where one does not take its tap."""
    segments, seen = served.lane.segments, served.seen
    asked = {segments.order(exit): (seen,) for exit in served.heads}
    with segments.running():
        taps = segments.through(segments.begin(backend.inputs(blank_window(served.stored))), asked)
        for exit, head in served.heads.items():
            try:
                outputs = _host(segments.outputs(head(taps[segments.order(exit)][seen])))
            except Exception as error:  # whatever arrays and tensors raise where shapes do not fit
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise BundleError(
                    f"head of task {served.stored.name!r} at exit {exit!r} does not take what the encoder gives there: {reason}"
                ) from None
            if outputs.shape != (1, served.stored.heads[exit].outputs):
                raise BundleError(
                    f"head of task {served.stored.name!r} at exit {exit!r} gives {outputs.shape} for one window"
                )


def check_level(name: str, level: ServiceLevel, tasks: Sequence[ServedTask]) -> None:
    """Raise :class:`~offramp.errors.SuiteError` for a level that no task can keep."""
    if level.exit is not None and not any(level.exit in task.heads for task in tasks):
        known = dict.fromkeys(exit for task in tasks for exit in reversed(task.exits))
        raise SuiteError(
            f"slice {name!r}: no task can leave at {level.exit!r}: choose {', '.join(known)}, or export segments with "
            f"--exit {level.exit}"
        )
    if level.policy is not None and not any(level.policy in task.levels for task in tasks):
        known = dict.fromkeys(policy for task in tasks for policy in task.levels)
        raise SuiteError(f"slice {name!r}: no task has the policy {level.policy!r}: choose {', '.join(known)}")
    if level.budget_ms is None or not tasks:
        return
    least = min(1e3 * task.lane.queue.timing.least(task.least_depth(level)) for task in tasks)
    if level.budget_ms < least:
        raise SuiteError(
            f"slice {name!r}: a budget of {level.budget_ms:g} ms cannot be met: the least possible is {least:.3g} ms"
        )


def run_unit(lane: Lane, unit: int, jobs: Sequence[WindowsJob]) -> list[tuple[WindowsJob, Ask]]:
    """Run a unit for some jobs together, let windows leave, and return whose answers are complete.

    Afterwards each job has the windows that stay, and the state behind the unit.
    """
    segments = lane.queue.timing.segments
    return _run_whole(lane, jobs) if unit >= segments else _run_segment(lane, unit, jobs)


def _run_whole(lane: Lane, jobs: Sequence[WindowsJob]) -> list[tuple[WindowsJob, Ask]]:
    """From the input to the deepest exit that any of some jobs asks for, each of which has one exit per task."""
    segments, counts = lane.segments, [job.count for job in jobs]
    asking: dict[int, list[tuple[int, WindowsJob, Ask]]] = {}
    for place, job in enumerate(jobs):
        for ask in job.asks:
            if ask.open:
                asking.setdefault(ask.last, []).append((place, job, ask))
    if not asking:
        return []
    complete = []
    with segments.running():
        state = segments.begin(segments.joined(-1, [job.state for job in jobs])[0])
        taps = segments.through(
            state, {exit: {ask.cascade.seen for _, _, ask in asked} for exit, asked in asking.items()}
        )
        for exit, asked in asking.items():
            for (_, job, ask), given in zip(asked, _outputs(segments, exit, asked, taps[exit], counts), strict=True):
                if isinstance(given, OfframpError):
                    settle(ask, given)
                    continue
                ask.outputs, ask.rows = given, ask.rows[:0]
                complete.append((job, ask))
    return complete


def _run_segment(lane: Lane, index: int, jobs: Sequence[WindowsJob]) -> list[tuple[WindowsJob, Ask]]:
    segments = lane.segments
    counts = [job.count for job in jobs]
    asking = [
        (place, job, ask) for place, job in enumerate(jobs) for ask in job.asks if ask.open and index in ask.consults
    ]
    with segments.running():
        state = segments.joined(index - 1, [job.state for job in jobs])
        if index == 0:
            state = segments.begin(state[0])
        state, taps = segments.advance(index - 1, index, state, {ask.cascade.seen for _, _, ask in asking})
        outputs = _outputs(segments, index, asking, taps, counts)
        further = [job for job in jobs if job.last > index]
        if further:
            divided = dict(zip(map(id, jobs), segments.divided(index, state, counts), strict=True))
        complete = []
        for (_, job, ask), given in zip(asking, outputs, strict=True):
            if isinstance(given, OfframpError):
                settle(ask, given)
            elif _consult(job, ask, index, given):
                complete.append((job, ask))
        for job in jobs:
            job.unit = index + 1
        for job in further:
            job.state = divided[id(job)]
            _leave(segments, job)
    return complete


def answer_of(ask: Ask, job: WindowsJob, now: float) -> Answer:
    """The answer of a task whose windows have all left. Raises :class:`~offramp.errors.DataError` where it is not finite."""
    policy = ask.cascade.policy
    rejected = np.zeros(len(ask.exit), dtype=np.bool_)
    if policy.reject_below is not None:
        last = np.flatnonzero(ask.exit == len(policy.exits) - 1)
        rejected[last] = policy.rejects(policy.exits[-1], ask.outputs[last])
    prediction = prediction_of(ask.task, ask.named, policy, [Decisions(ask.exit, ask.outputs, rejected)])
    return Answer(prediction, ask.why, job.slice, 1e3 * (now - job.arrived))


def settle(ask: Ask, answer: Answer | OfframpError) -> None:
    """Tell who waits; nobody does any more if the caller cancelled meanwhile."""
    try:
        if isinstance(answer, OfframpError):
            ask.future.set_exception(answer)
        else:
            ask.future.set_result(answer)
    except InvalidStateError:
        pass


def batch_run(lane: Lane, unit: int, windows: int, seconds: float) -> BatchRun:
    """What a batch of a unit was."""
    timing = lane.queue.timing
    return BatchRun(lane.number, lane.exits[timing.depth(unit)], unit >= timing.segments, windows, seconds)


def queue_depths(lane: Lane) -> list[QueueDepth]:
    """What waits for each unit of a pass."""
    timing = lane.queue.timing
    return [
        QueueDepth(lane.number, lane.exits[timing.depth(unit)], unit >= timing.segments, windows)
        for unit, windows in enumerate(lane.queue.by_unit)
    ]


def _pass_of(task: BundleTask) -> Hashable:
    return task.transform, task.statistics, task.window_shape


def _view_of(task: BundleTask) -> Hashable:
    return task.side, tuple(sorted(task.poolings.items()))


def _outputs(
    segments: Segments,
    index: int,
    asking: Sequence[tuple[int, WindowsJob, Ask]],
    taps: Mapping[Hashable, Any],
    counts: Sequence[int],
) -> list[NDArray[np.float32] | OfframpError]:
    """What each one's head gives for the windows of its job, or why it gives nothing: one head runs once for all jobs that ask it."""
    if len(counts) == len(asking) == 1:  # the usual case while little is asked
        ask = asking[0][2]
        return [_given(segments, ask.cascade.heads[ask.consults[index]], taps[ask.cascade.seen])]
    ends = np.cumsum(counts)
    parts: list[NDArray[np.float32] | OfframpError | None] = [None] * len(asking)
    by_head: dict[tuple[int, Hashable], list[int]] = {}
    for number, (_, _, ask) in enumerate(asking):
        head = ask.cascade.heads[ask.consults[index]]
        by_head.setdefault((id(head), ask.cascade.seen), []).append(number)
    for (_, seen), numbers in by_head.items():
        ask = asking[numbers[0]][2]
        head, tap = ask.cascade.heads[ask.consults[index]], taps[seen]
        spans = [(ends[place] - counts[place], ends[place]) for place in (asking[number][0] for number in numbers)]
        first, stop = spans[0][0], spans[-1][1]
        given = _given(segments, head, tap[first:stop])
        for number, (start, end) in zip(numbers, spans, strict=True):
            if isinstance(given, OfframpError) or len(numbers) == 1:
                parts[number] = given
            else:
                parts[number] = given[start - first : end - first].copy()  # nobody shares memory
    return [part for part in parts if part is not None]


def _given(segments: Segments, head: RunHead, tap: Any) -> NDArray[np.float32] | OfframpError:
    try:
        return _host(segments.outputs(head(tap)))
    except Exception as error:  # whatever a head raises stops nobody else
        return error if isinstance(error, OfframpError) else ComputationFailed(f"the engine could not compute: {error}")


def _host(outputs: Any) -> NDArray[np.float32]:
    host: NDArray[np.float32] = outputs if isinstance(outputs, np.ndarray) else outputs.cpu().numpy()
    return host


def _consult(job: WindowsJob, ask: Ask, index: int, outputs: NDArray[np.float32]) -> bool:
    """Let windows of one task leave; whether all have. ``outputs`` are of all windows that are present."""
    policy, exit = ask.cascade.policy, ask.consults[index]
    if len(ask.rows) < job.count:
        outputs = outputs[np.isin(job.present, ask.rows, assume_unique=True)]
    leave, ask.memory = policy.step(exit, outputs, ask.memory)
    gone = ask.rows[leave]
    ask.outputs[gone], ask.exit[gone] = outputs[leave], policy.exits.index(exit)
    ask.rows = ask.rows[~leave]
    ask.memory = (ask.memory[0][~leave], ask.memory[1][~leave])
    return not len(ask.rows)


def _leave(segments: Segments, job: WindowsJob) -> None:
    """Take windows that all tasks have answered out of a job's state."""
    rows = [ask.rows for ask in job.asks if ask.open and len(ask.rows)]
    wanted = rows[0] if len(rows) == 1 else np.unique(np.concatenate([*rows, np.zeros(0, np.int64)]))
    if len(wanted) < job.count:
        stay = np.flatnonzero(np.isin(job.present, wanted, assume_unique=True))
        job.state, job.present = segments.keep(job.state, stay), job.present[stay]
