"""Windows under a shift: with noise added, or of a class that no head has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.table import WindowSource
from offramp.encoders.base import StagedEncoder
from offramp.experiment.features import digest, fill_bank
from offramp.experiment.policies.samples import Sample, Taps, final_sample
from offramp.heads.fit import FittedExit, Problem, fit_exit
from offramp.progress import OnProgress
from offramp.transforms import Transform, degrade


def noisy_sample(
    problem: Problem,
    fitted: Sequence[FittedExit],
    encoder: StagedEncoder,
    transform: Transform,
    noise_db: float,
    folder: Path,
    device: str,
    on_progress: OnProgress,
) -> Sample:
    """Test windows with noise added at an SNR, seen by the heads of the first seed.

    Args:
        problem: The task.
        fitted: Heads of every exit.
        encoder: Frozen.
        transform: Applied behind the noise.
        noise_db: Power of the window as it is over that of the noise, dB; see :func:`offramp.transforms.degrade`.
        folder: Of feature banks.
        device: Where the encoder runs.
        on_progress: Called with windows done and windows in all.

    Raises:
        DataError: The windows are not ``(N, 2, ..., antennas, x)``, real and imaginary.
    """
    test = problem.split.test
    bank = fill_bank(
        encoder, noisy_windows(problem.dataset.windows, test, noise_db), transform, folder, on_progress, device
    )
    return final_sample(problem, fitted, bank.taps, 0, test, problem.test_units, rows=np.arange(len(test)))


def noisy_windows(windows: WindowSource, indices: NDArray[np.int64], noise_db: float) -> WindowSource:
    """Some windows of a source with noise added."""
    key = digest([windows.fingerprint, noise_db, digest([indices.tolist()])])
    name = f"{windows.name} with noise at {noise_db:g} dB"
    return WindowSource(
        name, len(indices), windows.shape, key, lambda rows: degrade(windows.read(indices[rows]), snr_db=noise_db)
    )


def unseen_class_sample(
    problem: Problem, taps: Taps, exits: Sequence[str], name: str, on_progress: OnProgress
) -> Sample:
    """Test windows of a class that a task :func:`has <offramp.experiment.policies.check.has_class>`, seen by heads of the first seed that were fitted without it."""
    label = problem.dataset.label_names.index(name)
    targets, split = problem.dataset.targets, problem.split
    draw = split.draws[0]
    folds = tuple((train[targets[train] != label], val[targets[val] != label]) for train, val in draw.folds)
    without = replace(draw, folds=folds, final=draw.final[targets[draw.final] != label])
    fitted = []
    for number, exit in enumerate(exits, start=1):
        fitted.append(fit_exit(problem, exit, taps(exit), [without]))
        on_progress(number, len(exits))
    held = split.test[targets[split.test] == label]
    return final_sample(problem, fitted, taps, 0, held, problem.test_units)
