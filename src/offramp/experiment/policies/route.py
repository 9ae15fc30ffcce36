"""Policies of one task of a run: what they cost, how they compare with fixed exits, and how long they take."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from offramp.experiment.evaluate import Resampling
from offramp.experiment.features import TaskFeatures, encoder_inputs
from offramp.experiment.policies.check import has_class
from offramp.experiment.policies.compare import Compared, compare_policies
from offramp.experiment.policies.measuring import Machine, measure_policies
from offramp.experiment.policies.populations import noisy_sample, unseen_class_sample
from offramp.experiment.policies.samples import Sample
from offramp.experiment.prepare import Context, Prepared
from offramp.heads.fit import FittedExit
from offramp.policies.policy import Policy
from offramp.progress import of_step
from offramp.report.policies.text import measured_policy_sentence, policy_sentence
from offramp.report.policies.warnings import policy_warnings
from offramp.schema.policies import PoliciesSpec
from offramp.schema.results import MeasuredPolicies, PolicyComparison


@dataclass(frozen=True, eq=False)
class Routing:
    """What policies add to a task's results and bundle.

    Attributes:
        comparison: Reproduced bit for bit.
        measured: Timed on this machine.
        policies: For the bundle, by name.
    """

    comparison: PolicyComparison
    measured: MeasuredPolicies
    policies: dict[str, Policy]


def route(
    context: Context,
    prepared: Prepared,
    bank: TaskFeatures,
    fitted: Sequence[FittedExit],
    heads: Mapping[str, nn.Module],
    fixed: int,
    asked: PoliciesSpec | None,
    resampling: Resampling,
) -> Routing | None:
    """Find, compare and time a task's policies; None where there are none for it.

    Args:
        context: Of the run.
        prepared: The task.
        bank: Its features.
        fitted: Heads of every exit.
        heads: Those of the first seed as modules.
        fixed: Index of the chosen fixed exit.
        asked: The suite's section.
        resampling: Of validation and test units.
    """
    if asked is None or not asked.applies_to(prepared.task):
        return None
    problem, seed = prepared.problem, context.loaded.suite.seed
    context.on_step(f"{prepared.task.name}: policies", 0, 2)
    others = _other_populations(context, prepared, bank, fitted, asked)
    compared = compare_policies(problem, fitted, bank.taps, prepared.cascade, fixed, asked, resampling, seed, others)
    context.on_step(f"{prepared.task.name}: policies", 1, 2)
    measured, by_time = _measured(context, prepared, compared, heads, asked)
    context.on_step(f"{prepared.task.name}: policies", 2, 2)
    metric, better = problem.metric.name, problem.metric.higher_is_better
    comparison = compared.comparison.model_copy(
        update={
            "warnings": [
                *_unreached(compared.comparison),
                *policy_warnings(compared.comparison, metric, better),
            ],
            "sentence": policy_sentence(compared.comparison, prepared.task.kind, metric, better),
        }
    )
    text = measured_policy_sentence(measured, metric, better)
    timed = any(cost is not None and cost.latency_ms is not None for cost in (asked.budget, asked.service_level))
    policies = compared.policies | ({"routed_by_time": by_time} if timed else {})
    return Routing(comparison, measured.model_copy(update={"sentence": text}), policies)


def _unreached(comparison: PolicyComparison) -> list[str]:
    """A warning where rejecting windows does not hold the errors as low as asked."""
    reached = comparison.rejecting
    if reached is None or reached.validation_error <= reached.asked:
        return []
    return [
        f"Rejection: at most {reached.asked:.1%} wrong answers were asked for, and the nearest possible is {reached.validation_error:.1%} "
        "on validation: too many windows that leave before the last exit are wrong; raise policies.budget or policies.reject_error."
    ]


def _other_populations(
    context: Context,
    prepared: Prepared,
    bank: TaskFeatures,
    fitted: Sequence[FittedExit],
    asked: PoliciesSpec,
) -> dict[str, tuple[Sample, bool]]:
    """Test windows under the shifts that the suite asks for, and whether the heads know their classes."""
    problem, name = prepared.problem, prepared.task.name
    found: dict[str, tuple[Sample, bool]] = {}
    if asked.noise_db is not None:
        noisy = noisy_sample(context, prepared, bank.poolings, fitted, asked.noise_db)
        found[f"noise added at {asked.noise_db:g} dB"] = (noisy, True)
    if asked.unseen_class is not None and has_class(problem, asked.unseen_class):
        unseen = unseen_class_sample(
            problem,
            bank.taps,
            bank.names,
            asked.unseen_class,
            of_step(context.on_step, f"{name}: heads without {asked.unseen_class}"),
        )
        found[f"unseen class {asked.unseen_class}"] = (unseen, False)
    return found


def _measured(
    context: Context, prepared: Prepared, compared: Compared, heads: Mapping[str, nn.Module], asked: PoliciesSpec
) -> tuple[MeasuredPolicies, Policy]:
    test = prepared.problem.split.test
    spread = test[np.linspace(0, len(test) - 1, min(asked.batch, len(test))).astype(np.int64)]
    inputs = torch.from_numpy(encoder_inputs(prepared.dataset.windows, prepared.transform, spread)).to(context.device)
    placed = {exit: copy.deepcopy(head).eval().requires_grad_(False).to(context.device) for exit, head in heads.items()}
    machine = Machine(prepared.view, placed, inputs)
    fixed = compared.chosen.row.fixed.name
    return measure_policies(compared.contest, machine, compared.chosen, fixed, asked, context.loaded.suite.seed)
