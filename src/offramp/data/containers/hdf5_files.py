"""What all readers of HDF5 share: files that open or are named as damaged, and rows that are read on demand."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.hdf5_checks import LIBRARY_ERRORS, check_file, dataset
from offramp.errors import DataError, OfframpError

MAX_CACHE_BYTES = 256 * 2**20
"""Most memory for decompressed chunks of one file."""
MAX_CACHE_SLOTS = 2**20
MAX_GAP = 8
"""Windows that are not asked for are read along if at most this many stand between two that are."""


def holds(path: Path, test: Callable[[h5py.File], bool]) -> bool:
    """Whether a path is an HDF5 file that passes a test of its layout; never raises."""
    try:
        check_file(path, allow_outside=False)
        with h5py.File(path, "r") as file:
            return test(file)
    except (OfframpError, *LIBRARY_ERRORS):
        return False


@contextmanager
def opened(path: Path, allow_outside: bool = False) -> Iterator[h5py.File]:
    """An open file, after :func:`~offramp.data.containers.hdf5_checks.check_file`; see :func:`readable` for errors."""
    check_file(path, allow_outside)
    with _said_of(path, (OSError, RuntimeError, KeyError)), open_checked(path) as file:
        yield file


def open_checked(path: Path, **options: Any) -> h5py.File:
    """A file that has been checked; links and parts are found from where it really is, as they were checked."""
    return h5py.File(os.path.realpath(path), "r", **options)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what h5py raises into a :class:`DataError` that says what is wrong with the file."""
    with _said_of(path, LIBRARY_ERRORS):
        yield


@contextmanager
def _said_of(path: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        reason = " ".join(str(error).split())
        if "signature not found" in reason:
            raise DataError(f"{path} is not an HDF5 file: correct data.path or data.format") from error
        if "truncated" in reason:
            raise DataError(f"{path} is truncated: copy it again") from error
        raise DataError(f"{path} cannot be read as HDF5 ({reason}): copy it again") from error


def value_type(stored: h5py.Dataset) -> np.dtype[Any]:
    """Type of a dataset's values: ``U`` for text of any length, ``V0`` where numpy has none."""
    try:
        dtype: np.dtype[Any] = stored.dtype
    except (TypeError, ValueError):
        return np.dtype("V")
    return np.dtype(np.str_) if dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None else dtype


class OpenFile:
    """Datasets of a file that is opened once per process: handles do not survive a fork."""

    def __init__(self, path: Path, allow_outside: bool = False) -> None:
        self._path = path
        self._allow_outside = allow_outside
        self._process = -1
        self._file: h5py.File | None = None

    def __call__(self, name: str) -> h5py.Dataset:
        """A dataset, checked as in :func:`~offramp.data.containers.hdf5_checks.dataset`."""
        if self._file is None or self._process != os.getpid():
            check_file(self._path, self._allow_outside)
            self._file = open_checked(self._path)
            self._process = os.getpid()
        return dataset(self._path, self._file, name, self._allow_outside)


class RowReader:
    """Rows of one dataset by index; or blocks of so many rows by the number of the block; or rows that lie along the last axis."""

    def __init__(
        self, path: Path, field: str, block: int | None = None, last: bool = False, allow_outside: bool = False
    ) -> None:
        self._path = path
        self._field = field
        self._block = block
        self._last = last
        self._allow_outside = allow_outside
        self._process = -1
        self._dataset: Any = None

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Rows in the order asked for, duplicates included."""
        unique, inverse = np.unique(indices, return_inverse=True)
        with readable(self._path):
            stored = self._open()
            row = stored.shape[:-1] if self._last else stored.shape[1:]
            block, shape = self._block or 1, row if self._block is None else (self._block, *row)
            rows = np.empty((len(unique), *shape), stored.dtype)
            # h5py is slow at scattered indices, so neighbours are read as slices
            for run in np.split(np.arange(len(unique)), np.flatnonzero(np.diff(unique) > MAX_GAP) + 1):
                if len(run):
                    first, last = int(unique[run[0]]), int(unique[run[-1]])
                    read = self._run(stored, slice(first * block, (last + 1) * block)).reshape(-1, *shape)
                    rows[run[0] : run[-1] + 1] = read[unique[run] - first]
        return rows[inverse]

    def _run(self, stored: Any, rows: slice) -> NDArray[Any]:
        return np.moveaxis(stored[..., rows], -1, 0) if self._last else stored[rows]

    def _open(self) -> Any:
        """One handle per process: handles do not survive a fork."""
        if self._process != os.getpid():
            with opened(self._path, self._allow_outside) as file:
                stored = dataset(self._path, file, self._field, self._allow_outside)
                chunks, shape, item_bytes = stored.chunks, stored.shape, stored.dtype.itemsize
            options = {}
            if chunks:
                # Room for all chunks of two rows of chunks: a pass over the file then decompresses each chunk once.
                others = slice(None, -1) if self._last else slice(1, None)
                count = math.prod(-(-size // chunk) for size, chunk in zip(shape[others], chunks[others], strict=True))
                needed = 2 * count * math.prod(chunks) * item_bytes
                options = {
                    "rdcc_nbytes": min(max(needed, 2**20), MAX_CACHE_BYTES),
                    "rdcc_nslots": min(max(521, 4 * count + 1), MAX_CACHE_SLOTS),
                }
            self._dataset = open_checked(self._path, **options)[self._field]
            self._process = os.getpid()
        return self._dataset
