"""Policies as a bundle stores them, made ready to run."""

from __future__ import annotations

import numpy as np

from offramp.bundle import BundleTask
from offramp.errors import BundleError, PolicyError
from offramp.policies.policy import Policy
from offramp.schema.metrics import Kind

FIXED = "fixed"
"""Names the policy of a task's chosen exit."""


def policies_of(task: BundleTask) -> dict[str, Policy]:
    """The policies of a task by name; ``fixed`` is its chosen exit.

    Raises:
        BundleError: One is damaged, or does not fit the outputs of the task's heads.
    """
    kind: Kind = "classification" if task.kind == "classification" else "regression"
    fixed = Policy.fixed(kind, task.exit, task.temperature)
    return {FIXED: fixed} | {name: _policy_of(task, name) for name in task.policies}


def _policy_of(task: BundleTask, name: str) -> Policy:
    try:
        policy = Policy.from_dict(task.policies[name])
        memory = policy.start(1)
        for exit in policy.exits:  # parameters that do not fit show themselves on outputs of the right shape
            outputs = np.zeros((1, task.heads[exit].outputs), np.float32)
            certainty, memory = policy.certainty(exit, outputs, memory)
            if certainty.shape != (1,):
                raise ValueError(f"it gives certainties of shape {certainty.shape} for one window")
    except KeyError as missing:
        problem = f"{missing} is missing"
    except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError, PolicyError) as error:
        problem = str(error).splitlines()[0]
    else:
        return policy
    raise BundleError(f"policy {name!r} of task {task.name!r} is damaged: {problem}; save the bundle again")
