"""Which exits a step asks for, how much each weighs, and what else a step does: pure functions of its number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.training.config import rate_share
from offramp.training.exits.config import ExitTraining

JOINING = 0.5
"""Share of the steps in which exits join one after another, in progressive training and in the gradual curriculum."""
JOINING_WARM_UP = 0.5
"""Share of the time until the next exit joins in which a new exit's weight rises."""


@dataclass(frozen=True)
class StepPlan:
    """What one step does.

    Attributes:
        weights: Of each trained exit's loss, sum 1; an exit of weight 0 is not asked, and nothing behind the deepest asked runs.
        rate: Learning rate over its peak.
        encoder_learns: Whether the encoder and the last head learn; otherwise only the other heads do.
    """

    weights: tuple[float, ...]
    rate: float
    encoder_learns: bool = True


def exit_weights(config: ExitTraining, macs: Sequence[int]) -> tuple[float, ...]:
    """Weights of the exits' losses before any schedule, sum 1, from the MACs of each with its head.

    ``layerskip``: the sum of an exit's number and all numbers before it, times ``early_exit_scale``; the last exit has its number
    besides (arXiv 2404.16710, where numbers start from 0; here from 1, so that the first exit learns too).
    """
    number = np.arange(1, len(macs) + 1, dtype=np.float64)
    if config.method == "layerskip":
        raw = config.early_exit_scale * np.cumsum(number)
        raw[-1] = number[-1] + (raw[-2] if len(raw) > 1 else 0)
    else:
        raw = {
            "uniform": np.ones_like(number),
            "linear": number,
            "square-root": np.sqrt(number),
            "inverse": 1 / number,
            "macs": np.asarray(macs, dtype=np.float64),
        }[config.weights]
    return _shares(raw)


def plan_step(config: ExitTraining, step: int, weights: Sequence[float]) -> StepPlan:
    """What step ``step`` (from 0) does, given :func:`exit_weights`."""
    base = np.asarray(weights, dtype=np.float64)
    count = len(base)
    last = np.arange(count) == count - 1
    if config.method == "two-stage":
        first = math.ceil(config.steps / 2)
        if step < first:
            return StepPlan(_shares(last), rate_share(step, first))
        return StepPlan(_shares(base * ~last), rate_share(step - first, config.steps - first), encoder_learns=False)
    if config.method == "progressive":
        base = base * _joined(config, step, count)
    elif config.method == "alternating" and (step + 1) % 2 == 1:
        base = last
    elif config.method == "layerskip":
        base = base * (last | _asked(config, step, count))
    return StepPlan(_shares(base), rate_share(step, config.steps))


def dropout_rates(config: ExitTraining, stages: int) -> tuple[float, ...]:
    """Probability that ``layerskip`` skips each stage: 0 at the first, growing exponentially to ``layer_dropout`` at the last.

    After arXiv 2404.16710, constant over the steps, as there for weights that were pretrained.
    """
    depth = np.arange(stages) / max(1, stages - 1)
    return tuple(float(rate) for rate in config.layer_dropout * (2**depth - 1))


def _joined(config: ExitTraining, step: int, count: int) -> NDArray[np.float64]:
    """How far each exit has joined, 0 to 1: the first from the start, the others at equal distances."""
    phase = max(1.0, config.steps * JOINING / count)
    place = np.arange(count) if config.order == "shallow-to-deep" else np.arange(count)[::-1]
    risen = (step + 1.0 - place * phase) / max(1.0, phase * JOINING_WARM_UP)
    return np.where(place == 0, 1.0, np.clip(risen, 0, 1))


def _asked(config: ExitTraining, step: int, count: int) -> NDArray[np.bool_]:
    """The exits that the curriculum of ``layerskip`` asks beside the last one."""
    place = np.arange(count)
    if config.curriculum == "rotational":
        return np.asarray((place + step) % config.rotation == 0)
    if config.curriculum == "gradual":
        return np.asarray(count - 1 - place <= step // max(1.0, config.steps * JOINING / count))
    return np.ones(count, dtype=bool)


def _shares(
    raw: NDArray[np.float64] | NDArray[np.bool_],
) -> tuple[float, ...]:
    return tuple(float(share) for share in raw / raw.sum())
