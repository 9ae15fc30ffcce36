"""Measured times, kept beside the segments that they are of, so that an engine on the same machine need not measure when it starts."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from offramp.bundle import BundleTask
from offramp.errors import BundleError, OfframpError
from offramp.opening import read_json
from offramp.runtime.backends import Backend, SharedPass
from offramp.runtime.engine.timing import PassTiming, measure, middle
from offramp.runtime.execution import Segments, State
from offramp.schema.problems import first_problem
from offramp.schema.strict import StrictModel

TABLE = "timing.json"
SCHEMA = 1


class MeasuredPass(StrictModel):
    """One pass and the heads on it.

    Attributes:
        tasks: That share it.
        batches: Numbers of windows that were timed.
        seconds: By unit, of batches of these sizes; see :mod:`~offramp.runtime.engine.timing`.
        heads: By task and exit, likewise.
    """

    tasks: list[str] = Field(min_length=1)
    batches: list[Annotated[int, Field(ge=1, le=4096)]] = Field(min_length=1)
    seconds: list[list[float]] = Field(min_length=2)
    heads: dict[str, dict[str, list[float]]]

    @model_validator(mode="after")
    def _fits(self) -> MeasuredPass:
        rows = [*self.seconds, *(row for of_task in self.heads.values() for row in of_task.values())]
        if any(len(row) != len(self.batches) or min(row) <= 0 for row in rows):
            raise ValueError("every unit and head has a time above zero for every batch")
        if self.batches[0] != 1 or self.batches != sorted(set(self.batches)):
            raise ValueError("batches increase from 1")
        return self

    def head(self, task: str, exit: str, windows: int) -> float:
        """Seconds of a head for some windows."""
        row = self.heads[task][exit]
        if windows > self.batches[-1]:
            return row[-1] * windows / self.batches[-1]
        return float(np.interp(windows, self.batches, row))

    @property
    def timing(self) -> PassTiming:
        """Of its units."""
        return PassTiming(tuple(self.batches), tuple(map(tuple, self.seconds)))


class TimingTable(StrictModel):
    """All of ``timing.json``.

    Attributes:
        schema_version: Of this document.
        machine: What it was measured on: processor, cores, back end and its version.
        threads: That computed.
        passes: One for all tasks that share one.
    """

    schema_version: int = Field(alias="schema", default=SCHEMA)
    machine: str
    threads: int
    passes: list[MeasuredPass]

    def of(self, tasks: Sequence[BundleTask], segments: Segments) -> MeasuredPass | None:
        """The pass of some tasks, if it is there with all units and heads."""
        for each in self.passes:
            heads = {task.name: cut_exits(task, segments) for task in tasks}
            if len(each.seconds) == 2 * len(segments) and all(
                set(exits) <= set(each.heads.get(name, {})) for name, exits in heads.items()
            ):
                return each
        return None


def machine_of(backend: Backend) -> str:
    """Names this machine and a back end as far as times depend on them."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:  # not Linux
        pass
    return f"{model}, {os.cpu_count()} cores, {backend.name} {backend.version}"


def stored_table(backend: Backend) -> TimingTable | None:
    """The table beside what a back end runs, if it was measured on a machine like this one with as many threads.

    Raises:
        BundleError: There is one, and it is damaged.
    """
    path = None if backend.folder is None else backend.folder / TABLE
    if path is None or not path.exists():
        return None
    try:
        table = TimingTable.model_validate(read_json(path, BundleError, f"delete it, or {_AGAIN}"))
    except ValidationError as error:
        raise BundleError(f"{path} is damaged: {first_problem(error)}; delete it, or {_AGAIN}") from None
    fits = table.schema_version == SCHEMA and table.machine == machine_of(backend) and table.threads == backend.threads
    return table if fits else None


_AGAIN = "export the segments again"


def measure_pass(
    tasks: Sequence[BundleTask], shared: SharedPass, backend: Backend, table: TimingTable | None = None
) -> MeasuredPass:
    """Times of a pass that some tasks share: those of a table if they are there, measured otherwise."""
    known = None if table is None else table.of(tasks, shared.segments)
    if known is not None:
        return known
    window = backend.inputs(blank_window(tasks[0]))
    timing = measure(shared.segments, shared.seen[0], window)
    heads: dict[str, dict[str, list[float]]] = {task.name: {} for task in tasks}
    with shared.segments.running():
        for batch in timing.batches:
            start = shared.segments.begin(shared.segments.repeated(window, batch))
            for task, seen in zip(tasks, shared.seen, strict=True):
                for exit, seconds in _head_times(task, seen, shared, backend, start).items():
                    heads[task.name].setdefault(exit, []).append(seconds)
    rows = [list(row) for row in timing.seconds]
    return MeasuredPass(tasks=[task.name for task in tasks], batches=list(timing.batches), seconds=rows, heads=heads)


def blank_window(task: BundleTask) -> NDArray[np.float32]:
    """A window of zeros as the encoder takes it, float32 ``(1, *shape)``."""
    return task.transform(np.zeros((1, *task.window_shape), np.float32))


def run_once(shared: SharedPass, window: Any) -> None:
    """Run every unit of a pass, so that what opens or compiles at its first use has done so."""
    segments = shared.segments
    with segments.running():
        state = start = segments.begin(window)
        for index in range(len(segments)):
            state, _ = segments.advance(index - 1, index, state, (shared.seen[0],))
            segments.through(start, {index: (shared.seen[0],)})


def cut_exits(task: BundleTask, segments: Segments) -> dict[str, int]:
    """Exits of a task that are cut, with their segments."""
    found = {}
    for exit in task.heads:
        try:
            found[exit] = segments.order(exit)
        except OfframpError:
            continue
    return found


def _head_times(
    task: BundleTask, seen: object, shared: SharedPass, backend: Backend, start: State
) -> Mapping[str, float]:
    """Seconds of every head of a task on a tap that is cut."""
    found = {}
    for exit, index in cut_exits(task, shared.segments).items():
        head, tap = backend.head(task, exit), shared.segments.through(start, {index: (seen,)})[index][seen]
        tries = []
        for _ in range(4):
            began = time.perf_counter()
            head(tap)
            tries.append(time.perf_counter() - began)
        found[exit] = middle(tries)
    return found


def measure_table(tasks: Sequence[Sequence[BundleTask]], backend: Backend) -> TimingTable:
    """A table of all passes of a back end, by tasks that share them."""
    passes = [measure_pass(sharing, backend.together([task.name for task in sharing]), backend) for sharing in tasks]
    return TimingTable(machine=machine_of(backend), threads=backend.threads, passes=passes)
