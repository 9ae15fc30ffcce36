"""The controls that a suite asks for: the same heads on other features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offramp.costs import ExitCost
from offramp.experiment import evaluate as evaluation
from offramp.experiment.controls import features as controls
from offramp.experiment.evaluate import Evaluation, Resampling
from offramp.experiment.features import FeatureBank
from offramp.experiment.prepare import Context, Prepared, bank_of, positions_of
from offramp.heads.fit import FittedExit, fit_exit
from offramp.schema.results import ExitControl, FeatureRow

RANDOM_DRAWS = 3
"""Random encoders that the control draws; seed number i uses draw i modulo 3."""


def run_controls(
    context: Context,
    prepared: Prepared,
    bank: FeatureBank,
    fitted: Sequence[FittedExit],
    costs: Sequence[ExitCost],
    scores: Evaluation,
    resampling: Resampling,
) -> dict[str, FeatureRow | ExitControl]:
    """All controls that the suite asks for, by name."""
    problem, ours = prepared.problem, fitted[scores.chosen]
    macs = [cost.macs for cost in costs]
    rows: dict[str, FeatureRow | ExitControl] = {}
    for name in context.loaded.suite.controls:
        if name == "constant":
            rows[name] = evaluation.constant_control(problem, resampling)
        elif name == "random_encoder":
            twins, draws = _fit_random(context, prepared)
            text = f"the same architecture with random weights ({draws} draws) and BatchNorm statistics of this data"
            rows[name] = evaluation.exit_control(problem, twins, macs, ours, resampling, draws, text)
        elif name == "equal_width":
            width = min(bank.taps(name).shape[-1] for name in bank.names)
            narrow = _fit_narrow(context, prepared, bank, width)
            text = f"every exit's tap cut to its first {width} principal components"
            rows[name] = evaluation.exit_control(problem, narrow, macs, ours, resampling, 1, text)
        else:
            what = f"{prepared.task.name}: {name}"
            features = controls.control_features(
                name,
                prepared.dataset.windows,
                prepared.transform,
                prepared.outside_test(),
                context.features,
                lambda done, total, what=what: context.on_progress(what, done, total),  # type: ignore[misc]
            )
            row = fit_exit(problem, name, features)
            text = controls.DESCRIPTIONS[name]
            rows[name] = evaluation.feature_control(problem, row, features.shape[1], ours, resampling, text)
    return rows


def _fit_random(context: Context, prepared: Prepared) -> tuple[list[FittedExit], int]:
    """Heads on random encoders, seed number i on draw i modulo the number of draws; and that number."""
    problem, draws = prepared.problem, prepared.problem.split.draws
    count = min(RANDOM_DRAWS, len(draws))
    banks = []
    for draw in range(count):
        twin = controls.random_twin(
            context.encoder,
            prepared.dataset.windows,
            prepared.transform,
            draw,
            context.device,
        )
        banks.append(bank_of(context, prepared, twin, f"random encoder {draw + 1} of {count}"))
    fitted = []
    for number, name in enumerate(banks[0].names, start=1):
        positions = positions_of(context, problem, banks[0].taps(name))
        parts = [fit_exit(problem, name, bank.taps(name), draws[d::count], positions) for d, bank in enumerate(banks)]
        fitted.append(_interleaved(parts))
        context.on_progress(f"{prepared.task.name}: random heads", number, len(banks[0].names))
    return fitted, count


def _fit_narrow(context: Context, prepared: Prepared, bank: FeatureBank, width: int) -> list[FittedExit]:
    fitted = []
    for number, name in enumerate(bank.names, start=1):
        reduced = controls.reduced_taps(bank.taps(name), width, prepared.outside_test())
        positions = positions_of(context, prepared.problem, reduced)
        fitted.append(fit_exit(prepared.problem, name, reduced, positions=positions))
        context.on_progress(f"{prepared.task.name}: equal-width heads", number, len(bank.names))
    return fitted


def _interleaved(parts: Sequence[FittedExit]) -> FittedExit:
    """One exit's fits of every n-th seed as one fit of all seeds, in their order."""
    count = len(parts)
    seeds = range(sum(len(part.heads) for part in parts))
    return FittedExit(
        parts[0].name,
        tuple(parts[seed % count].heads[seed // count] for seed in seeds),
        tuple(parts[seed % count].strengths[seed // count] for seed in seeds),
        np.stack([parts[seed % count].val_sums[seed // count] for seed in seeds]),
        np.stack([parts[seed % count].test_sums[seed // count] for seed in seeds]),
        tuple(parts[seed % count].val_heads[seed // count] for seed in seeds),
    )
