"""A picture of a whole recording in few numbers: mean power over time and frequency."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_COLUMNS, MOST_BINS, LEAST_BINS = 1024, 256, 16
FRAMES_PER_COLUMN = 16
"""Most frames whose power is averaged in a column; more are sampled evenly, so that a long recording takes no longer."""
RANGE_DB = 100.0
"""Most that is shown below the strongest cell."""
QUIET_PERCENT = 5.0
"""So many of the cells may lie below what is shown: the noise floor."""

Read = Callable[[int, int], NDArray[np.inexact]]
"""First sample and number of samples to samples, real or complex ``(samples, channels)``."""


@dataclass(frozen=True, eq=False)
class RecordingPicture:
    """Power of a recording over time and frequency, as the mean over its channels.

    Attributes:
        power_db: float32 ``(bins, columns)``, the lowest frequency first; 0 dB is a tone of amplitude 1.
        samples_per_column: How much time a column stands for; the first begins with the first sample, the last may reach beyond the end.
        two_sided: Whether frequencies go from minus half to half of the sample rate, as those of complex samples do, or from 0 to half.
    """

    power_db: NDArray[np.float32]
    samples_per_column: float
    two_sided: bool

    def document(self) -> dict[str, Any]:
        """As JSON has it: a byte a cell in base64, the lowest frequency first, from ``floor_db`` (0) to ``ceiling_db`` (255)."""
        ceiling = float(self.power_db.max())
        floor = max(float(np.percentile(self.power_db, QUIET_PERCENT)), ceiling - RANGE_DB)
        step = max(ceiling - floor, 1e-6) / 255
        cells = np.clip(np.round((self.power_db - floor) / step), 0, 255).astype(np.uint8)
        bins, columns = self.power_db.shape
        return {
            "bins": bins,
            "columns": columns,
            "samples_per_column": self.samples_per_column,
            "two_sided": self.two_sided,
            "floor_db": floor,
            "ceiling_db": ceiling,
            "cells": base64.b64encode(cells.tobytes()).decode(),
        }


def spectrogram(read: Read, samples: int) -> RecordingPicture:
    """Power spectra of Hann-windowed frames that overlap by half, averaged within each column (Welch 1967).

    Each frame stands around the middle of its step, and is filled up with zeros at the ends of the recording, so that columns lie exactly
    where their samples do. What is not finite counts as silence.

    Args:
        read: Gives the samples.
        samples: How many there are, at least 1.
    """
    bins = min(MOST_BINS, max(LEAST_BINS, 2 ** round(math.log2(2 * samples) / 2)))
    step = bins // 2
    frames = -(-samples // step)
    columns = min(frames, MOST_COLUMNS)
    edges = np.arange(columns + 1) * frames // columns
    taper = np.hanning(bins + 1)[:-1].astype(np.float32)
    two_sided = np.iscomplexobj(read(0, 1))
    rows = bins if two_sided else step
    power = np.empty((rows, columns))
    for column in range(columns):
        first, end = int(edges[column]), int(edges[column + 1])
        chosen = np.linspace(first, end - 1, min(end - first, FRAMES_PER_COLUMN)).round().astype(np.int64)
        begin = first * step - (bins - step) // 2
        stretch = _stretch(read, begin, (end - 1 - first) * step + bins, samples)
        places = (chosen - first)[:, None] * step + np.arange(bins)
        power[:, column] = _mean_power(stretch[places] * taper[:, None], two_sided)
    # a tone of amplitude 1 gives the sum of the taper in its bin; of a real one, half of it lies at the negative frequency
    full_scale = float(taper.sum()) * (1.0 if two_sided else 0.5)
    decibels = 10 * np.log10(np.maximum(power / full_scale**2, 1e-30))
    return RecordingPicture(decibels.astype(np.float32), frames * step / columns, two_sided)


def _stretch(read: Read, begin: int, count: int, samples: int) -> NDArray[np.inexact]:
    """``(count, channels)`` from a place that may lie before the first sample; zeros where there are none."""
    first, end = max(begin, 0), min(begin + count, samples)
    found = read(first, end - first)
    found = np.where(np.isfinite(found), found, 0)
    return np.pad(found, ((first - begin, begin + count - end), (0, 0)))


def _mean_power(frames: NDArray[np.inexact], two_sided: bool) -> NDArray[np.float64]:
    """Of frames ``(frames, bins, channels)``: float64 by frequency, the lowest first."""
    with np.errstate(over="ignore", invalid="ignore"):
        spectra = np.fft.fft(frames, axis=1) if two_sided else np.fft.rfft(frames, axis=1)[:, :-1]
        power = np.square(np.abs(spectra), dtype=np.float64).mean(axis=(0, 2))
    power = np.nan_to_num(power, nan=0.0, posinf=float(np.finfo(np.float32).max))
    return np.asarray(np.fft.fftshift(power) if two_sided else power)
