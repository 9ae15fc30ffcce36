"""What a policy does to windows whose outputs at every exit are known: the runtime's own loop on arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError, PolicyError
from offramp.policies.criteria import confidence
from offramp.policies.policy import Policy

Outputs = Mapping[str, NDArray[np.float32]]
"""Per exit, logits ``(N, classes)`` or values ``(N, dimensions)`` of the same N windows."""


@dataclass(frozen=True, eq=False)
class Decisions:
    """Where N windows left.

    Attributes:
        exit: Index into the policy's exits, int64 ``(N,)``.
        outputs: Of that exit, ``(N, outputs)``.
        rejected: Whether a window was rejected instead of answered, bool ``(N,)``.
    """

    exit: NDArray[np.int64]
    outputs: NDArray[np.float32]
    rejected: NDArray[np.bool_]


def simulate(policy: Policy, outputs: Outputs) -> Decisions:
    """Run a policy on known outputs.

    Raises:
        PolicyError: An exit that the policy consults has no outputs.
        DataError: A window's outputs at the last exit are not finite: it can neither leave nor be answered.
    """
    count = len(_of(outputs, policy.exits[-1]))
    left = np.empty(count, dtype=np.int64)
    answers = np.empty_like(_of(outputs, policy.exits[-1]))
    refused = np.zeros(count, dtype=bool)
    remaining, memory = np.arange(count), policy.start(count)
    for index, exit in enumerate(policy.exits):
        seen = _of(outputs, exit)[remaining]
        leave, memory = policy.step(exit, seen, memory)
        gone = remaining[leave]
        left[gone], answers[gone] = index, seen[leave]
        refused[gone] = policy.rejects(exit, seen[leave])
        remaining, memory = remaining[~leave], (memory[0][~leave], memory[1][~leave])
    check_finite(answers)
    return Decisions(left, answers, refused)


def certainties(policy: Policy, outputs: Outputs) -> NDArray[np.float32]:
    """How certain every consulted exit is of every window, ``(exits, N)``, as if none left: thresholds do not matter."""
    memory, rows = policy.start(len(_of(outputs, policy.exits[0]))), []
    for exit in policy.exits:
        certain, memory = policy.certainty(exit, _of(outputs, exit), memory)
        rows.append(np.asarray(certain, dtype=np.float32))
    return np.stack(rows)


def leaving(certain: NDArray[np.float32], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """First exit whose certainty reaches its threshold, the last one otherwise, int64 ``(..., N)``.

    Args:
        certain: ``(exits, N)``; its last row is not looked at.
        thresholds: ``(..., exits - 1)``.
    """
    reached = certain[:-1] >= thresholds[..., None].astype(np.float32)
    last = np.ones((*reached.shape[:-2], 1, reached.shape[-1]), dtype=bool)
    left: NDArray[np.int64] = np.concatenate([reached, last], axis=-2).argmax(-2)
    return left


def answer_confidences(policy: Policy, decided: Decisions) -> NDArray[np.float32]:
    """Probability of every answer at the temperature of the windows that reach its exit, ``(N,)``; of a classification."""
    scale = np.asarray(policy.answer_temperatures, dtype=np.float32)[decided.exit]
    believed: NDArray[np.float32] = confidence(decided.outputs / scale[:, None])
    return believed


def check_finite(answers: NDArray[np.float32], first: int = 0) -> None:
    """Raise :class:`DataError` that names the first window whose answer is not finite; ``first`` is the number of row 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(answers.sum()):  # one pass in the usual case; a sum of finite values may overflow
            return
    finite = np.isfinite(answers).all(axis=1)
    if not finite.all():
        raise DataError(
            f"window {first + int(np.argmin(finite))}: the outputs are not finite; scale the window down, or check the heads and the encoder's weights"
        )


def _of(outputs: Outputs, exit: str) -> NDArray[np.float32]:
    if exit not in outputs:
        raise PolicyError(f"a policy needs scores: there are no outputs of exit {exit!r}")
    return outputs[exit]
