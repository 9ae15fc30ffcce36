"""Plausible results for the tests of the report, made by a formula rather than by a run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from offramp.schema.results import (
    BestExit,
    EncoderInfo,
    ExitControl,
    ExitInfo,
    ExitRow,
    FeatureRow,
    Gain,
    GroupScore,
    Latency,
    Measured,
    Results,
    Score,
    Selection,
    SnrScores,
    TaskResult,
)

EXITS = [
    "stem",
    *(f"stage{stage}.{unit}" for stage, units in ((2, 4), (3, 8), (4, 4)) for unit in range(units)),
    "conv5",
]
MODULATIONS = ["bpsk", "qpsk", "8psk", "16qam", "64qam", "gmsk", "2fsk", "4fsk", "ofdm", "am", "fm", "noise"]


def score(mean: float, half: float = 0.0) -> Score:
    return Score(mean=mean, std=half / 2, per_seed=[mean] * 3, ci95=(mean - half, mean + half) if half else None)


def exit_row(name: str, mean: float, *, macs: int = 1_000_000, saved: float = 0.0, half: float = 0.0) -> ExitRow:
    return ExitRow(exit=name, macs=macs, macs_saved_fraction=saved, val=score(mean), test=score(mean, half))


def gain(
    mean: float, low: float, high: float, unit: Any = "group", significant: bool = False, within: float | None = None
) -> Gain:
    return Gain(mean=mean, ci95=(low, high), unit=unit, significant=significant, equivalent_within=within)


def best_exit(row: ExitRow, gain_over_full: Gain) -> BestExit:
    return BestExit(**dict(row), gain_over_full=gain_over_full)


def judged(one: TaskResult, best: int, gain_over_full: Gain, confirmed: bool | None, margin: float) -> TaskResult:
    """A task with the fields that newer results have: the best exit on validation, the test behind the choice, the saving."""
    names = [row.exit for row in one.exits]
    chosen = names.index(one.chosen.exit)
    lower = {name: -2 * margin if i < chosen else -margin / 2 for i, name in enumerate(names[:-1])} | {names[-1]: 0.0}
    asked = Selection(
        rule="non-inferior", margin=margin, gain_lower=lower, non_inferior=names[chosen], bonferroni=names[-1]
    )
    told = {"best": best_exit(one.exits[best], gain_over_full), "selection": asked, "margin": margin}
    return one.model_copy(update=told | {"saving_confirmed": confirmed, "n_test_units": 60, "n_val_units": 180})


def exit_rows(start: float, peak: float, end: float, at: int, half: float, exits: list[str] = EXITS) -> list[ExitRow]:
    """Scores that rise from ``start`` to ``peak`` at exit ``at`` and go to ``end`` at full depth."""
    last = len(exits) - 1
    macs = [int(900_000 * (1 + i) ** 1.25) for i in range(len(exits))]
    return [
        exit_row(
            name,
            start + (peak - start) * math.sqrt(i / at) if i <= at else peak + (end - peak) * (i - at) / (last - at),
            macs=macs[i],
            saved=1 - macs[i] / macs[-1],
            half=half,
        )
        for i, name in enumerate(exits)
    ]


def task(
    *,
    start: float = 0.4,
    peak: float = 0.84,
    end: float = 0.83,
    at: int = 6,
    half: float = 0.015,
    random_peak: float = 0.61,
    simple: dict[str, float] | None = None,
    **changes: Any,
) -> TaskResult:
    rows = exit_rows(start, peak, end, at, half)
    random = exit_rows(start * 0.95, random_peak, random_peak, at + 2, half)
    sign = 1 if changes.get("higher_is_better", True) else -1
    lead = sign * (peak - random_peak)
    values: dict[str, Any] = {
        "kind": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
        "shift": "domain",
        "input_shape": [2, 4, 256],
        "n_train": 3375,
        "n_val": 1125,
        "n_test": 1500,
        "n_groups": 240,
        "n_test_groups": 60,
        "split_sha256": "0f" * 32,
        "exits": rows,
        "chosen": rows[at],
        "full": rows[-1],
        "gain_over_full": gain(sign * (peak - end), sign * (peak - end) - half, sign * (peak - end) + half),
        "controls": {
            "constant": FeatureRow(test=score(start * 0.3 if sign > 0 else start * 1.2)),
            "raw_input": FeatureRow(test=score(start * 0.9, half), width=1024),
            "random_encoder": ExitControl(
                exits=random, chosen=random[at + 2], draws=3, gain=gain(lead, lead - half, lead + half)
            ),
            "equal_width": ExitControl(
                exits=(equal := exit_rows(start, peak * 0.97, end * 0.95, at, half)), chosen=equal[at]
            ),
            **{name: FeatureRow(test=score(mean, half), width=64) for name, mean in (simple or {}).items()},
        },
        "measured": Measured(
            latency_ms={
                row.exit: Latency(p50=0.4 + i * 0.31, p95=0.5 + i * 0.37, p99=0.6 + i * 0.5)
                for i, row in enumerate(rows)
            },
            threads=1,
            batch=1,
        ),
        "sentence": "A sentence.",
    }
    return TaskResult(**(values | changes))


def confusion(classes: int, per_class: int = 125) -> list[list[int]]:
    rng = np.random.default_rng(0)
    share = np.full((classes, classes), 0.25 / classes) + 0.75 * np.eye(classes)
    return [rng.multinomial(per_class, row / row.sum()).tolist() for row in share]


def results(tasks: dict[str, TaskResult], **changes: Any) -> Results:
    """Results with every task's sentence filled in."""
    from offramp.report.exits.sentences import sentence

    told = {
        name: one.model_copy(
            update={
                "sentence": sentence(
                    kind=one.kind,
                    metric=one.metric,
                    higher_is_better=one.higher_is_better,
                    chosen=one.chosen,
                    full=one.full,
                    gain=one.gain_over_full,
                    controls=one.controls,
                    best=one.best,
                    saving_confirmed=one.saving_confirmed,
                    no_claim=one.no_claim,
                    measured=one.measured,
                    n_test_groups=one.n_test_groups,
                )
            }
        )
        for name, one in tasks.items()
    }
    values: dict[str, Any] = {
        "offramp": "0.1.0",
        "suite": {"encoder": "iq-shufflenet", "tasks": [{"name": name} for name in tasks], "seeds": [0, 1, 2]},
        "environment": {"python": "3.11.7", "torch": "2.13.0", "cpu": "Some CPU", "threads": 1},
        "encoder": EncoderInfo(
            name="iq-shufflenet",
            params=341_792,
            sha256="ab" * 32,
            exits=[ExitInfo(name=name, index=i, width=24, params=1000 * i) for i, name in enumerate(EXITS)],
        ),
        "tasks": told,
    }
    return Results(**(values | changes))


def demo() -> Results:
    """Five tasks that between them use every part of the report."""
    edges = [-6.0, -1.5, 3.0, 8.0, 12.5, 18.0]
    groups = [GroupScore(group=f"city_{i}", n=300 + i, chosen=0.7 + 0.03 * i, full=0.72 + 0.02 * i) for i in range(4)]
    late = task(start=0.3, peak=0.655, end=0.655, at=15, random_peak=0.64, simple={"power_only": 0.71})
    late = late.model_copy(update={"chosen": late.full, "gain_over_full": gain(0, 0, 0)})
    return results(
        {
            "modulation": task(
                simulated=True,
                label_names=MODULATIONS,
                confusion=confusion(12),
                simple={"handmade": 0.7, "power_only": 0.12},
                by_snr=SnrScores(edges_db=edges, chosen=[0.5, 0.74, 0.9, 0.95, 0.97], full=[0.52, 0.72, 0.89, 0.94, 0.96]),
                gain_over_full=gain(0.011, 0.004, 0.018, significant=True),
                shift="id",
            ),
            "los": task(
                start=0.62, peak=0.9, end=0.9, at=3, random_peak=0.89, half=0.03,
                label_names=["NLOS", "LOS"], confusion=confusion(2, 600), by_group=groups, n_groups=10, n_test_groups=4,
                gain_over_full=gain(0.004, -0.002, 0.01, "window"), metric="balanced_accuracy",
            ),
            "angle_degrees": task(
                kind="regression", metric="mean_error", higher_is_better=False, simulated=True,
                start=28.0, peak=4.21, end=5.02, at=8, half=0.4, random_peak=9.3, simple={"dft_power": 6.1, "raw_input": 240.0},
            ),
            "devices": late.model_copy(
                update={"label_names": [f"Sensor-Family-{i:02d} 433 MHz" for i in range(32)], "confusion": confusion(32)}
            ),
            "channel": task(
                kind="regression", metric="nmse_db", higher_is_better=False,
                start=-1.0, peak=-14.3, end=-14.6, at=10, half=0.3, random_peak=-7.0, shift="both",
            ),
        }
    )  # fmt: skip
