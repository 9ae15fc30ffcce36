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

from offramp.errors import DataError

MAX_CACHE_BYTES = 256 * 2**20
"""Most memory for decompressed chunks of one file."""
MAX_GAP = 8
"""Windows that are not asked for are read along if at most this many stand between two that are."""


def holds(path: Path, test: Callable[[h5py.File], bool]) -> bool:
    """Whether a path is an HDF5 file that passes a test of its layout; never raises."""
    try:
        with h5py.File(path, "r") as file:
            return test(file)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError):
        return False


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An open file; see :func:`readable` for errors."""
    with readable(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what h5py raises into a :class:`DataError` that says what is wrong with the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        if "signature not found" in reason:
            raise DataError(f"{path} is not an HDF5 file: correct data.path or data.format") from error
        if "truncated" in reason:
            raise DataError(f"{path} is truncated: copy it again") from error
        raise DataError(f"{path} cannot be read as HDF5 ({reason}): copy it again") from error


def stored_arrays(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All datasets of a file by their path in it."""
    arrays: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            arrays[name] = item

    file.visititems(visit)
    return arrays


def value_type(dataset: h5py.Dataset) -> np.dtype[Any]:
    """Type of a dataset's values: ``U`` for text of any length, ``V0`` where numpy has none."""
    try:
        dtype: np.dtype[Any] = dataset.dtype
    except TypeError:
        return np.dtype("V")
    return np.dtype(np.str_) if dtype.kind == "O" and h5py.check_string_dtype(dtype) is not None else dtype


class OpenFile:
    """One open handle per process: handles do not survive a fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process = -1
        self._file: h5py.File | None = None

    def __call__(self) -> h5py.File:
        """The open file."""
        if self._file is None or self._process != os.getpid():
            self._file = h5py.File(self._path, "r")
            self._process = os.getpid()
        return self._file


class RowReader:
    """Rows of one dataset by index; or blocks of so many rows by the number of the block; or rows that lie along the last axis."""

    def __init__(self, path: Path, field: str, block: int | None = None, last: bool = False) -> None:
        self._path = path
        self._field = field
        self._block = block
        self._last = last
        self._process = -1
        self._dataset: Any = None

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Rows in the order asked for, duplicates included."""
        unique, inverse = np.unique(indices, return_inverse=True)
        with readable(self._path):
            dataset = self._open()
            row = dataset.shape[:-1] if self._last else dataset.shape[1:]
            block, shape = self._block or 1, row if self._block is None else (self._block, *row)
            rows = np.empty((len(unique), *shape), dataset.dtype)
            # h5py is slow at scattered indices, so neighbours are read as slices
            for run in np.split(np.arange(len(unique)), np.flatnonzero(np.diff(unique) > MAX_GAP) + 1):
                if len(run):
                    first, last = int(unique[run[0]]), int(unique[run[-1]])
                    read = self._run(dataset, slice(first * block, (last + 1) * block)).reshape(-1, *shape)
                    rows[run[0] : run[-1] + 1] = read[unique[run] - first]
        return rows[inverse]

    def _run(self, dataset: Any, rows: slice) -> NDArray[Any]:
        return np.moveaxis(dataset[..., rows], -1, 0) if self._last else dataset[rows]

    def _open(self) -> Any:
        """One handle per process: handles do not survive a fork."""
        if self._process != os.getpid():
            with h5py.File(self._path, "r") as file:
                stored = file[self._field]
                chunks, shape, item_bytes = stored.chunks, stored.shape, stored.dtype.itemsize
            options = {}
            if chunks:
                # Room for all chunks of two rows of chunks: a pass over the file then decompresses each chunk once.
                others = slice(None, -1) if self._last else slice(1, None)
                count = math.prod(-(-size // chunk) for size, chunk in zip(shape[others], chunks[others], strict=True))
                needed = 2 * count * math.prod(chunks) * item_bytes
                options = {
                    "rdcc_nbytes": min(max(needed, 2**20), MAX_CACHE_BYTES),
                    "rdcc_nslots": max(521, 4 * count + 1),
                }
            self._dataset = h5py.File(self._path, "r", **options)[self._field]
            self._process = os.getpid()
        return self._dataset
