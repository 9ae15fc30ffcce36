"""What an engine will do under a load, before it runs: its own scheduler and admission, on measured times instead of a network."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.opening import read_text
from offramp.runtime.engine.lanes import LevelChoice, ServedTask, check_level, lanes_of, served
from offramp.runtime.engine.levels import DEFAULT, ServiceLevel, Slices
from offramp.runtime.engine.load import LoadControl, Pressure, next_queue, outlook
from offramp.runtime.engine.scheduler import Batch, PassQueue
from offramp.runtime.engine.tables import stored_table
from offramp.runtime.engine.timing import OVERHEAD_S
from offramp.runtime.predictor import Predictor

TRACE = ("seconds", "slice", "tasks")
TRACE_BYTES = 1 << 26
MOST_OF_A_REQUEST = 1_000_000
"""Windows."""


@dataclass(frozen=True)
class Arrival:
    """A request.

    Attributes:
        seconds: When it comes.
        slice: Name of its service level.
        tasks: Names of the tasks that it asks.
        windows: How many it brings.
    """

    seconds: float
    slice: str
    tasks: tuple[str, ...]
    windows: int = 1


@dataclass(frozen=True)
class SlicePlan:
    """What one slice will see.

    Attributes:
        requests: That come.
        refused: Share that is turned away at once.
        shallower: Share of those let in that load moves to a shallower exit.
        p50_ms: Median time from arrival to the last answer; None where nothing is answered.
        p99_ms: 99th percentile.
        budget_ms: Promised.
        least_ms: The least budget that can be met, for one window while nothing else runs.
    """

    requests: int
    refused: float
    shallower: float
    p50_ms: float | None
    p99_ms: float | None
    budget_ms: float | None
    least_ms: float


@dataclass(frozen=True)
class EnginePlan:
    """All of a plan.

    Attributes:
        slices: By name.
        degrades_first: The slice that load moves or refuses first; None if none is.
        busy: Share of the time in which something is computed.
        windows_per_second: That are answered.
        times: Where the times of segments and heads are from.
    """

    slices: dict[str, SlicePlan]
    degrades_first: str | None
    busy: float
    windows_per_second: float
    times: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)

    @property
    def sentences(self) -> list[str]:
        """What the command line says."""
        lines = []
        for name, each in self.slices.items():
            if not each.requests and name == DEFAULT:
                continue
            if not each.requests:
                lines.append(f"{name}: no requests; the least budget that can be met is {each.least_ms:.3g} ms")
                continue
            took = (
                "nothing is answered" if each.p99_ms is None else f"p50 {each.p50_ms:.3g} ms, p99 {each.p99_ms:.3g} ms"
            )
            promised = "no budget" if each.budget_ms is None else f"budget {each.budget_ms:g} ms"
            lines.append(
                f"{name}: {took} ({promised}, least possible {each.least_ms:.3g} ms); {each.refused:.1%} refused, "
                f"{each.shallower:.1%} moved to a shallower exit"
            )
        first = f"{self.degrades_first} degrades first" if self.degrades_first else "no slice degrades"
        return [
            *lines,
            f"{first}; {self.windows_per_second:,.0f} windows/s, busy {self.busy:.0%} of the time; times {self.times}",
        ]


@dataclass(eq=False)
class _PlannedJob:
    """Windows that leave at known exits; see :class:`~offramp.runtime.engine.scheduler.Job`."""

    count: int
    last: int
    deadline: float
    priority: int
    arrived: float
    request: int
    heads: list[tuple[int, str, str]]
    """Segment, task and exit of those that it asks."""
    unit: int = 0
    wanted: bool = True


def poisson(rate: float, seconds: float, slices: Sequence[str], tasks: Sequence[str], seed: int = 0) -> list[Arrival]:
    """Requests of one window and one task each, at random times, ``rate`` per second in all; slices and tasks are equally likely."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))
    return [Arrival(float(t), str(rng.choice(list(slices))), (str(rng.choice(list(tasks))),)) for t in times]


def read_trace(path: str | Path) -> list[Arrival]:
    """Requests from a CSV with the columns ``seconds``, ``slice``, ``tasks`` (separated by spaces) and, if wanted, ``windows``.

    Raises:
        DataError: The file is missing, or a line of it says no request.
    """
    path = Path(path)
    text = read_text(
        path, DataError, "a trace is CSV with the columns seconds, slice, tasks; or give poisson:RATE", TRACE_BYTES
    )
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    found = []
    try:
        columns = [str(name).strip() for name in lines.fieldnames or ()]
        if missing := [name for name in TRACE if name not in columns]:
            there = f"it has {', '.join(columns)}" if columns else "it is empty"
            raise DataError(f"{path} has no column {missing[0]!r}: a trace has {', '.join(TRACE)}, and {there}"[:300])
        lines.fieldnames = columns
        for line in lines:
            found.append(_arrival(line, f"{path}, line {lines.line_num}"))
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: not CSV: {error}") from None
    if not found:
        raise DataError(f"{path} has no requests")
    return sorted(found, key=lambda each: each.seconds)


def _arrival(line: Mapping[str | None, Any], where: str) -> Arrival:
    if None in line:
        raise DataError(f"{where}: more fields than columns")
    try:
        seconds, windows = float(line["seconds"]), int(line.get("windows") or 1)
    except (TypeError, ValueError):
        raise DataError(f"{where}: seconds and windows are numbers") from None
    tasks = tuple((line["tasks"] or "").split())
    if not np.isfinite(seconds) or seconds < 0 or not 1 <= windows <= MOST_OF_A_REQUEST or not tasks:
        raise DataError(f"{where}: a request comes at 0 s or later, with a task and 1 to {MOST_OF_A_REQUEST:,} windows")
    return Arrival(seconds, line["slice"] or DEFAULT, tasks, windows)


def plan(
    predictor: Predictor,
    slices: Slices,
    arrivals: Sequence[Arrival],
    most_windows: int = 64,
    most_waiting: int = 4096,
) -> EnginePlan:
    """Predict what an engine does with requests.

    Times are those stored beside segments, if they were measured on such a machine; they are measured first otherwise. Windows under a policy are taken to go to its last exit, so that the plan errs on the safe side.

    Args:
        predictor: As :class:`~offramp.runtime.engine.Engine` takes it.
        slices: Service levels by name.
        arrivals: In order of time.
        most_windows: Of a batch.
        most_waiting: Windows that may wait.

    Raises:
        SuiteError: A level cannot be kept, as an engine would say.
        DataError: A request names a slice or a task that is not there.
    """
    stored = predictor.bundle.tasks
    lanes = lanes_of(list(stored.values()), predictor.backend, most_windows)
    tasks = {name: served(task, lanes, predictor.backend) for name, task in stored.items()}
    levels = {DEFAULT: ServiceLevel()} | dict(slices)
    for name, level in levels.items():
        check_level(name, level, list(tasks.values()))
    for each in arrivals:
        if each.slice not in levels:
            raise DataError(f"a request names the slice {each.slice!r}: choose {', '.join(levels)}")
        if unknown := [task for task in each.tasks if task not in tasks]:
            raise DataError(f"a request names the task {unknown[0]!r}: choose {', '.join(tasks)}")
    run = _Run(tasks, levels, [lane.queue for lane in lanes.values()], most_waiting)
    run.through(arrivals)
    stored_times = stored_table(predictor.backend) is not None
    return run.result(arrivals, "stored beside the segments" if stored_times else "measured now")


@dataclass
class _Run:
    tasks: Mapping[str, ServedTask]
    levels: Mapping[str, ServiceLevel]
    queues: list[PassQueue[Any]]
    most_waiting: int
    busy: float = 0.0
    took: dict[int, float] = field(default_factory=dict)
    """By number of the request, seconds until its last answer."""
    moved: set[int] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    first: str | None = None
    pressure: Pressure = field(default_factory=Pressure)

    def through(self, arrivals: Sequence[Arrival]) -> None:
        """All requests, one event after the other."""
        control = {name: LoadControl(level) for name, level in self.levels.items()}
        now, coming = 0.0, 0
        while True:
            while coming < len(arrivals) and arrivals[coming].seconds <= now:
                self._arrive(coming, arrivals[coming], control, now)
                coming += 1
            found = next_queue(self.queues, now)
            if found is None:
                if coming == len(arrivals):
                    return
                now = arrivals[coming].seconds
                continue
            queue, choice = found
            unit, whole = choice.unit, choice.unit >= queue.timing.segments
            batch, dropped = queue.take(choice, now)
            self.refused |= {job.request for job in dropped}
            self.moved -= self.refused
            if not batch.jobs:
                continue
            spent = queue.timing.of(unit, batch.windows) + self._heads(queue, unit, batch) + OVERHEAD_S
            ends = now + spent
            while coming < len(arrivals) and arrivals[coming].seconds <= ends:  # they come while the batch is computed
                self._arrive(
                    coming, arrivals[coming], control, arrivals[coming].seconds, ends - arrivals[coming].seconds
                )
                coming += 1
            now, self.busy = ends, self.busy + spent
            for job in batch.jobs:
                if not whole and job.last > unit:
                    job.unit = unit + 1
                    queue.add(job)
                else:
                    self.took[job.request] = now - arrivals[job.request].seconds

    def _heads(self, queue: PassQueue[Any], unit: int, batch: Batch[Any]) -> float:
        """Seconds of the heads behind a unit: each runs once for all windows that ask it."""
        windows: dict[tuple[str, str], int] = {}
        for job in batch.jobs:
            for segment, task, exit in job.heads:
                if unit >= queue.timing.segments or segment == unit:
                    windows[task, exit] = windows.get((task, exit), 0) + job.count
        return sum(self.tasks[task].lane.measured.head(task, exit, count) for (task, exit), count in windows.items())

    def _arrive(
        self, number: int, each: Arrival, control: Mapping[str, LoadControl], now: float, running: float = 0.0
    ) -> None:
        level, steps = self.levels[each.slice], control[each.slice].steps
        deadline = np.inf if level.budget_ms is None else now + level.budget_ms / 1e3
        by_queue: dict[int, list[LevelChoice]] = {}
        heads: dict[int, list[tuple[int, str, str]]] = {}
        for name in each.tasks:
            chosen, own = self.tasks[name].choose(level, steps), id(self.tasks[name].lane.queue)
            by_queue.setdefault(own, []).append(chosen)
            asked = [(segment, name, exit) for segment, exit in chosen.consults.items()]
            heads.setdefault(own, []).extend(asked)
            if chosen.why == "load":
                self.moved.add(number)
        jobs = []
        for queue in self.queues:
            if choices := by_queue.get(id(queue)):
                lasts = [chosen.last for chosen in choices]
                decides = any(len(chosen.consults) > 1 for chosen in choices)
                unit = 0 if decides else queue.timing.first_unit(lasts, each.windows)
                known = (each.windows, max(lasts), deadline, level.priority, now, number, heads[id(queue)], unit)
                jobs.append((queue, _PlannedJob(*known)))
        met = outlook(self.queues, jobs, running, self.pressure.share(level.priority, now))
        control[each.slice].observe(met.ahead, now, max(queue.timing.segments for queue in self.queues))
        if met.waiting + each.windows > self.most_waiting or not met.in_time(deadline - now):
            self.refused.add(number)
            self.moved.discard(number)
        else:
            self.pressure.add(level.priority, met.own + OVERHEAD_S * len(jobs), now)
            for queue, job in jobs:
                queue.add(job)
        if self.first is None and number in self.refused | self.moved:
            self.first = each.slice

    def result(self, arrivals: Sequence[Arrival], times: str) -> EnginePlan:
        """By slice."""
        names = np.array([each.slice for each in arrivals])
        plans = {}
        for name, level in self.levels.items():
            numbers = np.flatnonzero(names == name) if len(names) else np.zeros(0, np.int64)
            took = 1e3 * np.array([self.took[n] for n in numbers.tolist() if n in self.took and n not in self.refused])
            kept = max(1, len(took))
            plans[name] = SlicePlan(
                len(numbers),
                float(np.isin(numbers, list(self.refused)).mean()) if len(numbers) else 0.0,
                float(np.isin(numbers, list(self.moved)).sum() / kept),
                _quantile(took, 0.5),
                _quantile(took, 0.99),
                level.budget_ms,
                1e3 * min(task.lane.queue.timing.least(task.least_depth(level)) for task in self.tasks.values()),
            )
        span = max((each.seconds for each in arrivals), default=0.0) or 1.0
        answered = sum(arrivals[number].windows for number in self.took if number not in self.refused)
        return EnginePlan(plans, self.first, min(1.0, self.busy / span), answered / span, times)


def _quantile(values: NDArray[np.float64], share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None
