"""From fitted heads to one task's part of the results: rows with intervals, gain over full, controls, breakdowns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offramp.heads.fit import FittedExit, Problem, head_blocks, scoring_blocks, validation_outputs
from offramp.heads.rows import FeatureRows
from offramp.policies.criteria import confidence
from offramp.policies.selection import Choice, margin
from offramp.schema.results import (
    BestExit,
    Confidence,
    ExitControl,
    ExitRow,
    FeatureRow,
    Gain,
    GroupScore,
    Selection,
    SnrScores,
)
from offramp.scoring.calibration import expected_calibration_error, fit_temperature
from offramp.scoring.metrics import Array
from offramp.scoring.resampling import Resamples, paired_gain, summarise

SNR_BINS = 8


@dataclass(frozen=True, eq=False)
class Answers:
    """What the heads of one exit say about the test set, one per seed; all that is told of test windows is read from here.

    Attributes:
        statistics: The metric's, ``(S, n, q)``.
        logits: ``(S, n, classes)`` float32; None for regression.
    """

    statistics: Array
    logits: NDArray[np.float32] | None


@dataclass(frozen=True)
class Evaluation:
    """Scores of one task.

    Attributes:
        exits: One row per exit, in order of depth.
        chosen: Index of the chosen exit.
        gain: The chosen exit against full depth, on the test set.
        best: The exit that is best on validation, and its gain over full depth on the test set.
        selection: What the choice looked at on validation.
        margin: The tolerance on the test set, in the metric's unit.
        saving_confirmed: Whether the interval of the gain is above minus the margin; None where full depth was chosen.
        confusion: Of the chosen exit, first seed: rows true, columns predicted. None for regression.
        by_snr: Test scores in bins of SNR that hold equally many windows. None where the data has no SNR.
        by_group: Test scores of each group, where there are too few groups for an interval over them.
        confidence: What the chosen exit's confidence is worth. None for regression.
    """

    exits: list[ExitRow]
    chosen: int
    gain: Gain
    best: BestExit
    selection: Selection
    margin: float
    saving_confirmed: bool | None
    confusion: list[list[int]] | None
    by_snr: SnrScores | None
    by_group: list[GroupScore]
    confidence: Confidence | None


@dataclass(frozen=True)
class Resampling:
    """Bootstrap weights for one task's validation and test units, shared by all exits and controls so that all is paired."""

    val: Resamples
    test: Resamples

    @classmethod
    def of(cls, problem: Problem, seed: int) -> Resampling:
        """Draw both for a problem, whose seeds all train on windows of one pool: what is neither test nor calibration set."""
        split = problem.split
        seeds, pool = len(split.draws), len(split.remaining(len(problem.dataset.targets)))
        trained = float(np.mean([len(draw.final) for draw in split.draws]))
        reuse = trained / max(1.0, pool - trained)
        return cls(
            Resamples.draw(problem.val_units.count, seeds, seed, reuse=reuse),
            Resamples.draw(problem.test_units.count, seeds, seed + 1, reuse=reuse),
        )


def evaluate(
    problem: Problem,
    fitted: Sequence[FittedExit],
    taps: Callable[[str], FeatureRows],
    macs: Sequence[int],
    choice: Choice,
    resampling: Resampling,
    poolings: Mapping[str, str],
) -> Evaluation:
    """Score every exit on validation and test, and hold the chosen one, and the best on validation, against full depth.

    Args:
        problem: The task.
        fitted: Heads of every exit.
        taps: Features of an exit by its name.
        macs: Of every exit with its head.
        choice: What the suite's rule picked, and what is shown beside it.
        resampling: Of validation and test units.
        poolings: By exit, for the table.
    """
    ours, full = fitted[choice.chosen], fitted[-1]
    rows = [
        row.model_copy(update={"pooling": poolings.get(row.exit, "default")})
        for row in exit_rows(problem, fitted, macs, resampling)
    ]
    gains = [
        paired_gain(fitted[index].test_sums, full.test_sums, problem.metric, resampling.test, problem.test_units)
        for index in (choice.chosen, choice.best)
    ]
    allowed = margin(choice.rule.tolerance, rows[-1].test.mean)
    answers = test_answers(problem, ours, taps(ours.name))
    full_answers = answers if full is ours else test_answers(problem, full, taps(full.name))
    return Evaluation(
        exits=rows,
        chosen=choice.chosen,
        gain=gains[0],
        best=BestExit(**dict(rows[choice.best]), gain_over_full=gains[1]),
        selection=selection_of(choice, [exit.name for exit in fitted]),
        margin=allowed,
        saving_confirmed=None if full is ours else gains[0].ci95[0] > -allowed,
        confusion=confusion(problem, answers),
        by_snr=by_snr(problem, answers, full_answers),
        by_group=by_group(problem, answers, full_answers),
        confidence=confidence_of(problem, ours, taps(ours.name), answers),
    )


def selection_of(choice: Choice, names: Sequence[str]) -> Selection:
    """What the choice looked at on validation, by the exits' names."""
    return Selection(
        rule=choice.rule.rule,
        margin=choice.test.margin,
        gain_lower=dict(zip(names, choice.test.lower, strict=True)),
        non_inferior=names[choice.test.chosen],
        bonferroni=names[choice.test.bonferroni],
    )


def test_answers(problem: Problem, exit: FittedExit, features: FeatureRows) -> Answers:
    """Answers of every seed's head on the test set; features are read once, block by block."""
    targets, classes = problem.dataset.targets, problem.task.kind == "classification"
    statistics: list[list[Array]] = [[] for _ in exit.heads]
    logits: list[list[NDArray[np.float32]]] = [[] for _ in exit.heads]
    for block in head_blocks(exit.heads[0], features, problem.split.test):
        taps = features[block]
        for seed, head in enumerate(exit.heads):
            outputs = head(taps)
            statistics[seed].append(problem.metric.statistics(outputs, targets[block]))
            if classes:
                logits[seed].append(outputs)
    return Answers(
        np.stack([np.concatenate(parts) for parts in statistics]),
        np.stack([np.concatenate(parts) for parts in logits]) if classes else None,
    )


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
    """A control with exits; its chosen exit is its best on validation, and ``gain`` is ours against that.

    Where it has several draws of weights, seeds differ by these too, which have nothing to do with the pool that all seeds train on.
    """
    if draws > 1:
        resampling = replace(resampling, test=replace(resampling.test, reuse=0.0))
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


def constant_control(problem: Problem, ours: FittedExit, resampling: Resampling) -> FeatureRow:
    """The best constant answer: the commonest class, or the mean, of each seed's training labels; ``gain`` is ours against it."""
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
    constant = np.stack(sums)
    return FeatureRow(
        test=summarise(constant, problem.metric, resampling.test),
        description="the same answer for every window, from the training labels alone",
        gain=paired_gain(ours.test_sums, constant, problem.metric, resampling.test, problem.test_units),
    )


def confidence_of(problem: Problem, exit: FittedExit, features: FeatureRows, answers: Answers) -> Confidence | None:
    """The temperature of the first seed's head, fitted on validation, and calibration errors on test, means over seeds."""
    if answers.logits is None:
        return None
    labels = problem.dataset.targets[problem.split.test]
    temperatures, before, after = [], [], []
    for seed, logits in enumerate(answers.logits):
        temperature = exit_temperature(problem, exit, features, seed)
        right = logits.argmax(1) == labels
        temperatures.append(temperature)
        before.append(expected_calibration_error(confidence(logits), right))
        after.append(expected_calibration_error(confidence(logits / np.float32(temperature)), right))
    return Confidence(temperature=temperatures[0], ece_before=float(np.mean(before)), ece_after=float(np.mean(after)))


def exit_temperature(problem: Problem, exit: FittedExit, features: FeatureRows, seed: int) -> float:
    """The temperature of a classification's exit, fitted to the validation windows of one seed."""
    held = np.concatenate([val for _, val in problem.split.draws[seed].folds])
    logits = validation_outputs(problem, exit, features, seed)
    return fit_temperature(logits, problem.dataset.targets[held])


def exit_temperatures(
    problem: Problem, fitted: Sequence[FittedExit], taps: Callable[[str], FeatureRows]
) -> dict[str, float]:
    """Temperatures of all exits of a classification, first seed; none for regression."""
    if problem.task.kind != "classification":
        return {}
    return {exit.name: exit_temperature(problem, exit, taps(exit.name), 0) for exit in fitted}


def confusion(problem: Problem, answers: Answers) -> list[list[int]] | None:
    """Test confusion of the first seed: rows true, columns predicted. None for regression."""
    if answers.logits is None:
        return None
    counts = np.zeros((problem.outputs, problem.outputs), dtype=np.int64)
    np.add.at(counts, (problem.dataset.targets[problem.split.test], answers.logits[0].argmax(1)), 1)
    return [[int(count) for count in row] for row in counts]


def by_snr(problem: Problem, chosen: Answers, full: Answers) -> SnrScores | None:
    """Test scores in bins of SNR that hold equally many windows. None where the data has no SNR."""
    divided = snr_bins(problem)
    if divided is None:
        return None
    edges, bins = divided
    return SnrScores(
        edges_db=edges.tolist(),
        chosen=_by_part(problem, chosen, bins, len(edges) - 1),
        full=_by_part(problem, full, bins, len(edges) - 1),
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


def by_group(problem: Problem, chosen: Answers, full: Answers) -> list[GroupScore]:
    """Test scores of each group, where there are too few groups for an interval over them."""
    if problem.test_units.kind == "group":
        return []
    groups, part = np.unique(problem.dataset.groups[problem.split.test], return_inverse=True)
    scores = (_by_part(problem, answers, part, len(groups)) for answers in (chosen, full))
    return [
        GroupScore(group=problem.dataset.group_names[group], n=int((part == number).sum()), chosen=ours, full=theirs)
        for number, (group, ours, theirs) in enumerate(zip(groups, *scores, strict=True))
    ]


def _by_part(problem: Problem, answers: Answers, part: NDArray[np.int64], parts: int) -> list[float]:
    """Mean over seeds of the score within each part of the test set."""
    per_seed = []
    for statistics in answers.statistics:
        columns = [np.bincount(part, weights=column, minlength=parts) for column in statistics.T]
        per_seed.append(problem.metric.score(np.stack(columns, axis=1).astype(np.float64)))
    return [float(score) for score in np.mean(np.stack(per_seed), axis=0)]
