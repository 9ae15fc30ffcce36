"""Numbers as people read them: scores, differences, intervals and costs, written one way everywhere."""

from __future__ import annotations

import math

from offramp.schema.results import Gain, Measured
from offramp.scoring.metrics import METRICS

MISSING = "n/a"
_LABELS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "top3_accuracy": "top-3 accuracy",
    "mean_error": "mean error",
    "rmse": "RMSE",
    "nmse_db": "NMSE",
}


def metric_label(metric: str) -> str:
    """The metric in words."""
    return _LABELS.get(metric, metric.replace("_", " "))


def metric_heading(metric: str) -> str:
    """The metric in words, as a heading begins."""
    label = metric_label(metric)
    return label.capitalize() if label.islower() else label


def is_bounded(metric: str) -> bool:
    """Whether scores lie in [0, 1], so that they are written in percent."""
    return metric in METRICS and METRICS[metric].bounded


def is_better(score: float, other: float, higher_is_better: bool) -> bool:
    """Whether ``score`` is strictly better than ``other``."""
    return score > other if higher_is_better else score < other


def format_score(value: float, metric: str) -> str:
    """``84.2%``, ``-12.34 dB`` or three significant digits."""
    return (
        _fixed(value * _factor(metric), _decimals(metric, value)) + _unit(metric) if math.isfinite(value) else MISSING
    )


def format_number(value: float) -> str:
    """Three significant digits, without a unit."""
    return _fixed(value, _decimals("", value))


def format_interval(bounds: tuple[float, float], metric: str) -> str:
    """``[83.0, 85.1]``, in the unit of :func:`format_score`."""
    return _bounds(bounds, metric, _decimals(metric, *bounds))


def format_gain(gain: Gain, metric: str) -> str:
    """``+0.4 points [-0.2, 1.0]``: positive is better, whatever the metric's direction."""
    return f"{format_difference(gain, metric)} {format_gain_interval(gain, metric)}"


def format_difference(gain: Gain, metric: str) -> str:
    """``+0.4 points``, ``+0.35 dB`` or ``+0.391``."""
    unit = " points" if is_bounded(metric) else _unit(metric)
    return _fixed(gain.mean * _factor(metric), _decimals(metric, gain.mean, *gain.ci95), signed=True) + unit


def format_shift(value: float, metric: str) -> str:
    """A difference alone, in the unit of :func:`format_difference`."""
    unit = " points" if is_bounded(metric) else _unit(metric)
    return _fixed(value * _factor(metric), _decimals(metric, value), signed=True) + unit


def format_gain_interval(gain: Gain, metric: str) -> str:
    """The interval of :func:`format_gain`."""
    return _bounds(gain.ci95, metric, _decimals(metric, gain.mean, *gain.ci95))


def format_equivalence(gain: Gain, metric: str) -> str:
    """``1.3 points``: within which bound the two are equivalent, where the interval holds zero; empty where it does not."""
    bound = gain.equivalent_within
    if bound is None or not gain.ci95[0] <= 0 <= gain.ci95[1]:
        return ""
    unit = " points" if is_bounded(metric) else _unit(metric)
    return _fixed(bound * _factor(metric), _decimals(metric, gain.mean, *gain.ci95)) + unit


def format_count(count: float) -> str:
    """Three significant digits with a prefix: ``850``, ``12.3K``, ``1.23M``, ``4.56G``."""
    prefixes = ["", "K", "M", "G", "T"]
    while abs(count) >= 999.5 and len(prefixes) > 1:
        count, prefixes = count / 1000, prefixes[1:]
    return _fixed(count, _decimals("", count) if prefixes[0] else 0) + prefixes[0]


def format_percent(fraction: float | None) -> str:
    """``90%``; one decimal near 0 and 100, where it matters."""
    if fraction is None or not math.isfinite(fraction):
        return MISSING
    percent = 100 * fraction
    near_end = 0 < abs(percent) < 1 or 99 < percent < 100
    return _fixed(percent, int(near_end)) + "%"


def time_saved(measured: Measured, chosen: str, full: str) -> float | None:
    """Fraction of the full encoder's median latency that leaving at ``chosen`` saves; None if not measured."""
    latency = measured.latency_ms
    if chosen not in latency or full not in latency or latency[full].p50 <= 0:
        return None
    return 1 - latency[chosen].p50 / latency[full].p50


def _factor(metric: str) -> float:
    return 100.0 if is_bounded(metric) else 1.0


def _unit(metric: str) -> str:
    return "%" if is_bounded(metric) else " dB" if metric.endswith("_db") else ""


def _bounds(bounds: tuple[float, float], metric: str, decimals: int) -> str:
    return "[" + ", ".join(_fixed(bound * _factor(metric), decimals) for bound in bounds) + "]"


def _decimals(metric: str, *values: float) -> int:
    """Decimals that fit a metric: its own, or three significant digits of the largest value."""
    if is_bounded(metric):
        return 1
    if metric.endswith("_db"):
        return 2
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    exponent = int(f"{largest:.2e}".partition("e")[2])  # after rounding: 0.9996 counts as 1
    return min(max(2 - exponent, 0), 9)


def _fixed(value: float, decimals: int, signed: bool = False) -> str:
    if not math.isfinite(value):
        return MISSING
    value = round(value, decimals) + 0.0  # no "-0.0"
    return f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
