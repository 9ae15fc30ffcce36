"""What a task does to its windows before the encoder. numpy alone: a server starts without importing torch."""

from __future__ import annotations

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
        name: ``none``, ``standardize`` or ``spectrogram``.
        mean: Per-channel mean that ``standardize`` subtracts, float32 ``(channels,)``.
        scale: Per-channel factor that ``standardize`` applies afterwards, float32 ``(channels,)``.
    """

    name: str = "none"
    mean: tuple[float, ...] = field(default=())
    scale: tuple[float, ...] = field(default=())

    def __call__(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 ``(n, channels, height, width)`` to the encoder's input, float32.

        ``standardize`` keeps the shape. ``spectrogram`` takes I/Q ``(n, 2, antennas, time)`` to ``(n, antennas, 64, frames)``.
        """
        if self.name == "standardize":
            mean = np.asarray(self.mean, dtype=np.float32)[:, None, None]
            scale = np.asarray(self.scale, dtype=np.float32)[:, None, None]
            return (windows - mean) * scale
        if self.name == "spectrogram":
            return spectrogram(windows)
        return windows

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one window behind the transform."""
        return self(np.zeros((1, *shape), dtype=np.float32)).shape[1:]

    def to_dict(self) -> dict[str, Any]:
        """As stored in a bundle."""
        return {"name": self.name, "mean": list(self.mean), "scale": list(self.scale)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Transform:
        """From a bundle."""
        return cls(stored["name"], tuple(stored["mean"]), tuple(stored["scale"]))


def spectrogram(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log power spectrogram in natural units, frequencies in ascending order from minus half the sample rate.

    A Hann window of 64 samples steps by 16; every window is scaled to unit mean power first and powers below 1e-6 are cut off.

    Args:
        windows: I/Q ``(n, 2, antennas, time)`` float32 with time >= 64.

    Returns:
        float32 ``(n, antennas, 64, 1 + (time - 64) // 16)``.
    """
    if windows.ndim != 4 or windows.shape[1] != 2 or windows.shape[-1] < SPECTROGRAM_BINS:
        raise DataError(f"spectrogram takes I/Q windows (N, 2, antennas, time >= 64), not {windows.shape}")
    power = np.square(windows).sum(1, keepdims=True).mean((2, 3), keepdims=True)
    scaled = windows / np.sqrt(np.maximum(power, np.finfo(np.float32).tiny))
    signal = scaled[:, 0] + 1j * scaled[:, 1]
    frames = np.lib.stride_tricks.sliding_window_view(signal, SPECTROGRAM_BINS, axis=-1)[..., ::SPECTROGRAM_HOP, :]
    taper = np.hanning(SPECTROGRAM_BINS + 1)[:-1].astype(np.float32)
    spectrum = np.fft.fftshift(np.fft.fft(frames * taper, axis=-1), axes=-1)
    level = np.log(np.square(np.abs(spectrum)) / np.square(taper).sum() + 1e-6)
    return np.ascontiguousarray(level.swapaxes(-1, -2), dtype=np.float32)
