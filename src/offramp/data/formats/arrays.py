"""What HDF5 and npz files have in common: named arrays with one row per window.

The input array is real ``(N, ...)``, or complex ``(N, antennas, time)`` or ``(N, time)``, which is turned into float32
``(N, 2, antennas, time)`` with axis 1 = I, Q. All other arrays with N rows are columns: one-dimensional integers, floats or text,
``(N, dimensions)`` numbers, and vectors with several axes, which are flattened in C order. Complex columns become real ones with an axis
of real and imaginary part in front of their own. Columns with many values are read only where one is the target. Names of classes
stand beside the columns as ``labels`` for the column ``label`` and ``labels_x`` for the columns ``label_x`` and ``x``, as a list in JSON or as an
array of text; ``label_pairs`` names the classes of ``label`` by two words each.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.windows import Fetch
from offramp.data.summary import ArraySummary
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

WINDOW_ARRAYS = ("sample", "image", "csi", "features", "cir")
"""Usual names of the array of windows."""
TARGETS = ("label", "location", "label_los")
"""Usual names of the target; after them the smallest codebook, ``label_beam_16``, ``label_beam_64`` ..."""
GROUPS = ("group", "scenario", "location", "source_file")
"""Usual names of what windows share: cities, places that were measured several times, recordings."""
MAX_DIMENSIONS = 1024
"""Columns with longer rows are read only where one is the target."""
MAX_VALUES = 2**23
"""Vector columns with more values in all likewise."""
MAX_LISTED = 12
"""Arrays that a message lists."""


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
    reader: Callable[[str], Fetch],
    hashed: bool = True,
) -> Table:
    """A table of the windows ``field`` and all columns beside it.

    Args:
        path: The file, for messages and the fingerprint.
        field: Name of the array of windows, see :func:`window_array`.
        spec: The columns it names must have one row per window.
        arrays: All arrays of the file by name.
        label_names: Names of classes by column.
        reader: Name of an array -> a function that fetches its rows by index, as stored.
        hashed: Whether the file is read for the fingerprint, which a summary does not need.

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
    windows = WindowSource(
        name=str(path),
        count=count,
        shape=shape,
        fingerprint=_fingerprint(path, field) if hashed else "",
        fetch=_iq_fetch(reader(field)) if stored.dtype.kind == "c" else reader(field),
    )
    columns, shapes, large = {}, {}, {}
    for name, array in arrays.items():
        row = _row_shape(array)
        if name == field or array.shape[:1] != (count,) or row is None:
            continue
        if math.prod(row) > MAX_DIMENSIONS or (row and count * math.prod(row) > MAX_VALUES):
            large[name] = WindowSource(f"{path}: {name!r}", count, row, "", _real_fetch(reader(name)))
            continue
        columns[name] = _values(array, row)
        if len(row) > 1:
            shapes[name] = row
    names = {name: listed for name, listed in label_names.items() if name in {*columns, *large}}
    return Table(windows, columns, names, column_shapes=shapes, large=large)


def with_defaults(table: Table, target: str | None = None, group: str | None = None) -> Table:
    """The table with a default target and group: those the file names, its own, or else columns with usual names.

    A usual group is taken only if several windows share one and there are several.
    """
    known = {*table.columns, *table.large}
    beams = sorted(
        (name for name in known if re.fullmatch(r"label_beam_\d+", name)), key=lambda name: int(name.split("_")[-1])
    )
    usual = next((name for name in (*TARGETS, *beams) if name in known), None)
    shared = next((name for name in GROUPS if name in table.columns and is_shared(table.columns[name])), None)
    return replace(
        table,
        default_target=target if target in known else usual,
        default_group=group if group in table.columns else table.default_group or shared,
    )


def is_shared(values: NDArray[np.generic]) -> bool:
    """Whether there are several values and fewer than windows."""
    kinds = "iuU" if values.ndim == 1 else "f"
    return values.dtype.kind in kinds and 1 < len(np.unique(values, axis=0)) < len(values)


def array_summaries(arrays: Mapping[str, StoredArray]) -> tuple[ArraySummary, ...]:
    """Name, shape and type of every array."""
    return tuple(
        ArraySummary(name, tuple(array.shape), "text" if array.dtype.kind in "SUO" else str(array.dtype))
        for name, array in arrays.items()
    )


def names_of_classes(path: Path, stored: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Class names by column from entries ``labels``, ``labels_x`` and ``label_pairs``, each a list in JSON or an array of text.

    Raises:
        DataError: An entry is neither.
    """
    names: dict[str, tuple[str, ...]] = {}
    for key, value in stored.items():
        if key not in ("labels", "label_pairs") and not key.startswith("labels_"):
            continue
        try:
            listed = np.asarray(value)
            if listed.ndim == 0:
                listed = np.asarray(json.loads(listed.item()))
            rows = listed.reshape(len(listed), -1) if len(listed) else listed
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {key!r} must list the names of classes as JSON or as an array of text") from error
        listing = tuple(" / ".join(text(row)) for row in rows)
        if key == "label_pairs":
            names.setdefault("label", listing)
            continue
        names["label" + key.removeprefix("labels")] = listing
        if key != "labels":
            names.setdefault(key.removeprefix("labels_"), listing)
    return names


def text(values: NDArray[Any]) -> NDArray[np.str_]:
    """Text from UTF-8 bytes, Python objects or text, ``(n,)``."""
    return np.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values], dtype=np.str_)


def _row_shape(array: StoredArray) -> tuple[int, ...] | None:
    """Shape of one row as a column; None for what cannot be one."""
    kind, row = array.dtype.kind, tuple(array.shape[1:])
    if kind in "SUO":
        return () if not row else None
    if kind not in "biufc" or 0 in row:
        return None
    return (2, *row) if kind == "c" else row


def _values(array: StoredArray, row: tuple[int, ...]) -> NDArray[np.generic]:
    if array.dtype.kind in "SUO":
        return text(array[()])
    values = _real(np.asarray(array[()]))
    if not row:
        return values
    return values.reshape(len(values), -1).astype(values.dtype if values.dtype.kind == "f" else np.float64, copy=False)


def _real(values: NDArray[Any]) -> NDArray[Any]:
    """Truth values as 0 and 1; complex numbers as an axis 1 of real and imaginary part."""
    if values.dtype.kind == "b":
        return values.astype(np.int8)
    return np.stack((values.real, values.imag), axis=1) if values.dtype.kind == "c" else values


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


def _iq_fetch(fetch: Fetch) -> Fetch:
    return lambda indices: _to_iq(fetch(indices))


def _real_fetch(fetch: Fetch) -> Fetch:
    return lambda indices: _real(fetch(indices))


def _to_iq(windows: NDArray[Any]) -> NDArray[np.float32]:
    if windows.ndim == 2:
        windows = windows[:, None, :]
    return np.stack((windows.real, windows.imag), axis=1).astype(np.float32, copy=False)


def _fingerprint(path: Path, field: str) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    digest.update(field.encode())
    return digest.hexdigest()


def _listing(arrays: Mapping[str, StoredArray]) -> str:
    shown = [f"{name} {tuple(array.shape)}" for name, array in islice(arrays.items(), MAX_LISTED)]
    more = [f"{len(arrays) - MAX_LISTED} more"] if len(arrays) > MAX_LISTED else []
    return ", ".join(shown + more) or "(the file has no arrays)"
