"""What the policies of a suite need, found out before any work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offramp.errors import PolicyError
from offramp.heads.fit import Problem
from offramp.policies.costs import CascadeCosts
from offramp.policies.guarantees import certify
from offramp.schema.policies import GuaranteeSpec, PoliciesSpec
from offramp.transforms import degrade


def check_policies(problem: Problem, costs: CascadeCosts, asked: PoliciesSpec) -> None:
    """Raise if a budget, a service level, a guarantee or noise cannot be had for a task.

    Raises:
        PolicyError: It says what is the nearest possible.
        DataError: The task's windows cannot have noise added.
    """
    if asked.budget is not None and asked.budget.macs is not None:
        costs.check_budget(asked.budget.macs)
    if asked.service_level is not None and asked.service_level.macs is not None:
        costs.check_service_level(asked.service_level.macs)
    if asked.guarantee is not None:
        check_groups(len(np.unique(problem.dataset.groups[problem.split.calibration])), asked.guarantee)
    if asked.noise_db is not None:
        degrade(problem.dataset.windows.read(np.arange(1)), asked.noise_db)


def check_groups(groups: int, asked: GuaranteeSpec) -> None:
    """Raise :class:`PolicyError` that says how many calibration groups are needed where these cannot certify anything."""
    certify(np.zeros((1, groups)), asked.level, asked.delta, asked.method)


def check_unseen_class(problems: Sequence[Problem], asked: PoliciesSpec | None) -> None:
    """Raise :class:`PolicyError` where no task has the class that no head may see."""
    if asked is None or asked.unseen_class is None or any(has_class(each, asked.unseen_class) for each in problems):
        return
    known = sorted({name for each in problems for name in each.dataset.label_names})
    raise PolicyError(
        f"policies.unseen_class: no task of three classes or more has a class {asked.unseen_class!r}: there are {', '.join(known) or 'none'}"
    )


def has_class(problem: Problem, name: str) -> bool:
    """Whether a task can do without a class: it has it, in its test set too, and two others at least."""
    names = problem.dataset.label_names
    if problem.task.kind != "classification" or name not in names or len(names) < 3:
        return False
    return bool((problem.dataset.targets[problem.split.test] == names.index(name)).any())
