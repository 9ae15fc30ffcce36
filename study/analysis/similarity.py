"""How alike two exits see the same windows: linear centred kernel alignment (CKA).

Sources: Kornblith et al., "Similarity of neural network representations revisited" (arXiv 1905.00414), equations 3 and 4; the
unbiased estimator of HSIC: Song et al., "Feature selection via dependence maximization" (JMLR 2012), used for CKA by
Nguyen et al., "Do wide and deep networks learn the same things?" (arXiv 2010.15327).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis.inputs import Array, centred, matching_features
from offramp.errors import DataError

SMALLEST_SHARE = 1e-12
"""Below this share of the Gram matrix's squared norm, what HSIC leaves is rounding."""


def linear_cka(first: NDArray[np.floating], second: NDArray[np.floating], unbiased: bool = True) -> float:
    """Linear CKA between two sets of features of the same windows; 1 where they agree up to rotation, scale and shift.

    The biased estimate grows towards 1 with width / N even for unrelated features (N = 1,000 rows of 512 independent normal
    features: 0.34), so that wide exits would look alike. The unbiased one is about 0 there and is the default; it lies in
    [-1, 1], the biased one in [0, 1]. Works on ``(p, q)`` products, never on ``(N, N)`` Gram matrices: O(N (p + q)^2).

    Args:
        first: ``(N, p)``.
        second: ``(N, q)``, rows in the same order.
        unbiased: Estimate HSIC without bias (needs N >= 4); otherwise equation 3 of Kornblith et al. as it stands (N >= 2).

    Raises:
        DataError: Shapes do not fit, values are not finite, or one set of features does not tell the windows apart.
    """
    one, other = matching_features(first, second, fewest=4 if unbiased else 2)
    one, other = centred(one), centred(other)
    hsic = _unbiased_hsic if unbiased else _biased_hsic
    alignment = hsic(one, other) / np.sqrt(_own_hsic(hsic, one, "first") * _own_hsic(hsic, other, "second"))
    return float(np.clip(alignment, -1, 1))


def _own_hsic(hsic: Callable[[Array, Array], float], features: Array, name: str) -> float:
    own = hsic(features, features)
    if own <= SMALLEST_SHARE * _biased_hsic(features, features):
        raise DataError(f"the {name} features do not tell the windows apart: CKA needs features that vary")
    return own


def _biased_hsic(first: Array, second: Array) -> float:
    """``tr(K H L H)`` of centred features, up to a factor that CKA cancels."""
    return float(np.square(first.T @ second).sum())


def _unbiased_hsic(first: Array, second: Array) -> float:
    """``n (n - 3) HSIC_1``; for centred features every row of a Gram matrix sums to zero, which leaves its diagonal."""
    n = len(first)
    norms, other_norms = np.square(first).sum(1), np.square(second).sum(1)
    own_pairs = n / (n - 2) * norms @ other_norms
    return float(_biased_hsic(first, second) - own_pairs + norms.sum() * other_norms.sum() / ((n - 1) * (n - 2)))
