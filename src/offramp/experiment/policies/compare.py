"""Fixed exits beside policies for one task, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from offramp.experiment.evaluate import Resampling
from offramp.experiment.policies import behaviour
from offramp.experiment.policies.budgets import Budget, Contest, oracle_row, run_contest
from offramp.experiment.policies.certificate import certified_policy, risk_of
from offramp.experiment.policies.instability import instability
from offramp.experiment.policies.rejection import rejecting, rejection_curve
from offramp.experiment.policies.samples import Sample, Taps, final_sample, validation_sample
from offramp.heads.fit import FittedExit, Problem
from offramp.policies.costs import CascadeCosts
from offramp.policies.policy import Policy
from offramp.policies.search import Searcher, with_answer_temperatures
from offramp.schema.policies import PoliciesSpec
from offramp.schema.results import Certified, PolicyComparison, ShiftRow
from offramp.scoring.resampling import resampling_units


@dataclass(frozen=True, eq=False)
class Compared:
    """What a comparison leaves.

    Attributes:
        contest: What it was made from.
        comparison: The part of the results, without warnings and sentence.
        chosen: The chosen budget with its policies.
        policies: For the bundle, by name: those of the chosen budget for the first seed; ``routed`` is the best on validation,
            ``certified`` has a guarantee, ``rejecting`` abstains.
    """

    contest: Contest
    comparison: PolicyComparison
    chosen: Budget
    policies: dict[str, Policy]


def compare_policies(
    problem: Problem,
    fitted: Sequence[FittedExit],
    taps: Taps,
    costs: CascadeCosts,
    fixed: int,
    asked: PoliciesSpec,
    resampling: Resampling,
    seed: int,
    others: Mapping[str, tuple[Sample, bool]],
) -> Compared:
    """Find policies on validation and compare them with fixed exits on test.

    Args:
        problem: The task.
        fitted: Heads of every exit.
        taps: Features of every exit.
        costs: Of one window, MACs.
        fixed: Index of the chosen fixed exit.
        asked: The suite's section.
        resampling: Of validation and test units.
        seed: Of the bootstrap over validation groups.
        others: Other populations for the rows on shifts, by name: windows, and whether the heads know their classes.

    Raises:
        PolicyError: A budget, a service level or a guarantee cannot be had.
    """
    seeds = range(len(problem.split.draws))
    test, units = problem.split.test, problem.test_units
    val = [validation_sample(problem, fitted, taps, seed) for seed in seeds]
    contest = Contest(
        problem,
        fitted,
        val,
        [Searcher(sample.windows, problem.task.kind) for sample in val],
        [final_sample(problem, fitted, taps, seed, test, units) for seed in seeds],
        costs,
        resampling,
    )
    amounts = [(exit, float(cost)) for exit, cost in zip(contest.exits, costs.fixed(), strict=True)]
    number = fixed
    if asked.budget is not None and asked.budget.macs is not None:
        number = len(amounts)
        amounts.append(("asked", asked.budget.macs))
    worst = asked.service_level.macs if asked.service_level else None
    budgets = run_contest(contest, asked.criteria_for(problem.task.kind), amounts, worst)
    chosen = calibrated(contest, budgets[number])
    routed = chosen.routed[0]
    policies = {name: of_seeds[0] for name, of_seeds in chosen.policies.items()} | {"routed": routed}
    certified = _certified(contest, taps, asked, routed, policies)
    rejection = None
    if asked.reject_error is not None and problem.task.kind == "classification":
        policies["rejecting"], rejection = rejecting(routed, asked.reject_error, contest.val[0], contest.test[0])
    comparison = PolicyComparison(
        budgets=[budget.row for budget in budgets],
        chosen=number,
        full_cost=float(costs.fixed()[-1]),
        oracle=oracle_row(contest),
        by_class=behaviour.shares_by_class(contest, routed),
        by_snr=behaviour.shares_by_snr(contest, routed),
        reliability=behaviour.reliability(contest, chosen.routed) if problem.task.kind == "classification" else [],
        certified=certified,
        rejecting=rejection,
        rejection=rejection_curve(routed, contest.test[0]) if problem.task.kind == "classification" else [],
        shifts=_shifts(contest, asked, policies, others),
        instability=instability(contest, routed, chosen.row.routed, amounts[number][1], seed),
        overthinking=behaviour.overthought(contest),
    )
    return Compared(contest, comparison, chosen, policies)


def calibrated(contest: Contest, budget: Budget) -> Budget:
    """The same policies, whose answers have the temperatures of the windows that reach their exits; first to last seed."""
    policies = {
        name: tuple(
            with_answer_temperatures(policy, sample.windows)
            for policy, sample in zip(of_seeds, contest.val, strict=True)
        )
        for name, of_seeds in budget.policies.items()
    }
    return replace(budget, policies=policies)


def _certified(
    contest: Contest, taps: Taps, asked: PoliciesSpec, routed: Policy, policies: dict[str, Policy]
) -> Certified | None:
    """The certificate if one is asked for; its policy is added to ``policies``."""
    if asked.guarantee is None:
        return None
    problem = contest.problem
    held = problem.split.calibration
    dataset = problem.dataset
    units = resampling_units(dataset.groups, dataset.grouped, held, dataset.blocks)
    calibration = final_sample(problem, contest.fitted, taps, 0, held, units)
    exchangeable = isinstance(problem.task.split.test, float) and problem.task.split.file is None
    certified, policy = certified_policy(contest, calibration, routed, asked.guarantee, exchangeable)
    if policy is not None:
        policies["certified"] = policy
    return certified


def _shifts(
    contest: Contest,
    asked: PoliciesSpec,
    policies: Mapping[str, Policy],
    others: Mapping[str, tuple[Sample, bool]],
) -> list[ShiftRow]:
    """Validation, test, each test group where there are few, and other populations; with the guarantee's risk if there is one."""
    policy_name = "certified" if "certified" in policies else "routed"
    policy, test = policies[policy_name], contest.test[0]
    populations: list[tuple[str, Sample, bool]] = [("validation", contest.val[0], True), ("test", test, True)]
    populations += behaviour.test_groups(contest)
    populations += [(name, sample, known) for name, (sample, known) in others.items()]
    rows = []
    for name, sample, known in populations:
        row = behaviour.shift_row(contest, name, sample, policy, policy_name, known)
        if asked.guarantee is not None and known:
            row = row.model_copy(update={"risk": risk_of(contest, sample, policy, asked.guarantee)})
        rows.append(row)
    return rows
