"""Beams and precoders on a MIMO-OFDM channel: numpy alone, since metrics and servers need it.

A channel ``h`` has one complex entry per antenna and subcarrier, ``(..., antennas, subcarriers)``. A transmitter that weights its
antennas by ``w`` delivers the amplitude ``w^H h`` per subcarrier, so that the best ``w`` is parallel to ``h``. Total power is the
same for every precoder: ``w`` counts as ``w / ||w||``. The SNR is the one at the user from one antenna sending all power over a
channel of unit power; with A antennas a precoder gains up to a factor of A over it.

Sources: Tse and Viswanath, "Fundamentals of Wireless Communication" (2005), sections 5.3 and 7.2; the order of the beams is that of the
DeepMIMO caches of LWM (beam labels).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complexfloating[Any, Any]]


def as_complex(parts: NDArray[np.floating[Any]]) -> NDArray[np.complex64]:
    """Real and imaginary parts on axis 1, ``(N, 2, ...)``, to complex64 ``(N, ...)``."""
    parts = np.asarray(parts, dtype=np.float32)
    joined: NDArray[np.complex64] = parts[:, 0] + np.complex64(1j) * parts[:, 1]
    return joined


def as_parts(channel: Complex) -> NDArray[np.float32]:
    """Complex ``(N, ...)`` to float32 ``(N, 2, ...)``, real and imaginary parts on axis 1."""
    return np.stack((channel.real, channel.imag), axis=1).astype(np.float32)


def dft_codebook(antennas: int, beams: int) -> NDArray[np.complex64]:
    """Beams of a uniform linear array with half-wavelength spacing, ``(beams, antennas)``, each of unit norm.

    Beam b points where the sine of the angle from broadside is ``u_b = 2 b / beams - 1``:
    ``w_b[m] = exp(j pi m u_b) / sqrt(antennas)``. As many beams as antennas are orthogonal.
    """
    sine = 2 * np.arange(beams) / beams - 1
    steering = np.exp(1j * np.pi * np.outer(sine, np.arange(antennas)))
    codebook: NDArray[np.complex64] = (steering / np.sqrt(antennas)).astype(np.complex64)
    return codebook


def beam_powers(channel: Complex, codebook: Complex) -> NDArray[np.float32]:
    """Mean power over subcarriers on every beam: ``mean_k |w_b^H h_k|^2``.

    Args:
        channel: ``(..., antennas, subcarriers)``.
        codebook: Unit-norm beams ``(beams, antennas)``.

    Returns:
        float32 ``(..., beams)``. The best beam of a channel is the argument of the maximum.
    """
    powers: NDArray[np.float32] = np.square(np.abs(codebook.conj() @ channel)).mean(-1, dtype=np.float32)
    return powers


def spectral_efficiency(channel: Complex, precoder: Complex, snr_db: float) -> NDArray[np.float64]:
    """Mean over subcarriers of ``log2(1 + snr |w^H h|^2 / ||w||^2)``, in bit/s/Hz.

    Args:
        channel: ``h``, ``(..., antennas, subcarriers)``.
        precoder: ``w``, of a shape that broadcasts to the channel's: a beam is ``(antennas, 1)``. Silence (``w = 0``) delivers nothing.
        snr_db: See above.

    Returns:
        float64 ``(...)``.
    """
    power = np.square(np.abs(precoder)).sum(-2, dtype=np.float64)
    delivered = np.square(np.abs((precoder.conj() * channel).sum(-2))).astype(np.float64)
    gain = np.divide(delivered, power, out=np.zeros(np.broadcast_shapes(delivered.shape, power.shape)), where=power > 0)
    efficiency: NDArray[np.float64] = np.log2(1 + 10 ** (snr_db / 10) * gain).mean(-1)
    return efficiency


def genie_efficiency(channel: Complex, snr_db: float) -> NDArray[np.float64]:
    """What maximum-ratio transmission on the true channel reaches: mean over subcarriers of ``log2(1 + snr ||h||^2)``.

    No precoder of one stream does better. Shapes as in :func:`spectral_efficiency`, whose value it is at ``w = h``.
    """
    power = np.square(np.abs(channel)).sum(-2, dtype=np.float64)
    efficiency: NDArray[np.float64] = np.log2(1 + 10 ** (snr_db / 10) * power).mean(-1)
    return efficiency
