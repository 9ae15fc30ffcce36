"""Scores that predict, without training a head, how well a head would do on features: higher is better in all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize_scalar

from analysis.inputs import Array, centred, classes_of, feature_matrix, real_array
from analysis.spectrum import exponential_entropy
from offramp.errors import DataError

DECADES = 12
"""The ratio of prior to noise precision is sought this many decades either side of the largest squared singular value."""
STEPS_PER_DECADE = 4
LIDAR_DELTA = 1e-4
ROUNDING = 1e-12
"""Means below this, in standard deviations of the features, are zero."""


def log_me(features: NDArray[np.floating], labels: NDArray[Any]) -> float:
    """LogME for classes: log evidence per window of a Bayesian linear model, mean over one-vs-rest classes.

    Features and labels go in as they are, with neither centring nor intercept, as published. See :func:`log_me_regression`.

    Args:
        features: ``(N, width)``.
        labels: Integers or names ``(N,)``; only classes that are present count.

    Raises:
        DataError: Shapes do not fit, features are not finite, or fewer than two classes are present.
    """
    matrix = feature_matrix(features)
    classes, count = classes_of(labels, len(matrix))
    return _mean_evidence(matrix, np.eye(count)[classes])


def log_me_regression(features: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
    """LogME for regression: log evidence per window of a Bayesian linear model, mean over target dimensions.

    The model is ``y ~ N(F w, 1 / beta)``, ``w ~ N(0, 1 / alpha)``, and the score its log marginal likelihood at the best alpha
    and beta, divided by N. Invariant to rotation and scale of the features; the scale of the targets adds a constant.
    Targets that the features fit perfectly have no finite maximum: the bounds of the search then give a large finite value.

    Source: You et al., "LogME" (arXiv 2102.11005). Its Algorithm 1 reaches a stationary point in (alpha, beta) by
    fixed-point steps; here beta is eliminated in closed form and the maximum over alpha / beta is found in one dimension,
    which also converges where the labels are unrelated to the features and alpha grows without bound.

    Args:
        features: ``(N, width)``.
        targets: ``(N,)`` or ``(N, dimensions)``.

    Raises:
        DataError: Shapes do not fit, values are not finite, or a target is constant.
    """
    matrix = feature_matrix(features)
    wanted = real_array(targets, "targets")
    if wanted.ndim not in (1, 2) or len(wanted) != len(matrix) or wanted.size == 0:
        raise DataError(
            f"targets have shape {wanted.shape} for {len(matrix)} rows of features: give (N,) or (N, dimensions)"
        )
    wanted = wanted.reshape(len(matrix), -1)
    if (np.ptp(wanted, axis=0) == 0).any():
        raise DataError(f"target {int(np.ptp(wanted, axis=0).argmin())} is constant: leave it out")
    scale = np.abs(wanted).max(0)
    return _mean_evidence(matrix, wanted / scale) - float(np.log(scale).mean())


def _mean_evidence(features: Array, targets: Array) -> float:
    """Mean over the columns of ``targets (N, K)`` of the log evidence per row, maximised over alpha and beta."""
    n = len(features)
    scaled = features / (np.abs(features).max() or 1.0)
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)
    power = singular**2
    inside = np.square(left.T @ targets)
    outside = np.maximum(np.square(targets).sum(0) - inside.sum(0), 0)

    def evidence(log_ratios: Array, inside: Array, outside: Array) -> Array:
        """``(G, K)`` at the best beta = N / misfit, for ``ln(alpha / beta)`` ``(G,)``."""
        ratio = np.exp(log_ratios)[:, None]
        misfit = (ratio / (ratio + power)) @ inside + outside
        volume = np.log1p(power / ratio).sum(1, keepdims=True)
        return np.asarray(-0.5 * (np.log(2 * np.pi * np.e * misfit / n) + volume / n))

    centre, reach = np.log(power[0] or 1.0), DECADES * np.log(10)
    grid = np.linspace(centre - reach, centre + reach, 2 * DECADES * STEPS_PER_DECADE + 1)
    coarse = evidence(grid, inside, outside)
    best = coarse.max(0)
    for column, peak in enumerate(coarse.argmax(0)):
        one = slice(column, column + 1)
        finer = minimize_scalar(
            lambda log_ratio, one=one: -evidence(np.array([log_ratio]), inside[:, one], outside[one])[0, 0],
            bounds=(grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)]),
            method="bounded",
        )
        best[column] = max(best[column], -finer.fun)
    return float(best.mean())


def h_score(features: NDArray[np.floating], labels: NDArray[Any]) -> float:
    """H-score: how much of the (shrunk) feature covariance lies between classes, in [0, classes - 1].

    ``tr(cov_a(f)^-1 (1 - a) cov(E[f | y]))`` with the Ledoit-Wolf intensity ``a``, which keeps the score meaningful where N is
    not much larger than width. Computed in the singular directions of the centred features, each of which adds the share of
    its variance between classes times what the shrinkage leaves of it. 0 for constant features.

    Sources: Bao et al., "An information-theoretic approach to transferability" (ICIP 2019); the shrinkage:
    Ibrahim et al., "Newer is not always better" (arXiv 2110.06893); Ledoit and Wolf, "A well-conditioned estimator
    for large-dimensional covariance matrices" (J. Multivariate Analysis 2004).

    Args:
        features: ``(N, width)``.
        labels: Integers or names ``(N,)``; only classes that are present count.

    Raises:
        DataError: Shapes do not fit, features are not finite, or fewer than two classes are present.
    """
    matrix = centred(feature_matrix(features))
    classes, count = classes_of(labels, len(matrix))
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    kept = singular > singular[0] * max(matrix.shape) * np.finfo(np.float64).eps
    if not kept.any():
        return 0.0
    members = np.eye(count)[classes]
    between = (np.square(members.T @ left[:, kept]) / members.sum(0)[:, None]).sum(0)
    shrinkage = _ledoit_wolf_shrinkage(matrix, singular)
    variance = (1 - shrinkage) * singular[kept] ** 2
    floor = shrinkage * np.square(singular).sum() / matrix.shape[1]
    return float((between * variance / (variance + floor)).sum())


def _ledoit_wolf_shrinkage(matrix: Array, singular: Array) -> float:
    """Ledoit-Wolf intensity in [0, 1] of centred rows ``(N, width)``, given their singular values."""
    n, width = matrix.shape
    variance = np.zeros(width)
    variance[: len(singular)] = singular**2 / n
    noise = (np.square(np.square(matrix).sum(1)).mean() - np.square(variance).sum()) / n
    spread = np.square(variance - variance.mean()).sum()
    return float(np.clip(noise / spread, 0, 1)) if spread > 0 else 0.0


def lidar(views: NDArray[np.floating]) -> float:
    """LiDAR: effective rank of the discriminant matrix that tells transmissions apart, each a class of its q views.

    Eigenvalues of ``(cov_w + delta I)^-1 cov_b``, normalised, as ``exp(entropy)``, delta = 1e-4: in [1, min(N - 1, width)]. No
    labels are needed. Features are first divided by their overall standard deviation, so that delta, and with it the score, does
    not depend on the scale of an exit (the paper applies delta to features as they are).
    With N (q - 1) < width there are directions without any within-view variance, where only delta decides: take more windows.

    Source: Thilak et al., "LiDAR: sensing linear probing performance in joint embedding SSL architectures" (arXiv 2312.04000).

    Args:
        views: ``(N, q, width)``, features of q >= 2 views of each of N >= 2 transmissions.

    Raises:
        DataError: The shape does not fit, values are not finite, or no feature varies between transmissions.
    """
    array = real_array(views, "views")
    if array.ndim != 3 or array.shape[0] < 2 or array.shape[1] < 2 or array.shape[2] < 1:
        raise DataError(
            f"views have shape {array.shape}: give (N, q, width) with at least 2 transmissions of 2 views each"
        )
    n, q, width = array.shape
    features = centred(array.reshape(n * q, width))
    features /= np.sqrt(np.square(features).mean()) or 1.0
    by_transmission = features.reshape(n, q, width)
    means = by_transmission.mean(1)
    within = (by_transmission - means[:, None]).reshape(n * q, width)
    if np.abs(means).max() <= ROUNDING:
        raise DataError("no feature varies between transmissions: LiDAR needs features that tell some apart")
    covariance_within = within.T @ within / (n * q) + LIDAR_DELTA * np.eye(width)
    eigenvalues = eigh(means.T @ means / n, covariance_within, eigvals_only=True)
    return exponential_entropy(np.maximum(eigenvalues, 0))
