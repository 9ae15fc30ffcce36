"""The controls that a suite asks for: the same heads on other features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from offramp.experiment.controls.features import DESCRIPTIONS, control_features, random_twin, reduced_taps
from offramp.experiment.evaluate import Resampling, constant_control, exit_control, feature_control
from offramp.experiment.features import TaskFeatures
from offramp.experiment.prepare import Context, Prepared, features_of, fit_exits, fit_rows
from offramp.heads.fit import FittedExit, fit_exit
from offramp.progress import of_step
from offramp.schema.results import ExitControl, FeatureRow

RANDOM_DRAWS = 3
"""Random encoders that the control draws; seed number i uses draw i modulo 3."""


@dataclass(frozen=True, eq=False)
class Held:
    """What controls are held against: the chosen exit of a task.

    Attributes:
        context: Of the run.
        prepared: The task.
        bank: Its features.
        ours: Heads of the chosen exit.
        resampling: Of validation and test units.
    """

    context: Context
    prepared: Prepared
    bank: TaskFeatures
    ours: FittedExit
    resampling: Resampling

    @property
    def macs(self) -> list[int]:
        """Of every exit with its head."""
        return [cost.macs for cost in self.prepared.costs]


def run_controls(held: Held) -> dict[str, FeatureRow | ExitControl]:
    """All controls that the suite asks for, by name; ``tap_alone`` where there is something beside the taps."""
    asked = [name for name in held.context.loaded.suite.controls if name != "tap_alone" or held.bank.side is not None]
    return {name: CONTROLS.get(name, _features)(held, name) for name in asked}


def _constant(held: Held, _: str) -> FeatureRow:
    return constant_control(held.prepared.problem, held.ours, held.resampling)


def _random_encoder(held: Held, _: str) -> ExitControl:
    """Heads on random encoders, seed number i on draw i modulo the number of draws."""
    context, prepared, problem = held.context, held.prepared, held.prepared.problem
    draws = problem.split.draws
    count = min(RANDOM_DRAWS, len(draws))
    of_draws = []
    for draw in range(count):
        twin = random_twin(prepared.encoder, prepared.calibration_batches(context.device), draw)
        features = features_of(context, prepared, twin, f"random encoder {draw + 1} of {count}")
        what = f"heads on random encoder {draw + 1} of {count}"
        of_draws.append(fit_exits(context, prepared, features, what, draws[draw::count])[0])
    fitted = [_interleaved(parts) for parts in zip(*of_draws, strict=True)]
    text = f"the same architecture with random weights ({count} draws), BatchNorm statistics of this data, and the same head"
    return exit_control(problem, fitted, held.macs, held.ours, held.resampling, count, text)


def _equal_width(held: Held, _: str) -> ExitControl:
    bank, problem, fit_on = held.bank, held.prepared.problem, held.prepared.outside_test()
    width = min(bank.taps(name).shape[-1] for name in bank.names)
    narrow = fit_rows(
        held.context,
        held.prepared,
        bank.names,
        lambda name: reduced_taps(bank.taps(name), width, fit_on),
        "equal-width heads",
    )
    text = f"every exit's tap cut to its first {width} principal components"
    return exit_control(problem, narrow, held.macs, held.ours, held.resampling, 1, text)


def _tap_alone(held: Held, _: str) -> ExitControl:
    context, prepared = held.context, held.prepared
    alone, poolings = fit_exits(context, prepared, TaskFeatures(held.bank.bank), "heads on taps alone")
    macs = [cost.macs for cost in prepared.seen_with(prepared.encoder, poolings, side=None).costs]
    text = "the same taps without the side features"
    return exit_control(prepared.problem, alone, macs, held.ours, held.resampling, 1, text)


def _features(held: Held, name: str) -> FeatureRow:
    context, prepared = held.context, held.prepared
    features = control_features(
        name,
        prepared.dataset.windows,
        prepared.transform,
        prepared.outside_test(),
        context.features,
        of_step(context.on_step, f"{prepared.task.name}: {name}"),
    )
    fitted = fit_exit(prepared.problem, name, features)
    return feature_control(prepared.problem, fitted, features.shape[1], held.ours, held.resampling, DESCRIPTIONS[name])


CONTROLS: dict[str, Callable[[Held, str], FeatureRow | ExitControl]] = {
    "constant": _constant,
    "random_encoder": _random_encoder,
    "equal_width": _equal_width,
    "tap_alone": _tap_alone,
}
"""Those that are not a feature row."""


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
