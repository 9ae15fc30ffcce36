"""One plain sentence per task, with another where a control says that it needs a caveat, or where the task counts for no claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from offramp.report.numbers import (
    format_equivalence,
    format_gain,
    format_percent,
    format_score,
    is_better,
    is_bounded,
    metric_label,
    time_saved,
)
from offramp.schema.results import BestExit, ExitControl, ExitRow, FeatureRow, Gain, Measured
from offramp.schema.tasks import BEFORE_ENCODER


def sentence(
    *,
    kind: Literal["classification", "regression"],
    metric: str,
    higher_is_better: bool,
    chosen: ExitRow,
    full: ExitRow,
    gain: Gain,
    controls: Mapping[str, FeatureRow | ExitControl],
    best: BestExit | None = None,
    saving_confirmed: bool | None = None,
    no_claim: str | None = None,
    measured: Measured | None = None,
    n_test_groups: int = 0,
) -> str:
    """Say where to leave, what that saves and costs, which exit is best on validation, and what the controls make of it.

    ``Leave at stage2.3: 90% fewer MACs, 78% less time (confirmed on test); accuracy 84.2%, +0.4 points [-0.2, 1.0], within 0.9 points of
    full depth; best on validation is stage3.0 (60% fewer MACs): 85.0%, +1.2 points [0.4, 2.0]; random weights reach 61.0%.``
    At most three sentences: the second says what a control makes of the first, the third why the task counts for no claim. Without ``measured`` nothing is said about time, so that the sentence is reproduced bit for bit.
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
        difference = _difference(gain, metric) + _scope(gain, n_test_groups) + _equivalence(gain, metric)
        savings = _savings(chosen, full, measured) + _confirmation(saving_confirmed)
        clauses = [f"{_where(chosen)}: {savings}", f"{score}, {difference}"]
    if best is not None:
        clauses.append(_best_clause(best, chosen, full, metric))
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
    runs = chosen.exit != BEFORE_ENCODER
    if runs and isinstance(random, ExitControl) and not (random.gain and random.gain.ci95[0] > 0):
        caveats.append("pretraining is not shown to help here")
    first = "; ".join(clauses) + "."
    told = f"{first} But {', and '.join(caveats)}." if caveats else first
    return told if no_claim is None else f"{told} Counts for no claim: {no_claim.rstrip('.')}."


def _where(chosen: ExitRow) -> str:
    if chosen.exit == BEFORE_ENCODER:
        return "Leave before the encoder, on side features alone"
    return f"Leave at {chosen.exit}"


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


def _best_clause(best: BestExit, chosen: ExitRow, full: ExitRow, metric: str) -> str:
    """The exit that is best on validation, where it is another one than the chosen."""
    if best.exit == chosen.exit:
        return "no exit is better on validation"
    if best.exit == full.exit:
        return f"best on validation is full depth: {format_score(best.test.mean, metric)}"
    saved = _change(best.macs_saved_fraction, "fewer", "MACs")
    reached = f"{format_score(best.test.mean, metric)}, {_difference(best.gain_over_full, metric)}"
    return f"best on validation is {best.exit} ({saved}): {reached}" + _equivalence(best.gain_over_full, metric)


def _difference(gain: Gain, metric: str) -> str:
    return ("" if is_bounded(metric) else "gain ") + format_gain(gain, metric)


def _equivalence(gain: Gain, metric: str) -> str:
    bound = format_equivalence(gain, metric)
    return f", within {bound} of full depth" if bound else ""


def _confirmation(confirmed: bool | None) -> str:
    if confirmed is None:
        return ""
    return " (confirmed on test)" if confirmed else " (not confirmed on test)"


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
    return f" over the {gain.unit}s of {groups} only"


def _plain_name(control: str, kind: str) -> str:
    if control != "constant":
        return control
    return "always naming one class" if kind == "classification" else "always answering the same value"
