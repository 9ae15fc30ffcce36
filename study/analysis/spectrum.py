"""How many directions features use.

Sources: Roy and Vetterli, "The effective rank" (EUSIPCO 2007), definition 1; as a score of representations: Garrido et al.,
"RankMe" (arXiv 2210.02885).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.inputs import centred, feature_matrix
from offramp.errors import DataError


def effective_rank(features: NDArray[np.floating]) -> float:
    """Exponential of the entropy of the normalised singular values of the centred features, in [1, min(N - 1, width)].

    RankMe leaves the mean in; here it is removed, because the offset of an exit says nothing about the windows.

    Args:
        features: ``(N, width)``.

    Raises:
        DataError: The shape does not fit, values are not finite, or every feature is constant.
    """
    singular = np.linalg.svd(centred(feature_matrix(features)), compute_uv=False)
    if singular[0] == 0:
        raise DataError("every feature is constant: an effective rank needs features that vary")
    return exponential_entropy(singular)


def exponential_entropy(weights: NDArray[np.floating]) -> float:
    """``exp(-sum p ln p)`` of weights ``(r,)`` >= 0, not all zero, normalised to p: k for k equal weights."""
    shares = weights / weights.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
