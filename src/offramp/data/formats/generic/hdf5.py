"""HDF5: an array of windows, columns of the same length, class names as attributes ``labels`` or ``labels_x`` of the file.

See :mod:`offramp.data.formats.arrays` for shapes and types, and :mod:`offramp.data.formats.datasets.wavesfm` for the caches of WavesFM, which
are of this layout. The attributes ``default_target`` and ``default_group`` name columns. Windows are read on demand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offramp.data.containers.hdf5_files import RowReader, opened, stored_arrays
from offramp.data.formats.arrays import (
    array_summaries,
    names_of_classes,
    table_from_arrays,
    window_array,
    with_defaults,
)
from offramp.data.formats.datasets import wavesfm
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table
from offramp.schema.tasks import DataSpec


def recognise(path: Path) -> bool:
    """By suffix: a damaged HDF5 file has to be named as such."""
    return path.suffix.lower() in (".h5", ".hdf5") and not path.is_dir()


def read(spec: DataSpec) -> Table:
    """Open an HDF5 file.

    Raises:
        DataError: Not HDF5, truncated, without windows, or with arrays of different length.
    """
    assert spec.path is not None
    return _table(spec.path, spec)


def summarise(path: Path) -> FileSummary:
    """All arrays; and the columns, if the windows have one of the usual names."""
    spec = DataSpec(path=path, format="hdf5")
    with opened(path) as file:
        arrays = stored_arrays(file)
        listed = array_summaries(arrays)
        known = window_array(spec, arrays) in arrays
    if known:
        return summarise_table(_table(path, spec, hashed=False), str(path), "hdf5", listed)
    return FileSummary(str(path), "hdf5", None, "window", None, (), listed)


def _table(path: Path, spec: DataSpec, hashed: bool = True) -> Table:
    with opened(path) as file:
        arrays = stored_arrays(file)
        attributes = dict(file.attrs)
        field = window_array(spec, arrays)
        names = names_of_classes(path, attributes)
        table = table_from_arrays(path, field, spec, arrays, names, lambda name: RowReader(path, name), hashed)
    table = wavesfm.adapt(table, field, attributes)
    return with_defaults(table, _name(attributes, "default_target"), _name(attributes, "default_group"))


def _name(attributes: dict[str, Any], key: str) -> str | None:
    name = attributes.get(key)
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name if isinstance(name, str) else None
