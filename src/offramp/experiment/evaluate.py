"""From fitted heads to one task's part of the results: rows with intervals, gain over full, controls, breakdowns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.heads.fit import FittedExit, Problem, head_outputs, head_statistics, scoring_blocks
from offramp.heads.rows import FeatureRows
from offramp.schema.results import ExitControl, ExitRow, FeatureRow, Gain, GroupScore, SnrScores
from offramp.scoring.resampling import Resamples, paired_gain, summarise

SNR_BINS = 8


@dataclass(frozen=True)
class Evaluation:
    """Scores of one task.

    Attributes:
        exits: One row per exit, in order of depth.
        chosen: Index of the chosen exit.
        gain: The chosen exit against full depth, on the test set.
    """

    exits: list[ExitRow]
    chosen: int
    gain: Gain


@dataclass(frozen=True)
class Resampling:
    """Bootstrap weights for one task's validation and test units, shared by all exits and controls so that all is paired."""

    val: Resamples
    test: Resamples

    @classmethod
    def of(cls, problem: Problem, seed: int) -> Resampling:
        """Draw both for a problem."""
        seeds = len(problem.split.draws)
        return cls(
            Resamples.draw(problem.val_units.count, seeds, seed),
            Resamples.draw(problem.test_units.count, seeds, seed + 1),
        )


def evaluate(
    problem: Problem, fitted: Sequence[FittedExit], macs: Sequence[int], chosen: int, resampling: Resampling
) -> Evaluation:
    """Score every exit on validation and test, and the chosen one against full depth."""
    rows = exit_rows(problem, fitted, macs, resampling)
    gain = paired_gain(
        fitted[chosen].test_sums, fitted[-1].test_sums, problem.metric, resampling.test, problem.test_units
    )
    return Evaluation(rows, chosen, gain)


def exit_rows(
    problem: Problem, fitted: Sequence[FittedExit], macs: Sequence[int], resampling: Resampling
) -> list[ExitRow]:
    """Rows of the exit table."""
    return [
        ExitRow(
            exit=exit.name,
            macs=cost,
            macs_saved_fraction=1 - cost / macs[-1],
            val=summarise(exit.val_sums, problem.metric),
            test=summarise(exit.test_sums, problem.metric, resampling.test),
        )
        for exit, cost in zip(fitted, macs, strict=True)
    ]


def exit_control(
    problem: Problem,
    fitted: Sequence[FittedExit],
    macs: Sequence[int],
    ours: FittedExit,
    resampling: Resampling,
    draws: int,
    description: str,
) -> ExitControl:
    """A control with exits; its chosen exit is its best on validation, and ``gain`` is ours against that."""
    rows = exit_rows(problem, fitted, macs, resampling)
    best = int(np.argmax([problem.metric.sign * row.val.mean for row in rows]))
    gain = paired_gain(ours.test_sums, fitted[best].test_sums, problem.metric, resampling.test, problem.test_units)
    return ExitControl(exits=rows, chosen=rows[best], draws=draws, gain=gain, description=description)


def feature_control(
    problem: Problem, fitted: FittedExit, width: int, ours: FittedExit, resampling: Resampling, description: str
) -> FeatureRow:
    """A control that is one feature row; ``gain`` is our chosen exit against it."""
    return FeatureRow(
        test=summarise(fitted.test_sums, problem.metric, resampling.test),
        val=summarise(fitted.val_sums, problem.metric),
        width=width,
        description=description,
        gain=paired_gain(ours.test_sums, fitted.test_sums, problem.metric, resampling.test, problem.test_units),
    )


def constant_control(problem: Problem, resampling: Resampling) -> FeatureRow:
    """The best constant answer: the commonest class, or the mean, of each seed's training labels."""
    test = problem.split.test
    sums = []
    for draw in problem.split.draws:
        labels = problem.dataset.targets[draw.final]
        if problem.task.kind == "classification":
            answer = np.bincount(labels, minlength=problem.outputs).astype(np.float64)
        elif problem.metric.name in ("mean_error", "median_error"):
            answer = np.median(labels, axis=0)
        else:
            answer = labels.mean(0, dtype=np.float64)
        statistics = [
            problem.metric.statistics(
                np.broadcast_to(answer, (len(block), len(answer))), problem.dataset.targets[block]
            )
            for block in scoring_blocks(test, len(answer))
        ]
        sums.append(problem.test_units.sums(np.concatenate(statistics), test))
    description = "the same answer for every window, from the training labels alone"
    return FeatureRow(test=summarise(np.stack(sums), problem.metric, resampling.test), description=description)


def confusion(problem: Problem, exit: FittedExit, features: FeatureRows) -> list[list[int]] | None:
    """Test confusion of the first seed: rows true, columns predicted. None for regression."""
    if problem.task.kind != "classification":
        return None
    test = problem.split.test
    predicted = head_outputs(exit.heads[0], features, test).argmax(1)
    counts = np.zeros((problem.outputs, problem.outputs), dtype=np.int64)
    np.add.at(counts, (problem.dataset.targets[test], predicted), 1)
    return [[int(count) for count in row] for row in counts]


def by_snr(
    problem: Problem, chosen: tuple[FittedExit, FeatureRows], full: tuple[FittedExit, FeatureRows]
) -> SnrScores | None:
    """Test scores in bins of SNR that hold equally many windows. None where the data has no SNR."""
    divided = snr_bins(problem)
    if divided is None:
        return None
    edges, bins = divided
    return SnrScores(
        edges_db=edges.tolist(),
        chosen=_by_part(problem, *chosen, bins, len(edges) - 1),
        full=_by_part(problem, *full, bins, len(edges) - 1),
    )


def snr_bins(problem: Problem) -> tuple[NDArray[np.floating], NDArray[np.int64]] | None:
    """Edges of bins of SNR, one more than there are bins, and the bin of every test window. None where the data has no SNR."""
    if problem.dataset.snr_db is None:
        return None
    snr = problem.dataset.snr_db[problem.split.test]
    # "lower" puts every edge on a value that occurs, so that no bin is empty
    edges = np.unique(np.quantile(snr, np.linspace(0, 1, SNR_BINS + 1), method="lower"))
    if len(edges) < 2:
        return None
    return edges, np.clip(np.searchsorted(edges, snr, side="right") - 1, 0, len(edges) - 2)


def by_group(
    problem: Problem, chosen: tuple[FittedExit, FeatureRows], full: tuple[FittedExit, FeatureRows]
) -> list[GroupScore]:
    """Test scores of each group, where there are too few groups for an interval over them."""
    if problem.test_units.kind == "group":
        return []
    groups, part = np.unique(problem.dataset.groups[problem.split.test], return_inverse=True)
    scores = (_by_part(problem, *exit, part, len(groups)) for exit in (chosen, full))
    return [
        GroupScore(group=problem.dataset.group_names[group], n=int((part == number).sum()), chosen=ours, full=theirs)
        for number, (group, ours, theirs) in enumerate(zip(groups, *scores, strict=True))
    ]


def _by_part(
    problem: Problem, exit: FittedExit, features: FeatureRows, part: NDArray[np.int64], parts: int
) -> list[float]:
    """Mean over seeds of the score within each part of the test set."""
    test = problem.split.test
    per_seed = []
    for statistics in head_statistics(problem, exit.heads, features, test):
        columns = [np.bincount(part, weights=column, minlength=parts) for column in statistics.T]
        per_seed.append(problem.metric.score(np.stack(columns, axis=1).astype(np.float64)))
    return [float(score) for score in np.mean(np.stack(per_seed), axis=0)]
