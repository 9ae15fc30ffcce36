"""What a data file holds, as ``offramp inspect`` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.table import Table

MAX_COUNTED = 100
"""Columns with more distinct values are summarised by their range alone."""


@dataclass(frozen=True)
class ColumnSummary:
    """One column.

    Attributes:
        name: As ``target:`` or ``group:`` name it.
        rows: What one row is: ``window``, ``recording`` or ``annotation``.
        dtype: As stored.
        shape: Shape of one row; ``()`` for a scalar.
        distinct: Number of distinct values; None for vectors.
        counts: Rows of each value, most frequent first, by class name where there is one; empty for numbers that are not whole and
            where there are more than ``MAX_COUNTED`` values.
        range: Smallest and largest finite value; None for text.
    """

    name: str
    rows: str
    dtype: str
    shape: tuple[int, ...]
    distinct: int | None
    counts: dict[str, int]
    range: tuple[float, float] | None


@dataclass(frozen=True)
class ArraySummary:
    """One stored array."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class FileSummary:
    """One data file or folder.

    Attributes:
        path: As it was given.
        format: Name of the layout, e.g. ``hdf5``.
        count: Number of ``rows``; None where the array of windows is not known.
        rows: What ``count`` counts: ``window`` or ``recording``.
        shape: Shape of one window; None where windows are not cut yet or not known.
        columns: What can be a target, a group or an SNR.
        arrays: All arrays of the file, where it has any.
        target: Column that is predicted if the user names none.
        group: Column that groups windows if the user names none.
        note: How the windows are read, or why they cannot be.
    """

    path: str
    format: str
    count: int | None
    rows: str
    shape: tuple[int, ...] | None
    columns: tuple[ColumnSummary, ...]
    arrays: tuple[ArraySummary, ...] = ()
    target: str | None = None
    group: str | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON prints it."""
        return asdict(self)


def summarise_column(
    name: str, rows: str, values: NDArray[np.generic], names: Sequence[str] | None = None
) -> ColumnSummary:
    """Counts and range of a column ``(N,)`` or ``(N, dimensions)``; ``names`` are those of the classes 0, 1, ..."""
    numeric = values.dtype.kind in "iuf"
    finite = values[np.isfinite(values)] if numeric else values[:0]
    distinct, counts = None, {}
    if values.ndim == 1:
        whole = whole_numbers(values) if numeric else None
        unique, number = np.unique(values if whole is None else whole, return_counts=True)
        distinct = len(unique)
        if unique.dtype.kind != "f" and distinct <= MAX_COUNTED:
            counts = {
                value_name(unique[place], names): int(number[place]) for place in np.argsort(-number, kind="stable")
            }
    limits = (float(finite.min()), float(finite.max())) if len(finite) else None
    return ColumnSummary(name, rows, _dtype_name(values.dtype), values.shape[1:], distinct, counts, limits)


def summarise_table(table: Table, path: str, format_name: str, arrays: tuple[ArraySummary, ...] = ()) -> FileSummary:
    """Summary of windows with their columns."""
    columns = [
        replace(
            summarise_column(name, "window", values, table.label_names.get(name)),
            shape=table.column_shapes.get(name, values.shape[1:]),
        )
        for name, values in table.columns.items()
    ]
    columns += [
        ColumnSummary(name, "window", "float32", source.shape, None, {}, None) for name, source in table.large.items()
    ]
    return FileSummary(
        path=path,
        format=format_name,
        count=table.windows.count,
        rows="window",
        shape=table.windows.shape,
        columns=tuple(columns),
        arrays=arrays,
        target=table.default_target,
        group=table.default_group,
    )


def whole_numbers(values: NDArray[Any]) -> NDArray[np.integer] | None:
    """Integers, also where they are stored as floats, as MATLAB stores them; None for text and for values that are not whole."""
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind != "f":
        return None
    wide = values.astype(np.float64)
    whole = np.isfinite(wide) & (wide == np.floor(wide)) & (np.abs(wide) < 2**53)
    return wide.astype(np.int64) if whole.all() else None


def value_name(value: Any, names: Sequence[str] | None) -> str:
    """Name of a value of a column; ``names`` are those of the classes 0, 1, ..., if it has them."""
    known = names is not None and isinstance(value, np.integer) and 0 <= value < len(names)
    return names[int(value)] if known and names is not None else str(value)


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "text" if dtype.kind == "U" else str(dtype)
