"""HDF5: an array of windows, columns of the same length, class names as attributes ``labels`` or ``labels_x`` of the file.

See :mod:`offramp.data.formats.arrays` for shapes and types, and :mod:`offramp.data.formats.datasets.wavesfm` for the caches of WavesFM, which
are of this layout. The attributes ``default_target`` and ``default_group`` name columns. Windows are read on demand. Axes are taken as HDF5 has
them: what MATLAB saved is read by :mod:`offramp.data.formats.generic.matlab` unless the suite names this format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.hdf5_checks import attributes, stored_arrays
from offramp.data.containers.hdf5_files import RowReader, opened, readable, value_type
from offramp.data.containers.matlab import is_matlab_hdf5
from offramp.data.formats.arrays import summarise_arrays, table_from_arrays, window_array, with_defaults
from offramp.data.formats.columns import names_of_classes
from offramp.data.formats.datasets import wavesfm
from offramp.data.formats.stored import StoredArray, stored_array
from offramp.data.summary import FileSummary
from offramp.data.table import Table
from offramp.schema.tasks import DataSpec


def recognise(path: Path) -> bool:
    """By suffix: a damaged HDF5 file has to be named as such."""
    return path.suffix.lower() in (".h5", ".hdf5") and not path.is_dir() and not is_matlab_hdf5(path)


def read(spec: DataSpec) -> Table:
    """Open an HDF5 file.

    Raises:
        DataError: Not HDF5, truncated, without windows, or with arrays of different length.
    """
    assert isinstance(spec.path, Path)
    with opened(spec.path, spec.allow_outside) as file:
        return _table(spec.path, spec, attributes(spec.path, file), _arrays(spec.path, file, spec.allow_outside))


def summarise(path: Path) -> FileSummary:
    """All arrays; and the columns, if the windows have one of the usual names."""
    spec = DataSpec(path=path, format="hdf5")
    with opened(path) as file:
        arrays = _arrays(path, file)
        said = attributes(path, file)
        return summarise_arrays(path, "hdf5", arrays, lambda: _table(path, spec, said, arrays, hashed=False))


def _arrays(path: Path, file: h5py.File, allow_outside: bool = False) -> dict[str, StoredArray]:
    return {
        name: _stored(path, name, dataset, allow_outside)
        for name, dataset in stored_arrays(path, file, allow_outside).items()
    }


def _stored(path: Path, name: str, dataset: h5py.Dataset, allow_outside: bool) -> StoredArray:
    def values() -> NDArray[Any]:
        with readable(path):
            return np.asarray(dataset[()])

    return stored_array(dataset.shape, value_type(dataset), values, RowReader(path, name, allow_outside=allow_outside))


def _table(
    path: Path, spec: DataSpec, said: dict[str, Any], arrays: dict[str, StoredArray], hashed: bool = True
) -> Table:
    field = window_array(spec, arrays)
    table = table_from_arrays(path, field, spec, arrays, names_of_classes(path, said), hashed)
    table = wavesfm.adapt(table, field, said)
    return with_defaults(table, _name(said, "default_target"), _name(said, "default_group"))


def _name(attributes: dict[str, Any], key: str) -> str | None:
    name = attributes.get(key)
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name if isinstance(name, str) else None
