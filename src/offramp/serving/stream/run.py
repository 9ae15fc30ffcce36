"""From samples to answers: one thread takes samples in, this one cuts windows and writes answers, and the engine's own computes meanwhile."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.runtime.engine import Answer, Engine, Submission
from offramp.runtime.outputs import rows
from offramp.serving.stream.chunks import SampleChunk, SampleSource, StopFlag, StreamGap
from offramp.serving.stream.clock import StreamClock
from offramp.serving.stream.cutter import WindowCutter
from offramp.serving.stream.plan import StreamPlan
from offramp.serving.stream.report import StreamCounts, StreamReport, StreamStatus
from offramp.serving.stream.ring import SampleRing

BATCH = 64
"""Most windows of a request."""
IN_FLIGHT = 3
"""Requests under way: one that is computed, one that follows at once, one whose answers are being written."""
STATUS_S = 0.5
"""Between two words on how it is going."""

Row = Mapping[str, Any]


class StreamOutput(Protocol):
    """Where answers go."""

    def write(self, records: Sequence[Row]) -> None:
        """Take answers and events, in order. What a reader waits for is passed on at once."""


@dataclass(eq=False)
class _StreamBatch:
    """Windows that are asked about together.

    Attributes:
        index: Number of the first window.
        windows: ``(n, 2, channels, window)``.
        starts: First sample of each, int64.
        arrived: When the last sample of each came in.
        abouts: What to say of each.
        asked: The request, or why there is none.
    """

    index: int
    windows: NDArray[np.float32]
    starts: NDArray[np.int64]
    arrived: NDArray[np.float64]
    abouts: list[Mapping[str, Any]]
    asked: Submission | DataError | None = None

    def part(self, start: int, stop: int) -> _StreamBatch:
        """Some of the windows, not asked about yet."""
        cut = slice(start, stop)
        return _StreamBatch(
            self.index + start, self.windows[cut], self.starts[cut], self.arrived[cut], self.abouts[start:stop]
        )

    @property
    def ready(self) -> bool:
        return not isinstance(self.asked, Submission) or self.asked.done


def _whole(index: int, parts: Sequence[_StreamBatch]) -> _StreamBatch:
    """Batches one after the other as one, whose first window has that number."""
    if len(parts) == 1:
        return replace(parts[0], index=index)
    return _StreamBatch(
        index,
        np.concatenate([part.windows for part in parts]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.arrived for part in parts]),
        [about for part in parts for about in part.abouts],
    )


def run_stream(
    source: SampleSource,
    engine: Engine,
    plan: StreamPlan,
    output: StreamOutput,
    stop: StopFlag,
    on_status: Callable[[StreamStatus], object] = lambda _: None,
) -> StreamReport:
    """Answer for every window of a source, in order, until it ends or ``stop`` is asked for; what was taken in by then is answered.

    Records are the rows of :func:`offramp.runtime.outputs.rows` with ``sample``, ``time`` (ISO 8601 in UTC, or seconds since sample 0, or
    None) and what the source says; and events, ``{"event": "gap", "sample", "lost", "reason"}`` before the first window behind a gap and
    ``{"event": "unusable", "index", "sample", "reason"}`` in place of a window that cannot be answered.

    Args:
        source: Where samples come from; its antennas are those of the plan.
        engine: Has the tasks of the plan.
        plan: What to ask.
        output: Where records go.
        stop: May be asked by a signal handler.
        on_status: Called about twice a second.

    Raises:
        DataError: The source cannot be read further; all before was written.
        EngineError: The engine cannot answer: there is no such exit or policy.
        OSError: The output cannot be written to.
    """
    run = _StreamRun(source, engine, plan, output, stop)
    reader = threading.Thread(target=run.take_in, name="offramp-stream-source", daemon=True)
    reader.start()
    try:
        run.answer(on_status)
    finally:
        stop.asked = True
        reader.join(1.0)
    return run.report()


class _StreamRun:
    def __init__(
        self, source: SampleSource, engine: Engine, plan: StreamPlan, output: StreamOutput, stop: StopFlag
    ) -> None:
        self._source, self._engine, self._plan, self._output, self._stop = source, engine, plan, output, stop
        self._news = threading.Event()
        self._ring = SampleRing(plan.buffer, plan.when_behind, self._news)
        self._clock, self._counts = StreamClock(), StreamCounts()
        self._cutter = WindowCutter(plan.window, plan.hop, plan.channels)
        self._pending: deque[_StreamBatch | list[Row]] = deque()
        self._under_way = 0
        self._index = 0
        self._started = time.monotonic()
        self._cut_off = False

    def take_in(self) -> None:
        """What the thread of the source does."""
        error: BaseException | None = None
        try:
            for chunk in self._source.chunks(self._stop):
                if chunk.time is not None:
                    self._clock.note(chunk.first, chunk.time)
                self._ring.put(chunk, self._stop)
        except BaseException as failure:  # told by the thread that answers
            error = failure
        self._cut_off = self._stop.asked and not self._source.live
        self._ring.finish(error)

    def answer(self, on_status: Callable[[StreamStatus], object]) -> None:
        """Cut, ask and write until nothing is left."""
        said = time.monotonic()
        while True:
            self._news.clear()
            finished, active = self._ring.finished, False
            while self._under_way < IN_FLIGHT and not self._enough and self._cut():
                active = True
            active = self._deliver() or active
            over = self._enough or (finished and not self._ring.waiting)
            if over and not self._pending:
                break
            if (now := time.monotonic()) - said >= STATUS_S:
                said = now
                on_status(self._status())
            if not active:
                self._news.wait(0.1)
        if self._ring.lost and not self._enough:
            self._output.write(self._missing(self._ring.lost, None))
        if self._ring.error is not None:
            raise self._ring.error

    def report(self) -> StreamReport:
        counts = self._counts
        return StreamReport(
            seconds=time.monotonic() - self._started,
            samples=self._ring.taken_in,
            windows=counts.windows,
            unusable=counts.unusable,
            gaps=counts.gaps,
            delay_ms=counts.delay_ms(),
            cut_off=self._cut_off and not self._enough,
        )

    @property
    def _enough(self) -> bool:
        return self._plan.stop_after is not None and self._index >= self._plan.stop_after

    @property
    def _room(self) -> int:
        """Windows that the next request may hold."""
        return BATCH if self._plan.stop_after is None else min(BATCH, self._plan.stop_after - self._index)

    def _status(self) -> StreamStatus:
        ring, counts = self._ring, self._counts
        return StreamStatus(
            time.monotonic() - self._started, ring.taken_in, counts.windows, ring.waiting, counts.dropped
        )

    # --- from samples to requests

    def _cut(self) -> bool:
        """Ask about the next windows; False if no samples are there."""
        gathered: list[_StreamBatch] = []
        room, found = self._room, False
        while room > 0 and (chunk := self._ring.take(room * self._plan.hop)) is not None:
            found = True
            if missing := self._missing(chunk.gaps, chunk.first):
                self._ask_about(gathered)
                gathered, room = [], self._room
                self._pending.append(missing)
            batch = self._windows_of(chunk)
            gathered.append(batch)
            room -= len(batch.windows)
        self._ask_about(gathered)
        return found

    def _windows_of(self, chunk: SampleChunk) -> _StreamBatch:
        cut = self._cutter.feed(chunk.samples, chunk.first, bool(chunk.gaps))
        count = len(cut.windows)
        return _StreamBatch(0, cut.windows, cut.starts, np.full(count, chunk.arrived), [chunk.about] * count)

    def _ask_about(self, gathered: Sequence[_StreamBatch]) -> None:
        parts = [part for part in gathered if len(part.windows)]
        if not parts:
            return
        whole = _whole(self._index, parts)
        self._index += len(whole.windows)
        self._under_way += 1
        self._pending.append(self._asked(whole))

    def _asked(self, batch: _StreamBatch) -> _StreamBatch:
        plan = self._plan
        try:
            batch.asked = self._engine.submit(batch.windows, plan.names, exit=plan.exit, policy=plan.policy)
        except DataError as error:
            batch.asked = error
        else:
            for future in batch.asked.answers.values():
                future.add_done_callback(lambda _: self._news.set())
        return batch

    def _missing(self, gaps: Sequence[StreamGap], before: int | None) -> list[Row]:
        """Records of what is missing before a sample; None for the end of the stream."""
        return [
            {"event": "gap", "sample": before, "lost": gap.lost, "reason": gap.reason}
            for gap in gaps
            if self._counts.add_gap(gap)
        ]

    # --- from answers to records

    def _deliver(self) -> bool:
        """Write what is answered, in order; False if there is nothing."""
        records: list[Row] = []
        while self._pending:
            head = self._pending[0]
            if isinstance(head, _StreamBatch):
                if not head.ready:
                    break
                records += self._rows(head)
                self._under_way -= 1
            else:
                records += head
            self._pending.popleft()
        if records:
            self._output.write(records)
        return bool(records)

    def _rows(self, batch: _StreamBatch) -> list[Row]:
        """Records of a batch. Where one window spoils it, the others are asked about again without it."""
        count = len(batch.windows)
        try:
            if isinstance(batch.asked, DataError):
                raise batch.asked
            assert batch.asked is not None
            return self._records(batch, batch.asked.result())
        except DataError as error:
            if count > 1:
                halves = batch.part(0, count // 2), batch.part(count // 2, count)
                return [row for half in halves for row in self._rows(self._asked(half))]
            self._counts.unusable += 1
            reason = "NaN or infinity" if not np.isfinite(batch.windows).all() else str(error)
            return [{"event": "unusable", "index": batch.index, "sample": int(batch.starts[0]), "reason": reason}]

    def _records(self, batch: _StreamBatch, answers: Mapping[str, Answer]) -> list[Row]:
        count = len(batch.windows)
        delays = time.monotonic() - batch.arrived
        self._counts.windows += count
        self._counts.add_delays(delays.tolist())
        times = self._clock.times(batch.starts, self._source.sample_rate)
        slot_s = self._source.slot_seconds
        places = [
            {
                "sample": start,
                "time": at,
                **about,
                **({} if slot_s is None else {"age_slots": round(delay / slot_s, 3)}),
            }
            for start, at, about, delay in zip(batch.starts.tolist(), times, batch.abouts, delays.tolist(), strict=True)
        ]
        of_tasks = [rows([answer.prediction], batch.index) for answer in answers.values()]
        return [row | place for place, *found in zip(places, *of_tasks, strict=True) for row in found]
