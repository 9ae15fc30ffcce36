"""What HDF5, npz and MATLAB files have in common: named arrays with one row per window.

The input array is real ``(N, ...)``, or complex ``(N, antennas, time)`` or ``(N, time)``, which is turned into float32
``(N, 2, antennas, time)`` with axis 1 = I, Q. Real I/Q without an antenna axis, ``(N, 2, time)`` or ``(N, time, 2)``, stays as it is here: only
who knows the encoder can tell it from an image. All other arrays with N rows are columns: one-dimensional integers, floats or text (also laid out
as ``(N, 1)`` or ``(1, N)``), ``(N, dimensions)`` numbers, and vectors with several axes, which are flattened in C order. Complex columns become
real ones with an axis of real and imaginary part in front of their own. Columns with many values are read only where one is the target. Names of
classes stand beside the columns as ``labels`` for the column ``label`` and ``labels_x`` for the columns ``label_x`` and ``x``, as a list in JSON or
as an array of text; ``label_pairs`` names the classes of ``label`` by two words each.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.columns import column_values, has_rows, real_of, row_shape
from offramp.data.formats.stored import StoredArray
from offramp.data.formats.windows import Fetch
from offramp.data.summary import ArraySummary, FileSummary, summarise_table, whole_numbers
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.opening import open_file
from offramp.schema.tasks import DataSpec
from offramp.transforms import iq_of_complex

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
    hashed: bool = True,
) -> Table:
    """A table of the windows ``field`` and all columns beside it.

    Args:
        path: The file, for messages and the fingerprint.
        field: Name of the array of windows, see :func:`window_array`.
        spec: The columns it names must have one row per window.
        arrays: All arrays of the file by name.
        label_names: Names of classes by column.
        hashed: Whether the file is read for the fingerprint, which a summary does not need.

    Raises:
        DataError: The input array is missing, empty or of an unusable type, or a named column has another length or an unusable type.
    """
    if field not in arrays:
        raise DataError(f"{path} has no array {field!r}: set data.input to one of {_listing(arrays)}")
    stored = arrays[field]
    shape = _window_shape(path, field, stored)
    count = stored.shape[0]
    for name in (spec.target, spec.group, spec.snr):
        if name is not None and name in arrays:
            _check_column(path, name, arrays[name], field, stored.shape)
    windows = WindowSource(
        name=str(path),
        count=count,
        shape=shape,
        fingerprint=_fingerprint(path, field) if hashed else "",
        fetch=_iq_fetch(stored.rows) if stored.dtype.kind == "c" else stored.rows,
    )
    columns, shapes, large = {}, {}, {}
    for name, array in arrays.items():
        row = None if name == field else row_shape(array, count)
        if row is None:
            continue
        if math.prod(row) > MAX_DIMENSIONS or (row and count * math.prod(row) > MAX_VALUES):
            large[name] = WindowSource(f"{path}: {name!r}", count, row, "", _real_fetch(array.rows, row))
            continue
        columns[name] = column_values(array, row)
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
    usable = (
        values.dtype.kind == "f" if values.ndim > 1 else whole_numbers(values) is not None or values.dtype.kind == "U"
    )
    return usable and 1 < len(np.unique(values, axis=0)) < len(values)


def summarise_arrays(
    path: Path, format_name: str, arrays: Mapping[str, StoredArray], open_windows: Callable[[], Table]
) -> FileSummary:
    """All arrays of a file; and its columns, if the windows have one of the usual names and can be read."""
    listed = tuple(ArraySummary(name, array.shape, array.kind) for name, array in arrays.items())
    field = window_array(DataSpec(path=path), arrays)
    unread = FileSummary(str(path), format_name, None, "window", None, (), listed)
    if field not in arrays:
        return replace(unread, note=f"no array is called {', '.join(WINDOW_ARRAYS)}: name the windows in data.input")
    try:
        table = open_windows()
    except DataError as error:
        return replace(unread, note=str(error))
    summary = summarise_table(table, str(path), format_name, listed)
    return replace(summary, note=_reading(field, arrays[field], table.windows.shape))


def _reading(field: str, array: StoredArray, shape: tuple[int, ...]) -> str:
    """How windows are read, in words."""
    read_as = f"(N, {', '.join(map(str, shape))})"
    if array.dtype.kind == "c":
        return f"{field} is {array.kind} and read as I/Q {read_as}"
    if len(shape) == 2 and 2 in shape and shape != (2, 2):
        samples = max(shape)
        return f"{field} is {array.kind} {read_as}; read as I/Q (N, 2, 1, {samples}) where an encoder takes I/Q"
    return f"{field} is {array.kind} and read as {read_as}"


def _check_column(path: Path, name: str, array: StoredArray, field: str, windows: tuple[int, ...]) -> None:
    if not has_rows(array, windows[0]):
        if has_rows(array, windows[-1]):
            raise DataError(
                f"{path}: {field!r} is {windows} and {name!r} is {array.shape}: the windows lie along the last axis, store them along the first"
            )
        rows = array.shape[0] if array.shape else 0
        raise DataError(
            f"{path}: {name!r} has {rows} rows and {field!r} has {windows[0]} windows; both must be as long"
        )
    if row_shape(array, windows[0]) is None:
        raise DataError(
            f"{path}: {name!r} is {array.kind} {array.shape}; a column holds numbers or text, one row per window"
        )


def _window_shape(path: Path, name: str, array: StoredArray) -> tuple[int, ...]:
    kind, rank = array.dtype.kind, len(array.shape)
    if kind not in "iufc" or rank < 2 or (kind == "c" and rank > 3):
        raise DataError(
            f"{path}: {name!r} is {array.kind} {array.shape}; windows are real (N, ...) or complex (N, antennas, time)"
        )
    if array.shape[0] == 0:
        raise DataError(f"{path}: {name!r} holds no windows")
    if 0 in array.shape:
        raise DataError(f"{path}: {name!r} has the shape {array.shape}: its windows are empty")
    if kind != "c":
        return array.shape[1:]
    return (2, 1, array.shape[1]) if rank == 2 else (2, *array.shape[1:])


def _iq_fetch(fetch: Fetch) -> Fetch:
    return lambda indices: iq_of_complex(fetch(indices))


def _real_fetch(fetch: Fetch, row: tuple[int, ...]) -> Fetch:
    return lambda indices: real_of(fetch(indices)).reshape(len(indices), *row)


def _fingerprint(path: Path, field: str) -> str:
    try:
        with open_file(path, DataError) as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    digest.update(field.encode())
    return digest.hexdigest()


def _listing(arrays: Mapping[str, StoredArray]) -> str:
    shown = [f"{name} {array.shape}" for name, array in islice(arrays.items(), MAX_LISTED)]
    more = [f"{len(arrays) - MAX_LISTED} more"] if len(arrays) > MAX_LISTED else []
    return ", ".join(shown + more) or "(the file has no arrays)"
