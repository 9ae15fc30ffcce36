"""One plain sentence per task, with a second one where a control says that the first needs a caveat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from offramp.report.numbers import (
    format_gain,
    format_percent,
    format_score,
    is_better,
    is_bounded,
    metric_label,
    time_saved,
)
from offramp.schema.results import ExitControl, ExitRow, FeatureRow, Gain, Measured


def sentence(
    *,
    kind: Literal["classification", "regression"],
    metric: str,
    higher_is_better: bool,
    chosen: ExitRow,
    full: ExitRow,
    gain: Gain,
    controls: Mapping[str, FeatureRow | ExitControl],
    measured: Measured | None = None,
    n_test_groups: int = 0,
) -> str:
    """Say where to leave, what that saves and costs, and what the controls make of it: at most two sentences.

    ``Leave at stage2.3: 90% fewer MACs, 78% less time; accuracy 84.2%, +0.4 points [-0.2, 1.0]; random weights reach 61.0%.``
    Without ``measured`` nothing is said about time, so that the sentence is reproduced bit for bit.
    An exit that does not beat the constant predictor is not recommended, whatever it saves. A positive difference means that the chosen exit is better than the full encoder, whatever the metric's direction.
    """
    score = f"{metric_label(metric)} {format_score(chosen.test.mean, metric)}"
    useless = is_useless(controls)
    if useless:
        constant = format_score(controls_score(controls, "constant"), metric)
        name = _plain_name("constant", kind)
        clauses = [f"Of no use: {score} at {chosen.exit} does not beat {name}, {constant}"]
    elif chosen.exit == full.exit:
        clauses = [f"Run to the end: {score}"]
    else:
        difference = ("" if is_bounded(metric) else "gain ") + format_gain(gain, metric) + _scope(gain, n_test_groups)
        clauses = [f"Leave at {chosen.exit}: {_savings(chosen, full, measured)}", f"{score}, {difference}"]
    random = controls.get("random_encoder")
    if isinstance(random, ExitControl):
        clauses.append(f"random weights reach {format_score(random.chosen.test.mean, metric)}")

    caveats = []
    better = best_simple_control(controls, higher_is_better)
    if useless and better == "constant":
        better = None
    if better is not None and is_better(controls_score(controls, better), chosen.test.mean, higher_is_better):
        reached = format_score(controls_score(controls, better), metric)
        verb = "reaches more" if higher_is_better else "does better"
        if _within_interval(controls[better]):
            verb = "does as well"
        caveats.append(f"{_plain_name(better, kind)} {verb}: {reached}")
    if not useless and _may_be_useless(controls):
        caveats.append(f"it is not shown to beat {_plain_name('constant', kind)}")
    if isinstance(random, ExitControl) and not (random.gain and random.gain.ci95[0] > 0):
        caveats.append("pretraining is not shown to help here")
    first = "; ".join(clauses) + "."
    return f"{first} But {', and '.join(caveats)}." if caveats else first


def is_useless(controls: Mapping[str, FeatureRow | ExitControl]) -> bool:
    """Whether the chosen exit does not beat the best constant answer; False where that was not asked for."""
    constant = controls.get("constant")
    return isinstance(constant, FeatureRow) and constant.gain is not None and constant.gain.mean <= 0


def _may_be_useless(controls: Mapping[str, FeatureRow | ExitControl]) -> bool:
    """Whether the gain over the best constant answer may be chance."""
    constant = controls.get("constant")
    return isinstance(constant, FeatureRow) and constant.gain is not None and constant.gain.ci95[0] <= 0


def _within_interval(control: FeatureRow | ExitControl) -> bool:
    """Whether the difference to our chosen exit may be chance."""
    return control.gain is not None and control.gain.ci95[1] >= 0


def best_simple_control(controls: Mapping[str, FeatureRow | ExitControl], higher_is_better: bool) -> str | None:
    """Name of the best control that has no encoder; None without one."""
    simple = {name: control.test.mean for name, control in controls.items() if isinstance(control, FeatureRow)}
    if not simple:
        return None
    return (max if higher_is_better else min)(simple, key=simple.__getitem__)


def controls_score(controls: Mapping[str, FeatureRow | ExitControl], name: str) -> float:
    """Mean test score of a control; of its chosen exit where it has exits."""
    control = controls[name]
    return control.test.mean if isinstance(control, FeatureRow) else control.chosen.test.mean


def _savings(chosen: ExitRow, full: ExitRow, measured: Measured | None) -> str:
    savings = [_change(chosen.macs_saved_fraction, "fewer", "MACs")]
    saved = time_saved(measured, chosen.exit, full.exit) if measured else None
    if saved is not None:
        savings.append(_change(saved, "less", "time"))
    return ", ".join(savings)


def _change(saved: float, word: str, noun: str) -> str:
    return f"{format_percent(abs(saved))} {word if saved >= 0 else 'more'} {noun}"


def _scope(gain: Gain, n_test_groups: int) -> str:
    if gain.unit == "group":
        return ""
    groups = f"{n_test_groups} group{'s' * (n_test_groups != 1)}" if n_test_groups else "few groups"
    return f" over the windows of {groups} only"


def _plain_name(control: str, kind: str) -> str:
    if control != "constant":
        return control
    return "always naming one class" if kind == "classification" else "always answering the same value"
