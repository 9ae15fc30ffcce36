from __future__ import annotations

from typing import Any

import pytest
from report_samples import best_exit, exit_row, gain, score

from offramp.report.exits.sentences import sentence
from offramp.report.numbers import format_count, format_percent, format_score
from offramp.schema.results import ExitControl, FeatureRow, Latency, Measured

MEASURED = Measured(
    latency_ms={"stage2.3": Latency(p50=2.2, p95=3, p99=4), "conv5": Latency(p50=10, p95=11, p99=12)},
    threads=1,
    batch=1,
)


def random_encoder(mean: float, lead: Any) -> ExitControl:
    row = exit_row("stage3.0", mean)
    return ExitControl(exits=[row], chosen=row, gain=lead)


def tell(**changes: Any) -> str:
    parts: dict[str, Any] = {
        "kind": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
        "chosen": exit_row("stage2.3", 0.842, macs=100, saved=0.9),
        "full": exit_row("conv5", 0.838, macs=1000),
        "gain": gain(0.004, -0.002, 0.01),
        "controls": {
            "constant": FeatureRow(test=score(0.1)),
            "random_encoder": random_encoder(0.61, gain(0.23, 0.2, 0.26)),
        },
        "measured": MEASURED,
    }
    return sentence(**(parts | changes))


def test_the_usual_case() -> None:
    assert tell() == (
        "Leave at stage2.3: 90% fewer MACs, 78% less time; accuracy 84.2%, +0.4 points [-0.2, 1.0]; "
        "random weights reach 61.0%."
    )


def test_the_saving_is_confirmed_or_not() -> None:
    assert "78% less time (confirmed on test); accuracy" in tell(saving_confirmed=True)
    assert "78% less time (not confirmed on test); accuracy" in tell(saving_confirmed=False)


def test_the_best_exit_on_validation_is_named() -> None:
    row = exit_row("stage3.0", 0.85, saved=0.6)
    text = tell(best=best_exit(row, gain(0.012, 0.004, 0.02)))
    assert "[-0.2, 1.0]; best on validation is stage3.0 (60% fewer MACs): 85.0%, +1.2 points [0.4, 2.0]; random" in text
    full = best_exit(exit_row("conv5", 0.838), gain(0, 0, 0))
    assert "; best on validation is full depth: 83.8%; random" in tell(best=full)
    same = best_exit(exit_row("stage2.3", 0.842, saved=0.9), gain(0.004, -0.002, 0.01))
    assert "; no exit is better on validation; random" in tell(best=same)


def test_no_difference_is_told_with_the_bound_of_equivalence() -> None:
    text = tell(gain=gain(0.004, -0.002, 0.01, within=0.0088))
    assert "+0.4 points [-0.2, 1.0], within 0.9 points of full depth; random" in text
    clear = tell(gain=gain(0.02, 0.01, 0.03, within=0.028))
    assert "of full depth" not in clear, "the interval is clear of zero"
    decibel = tell(kind="regression", metric="nmse_db", higher_is_better=False, gain=gain(0.1, -0.2, 0.4, within=0.351))
    assert "gain +0.10 dB [-0.20, 0.40], within 0.35 dB of full depth" in decibel


def test_a_task_for_no_claim_says_why() -> None:
    assert tell(no_claim="random weights solve it.").endswith("Counts for no claim: random weights solve it.")


def test_run_to_the_end() -> None:
    full = exit_row("conv5", 0.838)
    assert tell(chosen=full, full=full, gain=gain(0, 0, 0), controls={}) == "Run to the end: accuracy 83.8%."


def test_an_exit_that_does_not_beat_a_constant_is_not_recommended() -> None:
    constant = FeatureRow(test=score(0.12), gain=gain(-0.01, -0.03, 0.01))
    text = tell(chosen=exit_row("stage2.3", 0.11, saved=0.9), controls={"constant": constant})
    assert text == "Of no use: accuracy 11.0% at stage2.3 does not beat always naming one class, 12.0%."
    raw = FeatureRow(test=score(0.95))
    both = tell(controls={"constant": FeatureRow(test=score(0.9), gain=gain(-0.06, -0.07, -0.05)), "raw_input": raw})
    assert both.startswith("Of no use: ")
    assert both.endswith("But raw_input reaches more: 95.0%.")


def test_a_gain_over_a_constant_that_may_be_chance() -> None:
    unsure = FeatureRow(test=score(0.8), gain=gain(0.04, -0.01, 0.09))
    assert tell(controls={"constant": unsure}).endswith("But it is not shown to beat always naming one class.")
    sure = FeatureRow(test=score(0.1), gain=gain(0.7, 0.6, 0.8))
    assert "But" not in tell(controls={"constant": sure})


@pytest.mark.parametrize("lead", [None, gain(0.02, -0.01, 0.05), gain(-0.05, -0.07, -0.03)])
def test_random_weights_that_are_not_clearly_worse(lead: Any) -> None:
    text = tell(controls={"random_encoder": random_encoder(0.83, lead)})
    assert text.endswith("random weights reach 83.0%. But pretraining is not shown to help here.")


def test_simple_control_that_is_better() -> None:
    text = tell(controls={"power_only": FeatureRow(test=score(0.9)), "raw_input": FeatureRow(test=score(0.3))})
    assert text.endswith("points [-0.2, 1.0]. But power_only reaches more: 90.0%.")
    both = tell(
        controls={"constant": FeatureRow(test=score(0.9)), "random_encoder": random_encoder(0.83, None)},
    )
    assert both.endswith(
        "reach 83.0%. But always naming one class reaches more: 90.0%, and pretraining is not shown to help here."
    )


def test_errors_and_decibels_are_better_when_lower() -> None:
    text = tell(
        kind="regression",
        metric="mean_error",
        higher_is_better=False,
        chosen=exit_row("stage2.3", 4.2091, saved=0.9),
        gain=gain(0.391, -0.0512, 0.83),
        controls={"constant": FeatureRow(test=score(28.4)), "dft_power": FeatureRow(test=score(3.1))},
    )
    assert "mean error 4.21, gain +0.391 [-0.051, 0.830]. But dft_power does better: 3.10." in text
    text = tell(
        kind="regression",
        metric="nmse_db",
        higher_is_better=False,
        chosen=exit_row("stage2.3", -14.3, saved=0.9),
        gain=gain(-0.3, -0.5, -0.1),
        controls={"constant": FeatureRow(test=score(0.0))},
    )
    assert text.endswith("NMSE -14.30 dB, gain -0.30 dB [-0.50, -0.10].")


def test_few_groups_are_named() -> None:
    window = gain(0.004, -0.002, 0.01, "window")
    assert "[-0.2, 1.0] over the windows of 3 groups only; random" in tell(gain=window, n_test_groups=3)
    assert "over the windows of 1 group only" in tell(gain=window, n_test_groups=1)
    assert "over the blocks of 1 group only" in tell(gain=gain(0.004, -0.002, 0.01, "block"), n_test_groups=1)


def test_slower_and_unmeasured_exits() -> None:
    slower = MEASURED.model_copy(
        update={"latency_ms": MEASURED.latency_ms | {"stage2.3": Latency(p50=12, p95=13, p99=14)}}
    )
    assert "90% fewer MACs, 20% more time;" in tell(measured=slower)
    assert "90% fewer MACs; accuracy" in tell(measured=MEASURED.model_copy(update={"latency_ms": {}}))


def test_numbers() -> None:
    assert [format_count(n) for n in (0, 850, 999_499, 999_600, 12_345_678, 4.56e9)] == [
        "0", "850", "999K", "1.00M", "12.3M", "4.56G",
    ]  # fmt: skip
    assert [format_percent(x) for x in (0.9, 0.997, 0.004, 0.0, 1.0, None)] == [
        "90%",
        "99.7%",
        "0.4%",
        "0%",
        "100%",
        "n/a",
    ]
    assert [format_score(x, "rmse") for x in (1234.5, 0.01234, 0.0)] == ["1,234", "0.0123", "0.00"]
    assert format_score(float("nan"), "accuracy") == "n/a"
    assert format_score(-0.0001, "accuracy") == "0.0%"


def test_a_task_that_needs_no_encoder_leaves_before_it() -> None:
    controls = {"random_encoder": random_encoder(0.83, gain(0.01, -0.01, 0.03))}
    text = tell(chosen=exit_row("input", 0.842, macs=1, saved=0.999), controls=controls)
    assert text.startswith("Leave before the encoder, on side features alone: 99.9% fewer MACs; accuracy 84.2%")
    assert "pretraining" not in text, "it has no part in the answer"
