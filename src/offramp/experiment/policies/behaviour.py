"""What a policy does beyond its score: how far its confidence can be believed, where which windows leave, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offramp.experiment.evaluate import snr_bins
from offramp.experiment.policies.budgets import Contest, by_exit
from offramp.experiment.policies.samples import Sample
from offramp.policies.criteria import confidence
from offramp.policies.policy import Policy
from offramp.policies.search import survivors
from offramp.policies.simulation import answer_confidences
from offramp.schema.results import ReliabilityRow, ShiftRow
from offramp.scoring.calibration import expected_calibration_error, failure_auroc
from offramp.scoring.failures import overconfidence, overthinking, premature

MOST_GROUPS = 12
"""Test groups are shown one by one where there are at most so many."""


def reliability(contest: Contest, routed: Sequence[Policy]) -> list[ReliabilityRow]:
    """Calibration of every exit on test, mean over seeds: of all windows, and of those that reach it under the routed policy."""
    temperatures = [searcher.temperatures for searcher in contest.searchers]
    return [_reliability(contest, routed, temperatures, exit) for exit in contest.exits]


def _reliability(
    contest: Contest, routed: Sequence[Policy], temperatures: Sequence[dict[str, float]], exit: str
) -> ReliabilityRow:
    found: dict[str, list[float | None]] = {}

    def note(name: str, value: float | None) -> None:
        found.setdefault(name, []).append(value)

    for policy, scale, sample in zip(routed, temperatures, contest.test, strict=True):
        logits = sample.windows.outputs[exit]
        right = logits.argmax(1) == sample.windows.targets
        before, after = confidence(logits), confidence(logits / scale[exit])
        note("temperature", scale[exit])
        note("ece_before", expected_calibration_error(before, right))
        note("ece_after", expected_calibration_error(after, right))
        note("auroc_before", failure_auroc(before, right))
        note("auroc_after", failure_auroc(after, right))
        if exit not in policy.exits:
            note("share", 0.0)
            continue
        place = policy.exits.index(exit)
        reached = survivors(policy, sample.windows.outputs)[place]
        own = policy.answer_temperatures[place]
        note("share", len(reached) / sample.windows.count)
        note("survivors_temperature", own)
        if len(reached):
            theirs = right[reached]
            note("survivors_before", expected_calibration_error(before[reached], theirs))
            note("survivors_after", expected_calibration_error(after[reached], theirs))
            mine = confidence(logits[reached] / own)
            note("survivors_own", expected_calibration_error(mine, theirs))
            note("survivors_auroc", failure_auroc(mine, theirs))

    def known(name: str) -> list[float]:
        return [value for value in found.get(name, []) if value is not None]

    def mean(name: str) -> float | None:
        return float(np.mean(known(name))) if known(name) else None

    return ReliabilityRow(
        exit=exit,
        temperature=float(np.mean(known("temperature"))),
        survivors_temperature=mean("survivors_temperature"),
        survivors_share=float(np.mean(known("share"))),
        ece_before=float(np.mean(known("ece_before"))),
        ece_after=float(np.mean(known("ece_after"))),
        failure_auroc_before=mean("auroc_before"),
        failure_auroc_after=mean("auroc_after"),
        survivors_ece_before=mean("survivors_before"),
        survivors_ece_after=mean("survivors_after"),
        survivors_ece_own=mean("survivors_own"),
        survivors_failure_auroc=mean("survivors_auroc"),
    )


def shares_by_class(contest: Contest, policy: Policy) -> dict[str, dict[str, float]]:
    """Where windows of each class leave, first seed; empty for regression."""
    if contest.problem.task.kind != "classification":
        return {}
    sample = contest.test[0]
    return {
        name: _shares(contest, policy, sample.decide(policy).exit[sample.windows.targets == label])
        for label, name in enumerate(contest.problem.dataset.label_names)
        if (sample.windows.targets == label).any()
    }


def shares_by_snr(contest: Contest, policy: Policy) -> list[dict[str, float]]:
    """Where windows of each bin of SNR leave, first seed; empty where the data has no SNR."""
    bins = snr_bins(contest.problem)
    if bins is None:
        return []
    edges, place = bins
    left = contest.test[0].decide(policy).exit
    return [_shares(contest, policy, left[place == number]) for number in range(len(edges) - 1)]


def _shares(contest: Contest, policy: Policy, left: NDArray[np.int64]) -> dict[str, float]:
    shares = np.zeros(len(contest.exits))
    consulted = [contest.exits.index(exit) for exit in policy.exits]
    shares[consulted] = np.bincount(left, minlength=len(consulted)) / max(1, len(left))
    return by_exit(contest, shares)


def shift_row(
    contest: Contest, name: str, sample: Sample, policy: Policy, policy_name: str, known: bool = True
) -> ShiftRow:
    """What a policy does on some windows.

    Args:
        contest: The task.
        name: Of the population.
        sample: Its windows.
        policy: Of the same seed.
        policy_name: As the bundle has it.
        known: Whether the heads have learned the windows' classes; scores mean nothing otherwise.
    """
    metric, decided = contest.problem.metric, sample.decide(policy)
    early = decided.exit < len(policy.exits) - 1
    right = sample.windows.right[sample.answered_at(decided, policy), np.arange(sample.windows.count)]
    full_right = sample.windows.right[-1]
    believed = answer_confidences(policy, decided) if contest.problem.task.kind == "classification" else None
    score = float(metric.score(sample.statistics(decided, policy).sum(0)))
    return ShiftRow(
        name=name,
        policy=policy_name,
        windows=sample.windows.count,
        score=score if known else None,
        full_score=float(metric.score(sample.windows.statistics[-1].sum(0))) if known else None,
        cost=float(contest.leaving_costs(policy)[decided.exit].mean()),
        exit_share=_shares(contest, policy, decided.exit),
        premature=premature(early, right, full_right) if known else None,
        overconfidence=None if believed is None else overconfidence(believed, right, early),
        confidence=None if believed is None else float(believed.mean()),
    )


def test_groups(contest: Contest) -> list[tuple[str, Sample, bool]]:
    """Each test group by itself, where there are few: a session, a scenario, a device of its own; first seed."""
    dataset, test = contest.problem.dataset, contest.test[0]
    groups = dataset.groups[test.indices]
    present = np.unique(groups)
    if not dataset.grouped or len(present) > MOST_GROUPS:
        return []
    return [(dataset.group_names[group], select(test, np.flatnonzero(groups == group)), True) for group in present]


def select(sample: Sample, rows: NDArray[np.int64]) -> Sample:
    """Some windows of a sample."""
    return replace(sample, windows=sample.windows.subset(rows), indices=sample.indices[rows])


def overthought(contest: Contest) -> float | None:
    """Share of test windows that some earlier exit answers right and the last one wrong, first seed; None for regression."""
    if contest.problem.task.kind != "classification":
        return None
    return overthinking(contest.test[0].windows.right)
