"""Windows with one target: what a task learns from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats import open_table
from offramp.data.summary import value_name, whole_numbers
from offramp.data.table import Positions, Table, WindowSource
from offramp.errors import DataError
from offramp.schema.metrics import Kind
from offramp.schema.tasks import BlockSpec, DataSpec

BLOCK = 1024
"""Rows of a large column that are read at a time."""
START = "start"
"""What a suite calls the first sample of a window in its recording."""


@dataclass(frozen=True)
class Dataset:
    """N windows with targets and groups.

    Attributes:
        windows: The inputs.
        targets: Classification: int64 ``(N,)``, indices into ``label_names``. Regression: float32 ``(N, dimensions)``.
        label_names: Names of the classes, each of which has at least one window; empty for regression.
        groups: int64 ``(N,)``, indices into ``group_names``.
        group_names: Names of the groups; empty where every window is its own group.
        grouped: Whether windows share groups, which never cross from one split to another.
        blocks: int64 ``(N,)``, which windows of a group are neighbours; None where that is not told.
        snr_db: float32 ``(N,)``, or None where it is not known.
        simulated: Whether the windows come from the package's own generator.
        positions: Where windows were cut from longer recordings, if they were.
        target_shape: Shape of one target before it was flattened in C order; by default that of a row of ``targets``: ``()`` for
            classes.
        sample_rate: Samples per second of the recordings that windows were cut from; None where it is not known.
        notes: Sentences that whoever uses the windows must be told.
    """

    windows: WindowSource
    targets: NDArray[Any]
    label_names: tuple[str, ...]
    groups: NDArray[np.int64]
    group_names: tuple[str, ...]
    grouped: bool
    snr_db: NDArray[np.float32] | None
    simulated: bool
    positions: Positions | None
    target_shape: tuple[int, ...] = ()
    sample_rate: float | None = None
    notes: tuple[str, ...] = ()
    blocks: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if not self.target_shape:
            object.__setattr__(self, "target_shape", self.targets.shape[1:])


def load_dataset(spec: DataSpec, kind: Kind) -> Dataset:
    """Open the windows, targets and groups that ``spec`` names, as :func:`dataset_of` finds them; raises as it. Windows are read later, by index."""
    return dataset_of(open_table(spec), spec, kind)


def dataset_of(table: Table, spec: DataSpec, kind: Kind) -> Dataset:
    """Windows with the targets and groups that ``spec`` names among a table's columns.

    Integer classes are named by ``spec.labels``, else by the file, else by their number, and numbered anew without those that no
    window has. Text classes are sorted.

    Raises:
        DataError: The file cannot be opened; a named column is missing, of an unusable type or holds an unusable value; there
            is only one class.
    """
    target = spec.target or table.default_target
    if target is None:
        raise DataError(f"{table.windows.name}: name the column to predict in data.target: {_listing(table)}")
    values = _rows(table.large[target]) if target in table.large else _column(table, target, "target")
    targets: NDArray[np.int64] | NDArray[np.float32]
    if kind == "classification":
        targets, label_names = _classes(table, target, values, spec.labels or table.label_names.get(target))
    else:
        targets, label_names = _numbers(table, target, values, "data.target").reshape(len(values), -1), ()
    shapes = table.column_shapes | {name: source.shape for name, source in table.large.items()}
    groups, group_names = _groups(table, spec.group or table.default_group)
    snr = None
    if spec.snr is not None:
        snr = _numbers(table, spec.snr, _column(table, spec.snr, "snr"), "data.snr")
        if snr.ndim != 1:
            raise DataError(f"{table.windows.name}: {spec.snr!r} has several values per window: data.snr needs one")
    return Dataset(
        windows=table.windows,
        targets=targets,
        label_names=label_names,
        groups=groups,
        group_names=group_names,
        grouped=bool(group_names),
        snr_db=snr,
        simulated=spec.synthetic is not None,
        positions=table.positions,
        target_shape=shapes.get(target, ()) if kind == "regression" else (),
        sample_rate=table.sample_rate,
        notes=table.notes,
        blocks=None if spec.block is None else _blocks(table, spec.block),
    )


def _rows(source: WindowSource) -> NDArray[np.float32]:
    """All rows of a large column ``(N, dimensions)``, flattened in C order."""
    rows = np.empty((source.count, math.prod(source.shape)), dtype=np.float32)
    for start in range(0, source.count, BLOCK):
        block = np.arange(start, min(start + BLOCK, source.count))
        rows[block] = source.read(block).reshape(len(block), -1)
    return rows


def _column(table: Table, name: str, key: str) -> NDArray[np.generic]:
    if name in table.large:
        raise DataError(
            f"{table.windows.name}: {name!r} has {table.large[name].shape} values per window: data.{key} needs one"
        )
    if name not in table.columns:
        raise DataError(f"{table.windows.name} has no column {name!r}: set data.{key} to one of {_listing(table)}")
    return table.columns[name]


def _classes(
    table: Table, name: str, values: NDArray[np.generic], names: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    where = f"{table.windows.name}: {name!r}"
    if values.ndim != 1:
        raise DataError(
            f"{where} has {values.shape[1]} values per window: choose a column with one, or kind: regression"
        )
    present, targets = np.unique(values, return_inverse=True)
    if values.dtype.kind == "U":
        present_names = tuple(str(value) for value in present)
    else:
        numbers = _numbers(table, name, values, "data.target", np.float64)
        wrong = (numbers < 0) | (numbers != np.floor(numbers))
        if wrong.any():
            index = int(np.argmax(wrong))
            raise DataError(
                f"{where} is {values[index]} at window {index}: classes are 0, 1, 2, ...; or set kind: regression"
            )
        highest = int(present[-1])
        if names is not None and highest >= len(names):
            raise DataError(
                f"{where} goes up to {highest} but only {len(names)} classes have names: correct data.labels"
            )
        present_names = tuple(names[int(value)] if names else str(int(value)) for value in present)
    if len(present) == 1:
        raise DataError(f"{where} has the single class {present_names[0]!r}: there is nothing to tell apart")
    return targets.astype(np.int64), present_names


def _numbers(
    table: Table, name: str, values: NDArray[np.generic], key: str, dtype: type[np.floating] = np.float32
) -> NDArray[np.float32]:
    if values.dtype.kind not in "iuf":
        raise DataError(f"{table.windows.name}: {name!r} is text: {key} needs numbers here")
    numbers = values.astype(dtype)
    finite = np.isfinite(numbers).all(axis=tuple(range(1, numbers.ndim)))
    if not finite.all():
        raise DataError(
            f"{table.windows.name}: {name!r} is NaN or infinite at window {int(np.argmin(finite))}; remove it"
        )
    return numbers


def _groups(table: Table, name: str | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if name is None:
        return np.arange(table.windows.count, dtype=np.int64), ()
    values = _column(table, name, "group")
    if values.ndim == 1 and values.dtype.kind != "U":
        whole = whole_numbers(values)
        if whole is None:
            raise DataError(
                f"{table.windows.name}: {name!r} is {values.dtype}: groups are integers, text or vectors such as places"
            )
        values = whole
    present, groups = np.unique(values, axis=0, return_inverse=True)
    if values.ndim == 1:
        return groups.astype(np.int64), tuple(value_name(value, table.label_names.get(name)) for value in present)
    return groups.astype(np.int64), tuple(", ".join(f"{value:g}" for value in row) for row in present)


def _blocks(table: Table, spec: BlockSpec) -> NDArray[np.int64]:
    """Number of each window's cell ``(N,)``."""
    places = []
    for name in spec.columns:
        if name == START and name not in table.columns and table.positions is not None:
            values: NDArray[np.generic] = table.positions.starts
        else:
            values = _column(table, name, "block.columns")
        if values.dtype.kind == "U":
            numbers = np.unique(values, return_inverse=True)[1].astype(np.float64)
        else:
            numbers = _numbers(table, name, values, "data.block.columns", np.float64)
            numbers = numbers if spec.size is None else np.floor(numbers / spec.size)
        places.append(numbers.reshape(len(values), -1))
    return np.unique(np.concatenate(places, axis=1), axis=0, return_inverse=True)[1].ravel().astype(np.int64)


def _listing(table: Table) -> str:
    return ", ".join([*table.columns, *table.large]) or "(it has no columns)"
