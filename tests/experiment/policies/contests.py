"""A small task with features of three exits in memory, that get better with depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny import dataset, draw, problem

from offramp.experiment.evaluate import Resampling
from offramp.experiment.policies.budgets import Contest
from offramp.experiment.policies.samples import final_sample, validation_sample
from offramp.heads.fit import FittedExit, Problem, fit_exit
from offramp.policies.costs import CascadeCosts
from offramp.policies.search import Searcher

EXITS = ("early", "middle", "late")
COSTS = CascadeCosts((100.0, 200.0, 400.0), (10.0, 10.0, 10.0), "MACs")
COUNT, GROUPS, CLASSES = 600, 60, 3


def features(labels: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """float32 ``(N, 4)`` per exit: the class in noise that shrinks with depth."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, 4))
    return {
        exit: (centres[labels] + rng.normal(size=(len(labels), 4)) * noise).astype(np.float32)
        for exit, noise in zip(EXITS, (1.5, 1.0, 0.6), strict=True)
    }


def grouped_problem(kind: str = "classification", calibration: int = 0) -> tuple[Problem, dict[str, np.ndarray]]:
    """60 groups of ten windows: 20 for test, the rest for two seeds; some of those for guarantees."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, COUNT)
    groups = np.arange(COUNT) % GROUPS
    targets = labels if kind == "classification" else (labels + rng.normal(0, 0.1, COUNT)).astype(np.float32)
    data = dataset(targets, groups)
    test = np.flatnonzero(groups < 20)
    held = np.flatnonzero((groups >= 20) & (groups < 20 + calibration))
    rest = np.flatnonzero(groups >= 20 + calibration)
    halves = [rest[np.isin(groups[rest] % 4, part)] for part in ((0,), (1,))]
    draws = [draw(np.setdiff1d(rest, half), half, seed) for seed, half in enumerate(halves)]
    made = problem(data, test, draws, kind=kind)
    if calibration:
        made = replace(made, split=replace(made.split, calibration=held))
    return made, features(labels)


def contest(kind: str = "classification", calibration: int = 0) -> tuple[Contest, dict[str, np.ndarray]]:
    """The same with heads of every exit."""
    made, taps = grouped_problem(kind, calibration)
    fitted = [fit_exit(made, exit, taps[exit]) for exit in EXITS]
    return gathered(made, fitted, taps), taps


def gathered(made: Problem, fitted: list[FittedExit], taps: dict[str, np.ndarray]) -> Contest:
    """Outputs of all seeds on validation and test."""
    seeds = range(len(made.split.draws))
    val = [validation_sample(made, fitted, taps.__getitem__, seed) for seed in seeds]
    return Contest(
        made,
        fitted,
        val,
        [Searcher(sample.windows, made.task.kind) for sample in val],
        [final_sample(made, fitted, taps.__getitem__, seed, made.split.test, made.test_units) for seed in seeds],
        COSTS,
        Resampling.of(made, 0),
    )
