"""MATLAB files, ``-v4`` to ``-v7.3``: an array of windows and columns as variables, class names as rows of characters ``labels`` or ``labels_x``.

See :mod:`offramp.data.formats.arrays` for shapes and types. Variables have MATLAB's order of axes, also in ``-v7.3``, where HDF5 shows them
reversed. Windows are counted by the first axis, ``sample(n, :, :)``, or by the last one, ``sample(:, :, n)``, which is then put first: the columns
that are asked for, or else those with usual names, or else any, tell which. Without any it is the first. Where both axes are of one size, nothing
tells, and the file is refused. MATLAB leaves out a last axis of size 1, so that one window alone cannot be stored along the last axis.

Source: "MAT-File Level 5 File Format" (MathWorks); what MATLAB adds to HDF5 is seen in its files: the attribute ``MATLAB_class`` of a dataset,
``MATLAB_empty`` where the dataset holds a shape instead of values, and the groups ``#refs#`` and ``#subsystem#`` with the insides of cells and
objects. Windows of ``-v7.3`` are read on demand, those of older files are held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.hdf5_checks import attributes, stored_arrays
from offramp.data.containers.hdf5_files import RowReader, opened, readable, value_type
from offramp.data.containers.matlab import READ_CLASSES, is_matlab_hdf5, read_mat
from offramp.data.formats.arrays import (
    GROUPS,
    TARGETS,
    summarise_arrays,
    table_from_arrays,
    window_array,
    with_defaults,
)
from offramp.data.formats.columns import names_in_arrays
from offramp.data.formats.stored import StoredArray, in_memory, stored_array
from offramp.data.formats.windows import Fetch
from offramp.data.summary import FileSummary
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

INSIDES = ("#refs#/", "#subsystem#/")


@dataclass(frozen=True)
class Variable:
    """A variable in MATLAB's order of axes.

    Attributes:
        first: Rows along the first axis.
        last: Rows along the last axis, which stands first in what they give; None for text and for what is passed over.
    """

    first: StoredArray
    last: StoredArray | None = None


def recognise(path: Path) -> bool:
    """By suffix, or by the header that MATLAB writes before HDF5."""
    suffix = path.suffix.lower()
    return not path.is_dir() and (suffix == ".mat" or (suffix in (".h5", ".hdf5") and is_matlab_hdf5(path)))


def read(spec: DataSpec) -> Table:
    """Open a MATLAB file.

    Raises:
        DataError: No MATLAB file, damaged, without windows, with columns of another length, or with either of two axes to count windows by.
    """
    assert isinstance(spec.path, Path)
    with _variables(spec.path, spec.allow_outside) as variables:
        return _table(spec.path, spec, variables)


def summarise(path: Path) -> FileSummary:
    """All variables; and the columns, if the windows have one of the usual names."""
    spec = DataSpec(path=path, format="matlab")
    with _variables(path) as variables:
        arrays = {name: variable.first for name, variable in variables.items()}
        return summarise_arrays(path, "matlab", arrays, lambda: _table(path, spec, variables, hashed=False))


def _table(path: Path, spec: DataSpec, variables: Mapping[str, Variable], hashed: bool = True) -> Table:
    field = window_array(spec, {name: variable.first for name, variable in variables.items()})
    last = field in variables and _counted_by_last(path, spec, field, variables)
    arrays = {name: (variable.last if last else None) or variable.first for name, variable in variables.items()}
    count = arrays[field].shape[0] if field in arrays and arrays[field].shape else None
    names = names_in_arrays(path, arrays, count)
    return with_defaults(table_from_arrays(path, field, spec, arrays, names, hashed))


def _counted_by_last(path: Path, spec: DataSpec, field: str, variables: Mapping[str, Variable]) -> bool:
    """Whether windows lie along the last axis of their array, as the columns have it."""
    shape = variables[field].first.shape
    if len(shape) < 2 or variables[field].last is None:
        return False
    named, *others = (
        tuple(_fit(columns, axis, shape[axis], each) for axis in (0, -1))
        for columns, each in _telling(spec, field, variables)
    )
    for by_first, by_last in (named, *others):
        if by_first != by_last:
            return by_last
    if named == (True, True) or shape[0] == shape[-1] > 1:
        raise DataError(
            f"{path}: {field!r} is {shape}, and either its first or its last axis may count the windows: leave a window out, or save "
            "it from Python as .npz, windows first"
        )
    return False


def _telling(
    spec: DataSpec, field: str, variables: Mapping[str, Variable]
) -> Iterator[tuple[list[tuple[int, ...]], bool]]:
    """Shapes of the columns that tell what counts windows, those to be heard first in front, and whether all of them have to agree."""
    usable = {
        name: variable.first.shape
        for name, variable in variables.items()
        if name != field and (variable.first.is_numeric or variable.first.is_text)
    }
    named, usual = (spec.target, spec.group, spec.snr), (*TARGETS, *GROUPS)
    yield [shape for name, shape in usable.items() if name in named], True
    yield [shape for name, shape in usable.items() if name in usual], False
    yield list(usable.values()), False


def _fit(columns: list[tuple[int, ...]], axis: int, count: int, each: bool) -> bool:
    """Whether columns have ``count`` rows along an axis, ``each`` of them or any."""
    fits = [_rows_fit(shape, axis, count) for shape in columns]
    return bool(fits) and (all(fits) if each else any(fits))


def _rows_fit(shape: tuple[int, ...], axis: int, count: int) -> bool:
    """Whether a variable has ``count`` rows along an axis; a vector may lie along any."""
    return bool(shape) and (shape[axis] == count or max(shape) == math.prod(shape) == count)


@contextmanager
def _variables(path: Path, allow_outside: bool = False) -> Iterator[dict[str, Variable]]:
    """All variables by name, while the file is open."""
    if is_matlab_hdf5(path):
        with opened(path, allow_outside) as file:
            datasets = stored_arrays(path, file, allow_outside, INSIDES)
            yield {name: _of_hdf5(path, name, item, allow_outside) for name, item in datasets.items()}
        return
    found = read_mat(path)
    arrays = {name: Variable(in_memory(values), _along_last(values)) for name, values in found.arrays.items()}
    yield arrays | {name: Variable(_passed_over(kind, shape)) for name, (kind, shape) in found.others.items()}


def _along_last(values: NDArray[Any]) -> StoredArray | None:
    return None if values.dtype.kind == "U" else in_memory(np.moveaxis(values, -1, 0))


def _of_hdf5(path: Path, name: str, dataset: h5py.Dataset, allow_outside: bool) -> Variable:
    said = attributes(path, dataset)
    shape, kind = tuple(reversed(dataset.shape)), _class_in(said)
    if kind is not None and kind not in READ_CLASSES:
        return Variable(_passed_over(kind, shape))
    if said.get("MATLAB_empty"):
        return Variable(_passed_over(f"empty {kind}", shape))

    def values() -> NDArray[Any]:
        with readable(path):
            return np.asarray(dataset[()]).T

    if kind == "char":
        return Variable(_text(shape[0], lambda: _rows_of_text(values())))
    stored = value_type(dataset)
    first = stored_array(
        shape, stored, values, _reversed(RowReader(path, name, last=True, allow_outside=allow_outside))
    )
    turned = (shape[-1], *shape[:-1]) if shape else ()
    last = stored_array(
        turned,
        stored,
        lambda: np.moveaxis(values(), -1, 0),
        _reversed(RowReader(path, name, allow_outside=allow_outside)),
    )
    return Variable(first, last if shape else None)


def _class_in(said: dict[str, Any]) -> str | None:
    name = said.get("MATLAB_class")
    return name.decode("ascii", "replace") if isinstance(name, bytes) else None if name is None else str(name)


def _reversed(fetch: Fetch) -> Fetch:
    """Rows whose own axes are in the order that HDF5 has them, in that of MATLAB."""

    def rows(indices: NDArray[np.int64]) -> NDArray[Any]:
        fetched = fetch(indices)
        return fetched.transpose(0, *range(fetched.ndim - 1, 0, -1))

    return rows


def _text(rows: int, values: Callable[[], NDArray[Any]]) -> StoredArray:
    return stored_array((rows,), np.dtype(np.str_), values, lambda indices: values()[indices])


def _rows_of_text(codes: NDArray[Any]) -> NDArray[np.str_]:
    """A matrix of UTF-16 codes as one text per row, without the blanks that fill it up."""
    rows = (np.ascontiguousarray(row, "<u2").tobytes().decode("utf-16-le", "replace") for row in codes)
    return np.array([row.rstrip() for row in rows], dtype=np.str_)


def _passed_over(kind: str, shape: tuple[int, ...]) -> StoredArray:
    """A variable that is named and not read."""
    return StoredArray(shape, np.dtype("V"), kind, lambda: np.empty(0), lambda indices: np.empty(0))
