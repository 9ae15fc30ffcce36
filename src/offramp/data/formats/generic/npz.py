"""NumPy archives: an array of windows, columns of the same length, class names as arrays ``labels`` or ``labels_x``.

See :mod:`offramp.data.formats.arrays` for shapes and types. The windows are held in memory; Python objects are never unpickled.
"""

from __future__ import annotations

from pathlib import Path

from offramp.data.containers.archives import read_npz
from offramp.data.formats.arrays import summarise_arrays, table_from_arrays, window_array, with_defaults
from offramp.data.formats.columns import names_in_arrays
from offramp.data.formats.stored import StoredArray, in_memory
from offramp.data.summary import FileSummary
from offramp.data.table import Table
from offramp.schema.tasks import DataSpec


def recognise(path: Path) -> bool:
    """By suffix: a damaged archive has to be named as such."""
    return path.suffix.lower() == ".npz"


def read(spec: DataSpec) -> Table:
    """Open an npz file.

    Raises:
        DataError: Not npz, damaged, with pickled objects, without windows, or with arrays of different length.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, spec, _arrays(spec.path))


def summarise(path: Path) -> FileSummary:
    """All arrays; and the columns, if the windows have one of the usual names."""
    arrays = _arrays(path)
    spec = DataSpec(path=path, format="npz")
    return summarise_arrays(path, "npz", arrays, lambda: _table(path, spec, arrays, hashed=False))


def _table(path: Path, spec: DataSpec, arrays: dict[str, StoredArray], hashed: bool = True) -> Table:
    field = window_array(spec, arrays)
    count = arrays[field].shape[0] if field in arrays and arrays[field].shape else None
    names = names_in_arrays(path, arrays, count)
    return with_defaults(table_from_arrays(path, field, spec, arrays, names, hashed))


def _arrays(path: Path) -> dict[str, StoredArray]:
    return {name: in_memory(values) for name, values in read_npz(path).items()}
