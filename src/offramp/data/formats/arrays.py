"""What HDF5 and npz files have in common: named arrays with one row per window.

The input array is real ``(N, ...)``, or complex ``(N, antennas, time)`` or ``(N, time)``, which is turned into float32
``(N, 2, antennas, time)`` with axis 1 = I, Q. All other arrays with N rows are columns: one-dimensional integers, floats or text,
and ``(N, dimensions)`` numbers. Names of classes stand beside them as ``labels`` for the column ``label`` and ``labels_x`` for the columns
``label_x`` and ``x``, as a list in JSON or as an array of text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.data.summary import ArraySummary
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.tasks import DataSpec

WINDOW_ARRAYS = ("sample", "image", "csi", "features", "cir")
"""Usual names of the array of windows."""
MAX_DIMENSIONS = 1024
"""Two-dimensional arrays with longer rows are not read as columns."""


class StoredArray(Protocol):
    """A numpy array or an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, key: Any) -> Any: ...


def window_array(spec: DataSpec, arrays: Mapping[str, StoredArray]) -> str:
    """Name of the array of windows: ``spec.input``, or else the first of ``WINDOW_ARRAYS`` that is there."""
    if spec.input is not None:
        return spec.input
    return next((name for name in WINDOW_ARRAYS if name in arrays), WINDOW_ARRAYS[0])


def table_from_arrays(
    path: Path,
    field: str,
    spec: DataSpec,
    arrays: Mapping[str, StoredArray],
    label_names: dict[str, tuple[str, ...]],
    fetch: Callable[[NDArray[np.int64]], NDArray[np.generic]],
) -> Table:
    """A table of the windows ``field`` and all columns beside it.

    Args:
        path: The file, for messages and the fingerprint.
        field: Name of the array of windows, see :func:`window_array`.
        spec: The columns it names must have one row per window.
        arrays: All arrays of the file by name.
        label_names: Names of classes by column.
        fetch: Rows of the input array by index, as stored.

    Raises:
        DataError: The input array is missing, empty or of an unusable type, or a named column has another length.
    """
    if field not in arrays:
        raise DataError(f"{path} has no array {field!r}: set data.input to one of {_listing(arrays)}")
    stored = arrays[field]
    shape = _window_shape(path, field, stored)
    count = stored.shape[0]
    for name in (spec.target, spec.group, spec.snr):
        if name is not None and name in arrays and arrays[name].shape[:1] != (count,):
            rows = arrays[name].shape[0] if arrays[name].shape else 0
            raise DataError(f"{path}: {name!r} has {rows} rows and {field!r} has {count} windows; both must be as long")
    columns = {
        name: column
        for name, array in arrays.items()
        if name != field and array.shape[:1] == (count,) and (column := _column(array)) is not None
    }
    is_complex = stored.dtype.kind == "c"
    windows = WindowSource(
        name=str(path),
        count=count,
        shape=shape,
        fingerprint=_fingerprint(path, field),
        fetch=(lambda indices: _to_iq(fetch(indices))) if is_complex else fetch,
    )
    return Table(windows, columns, {name: names for name, names in label_names.items() if name in columns})


def array_summaries(arrays: Mapping[str, StoredArray]) -> tuple[ArraySummary, ...]:
    """Name, shape and type of every array."""
    return tuple(
        ArraySummary(name, tuple(array.shape), "text" if array.dtype.kind in "SUO" else str(array.dtype))
        for name, array in arrays.items()
    )


def names_of_classes(path: Path, stored: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Class names by column from entries ``labels`` and ``labels_x``, each a list in JSON or an array of text.

    Raises:
        DataError: An entry is neither.
    """
    names: dict[str, tuple[str, ...]] = {}
    for key, value in stored.items():
        if key != "labels" and not key.startswith("labels_"):
            continue
        try:
            listed = np.asarray(value)
            if listed.ndim == 0:
                listed = np.asarray(json.loads(listed.item()))
            listing = tuple(str(name) for name in text(listed.reshape(-1)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {key!r} must list the names of classes as JSON or as an array of text") from error
        names["label" + key.removeprefix("labels")] = listing
        if key != "labels":
            names.setdefault(key.removeprefix("labels_"), listing)
    return names


def text(values: NDArray[Any]) -> NDArray[np.str_]:
    """Text from UTF-8 bytes, Python objects or text, ``(n,)``."""
    return np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values], dtype=np.str_)


def _column(array: StoredArray) -> NDArray[np.generic] | None:
    kind = array.dtype.kind
    if len(array.shape) == 1 and kind in "SUO":
        return text(array[()])
    if len(array.shape) == 1 and kind in "iuf":
        return np.asarray(array[()])
    if len(array.shape) == 1 and kind == "b":
        return np.asarray(array[()], dtype=np.int8)
    if len(array.shape) == 2 and kind in "iuf" and 0 < array.shape[1] <= MAX_DIMENSIONS:
        values = np.asarray(array[()])
        return values if kind == "f" else values.astype(np.float64)
    return None


def _window_shape(path: Path, name: str, array: StoredArray) -> tuple[int, ...]:
    kind, rank = array.dtype.kind, len(array.shape)
    if kind not in "iufc" or rank < 2 or (kind == "c" and rank > 3):
        raise DataError(
            f"{path}: {name!r} is {array.dtype} {tuple(array.shape)}; windows are real (N, ...) or complex (N, antennas, time)"
        )
    if array.shape[0] == 0:
        raise DataError(f"{path}: {name!r} holds no windows")
    if 0 in array.shape:
        raise DataError(f"{path}: {name!r} has the shape {tuple(array.shape)}: its windows are empty")
    if kind != "c":
        return tuple(array.shape[1:])
    return (2, 1, array.shape[1]) if rank == 2 else (2, *array.shape[1:])


def _to_iq(windows: NDArray[Any]) -> NDArray[np.float32]:
    if windows.ndim == 2:
        windows = windows[:, None, :]
    return np.stack((windows.real, windows.imag), axis=1).astype(np.float32, copy=False)


def _fingerprint(path: Path, field: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(field.encode())
    return digest.hexdigest()


def _listing(arrays: Mapping[str, StoredArray]) -> str:
    return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items()) or "(the file has no arrays)"
