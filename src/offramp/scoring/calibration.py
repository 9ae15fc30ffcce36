"""Whether confidence means what it says: temperatures, calibration error, and how well confidence tells right from wrong.

Sources: temperature scaling and expected calibration error as in Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017,
arXiv 1706.04599). A better calibrated exit need not decide better, which is why both kinds of number are here: Kubaty et al., "Failure
Prediction Is a Better Performance Proxy for Early-Exit Networks Than Calibration" (arXiv 2508.21495).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import rankdata

from offramp.errors import DataError

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures are sought between these."""


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature that minimises the negative log-likelihood of the labels, between 0.05 and 20.

    1 where nothing is to be learned: no windows, or all of them answered rightly, for which the likelihood has no maximum and
    any sharpening would look like a gain.

    Args:
        logits: ``(N, classes)``, finite.
        labels: ``(N,)`` class indices.

    Raises:
        DataError: Shapes do not belong together, a logit is not finite, or a label is no class.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise DataError(
            f"temperature: logits {logits.shape} and labels {labels.shape} do not fit: give (N, classes) and (N,)"
        )
    if len(logits) == 0:
        return 1.0
    if not np.isfinite(logits).all():
        raise DataError("temperature: a logit is not finite; check the heads and the encoder's weights")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(
            f"temperature: labels reach from {labels.min()} to {labels.max()}, classes from 0 to {logits.shape[1] - 1}"
        )
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    of_label = shifted[np.arange(len(labels)), labels]
    if (of_label == 0).all():
        return 1.0

    def slope(log_temperature: float) -> float:
        """Derivative of the mean loss by the inverse temperature, in which the loss is convex."""
        weight = np.exp(shifted * math.exp(-log_temperature))
        expected = (weight * shifted).sum(1) / weight.sum(1)
        return float((expected - of_label).mean())

    lowest, highest = math.log(LOWEST), math.log(HIGHEST)
    if slope(highest) >= 0:
        return HIGHEST
    if slope(lowest) <= 0:
        return LOWEST
    return math.exp(brentq(slope, lowest, highest, xtol=1e-6))


def negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """What the probabilities of logits ``(N, classes)`` lose on labels ``(N,)``: minus the log of the label's, ``(N,)``, in nats."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    lost: NDArray[np.float64] = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return lost


def expected_calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over bins of equal width, weighted by the windows in them.

    Args:
        confidence: ``(N,)`` probabilities of the answers.
        right: ``(N,)`` whether the answers are right.
        bins: Number of bins between 0 and 1; each holds its upper edge.

    Returns:
        In [0, 1]; NaN for no windows.

    Raises:
        DataError: Shapes differ, or a confidence is no probability.
    """
    _check_pair(confidence, right)
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise DataError("calibration error: a confidence is not between 0 and 1; give probabilities of the answers")
    if len(confidence) == 0:
        return math.nan
    bin_of = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    surplus = np.bincount(bin_of, weights=confidence.astype(np.float64) - right, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))


def failure_auroc(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float | None:
    """Probability that a right answer is more certain than a wrong one, ties counted half: 1 is perfect, 0.5 a coin.

    This is the Mann-Whitney statistic. It does not depend on the scale of the certainties.

    Args:
        confidence: ``(N,)`` certainties on any scale.
        right: ``(N,)`` whether the answers are right.

    Returns:
        None where there are only right or only wrong answers.

    Raises:
        DataError: Shapes differ, or a certainty is NaN.
    """
    _check_pair(confidence, right)
    if np.isnan(confidence).any():
        raise DataError("failure AUROC: a certainty is NaN; check the heads and the encoder's weights")
    rights, wrongs = int(right.sum()), int((~right).sum())
    if not rights or not wrongs:
        return None
    return float((rankdata(confidence)[right].sum() - rights * (rights + 1) / 2) / (rights * wrongs))


def _check_pair(confidence: NDArray[Any], right: NDArray[Any]) -> None:
    if confidence.ndim != 1 or confidence.shape != right.shape or right.dtype != np.bool_:
        raise DataError(
            f"confidence {confidence.shape} and right {right.shape} ({right.dtype}) do not fit: give two (N,), the second bool"
        )
