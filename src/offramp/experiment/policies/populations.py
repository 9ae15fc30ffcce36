"""Windows under a shift: with noise added, or of a class that no head has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offramp.data.table import WindowSource
from offramp.experiment.features import digest
from offramp.experiment.policies.samples import Sample, Taps, final_sample
from offramp.experiment.prepare import Context, Prepared, features_of
from offramp.heads.fit import FittedExit, Problem, fit_exit
from offramp.progress import OnProgress
from offramp.transforms import degrade


def noisy_sample(
    context: Context,
    prepared: Prepared,
    poolings: Mapping[str, str],
    fitted: Sequence[FittedExit],
    noise_db: float,
) -> Sample:
    """Test windows with noise added at an SNR, seen by the heads of the first seed.

    Args:
        context: Of the run.
        prepared: The task.
        poolings: By exit, of the taps that the heads take.
        fitted: Heads of every exit.
        noise_db: Power of the window as it is over that of the noise, dB; see :func:`offramp.transforms.degrade`.

    Raises:
        DataError: The windows are not ``(N, 2, ..., antennas, x)``, real and imaginary.
    """
    problem, test = prepared.problem, prepared.problem.split.test
    noisy = noisy_windows(prepared.dataset.windows, test, noise_db)
    features = features_of(context, prepared, prepared.encoder, "noise added", noisy)
    taps = replace(features, poolings=poolings).taps
    return final_sample(problem, fitted, taps, 0, test, problem.test_units, rows=np.arange(len(test)))


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
