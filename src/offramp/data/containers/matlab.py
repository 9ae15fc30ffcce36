"""MATLAB files: which of the two kinds one is, and the arrays of the older kind, read as data.

``-v4`` to ``-v7`` are MATLAB's own layout, which SciPy reads; ``-v7.3`` is HDF5 behind a header of 512 bytes. Cells, structs, objects, strings
(which are objects) and function handles are named and never made.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatReadError

from offramp.errors import DataError

HDF5_HEADER = b"MATLAB 7.3"
READ_CLASSES = (
    "double",
    "single",
    "logical",
    "char",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
"""MATLAB's classes of numbers and text."""
READING_ERRORS = (
    MatReadError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    EOFError,
    MemoryError,
    zlib.error,
    struct.error,
)
"""What SciPy raises at damaged files, by the place of the damage."""


@dataclass(frozen=True, eq=False)
class MatlabVariables:
    """What a file holds.

    Attributes:
        arrays: Numbers, complex ones included, in MATLAB's order of axes; rows of characters as text ``(rows,)`` without the blanks behind.
        others: Class and shape of what is passed over.
    """

    arrays: dict[str, NDArray[Any]]
    others: dict[str, tuple[str, tuple[int, ...]]]


def is_matlab_hdf5(path: Path) -> bool:
    """Whether a file was saved by MATLAB as HDF5; never raises."""
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_HEADER)) == HDF5_HEADER
    except OSError:
        return False


def read_mat(path: Path) -> MatlabVariables:
    """All variables of a MATLAB file of ``-v7`` or older, in memory.

    Raises:
        DataError: No MATLAB file, or damaged.
    """
    try:
        found = {name: (kind, tuple(shape)) for name, shape, kind in whosmat(path, appendmat=False)}
        wanted = [name for name, (kind, _) in found.items() if kind in READ_CLASSES]
        loaded = loadmat(path, appendmat=False, variable_names=wanted) if wanted else {}
    except READING_ERRORS as error:
        raise DataError(f"{path} is no MATLAB file or damaged: copy it again") from error
    arrays = {name: _readable(loaded[name]) for name in wanted if isinstance(loaded.get(name), np.ndarray)}
    return MatlabVariables(arrays, {name: about for name, about in found.items() if name not in arrays})


def _readable(values: NDArray[Any]) -> NDArray[Any]:
    return np.char.rstrip(values) if values.dtype.kind == "U" else values
