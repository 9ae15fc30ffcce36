"""Counts as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from offramp.serving.watching.tally import HISTOGRAMS, ServingTally

_HISTOGRAMS = {
    "latency": ("offramp_request_seconds", "From request to answer.", ["model", "slice"]),
    "segment_seconds": (
        "offramp_segment_seconds",
        "Of a batch in a segment or a whole pass.",
        ["pass", "exit", "unit"],
    ),
    "batch_windows": ("offramp_batch_windows", "Windows of a batch.", ["pass", "exit", "unit"]),
    "confidence": ("offramp_confidence", "Of answered windows.", ["task", "exit"]),
}


@dataclass(frozen=True)
class Gauges:
    """What is so now, added up over processes.

    Attributes:
        ready: Whether every model is, in every process.
        workers: Processes that live.
        queues: Windows that wait, by pass, exit and kind of unit.
        steps: By how many exits load moves each slice.
        drift: Whether a task's monitors alarm, by task.
        disagreement: Upper bound of live disagreement with full depth, by task.
    """

    ready: bool
    workers: int
    queues: Mapping[tuple[str, ...], int]
    steps: Mapping[str, int]
    drift: Mapping[str, bool]
    disagreement: Mapping[str, float]


def exposition(tally: ServingTally, gauges: Gauges) -> bytes:
    """The text of ``/metrics``."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(tally, gauges))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Collector:
    tally: ServingTally
    gauges: Gauges

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "offramp_requests", "Requests that are over.", labels=["model", "slice", "status"]
        )
        refused = CounterMetricFamily(
            "offramp_refused", "Requests not answered, by reason.", labels=["slice", "reason"]
        )
        by_reason: dict[tuple[str, str], int] = {}
        for (model, slice, status), count in self.tally.requests.items():
            requests.add_metric([model, slice, status], count)
            if status in REASONS:
                by_reason[slice, REASONS[status]] = by_reason.get((slice, REASONS[status]), 0) + count
        for key, count in by_reason.items():
            refused.add_metric(list(key), count)
        yield requests
        yield refused
        answers = CounterMetricFamily(
            "offramp_answers",
            "Windows answered, by where they left, what was said and why there.",
            labels=["task", "exit", "label", "reason"],
        )
        shallower = CounterMetricFamily(
            "offramp_shallower",
            "Windows that left earlier than their own exit for load or a deadline.",
            labels=["task", "reason"],
        )
        moved: dict[tuple[str, str], int] = {}
        for (task, exit, label, why), count in self.tally.answers.items():
            answers.add_metric([task, exit, label, why], count)
            if why in ("load", "deadline"):
                moved[task, why] = moved.get((task, why), 0) + count
        for key, count in moved.items():
            shallower.add_metric(list(key), count)
        yield answers
        yield shallower
        for name, bounds in HISTOGRAMS.items():
            title, text, labels = _HISTOGRAMS[name]
            family = HistogramMetricFamily(title, text, labels=labels)
            for each, buckets in getattr(self.tally, name).items():
                family.add_metric(list(each), _cumulative(bounds, buckets.counts), buckets.total)
            yield family
        yield from self._now()

    def _now(self) -> Iterator[Metric]:
        gauges = self.gauges
        yield GaugeMetricFamily("offramp_ready", "Whether every model is ready.", value=float(gauges.ready))
        yield GaugeMetricFamily("offramp_workers", "Processes that live.", value=gauges.workers)
        families: list[tuple[str, str, list[str], Mapping[Any, float]]] = [
            ("offramp_queue_windows", "Windows that wait.", ["pass", "exit", "unit"], gauges.queues),
            ("offramp_slice_steps", "By how many exits load moves a slice.", ["slice"], gauges.steps),
            ("offramp_drift_alarm", "Whether the monitors of a task alarm.", ["task"], gauges.drift),
            (
                "offramp_disagreement_upper",
                "Upper bound of disagreement with full depth.",
                ["task"],
                gauges.disagreement,
            ),
        ]
        for title, text, labels, values in families:
            family = GaugeMetricFamily(title, text, labels=labels)
            for key, value in values.items():
                family.add_metric([key] if isinstance(key, str) else list(key), float(value))
            yield family


REASONS = {
    "400": "bad request",
    "404": "not found",
    "408": "too slow",
    "413": "too large",
    "429": "too much",
    "503": "unavailable",
    "504": "late",
    "500": "failed",
}
"""Why requests were not answered, by status of HTTP."""


def _cumulative(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    total, found = 0, []
    for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
