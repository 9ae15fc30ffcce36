"""Whose BatchNorm statistics the encoder runs with: its own from pretraining, or those of the tasks' windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from offramp.encoders.base import StagedEncoder
from offramp.encoders.recalibration import has_statistics, recalibrated
from offramp.experiment.prepare import Context, Prepared, features_of, fit_exits, validation_score
from offramp.schema.tasks import BEFORE_ENCODER


def choose_statistics(context: Context, tasks: Sequence[Prepared]) -> list[Prepared]:
    """The tasks, each with the statistics that it uses; tasks on the same windows use the same, so that they share a pass.

    With ``recalibrate: auto`` the better ones on validation are chosen: best exit against best exit, heads of the first seed, the mean
    relative difference over the tasks.
    """
    asked = context.loaded.encoder.recalibrate
    if asked == "never" or not has_statistics(context.encoder):
        return list(tasks)
    sets: dict[tuple[str, ...], list[int]] = {}
    for number, prepared in enumerate(tasks):
        sets.setdefault(_windows_of(prepared), []).append(number)
    chosen = list(tasks)
    for numbers in sets.values():
        together = [tasks[number] for number in numbers]
        new = recalibrated(context.encoder, together[0].calibration_batches(context.device))
        if asked == "always" or _gain(context, together, new) > 0:
            for number in numbers:
                seen = tasks[number].seen_with(new, tasks[number].view.poolings, tasks[number].task.head.side)
                chosen[number] = replace(seen, statistics=together[0].task.name)
    return chosen


def _windows_of(prepared: Prepared) -> tuple[str, ...]:
    outside = hashlib.sha256(prepared.outside_test().tobytes()).hexdigest()
    return prepared.dataset.windows.fingerprint, str(prepared.transform), outside


def _gain(context: Context, tasks: Sequence[Prepared], new: StagedEncoder) -> float:
    """Mean relative difference of the tasks' best validation scores, positive where the new statistics are better."""
    gains = []
    for prepared in tasks:
        own, other = _best(context, prepared, context.encoder), _best(context, prepared, new)
        gains.append((other - own) / max(abs(own), 1e-12))
    return sum(gains) / len(gains)


def _best(context: Context, prepared: Prepared, encoder: StagedEncoder) -> float:
    features = features_of(context, prepared, encoder, "encoder, for its statistics")
    fitted, _ = fit_exits(context, prepared, features, "statistics", prepared.problem.split.draws[:1])
    return max(validation_score(prepared.problem, exit) for exit in fitted if exit.name != BEFORE_ENCODER)
