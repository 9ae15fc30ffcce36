"""What is to be asked of the windows of a stream, checked before a sample is taken in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offramp.bundle import Bundle, BundleTask
from offramp.data.containers.rates import same_rate
from offramp.errors import DataError, SuiteError
from offramp.serving.stream.ring import WhenBehind

BUFFER = 2**20
"""Samples that may wait, unless told."""


@dataclass(frozen=True)
class StreamPlan:
    """What is asked of a stream. Made by :func:`plan_stream`.

    Attributes:
        tasks: That answer for each window, all from one pass.
        channels: Antennas of a window.
        window: Samples of a window.
        hop: Samples between the starts of windows.
        when_behind: What to do when samples come faster than answers.
        buffer: Samples that may wait.
        exit: Where windows leave; None for each task's own.
        policy: By which windows leave; None for the fixed exit.
        stop_after: End after so many windows.
    """

    tasks: tuple[BundleTask, ...]
    channels: int
    window: int
    hop: int
    when_behind: WhenBehind
    buffer: int
    exit: str | None
    policy: str | None
    stop_after: int | None

    @property
    def names(self) -> list[str]:
        """Of the tasks."""
        return [task.name for task in self.tasks]

    @property
    def sample_rates(self) -> list[float]:
        """Hz that tasks were fitted at, as far as they are known."""
        return [task.data["sample_rate"] for task in self.tasks if task.data.get("sample_rate") is not None]

    def check_rate(self, name: str, rate: float) -> None:
        """Raise :class:`DataError` where samples at ``rate``, Hz, from ``name`` are not what a task was fitted on."""
        for task in self.tasks:
            known = task.data.get("sample_rate")
            if known is not None and not same_rate(known, rate):
                raise DataError(
                    f"{name} has a sample rate of {rate:.10g} Hz, and task {task.name!r} was fitted at {known:.10g} Hz: "
                    f"resample it on the way (a Rational Resampler in GNU Radio); of a recording offramp predict --resample {known:.10g} "
                    "answers"
                )


def plan_stream(
    bundle: Bundle,
    tasks: Sequence[str] = (),
    hop: int | None = None,
    when_behind: WhenBehind = "block",
    buffer: int | None = None,
    exit: str | None = None,
    policy: str | None = None,
    stop_after: int | None = None,
) -> StreamPlan:
    """Choose tasks, all of the bundle if none is named, and find their window.

    Args:
        bundle: That holds the tasks.
        tasks: Names.
        hop: Samples between the starts of windows; that of the training data, or the window, if None.
        when_behind: What to do when samples come faster than answers.
        buffer: Samples that may wait; 2^20, or two windows, if None.
        exit: Where windows leave.
        policy: By which windows leave.
        stop_after: End after so many windows.

    Raises:
        BundleError: There is no such task.
        SuiteError: The tasks do not take I/Q, or windows of one shape, or a number cannot be.
    """
    chosen = [bundle.task(name) for name in dict.fromkeys(tasks)] or list(bundle.tasks.values())
    shapes = {task.window_shape for task in chosen}
    if len(shapes) > 1:
        listed = ", ".join(f"{task.name} {task.window_shape}" for task in chosen)
        raise SuiteError(
            f"the tasks take windows of several shapes ({listed}): choose those of one shape with --task, and stream to the others apart"
        )
    (shape,) = shapes
    if len(shape) != 3 or shape[0] != 2:
        raise SuiteError(
            f"task {chosen[0].name!r} takes windows of shape {shape}, and a stream of I/Q gives (2, antennas, time): choose another --task"
        )
    for option, value in (("--hop", hop), ("--buffer", buffer), ("--stop-after", stop_after)):
        if value is not None and value < 1:
            raise SuiteError(f"{option} {value}: give a whole number of at least 1")
    if exit is not None and policy is not None:
        raise SuiteError("--exit and --policy: give one of them")
    window = shape[2]
    return StreamPlan(
        tasks=tuple(chosen),
        channels=shape[1],
        window=window,
        hop=hop or chosen[0].data.get("hop") or window,
        when_behind=when_behind,
        buffer=max(buffer or BUFFER, 2 * window),
        exit=exit,
        policy=policy,
        stop_after=stop_after,
    )
