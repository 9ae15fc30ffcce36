"""HDF5: an array of windows, columns of the same length, class names as attributes ``labels`` or ``labels_x`` of the file.

See :mod:`offramp.data.formats.arrays` for shapes and types. Windows are read on demand.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.arrays import (
    StoredArray,
    array_summaries,
    names_of_classes,
    table_from_arrays,
    window_array,
)
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.tasks import DataSpec

MAX_CACHE_BYTES = 256 * 2**20
"""Most memory for decompressed chunks of one file."""
MAX_GAP = 8
"""Windows that are not asked for are read along if at most this many stand between two that are."""


def recognise(path: Path) -> bool:
    """By suffix: a damaged HDF5 file has to be named as such."""
    return path.suffix.lower() in (".h5", ".hdf5")


def read(spec: DataSpec) -> Table:
    """Open an HDF5 file.

    Raises:
        DataError: Not HDF5, truncated, without windows, or with arrays of different length.
    """
    path = _path(spec)
    with _opened(path) as file:
        arrays = _arrays(file)
        names = names_of_classes(path, dict(file.attrs))
        field = window_array(spec, arrays)
        return table_from_arrays(path, field, spec, arrays, names, _RowReader(path, field))


def summarise(path: Path) -> FileSummary:
    """All arrays; and the columns, if the windows have one of the usual names."""
    spec = DataSpec(path=path, format="hdf5")
    with _opened(path) as file:
        arrays = _arrays(file)
        listed = array_summaries(arrays)
        known = window_array(spec, arrays) in arrays
    if known:
        return summarise_table(read(spec), str(path), "hdf5", listed)
    return FileSummary(str(path), "hdf5", None, "window", None, (), listed)


class _RowReader:
    """Rows of one dataset by index, through one open handle per process: handles do not survive a fork."""

    def __init__(self, path: Path, field: str) -> None:
        self._path = path
        self._field = field
        self._process = -1
        self._dataset: Any = None

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Rows in the order asked for, duplicates included."""
        unique, inverse = np.unique(indices, return_inverse=True)
        with _readable(self._path):
            dataset = self._open()
            rows = np.empty((len(unique), *dataset.shape[1:]), dataset.dtype)
            # h5py is slow at scattered indices, so neighbours are read as slices
            for run in np.split(np.arange(len(unique)), np.flatnonzero(np.diff(unique) > MAX_GAP) + 1):
                if len(run):
                    first, last = int(unique[run[0]]), int(unique[run[-1]])
                    rows[run[0] : run[-1] + 1] = dataset[first : last + 1][unique[run] - first]
        return rows[inverse]

    def _open(self) -> Any:
        if self._process != os.getpid():
            with h5py.File(self._path, "r") as file:
                stored = file[self._field]
                chunks, shape, item_bytes = stored.chunks, stored.shape, stored.dtype.itemsize
            options = {}
            if chunks:
                # Room for all chunks of two rows of chunks: a pass over the file then decompresses each chunk once.
                count = math.prod(-(-size // chunk) for size, chunk in zip(shape[1:], chunks[1:], strict=True))
                needed = 2 * count * math.prod(chunks) * item_bytes
                options = {
                    "rdcc_nbytes": min(max(needed, 2**20), MAX_CACHE_BYTES),
                    "rdcc_nslots": max(521, 4 * count + 1),
                }
            self._dataset = h5py.File(self._path, "r", **options)[self._field]
            self._process = os.getpid()
        return self._dataset


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    with _readable(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        if "signature not found" in reason:
            raise DataError(f"{path} is not an HDF5 file: correct data.path or data.format") from error
        if "truncated" in reason:
            raise DataError(f"{path} is truncated: copy it again") from error
        raise DataError(f"{path} cannot be read as HDF5 ({reason}): copy it again") from error


def _arrays(file: h5py.File) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            arrays[name] = item

    file.visititems(visit)
    return arrays


def _path(spec: DataSpec) -> Path:
    assert spec.path is not None
    return spec.path
