"""One engine for any set of tasks: requests of different tasks, depths and service levels share segments, and leave one by one."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import ArrayLike

from offramp.bundle import BundleTask
from offramp.errors import ComputationFailed, DataError, DeadlinePassed, EngineClosed, EngineError, OfframpError
from offramp.runtime.engine.asking import (
    Wanted,
    bring_forward,
    check_is_level,
    checked_slice,
    chosen_tasks,
    deadline_of,
    new_ask,
    new_job,
    no_task,
    wanted_choice,
)
from offramp.runtime.engine.counts import BatchRun, EngineCounts, QueueDepth
from offramp.runtime.engine.lanes import (
    Lane,
    ServedTask,
    answer_of,
    batch_run,
    check_heads,
    check_level,
    lanes_of,
    queue_depths,
    run_unit,
    served,
    settle,
)
from offramp.runtime.engine.levels import DEFAULT, ServiceLevel, Slices
from offramp.runtime.engine.load import LoadControl, Pressure, next_queue, outlook, refusal
from offramp.runtime.engine.requests import Answer, Ask, Submission, WindowsJob
from offramp.runtime.engine.scheduler import Batch
from offramp.runtime.engine.timing import OVERHEAD_S
from offramp.runtime.predictor import Predictor, transformed

MOST_WINDOWS = 64
"""Of a batch."""
MOST_WAITING = 4096
"""Windows that may wait in an engine."""


class Engine:
    """Runs tasks of one bundle for many callers at once.

    One thread at a time computes: the engine's own, or that of a caller of :meth:`predict` who finds nobody computing, which spares two
    changes of threads. Callers may be any, and nobody who submits waits for a computation. A request waits in the queue of a segment, is
    batched there with whatever else waits, and each of its tasks gets its answer as soon as its exit is reached. Use it as a context
    manager, or call :meth:`close`.
    """

    def __init__(
        self,
        predictor: Predictor,
        slices: Slices | None = None,
        most_windows: int = MOST_WINDOWS,
        most_waiting: int = MOST_WAITING,
        clock: Callable[[], float] = time.monotonic,
        on_batch: Callable[[BatchRun], object] | None = None,
    ) -> None:
        """Start. Segments are timed first, which may take some seconds, unless times of such a machine are stored beside them.

        Args:
            predictor: A loaded bundle or folder of segments; see :func:`offramp.runtime.load`.
            slices: Service levels by name.
            most_windows: Of a batch.
            most_waiting: Windows that may wait beside more important ones; more are refused.
            clock: Seconds, never going back.
            on_batch: Called with what each batch was, by the thread that computed it: it should be quick, and must not raise.

        Raises:
            SuiteError: A level names an exit or a policy that no task has, or a budget that no task can meet.
            EngineError: The arguments make no sense.
            BundleError: Times that are stored are damaged.
        """
        if not isinstance(predictor, Predictor):
            raise EngineError(f"an engine takes what offramp.load gives, not {type(predictor).__name__}")
        for option, value in (("most_windows", most_windows), ("most_waiting", most_waiting)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise EngineError(f"{option}={value!r}: give a whole number of at least 1")
        for name, level in (slices or {}).items():
            check_is_level(name, level)
        self._predictor, self._backend = predictor, predictor.backend
        self._most_waiting, self._clock, self._on_batch = most_waiting, clock, on_batch
        self._lock, self._wake, self._closing = threading.Lock(), threading.Event(), False
        self._computing = threading.RLock()
        """Held by whoever computes, who may ask again in a callback of an answer; the other one guards the books."""
        self._counts = {each.name: 0 for each in fields(EngineCounts)}
        self._busy_until, self._running = float("-inf"), False
        stored = predictor.bundle.tasks
        self._lanes = lanes_of(list(stored.values()), self._backend, most_windows)
        self._tasks = {name: served(task, self._lanes, self._backend) for name, task in stored.items()}
        levels = {DEFAULT: ServiceLevel()} | dict(slices or {})
        for name, level in levels.items():
            check_level(name, level, list(self._tasks.values()))
        self._pressure = Pressure()
        self._levels = {name: (level, LoadControl(level)) for name, level in levels.items()}
        self._thread = threading.Thread(target=self._work, name="offramp-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        x: ArrayLike,
        tasks: Sequence[str] | None = None,
        slice: str = DEFAULT,
        budget_ms: float | None = None,
        exit: str | None = None,
        policy: str | None = None,
        as_reached: bool = False,
        wake: bool = True,
    ) -> Submission:
        """Ask some tasks about some windows.

        Args:
            x: Raw windows ``(N, *window_shape)`` in any form that :meth:`offramp.runtime.Predictor.predict` takes.
            tasks: Names of tasks; all whose windows have this shape if None.
            slice: Name of a service level.
            budget_ms: From now to the answers, instead of that of the level.
            exit: Where windows leave, instead of where the level says.
            policy: By which windows leave, instead of what the level says.
            as_reached: Give each task's answer as soon as its exit is reached, where otherwise they would come together and the last of them sooner.
            wake: Let the engine's thread begin; without, the caller goes on to call :meth:`compute`.

        Raises:
            Overloaded: There is more to do than can be done in time.
            DeadlinePassed: The budget is not above zero.
            TaskRemoved: There is no such task.
            EngineError: There is no such level, exit or policy, the arguments make no sense, or the engine is closed.
            DataError: The windows cannot be used.
        """
        submission = self._queued(x, Wanted(tasks, slice, budget_ms, exit, policy, as_reached), own=True)
        if wake:
            self._wake.set()
        return submission

    def _queued(self, x: ArrayLike, wanted: Wanted, own: bool = False) -> Submission:
        """Admit a request; with ``own`` the caller may change ``x`` as soon as this is back."""
        arrived, known = self._clock(), self._levels  # the levels are replaced as a whole, never changed
        level, load = known[checked_slice(wanted.slice, known)]
        deadline = deadline_of(wanted, level, arrived)
        windows = self._predictor.raw_windows(x)
        if not len(windows):
            raise DataError("a request of no windows: give at least one")
        chosen = chosen_tasks(self._tasks, windows.shape[1:], wanted.tasks)
        choices = {task.stored.name: wanted_choice(task, level, load.steps, wanted) for task in chosen}
        by_lane: dict[int, list[ServedTask]] = {}
        for task in chosen:
            by_lane.setdefault(id(task.lane), []).append(task)
        jobs = []
        for together in by_lane.values():
            batch = transformed(together[0].stored, windows)
            inputs = self._backend.inputs(batch.copy() if own and np.may_share_memory(batch, windows) else batch)
            asks = [new_ask(task, choices[task.stored.name], level, len(windows)) for task in together]
            jobs.append((together[0].lane, new_job(together[0].lane, inputs, asks, level, wanted, arrived, deadline)))
        self._admit(jobs, deadline - arrived, load)
        futures = {ask.task.name: ask.future for _, job in jobs for ask in job.asks}
        return Submission({task.stored.name: futures[task.stored.name] for task in chosen})

    def predict(self, x: ArrayLike, tasks: Sequence[str] | None = None, slice: str = DEFAULT) -> dict[str, Answer]:
        """Ask and wait; see :meth:`submit`."""
        submission = self._queued(x, Wanted(tasks, slice))
        try:
            if self._computing.acquire(blocking=False):
                try:
                    while not submission.done and self._step():
                        pass
                finally:
                    self._computing.release()
            if not submission.done or any(len(lane.queue) for lane in self._lanes.values()):
                self._wake.set()  # for what is left
            return submission.result()
        except BaseException:  # Ctrl-C, say: nobody waits any more
            submission.cancel()
            self._wake.set()
            raise

    def compute(self, most_seconds: float) -> bool:
        """Run one batch in the caller's thread, which spares two changes of threads, if nobody computes and it takes no longer by measured times.

        Anything else is left to the engine's thread.

        Returns:
            Whether more waits that the caller may go on with.
        """
        if not self._computing.acquire(blocking=False):
            self._wake.set()  # whoever computes may have looked just before
            return False
        try:
            ran = self._step(most_seconds)
        finally:
            self._computing.release()
        left = any(len(lane.queue) for lane in self._lanes.values())
        if left and not ran:
            self._wake.set()
        return left and ran

    def put(self, task: BundleTask) -> None:
        """Add a task, or replace the one of its name; what was submitted before is answered by the old one.

        Raises:
            BundleError: It does not fit the encoder of this engine, or its exits are not cut.
            EngineError: It is no task.
        """
        if not isinstance(task, BundleTask):
            raise EngineError(f"put takes a task of a bundle, such as predictor.bundle.task(NAME), not {task!r:.80}")
        prepared = served(task, self._lanes, self._backend)
        check_heads(prepared, self._backend)
        with self._lock:
            self._tasks = self._tasks | {task.name: prepared}

    def remove(self, name: str) -> None:
        """Take a task away; what was submitted before is still answered.

        Raises:
            TaskRemoved: There is none of that name.
        """
        with self._lock:
            if name not in self._tasks:
                raise no_task(name, self._tasks)
            self._tasks = {other: task for other, task in self._tasks.items() if other != name}

    def set_slice(self, name: str, level: ServiceLevel | None) -> None:
        """Add a service level, replace the one of its name, or with None take it away; what was submitted before keeps what it came with.

        Raises:
            SuiteError: No task can keep it.
            EngineError: It is no service level, or there is none to take away; ``default`` stays.
        """
        if level is not None:
            check_is_level(name, level)
            check_level(name, level, list(self._tasks.values()))
        with self._lock:
            if level is None and (name == DEFAULT or name not in self._levels):
                others = ", ".join(other for other in self._levels if other != DEFAULT) or "none"
                raise EngineError(f"slice {name!r} cannot be taken away: those that can are {others}")
            rest = {other: kept for other, kept in self._levels.items() if other != name}
            self._levels = rest if level is None else self._levels | {name: (level, LoadControl(level))}

    @property
    def slices(self) -> dict[str, ServiceLevel]:
        """Service levels by name."""
        return {name: level for name, (level, _) in self._levels.items()}

    @property
    def steps(self) -> dict[str, int]:
        """By how many exits load moves each slice towards the input now."""
        return {name: load.steps for name, (_, load) in self._levels.items()}

    @property
    def queues(self) -> list[QueueDepth]:
        """How many windows wait for each unit of each pass."""
        with self._lock:
            return [depth for lane in self._lanes.values() for depth in queue_depths(lane)]

    @property
    def backlog(self) -> float:
        """Seconds of work that wait."""
        with self._lock:
            return sum(lane.queue.backlog() for lane in self._lanes.values())

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being computed."""
        with self._lock:
            return not self._running and not any(len(lane.queue) for lane in self._lanes.values())

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self._tasks)

    def exits(self, task: str) -> tuple[str, ...]:
        """Where windows of a task may leave, in order of depth. Raises :class:`~offramp.errors.TaskRemoved` if there is no such task."""
        tasks = self._tasks
        if task not in tasks:
            raise no_task(task, tasks)
        return tuple(reversed(tasks[task].exits))

    @property
    def counts(self) -> EngineCounts:
        """What was done so far."""
        with self._lock:
            return EngineCounts(**self._counts)

    def close(self) -> None:
        """Compute nothing any more; who still waits is told so."""
        with self._lock:
            self._closing = True
        self._wake.set()
        if threading.current_thread() is not self._thread:  # else a callback of an answer closes
            self._thread.join()
        with self._computing:  # a caller may be at it
            for lane in self._lanes.values():
                for job in lane.queue.clear():
                    self._fail(job, EngineClosed("the engine was closed"))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- from a request to a job

    def _admit(self, jobs: Sequence[tuple[Lane, WindowsJob]], budget: float, load: LoadControl) -> None:
        """Let jobs wait, all of a request or none; what cannot be done in time is refused now, not when it is too late."""
        first = jobs[0][1]
        windows, slice, now, priority = sum(job.count for _, job in jobs), first.slice, first.arrived, first.priority
        with self._lock:
            if self._closing:
                raise EngineClosed("the engine is closed")
            queues = [lane.queue for lane in self._lanes.values()]
            running = max(0.0, self._busy_until - now)
            entering, share = [(lane.queue, job) for lane, job in jobs], self._pressure.share(priority, now)
            met = outlook(queues, entering, running, share)
            load.observe(met.ahead, now, max(len(lane.segments) for lane in self._lanes.values()))
            full = met.waiting + windows > self._most_waiting
            if full:
                for lane in self._lanes.values():
                    for job in lane.queue.drop_unwanted():
                        self._counts["failed"] += len(job.asks[0].exit)
                met = outlook(queues, entering, running, share)
                full = met.waiting + windows > self._most_waiting
            if full or not met.in_time(budget):
                self._counts["refused"] += windows
                raise refusal(met, windows, self._most_waiting if full else None, budget, slice)
            self._pressure.add(priority, met.own + OVERHEAD_S * len(jobs), now)
            for lane, job in jobs:
                self._counts["shallower"] += job.count if any(ask.why == "load" for ask in job.asks) else 0
                lane.queue.add(job)
            self._counts["submitted"] += sum(job.count for _, job in jobs)

    # --- computing

    def _work(self) -> None:
        while not self._closing:
            try:
                with self._computing:
                    ran = self._step()
            except BaseException:  # sys.exit in the callback of an answer, say: it was told to whoever waited
                continue
            if not ran:
                self._wake.wait()
                self._wake.clear()

    def _step(self, most_seconds: float = math.inf) -> bool:
        """Run one batch; False if nothing waits, or it would take longer. By one thread at a time."""
        if self._closing:
            return False
        lane, batch = self._next(most_seconds)
        if lane is None or batch is None:
            return False
        began = self._clock()
        counts = [job.count for job in batch.jobs]
        try:
            complete = run_unit(lane, batch.unit, batch.jobs)
            now = self._clock()
            for job, ask in complete:
                settle(ask, _answered(ask, job, now))
        except Exception as error:  # whatever a back end or a head raises stops nobody else
            told = (
                error
                if isinstance(error, OfframpError)
                else ComputationFailed(f"the engine could not compute: {error}")
            )
            for job in batch.jobs:
                self._fail(job, told)
        except BaseException:
            for job in batch.jobs:
                self._fail(job, ComputationFailed("the engine was interrupted"))
            raise
        else:
            self._sort(lane, batch, counts, now)
            if self._on_batch is not None:
                self._on_batch(batch_run(lane, batch.unit, sum(counts), now - began))
        finally:
            self._running = False
        return True

    def _next(self, most_seconds: float) -> tuple[Lane | None, Batch[WindowsJob] | None]:
        """The batch to run; what nobody waits for, or whose time is over, is let go on the way and never computed."""
        while True:
            with self._lock:
                now = self._clock()
                lanes = {id(lane.queue): lane for lane in self._lanes.values()}
                found = next_queue((lane.queue for lane in lanes.values()), now)
                if found is None or found[0].expected(found[1]) > most_seconds:
                    return None, None
                queue, choice = found
                batch, dropped = queue.take(choice, now)
                hopeless = [job for job in dropped if not bring_forward(lanes[id(queue)], job, now)]
                for job in dropped:
                    if job not in hopeless:
                        queue.add(job)
                for job in batch.jobs:
                    bring_forward(lanes[id(queue)], job, now)
                self._busy_until, self._running = now + queue.timing.of(choice.unit, batch.windows), bool(batch.jobs)
            for job in hopeless:
                self._fail(job, DeadlinePassed("the deadline passed while the request waited"))
            if batch.jobs:
                return lanes[id(queue)], batch

    def _sort(self, lane: Lane, batch: Batch[WindowsJob], ran_for: Sequence[int], now: float) -> None:
        """After a unit: who goes on waits again, and everything is counted."""
        with self._lock:
            counts = self._counts
            counts["batches"] += 1
            closed = []
            for job, ran in zip(batch.jobs, ran_for, strict=True):
                counts["computed"] += ran
                windows = len(job.asks[0].exit)
                if job.wanted:
                    counts["in_vain"] += ran if job.deadline <= now else 0
                    if self._closing:
                        closed.append(job)
                    else:
                        lane.queue.add(job)
                elif any(not ask.future.cancelled() and ask.future.exception() is None for ask in job.asks):
                    counts["answered"] += windows
                    counts["late"] += windows if job.deadline < now else 0
                else:
                    counts["failed"] += windows
                    counts["in_vain"] += ran if all(ask.future.cancelled() for ask in job.asks) else 0
        for job in closed:
            self._fail(job, EngineClosed("the engine was closed"))

    def _fail(self, job: WindowsJob, error: OfframpError) -> None:
        for ask in job.asks:
            settle(ask, error)
        with self._lock:
            self._counts["failed"] += len(job.asks[0].exit)


def _answered(ask: Ask, job: WindowsJob, now: float) -> Answer | OfframpError:
    try:
        return answer_of(ask, job, now)
    except OfframpError as error:
        return error
