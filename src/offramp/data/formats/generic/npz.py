"""NumPy archives: an array of windows, columns of the same length, class names as arrays ``labels`` or ``labels_x``.

See :mod:`offramp.data.formats.arrays` for shapes and types. The windows are held in memory; Python objects are never unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.arrays import (
    StoredArray,
    array_summaries,
    names_of_classes,
    table_from_arrays,
    window_array,
    with_defaults,
)
from offramp.data.formats.windows import Fetch
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec


def recognise(path: Path) -> bool:
    """By suffix: a damaged archive has to be named as such."""
    return path.suffix.lower() == ".npz"


def read(spec: DataSpec) -> Table:
    """Open an npz file.

    Raises:
        DataError: Not npz, damaged, with pickled objects, without windows, or with arrays of different length.
    """
    assert spec.path is not None
    arrays = _load(spec.path)
    stored: dict[str, StoredArray] = dict(arrays)
    field = window_array(spec, stored)
    windows = arrays.get(field)
    names = {
        name: array
        for name, array in arrays.items()
        if array.dtype.kind in "SU" and (windows is None or array.shape[:1] != windows.shape[:1])
    }

    def reader(name: str) -> Fetch:
        return lambda indices: arrays[name][indices]

    listed = names_of_classes(spec.path, names)
    return with_defaults(table_from_arrays(spec.path, field, spec, stored, listed, reader))


def summarise(path: Path) -> FileSummary:
    """All arrays; and the columns, if the windows have one of the usual names."""
    arrays = _load(path)
    listed = array_summaries(dict(arrays))
    spec = DataSpec(path=path, format="npz")
    if window_array(spec, dict(arrays)) in arrays:
        return summarise_table(read(spec), str(path), "npz", listed)
    return FileSummary(str(path), "npz", None, "window", None, (), listed)


def _load(path: Path) -> dict[str, NDArray[np.generic]]:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file: write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled Python objects, which are never loaded: save plain arrays"
            ) from error
        raise DataError(f"{path} is damaged: copy it again") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: copy it again") from error
