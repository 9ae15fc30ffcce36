"""Channel prediction without a foundation model: what a network must beat.

All take the past ``(N, 2, past slots, antennas, subcarriers)`` float32, real and imaginary on axis 1, and give as many future slots as asked
for, ``(N, 2, future slots, antennas, subcarriers)``. Every antenna and subcarrier is predicted from its own past by the same filter.

* :func:`persistence`: the last slot.
* :func:`fit_wiener`: the linear filter of least mean squared error for the correlation over time of the training set, each window at its own
  known SNR. One for all speeds, unless it is fitted to the windows of one class of speeds alone.
* :func:`linear_prediction`: the same for the correlation of the window itself; it adapts to the user's speed and needs no training.

Sources: Kay, "Fundamentals of Statistical Signal Processing: Estimation Theory" (1993), section 12.7 (Wiener prediction); Duel-Hallen, "Fading
Channel Prediction for Mobile Radio Adaptive Transmission Systems" (Proc. IEEE 2007). The recurrent network is in
:mod:`predictors.recurrent`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.scoring.beams import as_complex, as_parts

Parts = NDArray[np.float32]

BLOCK = 256
"""Windows that are worked on at a time."""
ORDER = 10
"""Past slots that :func:`linear_prediction` looks back on; the 16 slots of a window then hold three examples of four slots ahead."""
RIDGE = 1e-4
"""Share of the power that :func:`linear_prediction` adds to the diagonal: with little noise the equations are nearly singular."""


def persistence(past: Parts, slots: int) -> Parts:
    """The last slot, repeated."""
    return np.repeat(past[:, :, -1:], slots, axis=2)


@dataclass(frozen=True, eq=False)
class WienerFilter:
    """A linear predictor that knows how strong the noise is.

    Attributes:
        rotation: Eigenvectors U of the correlation of clean past slots, complex ``(past, past)``.
        power: Their eigenvalues, float64 ``(past,)``.
        cross: Correlation of future with past slots times U, complex ``(future, past)``.
    """

    rotation: NDArray[np.complex128]
    power: NDArray[np.float64]
    cross: NDArray[np.complex128]

    def __call__(self, past: Parts, snr_db: NDArray[np.floating[Any]]) -> Parts:
        """Predict: ``R_fp (R_pp + noise I)^-1 past``, the noise power of each window from its SNR ``(N,)`` at unit signal power."""
        noise = 10 ** (-np.asarray(snr_db, dtype=np.float64) / 10)
        weights = (self.cross / (self.power + noise[:, None])[:, None, :]) @ self.rotation.conj().T
        return _filtered(weights, past)


def fit_wiener(past: Parts, future: Parts, snr_db: NDArray[np.floating[Any]]) -> WienerFilter:
    """Fit to training windows: correlations are means over windows, antennas and subcarriers.

    Args:
        past: With noise.
        future: Without, ``(N, 2, future, antennas, subcarriers)``.
        snr_db: Of each window's past, ``(N,)``; clean past slots have unit mean power. Its noise is taken off the correlation.
    """
    slots = past.shape[2]
    total = np.zeros((slots + future.shape[2], slots), dtype=np.complex128)
    for start in range(0, len(past), BLOCK):
        seen = as_complex(past[start : start + BLOCK])
        both = np.concatenate([seen, as_complex(future[start : start + BLOCK])], axis=1)
        total += np.einsum("nfas,npas->fp", both, seen.conj(), optimize=True)
    correlation = total / (past.size / 2 / slots)
    noise = np.mean(10 ** (-np.asarray(snr_db, dtype=np.float64) / 10))
    power, rotation = np.linalg.eigh(correlation[:slots] - noise * np.eye(slots))
    return WienerFilter(rotation, np.maximum(power, 0), correlation[slots:] @ rotation)


def linear_prediction(past: Parts, slots: int) -> Parts:
    """Least squares within each window: how each slot followed from the 10 slots up to it, for every distance ahead by itself.

    ``w_d = argmin sum_t |h(t + d) - sum_k w_d[k] h(t - k)|^2 + ridge |w_d|^2`` over all slots t that the past holds, all antennas and
    all subcarriers; then ``h(end + d) = sum_k w_d[k] h(end - k)``. Noise acts as a further ridge.
    """
    length = past.shape[2]
    if length < ORDER + slots:
        raise ValueError(f"linear_prediction of {slots} slots needs {ORDER + slots} past slots, not {length}")
    weights = np.zeros((len(past), slots, length), dtype=np.complex128)
    for start in range(0, len(past), BLOCK):
        seen = as_complex(past[start : start + BLOCK])
        rows = seen.reshape(len(seen), length, -1)
        # Gram matrix of all slots: every sum of products that the normal equations need
        gram = rows.conj() @ rows.swapaxes(1, 2)
        ridge = np.maximum(RIDGE * np.einsum("ntt->n", gram).real / length, np.finfo(np.float32).tiny)
        for ahead in range(1, slots + 1):
            ends = range(ORDER - 1, length - ahead)
            normal = sum(gram[:, end - ORDER + 1 : end + 1, end - ORDER + 1 : end + 1] for end in ends)
            wanted = sum(gram[:, end - ORDER + 1 : end + 1, end + ahead] for end in ends)
            loaded = normal + (len(ends) * ridge)[:, None, None] * np.eye(ORDER)
            solved = np.linalg.solve(loaded, np.asarray(wanted)[..., None])[..., 0]
            weights[start : start + BLOCK, ahead - 1, -ORDER:] = solved
    return _filtered(weights, past)


def _filtered(weights: NDArray[np.complex128], past: Parts) -> Parts:
    """Weights ``(N, future, past)`` applied to every antenna and subcarrier."""
    out = np.empty((len(past), 2, weights.shape[1], *past.shape[3:]), dtype=np.float32)
    for start in range(0, len(past), BLOCK):
        rows = slice(start, start + BLOCK)
        seen = as_complex(past[rows])
        flat = weights[rows].astype(np.complex64) @ seen.reshape(len(seen), seen.shape[1], -1)
        out[rows] = as_parts(flat.reshape(len(seen), weights.shape[1], *seen.shape[2:]))
    return out
