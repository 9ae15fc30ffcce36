"""What every format reader returns: windows that are read on demand, and one row of columns per window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.transforms import with_antenna

MAX_WINDOW_BYTES = 2**28
"""Most bytes of one window in memory, float32."""


class NoWindowsError(DataError):
    """Recordings of which none gives a window."""


class SampleRatesError(DataError):
    """Recordings of several sample rates in one set."""


@dataclass(frozen=True)
class WindowSource:
    """Windows of one shape, read on demand so that no more than a batch need be in memory.

    Attributes:
        name: What to call it in messages, e.g. a file name.
        count: Number of windows N.
        shape: Shape of one window, e.g. ``(2, antennas, time)``.
        fingerprint: SHA-256 over the content and the way it is cut into windows.
        fetch: ``indices (n,) int64, any order -> (n, *shape)`` of any real dtype.

    Raises:
        DataError: One window takes more than ``MAX_WINDOW_BYTES``.
    """

    name: str
    count: int
    shape: tuple[int, ...]
    fingerprint: str
    fetch: Callable[[NDArray[np.int64]], NDArray[np.generic]] = field(repr=False)

    def __post_init__(self) -> None:
        if (size := 4 * math.prod(self.shape)) > MAX_WINDOW_BYTES:
            raise DataError(
                f"{self.name}: one window {self.shape} takes {size:,} bytes, and at most {MAX_WINDOW_BYTES:,} are read: make windows shorter"
            )

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Windows as float32 ``(n, *shape)``, C-contiguous.

        Raises:
            DataError: The file cannot be read any more, or a window holds NaN or infinity; it is named by its index.
        """
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what float32 cannot hold becomes infinite, and is named below
            try:
                fetched = self.fetch(indices)
            except OSError as error:
                raise DataError(f"{self.name} cannot be read: {error.strerror or error}; copy it again") from error
            windows = np.ascontiguousarray(fetched, dtype=np.float32)
        finite = np.isfinite(windows).all(axis=tuple(range(1, windows.ndim)))
        if not finite.all():
            bad = int(indices[int(np.argmin(finite))])
            raise DataError(f"{self.name}: window {bad} holds NaN or infinity; remove it or correct the file")
        return windows

    def with_antenna(self) -> WindowSource:
        """I/Q without an antenna axis with one, as :func:`offramp.transforms.with_antenna`; windows of other shapes as they are.

        Raises:
            DataError: Either axis may hold I and Q.
        """
        try:
            shape = with_antenna(np.empty((0, *self.shape))).shape[1:]
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from None
        if shape == self.shape:
            return self
        return replace(self, shape=shape, fetch=lambda indices: with_antenna(self.fetch(indices)))


class Positions(NamedTuple):
    """Where N windows were cut from recordings. Samples count from the first in the file, at the recording's own rate.

    Attributes:
        names: Recording of each window.
        starts: First sample, int64 ``(N,)``.
        stops: End, exclusive, int64 ``(N,)``; a window that is filled up with zeros shows fewer samples than others.
        times: When the first sample was taken, ``datetime64[ns]`` ``(N,)`` in UTC; NaT where that is not known.
    """

    names: NDArray[np.str_]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    times: NDArray[np.datetime64]

    @classmethod
    def of(cls, names: Sequence[str], origin: NDArray[np.int64], starts: NDArray[np.int64], window: int) -> Positions:
        """Of whole windows from the recordings ``names[origin]``, at times that are not known."""
        times = np.full(len(starts), np.datetime64("NaT", "ns"))
        return cls(np.array(names)[origin], starts, starts + window, times)


@dataclass(frozen=True)
class Table:
    """A file as Offramp sees it.

    Attributes:
        windows: The inputs.
        columns: Per-window values by name, each of length N: labels, groups, positions, SNR. One-dimensional of integer, float or
            string dtype, or ``(N, dimensions)`` float.
        label_names: Names of the integer classes 0, 1, ... of a column, where the file has them.
        default_target: Column that is the target if the user names none.
        default_group: Column that groups windows if the user names none; None where windows are independent.
        positions: Where windows were cut from longer recordings, if they were.
        column_shapes: Shape of one row of those ``(N, dimensions)`` columns that have several axes and are flattened in C order.
        large: Columns that are too large to be held, each a source of N rows in their own shape; read where one is the target.
        sample_rate: Samples per second of all recordings that windows were cut from; None where it is not known.
        silent: Names of the recordings that give no window.
        notes: Sentences that whoever uses the windows must be told: what was passed over, filled up or left out.
    """

    windows: WindowSource
    columns: dict[str, NDArray[np.generic]]
    label_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    default_target: str | None = None
    default_group: str | None = None
    positions: Positions | None = None
    column_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    large: dict[str, WindowSource] = field(default_factory=dict)
    sample_rate: float | None = None
    silent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
