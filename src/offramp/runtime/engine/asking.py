"""From what a request says to where its windows leave, and what becomes of them when they would be late."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offramp.errors import DataError, DeadlinePassed, EngineError, TaskRemoved
from offramp.runtime.engine.lanes import Lane, LevelChoice, ServedTask
from offramp.runtime.engine.levels import DEFAULT, ServiceLevel
from offramp.runtime.engine.requests import Ask, Promise, WindowsJob
from offramp.runtime.engine.scheduler import BACKGROUND

Tasks = Mapping[str, ServedTask]


@dataclass(frozen=True)
class Wanted:
    """What a request says besides its windows; see :meth:`offramp.runtime.engine.Engine.submit`."""

    tasks: Sequence[str] | None = None
    slice: str = DEFAULT
    budget_ms: float | None = None
    exit: str | None = None
    policy: str | None = None
    as_reached: bool = False


def no_task(name: object, tasks: Tasks) -> TaskRemoved:
    """The error that lists the tasks that there are."""
    return TaskRemoved(f"there is no task {name!r}: the engine has {', '.join(tasks) or 'none'}")


def check_is_level(name: str, level: object) -> None:
    """Raise :class:`~offramp.errors.EngineError` for what is no service level."""
    if not isinstance(level, ServiceLevel):
        raise EngineError(f"slice {name!r} is a {type(level).__name__}: give a ServiceLevel")


def checked_slice(name: object, known: Mapping[str, tuple[ServiceLevel, object]]) -> str:
    """The name of a slice that there is; raises :class:`~offramp.errors.EngineError` that lists them otherwise."""
    if not isinstance(name, str) or name not in known:
        choices = [other for other, (level, _) in known.items() if level.priority < BACKGROUND]
        raise EngineError(f"unknown slice {name!r}: choose {', '.join(choices)}")
    return name


def deadline_of(wanted: Wanted, level: ServiceLevel, arrived: float) -> float:
    """When the answers of a request are due, in seconds; infinity for never.

    Raises:
        DeadlinePassed: That is over.
        EngineError: The budget is no number.
    """
    budget = level.budget_ms if wanted.budget_ms is None else wanted.budget_ms
    if budget is None:
        return math.inf
    if not isinstance(budget, int | float | np.number) or budget != budget:
        raise EngineError(f"budget_ms={budget!r}: give milliseconds")
    if not budget > 0:
        raise DeadlinePassed(f"budget_ms={budget:g}: the deadline has already passed")
    return arrived + float(budget) / 1e3


def chosen_tasks(tasks: Tasks, shape: tuple[int, ...], names: Sequence[str] | None) -> list[ServedTask]:
    """The tasks that a request names, or all for windows of this shape.

    Raises:
        TaskRemoved: There is none of a name.
        DataError: A task takes windows of another shape.
        EngineError: These are no names.
    """
    if names is None:
        names = [name for name, task in tasks.items() if task.stored.window_shape == shape]
    elif isinstance(names, str) or not isinstance(names, Iterable):
        raise EngineError(f"tasks={names!r}: give a list of names")
    else:
        names = list(names)
        if not names:
            raise EngineError("tasks=[]: name a task at least, or leave it out for all")
    if not names:
        raise DataError(
            f"no task takes windows of shape (N, {', '.join(map(str, shape))}): the engine has {', '.join(tasks) or 'none'}"
        )
    for name in names:
        if not isinstance(name, str) or name not in tasks:
            raise no_task(name, tasks)
        if tasks[name].stored.window_shape != shape:
            expected = ", ".join(map(str, tasks[name].stored.window_shape))
            raise DataError(
                f"task {name!r} takes windows of shape (N, {expected}), not (N, {', '.join(map(str, shape))})"
            )
    return [tasks[name] for name in dict.fromkeys(names)]


def wanted_choice(task: ServedTask, level: ServiceLevel, steps: int, wanted: Wanted) -> LevelChoice:
    """Where windows of a request leave: where it says itself, or else where its level says, moved by load.

    Raises:
        EngineError: It names an exit or a policy that the task does not have, or both.
    """
    exit, policy = wanted.exit, wanted.policy
    if exit is None and policy is None:
        return task.choose(level, steps)
    if exit is not None and policy is not None:
        raise EngineError(f"exit {exit!r} and policy {policy!r}: give one of them")
    if exit is not None and (not isinstance(exit, str) or exit not in task.at_exit):
        known = ", ".join(reversed(task.exits))
        raise EngineError(f"task {task.stored.name!r} cannot leave at {exit!r}: choose {known}")
    if policy is not None and (not isinstance(policy, str) or policy not in task.levels):
        raise EngineError(f"task {task.stored.name!r} has no policy {policy!r}: choose {', '.join(task.levels)}")
    asked = level.model_copy(update={"exit": exit, "policy": policy})
    chosen = task.choose(asked, steps)
    return replace(chosen, why="request") if chosen.why in ("budget", "fixed") else chosen


def new_ask(task: ServedTask, chosen: LevelChoice, level: ServiceLevel, windows: int) -> Ask:
    """A task's part in a job of so many windows."""
    policy, rows = chosen.policy, np.arange(windows)
    return Ask(
        task=task.stored,
        cascade=chosen.cascade,
        consults=chosen.consults,
        last=chosen.last,
        named=chosen.named,
        why=chosen.why,
        earlier=task.by_depth if level.under_load == "shallower" else {},
        future=Promise(),
        rows=rows,
        memory=policy.start(windows),
        exit=np.zeros_like(rows),
        outputs=np.empty((windows, task.stored.heads[policy.exits[-1]].outputs), np.float32),
    )


def new_job(
    lane: Lane,
    inputs: Any,
    asks: list[Ask],
    level: ServiceLevel,
    wanted: Wanted,
    arrived: float,
    deadline: float,
) -> WindowsJob:
    """Windows of a request in a pass, and the unit where they begin: a policy needs segments, and so do answers as they are reached."""
    windows, begin = len(asks[0].rows), 0
    if not wanted.as_reached and all(len(ask.consults) == 1 for ask in asks):
        begin = lane.queue.timing.first_unit([ask.last for ask in asks], windows)
    return WindowsJob((inputs,), np.arange(windows), asks, deadline, level.priority, arrived, wanted.slice, begin)


def bring_forward(lane: Lane, job: WindowsJob, now: float) -> bool:
    """Let windows that would be late leave at the deepest exit that is reached in time, where their level allows it.

    Windows under a policy of several exits go where it says: which of them have left already is its own affair.

    Returns:
        Whether somebody waits for the job, and it can be in time now.
    """
    if not job.wanted:
        return False
    timing, left = lane.queue.timing, job.deadline - now
    if left == np.inf or timing.rest(job.unit, job.last, job.count) <= left:
        return True
    asks = [ask for ask in job.asks if ask.open]
    if not all(ask.earlier and len(ask.consults) == 1 for ask in asks):
        return False
    begun = job.unit if job.unit < timing.segments else 0
    for depth in range(job.last, begun - 1, -1):
        units = [job.unit] if begun else [timing.segments + depth, 0]
        unit = min(units, key=lambda each: timing.rest(each, depth, job.count))
        if timing.rest(unit, depth, job.count) > left or not all(ask.reaches(depth) for ask in asks):
            continue
        for ask in asks:
            ask.move(depth)
        job.unit = unit
        return True
    return False
