"""Windows from samples that come in pieces of any length."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


class CutWindows(NamedTuple):
    """Windows that became complete.

    Attributes:
        windows: float32 ``(n, 2, channels, window)``.
        starts: Number of the first sample of each, int64 ``(n,)``.
    """

    windows: NDArray[np.float32]
    starts: NDArray[np.int64]


class WindowCutter:
    """Cuts a window every ``hop`` samples from the start of each stretch. None holds samples of two stretches; what is left over at the end
    of one is dropped."""

    def __init__(self, window: int, hop: int, channels: int) -> None:
        """Take samples per window and between the starts of windows, each at least 1, and the number of antennas."""
        self.window, self.hop = window, hop
        self._rest = np.empty((2, channels, 0), np.float32)
        self._next = 0
        """Where the next window starts."""

    def feed(self, samples: NDArray[np.float32], first: int, broken: bool) -> CutWindows:
        """Take more samples, and give the windows that they complete.

        Args:
            samples: I/Q ``(2, channels, n)``.
            first: Number of the first one. If not ``broken``, the one after the last that was taken.
            broken: Whether a new stretch begins here.
        """
        if broken:
            self._rest, self._next = self._rest[..., :0], first
        begin = first - self._rest.shape[-1]
        held = np.concatenate((self._rest, samples), axis=2) if self._rest.shape[-1] else samples
        length, offset = held.shape[-1], self._next - begin
        count = max(0, (length - offset - self.window) // self.hop + 1)
        starts = self._next + self.hop * np.arange(count, dtype=np.int64)
        self._next += count * self.hop
        cut = np.empty((0, *held.shape[:-1], self.window), np.float32)
        if count:
            views = sliding_window_view(held, self.window, axis=2)[:, :, offset : offset + count * self.hop : self.hop]
            cut = np.ascontiguousarray(views.transpose(2, 0, 1, 3))
        # a copy, so that a large chunk is not kept for a few samples
        self._rest = held[..., min(self._next - begin, length) :].copy()
        return CutWindows(cut, starts)
