"""What raw windows become before the encoder: I/Q with an antenna axis, then a task's transform.

numpy alone: a server starts without importing torch.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError

SPECTROGRAM_BINS = 64
SPECTROGRAM_HOP = 16


@dataclass(frozen=True)
class Transform:
    """A transform with what was fitted on the windows outside the test set.

    Attributes:
        name: ``none``, ``standardize``, ``spectrogram`` or ``degrade``.
        mean: Per-channel mean that ``standardize`` subtracts, float32 ``(channels,)``.
        scale: Per-channel factor that ``standardize`` applies afterwards, float32 ``(channels,)``.
        snr_db: Of the noise that ``degrade`` adds, dB; None adds none.
        antennas: How many antennas ``degrade`` leaves; None leaves all.
        frames: How many frames ``spectrogram`` has; None steps by 16 samples.
    """

    name: str = "none"
    mean: tuple[float, ...] = field(default=())
    scale: tuple[float, ...] = field(default=())
    snr_db: float | None = None
    antennas: int | None = None
    frames: int | None = None

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``(n, channels, height, width)``, or with more axes, to the encoder's input, float32.

        ``standardize`` and ``degrade`` keep the shape. ``spectrogram`` takes I/Q ``(n, 2, antennas, time)`` to
        ``(n, antennas, 64, frames)``. Values that float32 cannot hold become infinite or NaN: see :func:`check_range`.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self._apply(windows)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one window behind the transform."""
        return self(np.zeros((0, *shape), dtype=np.float32)).shape[1:]  # no windows, for one may be large

    def _apply(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.name == "standardize":
            per_channel = (-1, *[1] * (windows.ndim - 2))
            mean = np.asarray(self.mean, dtype=np.float32).reshape(per_channel)
            scale = np.asarray(self.scale, dtype=np.float32).reshape(per_channel)
            return (windows - mean) * scale
        if self.name == "spectrogram":
            return spectrogram(windows, self.frames)
        if self.name == "degrade":
            return degrade(windows, self.snr_db, self.antennas)
        return windows

    def to_dict(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {
            "name": self.name,
            "mean": list(self.mean),
            "scale": list(self.scale),
            "snr_db": self.snr_db,
            "antennas": self.antennas,
            "frames": self.frames,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Transform:
        """From a bundle; one from an older version lacks the newer settings."""
        settings = {name: stored.get(name) for name in ("snr_db", "antennas", "frames")}
        return cls(stored["name"], tuple(stored["mean"]), tuple(stored["scale"]), **settings)


def iq_of_complex(windows: NDArray[Any]) -> NDArray[Any]:
    """Complex windows ``(N, antennas, time)``, or ``(N, time)`` of one antenna, as I/Q ``(N, 2, antennas, time)``.

    The parts keep their precision: complex64 becomes float32, complex128 float64.

    Raises:
        DataError: The windows have another number of axes.
    """
    if windows.ndim not in (2, 3):
        raise DataError(f"complex windows are (N, antennas, time) or (N, time), not {windows.shape}: reshape them")
    of_antennas = windows[:, None] if windows.ndim == 2 else windows
    return np.stack((of_antennas.real, of_antennas.imag), axis=1)


def with_antenna(windows: NDArray[Any]) -> NDArray[Any]:
    """I/Q without an antenna axis, ``(N, 2, time)`` or ``(N, time, 2)``, as ``(N, 2, 1, time)``; other windows as they are.

    Only for windows that are known to be I/Q: an image may have two rows.

    Raises:
        DataError: The windows are ``(N, 2, 2)``, so that either axis may hold I and Q.
    """
    shape = windows.shape[1:]
    if len(shape) != 2 or 2 not in shape:
        return windows
    if shape == (2, 2):
        raise DataError("windows (N, 2, 2) may be (I/Q, time) or (time, I/Q): store them as (N, 2, 1, time)")
    return (windows if shape[0] == 2 else windows.swapaxes(1, 2))[:, :, None]


def check_range(inputs: NDArray[np.float32], numbers: NDArray[np.int64] | range, name: str = "") -> None:
    """Refuse windows that float32 cannot compute with, before an encoder makes NaN of them, or silence by scaling them.

    Args:
        inputs: Transformed windows ``(n, ...)`` float32, as the encoder takes them.
        numbers: Of the windows, for the message, ``n`` of them.
        name: Where they come from.

    Raises:
        DataError: A window holds NaN or infinity, or the sum of its squares overflows.
    """
    flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(np.vdot(flat, flat)):  # one pass in the usual case; it may overflow where no window does
            return
        finite = np.isfinite(np.einsum("ij,ij->i", flat, flat))
    if not finite.all():
        where = f"{name}: " if name else ""
        raise DataError(
            f"{where}window {numbers[int(np.argmin(finite))]} overflows float32 behind its transform: "
            "remove it or scale the windows down"
        )


def spectrogram(windows: NDArray[np.float32], frames: int | None = None) -> NDArray[np.float32]:
    """Log power spectrogram in natural units, frequencies in ascending order from minus half the sample rate.

    A Hann window of 64 samples steps by 16, or as far as ``frames`` allow; every window is scaled to unit mean power first and
    powers below 1e-6 are cut off.

    Args:
        windows: I/Q ``(n, 2, antennas, time)`` float32 with time >= 64.
        frames: How many; the hop is then ``(time - 64) // (frames - 1)``. As many as a hop of 16 gives if None.

    Returns:
        float32 ``(n, antennas, 64, frames)``, frames being ``1 + (time - 64) // 16`` if None.

    Raises:
        DataError: The windows are no I/Q, or too short.
    """
    if windows.ndim != 4 or windows.shape[1] != 2 or windows.shape[-1] < SPECTROGRAM_BINS:
        raise DataError(f"spectrogram takes I/Q windows (N, 2, antennas, time >= 64), not {windows.shape}")
    power = np.square(windows).sum(1, keepdims=True).mean((2, 3), keepdims=True)
    power[np.isinf(power)] = np.nan  # divided by infinity, a window would pass for silence
    scaled = windows / np.sqrt(np.maximum(power, np.finfo(np.float32).tiny))
    signal = scaled[:, 0] + 1j * scaled[:, 1]
    hop = SPECTROGRAM_HOP if frames is None else (windows.shape[-1] - SPECTROGRAM_BINS) // (frames - 1)
    if hop < 1:
        raise DataError(
            f"{frames} frames of {SPECTROGRAM_BINS} samples do not fit in windows of {windows.shape[-1]} samples"
        )
    pieces = np.lib.stride_tricks.sliding_window_view(signal, SPECTROGRAM_BINS, axis=-1)[..., ::hop, :]
    pieces = pieces[..., :frames, :]
    taper = np.hanning(SPECTROGRAM_BINS + 1)[:-1].astype(np.float32)
    spectrum = np.fft.fftshift(np.fft.fft(pieces * taper, axis=-1), axes=-1)
    level = np.log(np.square(np.abs(spectrum)) / np.square(taper).sum() + 1e-6)
    return np.ascontiguousarray(level.swapaxes(-1, -2), dtype=np.float32)


def degrade(
    windows: NDArray[np.float32], snr_db: float | None = None, antennas: int | None = None
) -> NDArray[np.float32]:
    """A harder input: complex white Gaussian noise on every antenna, then only some antennas observed.

    So that a task whose target was computed from the full, clean window does not see that window. The noise is a function of the
    window alone: the SHA-256 of its bytes is the seed, so that the same window has the same noise wherever and whenever it is read.

    Args:
        windows: Real and imaginary parts ``(n, 2, ..., antennas, x)`` float32, x subcarriers or samples.
        snr_db: Mean power of the window over that of the noise, dB; no noise if None.
        antennas: The first of every ``all / antennas`` neighbours is kept and the others are zero, so that the shape stays; all if None.

    Raises:
        DataError: The windows are of another shape, or their antennas cannot be divided so.
    """
    if windows.ndim < 4 or windows.shape[1] != 2:
        raise DataError(f"degrade takes windows (N, 2, ..., antennas, x), real and imaginary, not {windows.shape}")
    every = windows.shape[-2]
    if antennas is not None and every % antennas:
        raise DataError(f"degrade cannot spread {antennas} antennas evenly over {every}: choose a divisor of {every}")
    degraded = windows.astype(np.float32, order="C")
    if snr_db is not None:
        for window in degraded:
            seed = int.from_bytes(hashlib.sha256(window.tobytes()).digest())
            noise = np.random.default_rng(seed).standard_normal(window.shape, dtype=np.float32)
            power = np.square(window).mean(dtype=np.float64)
            window += noise * np.float32(np.sqrt(power * 10 ** (-snr_db / 10)))
    if antennas is not None:
        unobserved = np.arange(every) % (every // antennas) != 0
        degraded[..., unobserved, :] = 0
    return degraded
