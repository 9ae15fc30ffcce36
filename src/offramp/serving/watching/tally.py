"""Counts of one process of a server: cheap to add to, and added up over processes by whoever shows them."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offramp.bundle import BundleTask
from offramp.runtime.engine import DEFAULT, Answer
from offramp.runtime.engine.counts import BatchRun
from offramp.serving.service import RequestOutcome

LATENCY_S = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.2,
    0.3,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
)
"""Upper bounds of buckets, seconds."""
SEGMENT_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BATCH_WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128)
CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
MOST_KEYS = 10_000
"""Of one count: names that clients invent must not fill the memory."""
Key = tuple[str, ...]


@dataclass
class Buckets:
    """How many values lie in each bucket, and their sum.

    Attributes:
        counts: By bucket; the last one is for values above all bounds.
        total: Of the values.
    """

    counts: list[int]
    total: float = 0.0

    def add(self, bounds: tuple[float, ...], value: float, times: int = 1) -> None:
        """Count a value so many times."""
        self.counts[bisect_left(bounds, value)] += times
        self.total += value * times


@dataclass(eq=False)
class ServingTally:
    """All counts. Threads may share it.

    Attributes:
        answers: Windows by task, exit, label and reason; the label is empty for regression.
        confidence: Windows by task and exit, in buckets of :data:`CONFIDENCE`.
        requests: By model, slice and status of HTTP.
        latency: Requests that were answered by model and slice, in buckets of :data:`LATENCY_S`.
        segment_seconds: Batches by pass, exit and kind of unit (``segment`` or ``whole``), in buckets of :data:`SEGMENT_S`.
        batch_windows: The same batches in buckets of :data:`BATCH_WINDOWS`.
    """

    answers: dict[Key, int] = field(default_factory=dict)
    confidence: dict[Key, Buckets] = field(default_factory=dict)
    requests: dict[Key, int] = field(default_factory=dict)
    latency: dict[Key, Buckets] = field(default_factory=dict)
    segment_seconds: dict[Key, Buckets] = field(default_factory=dict)
    batch_windows: dict[Key, Buckets] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def on_answer(self, task: BundleTask, windows: Any, answer: Answer, source: str) -> None:
        """Count the windows of an answer."""
        prediction = answer.prediction
        labelled = prediction.kind == "classification"
        if len(prediction.left) == 1:  # most requests are of one window
            exit = prediction.consulted[int(prediction.left[0])]
            label = ""
            if labelled:
                best = int(prediction.outputs[0].argmax())
                label = prediction.label_names[best] if prediction.label_names else str(best)
            with self._lock:
                self._add(self.answers, (task.name, exit, label, answer.why), 1)
                if labelled:
                    self._bucket(self.confidence, (task.name, exit), CONFIDENCE).add(
                        CONFIDENCE, float(prediction.outputs[0, best])
                    )
            return
        exits = prediction.exits
        labels = prediction.labels if labelled else [""] * len(exits)
        found = dict(
            zip(
                *np.unique([f"{e}\0{name}" for e, name in zip(exits, labels, strict=True)], return_counts=True),
                strict=True,
            )
        )
        with self._lock:
            for pair, count in found.items():
                exit, _, label = str(pair).partition("\0")
                self._add(self.answers, (task.name, exit, label, answer.why), int(count))
            if labelled:
                for exit, value in zip(exits, prediction.confidence.tolist(), strict=True):
                    self._bucket(self.confidence, (task.name, exit), CONFIDENCE).add(CONFIDENCE, value)

    def on_outcome(self, outcome: RequestOutcome) -> None:
        """Count a request."""
        slice = outcome.parameters.get("slice", DEFAULT)
        named = slice if isinstance(slice, str) and len(slice) <= 100 else "?"
        status = "200" if outcome.fault is None else str(outcome.fault.status)
        with self._lock:
            if status in ("400", "404"):
                named = DEFAULT if named == DEFAULT else "?"  # what is named may not exist
            self._add(self.requests, (outcome.model[:100], named, status), 1)
            if outcome.fault is None:
                self._bucket(self.latency, (outcome.model, named), LATENCY_S).add(LATENCY_S, outcome.seconds)

    def on_batch(self, batch: BatchRun) -> None:
        """Count a batch."""
        key = (str(batch.number), batch.exit, "whole" if batch.whole else "segment")
        with self._lock:
            self._bucket(self.segment_seconds, key, SEGMENT_S).add(SEGMENT_S, batch.seconds)
            self._bucket(self.batch_windows, key, BATCH_WINDOWS).add(BATCH_WINDOWS, batch.windows)

    def document(self) -> dict[str, Any]:
        """All of it, JSON types only; see :func:`added`."""
        with self._lock:
            return {
                **{name: [[*key, count] for key, count in getattr(self, name).items()] for name in COUNTS},
                **{
                    name: [[*key, list(each.counts), each.total] for key, each in getattr(self, name).items()]
                    for name in HISTOGRAMS
                },
            }

    def _add(self, counts: dict[Key, int], key: Key, count: int) -> None:
        if key in counts or len(counts) < MOST_KEYS:
            counts[key] = counts.get(key, 0) + count

    def _bucket(self, buckets: dict[Key, Buckets], key: Key, bounds: tuple[float, ...]) -> Buckets:
        found = buckets.get(key)
        if found is None:
            found = Buckets([0] * (len(bounds) + 1))
            if len(buckets) < MOST_KEYS:
                buckets[key] = found
        return found


COUNTS = ("answers", "requests")
HISTOGRAMS: Mapping[str, tuple[float, ...]] = {
    "confidence": CONFIDENCE,
    "latency": LATENCY_S,
    "segment_seconds": SEGMENT_S,
    "batch_windows": BATCH_WINDOWS,
}


def added(documents: Iterable[Mapping[str, Any]]) -> ServingTally:
    """The sum of what :meth:`ServingTally.document` gave in several processes."""
    tally = ServingTally()
    for document in documents:
        for name in COUNTS:
            counts = getattr(tally, name)
            for *key, count in document.get(name, []):
                counts[tuple(key)] = counts.get(tuple(key), 0) + count
        for name, bounds in HISTOGRAMS.items():
            buckets = getattr(tally, name)
            for *key, given, total in document.get(name, []):
                found = buckets.setdefault(tuple(key), Buckets([0] * (len(bounds) + 1)))
                found.counts = [a + b for a, b in zip(found.counts, given, strict=True)]
                found.total += total
    return tally
