"""Headers of the arrays that ``numpy.save`` writes, checked before anything is made of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

Reader = Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]
READERS: dict[tuple[int, int], Reader] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
MAX_AXES = 32
"""As many as every version of numpy can have."""


class Header(NamedTuple):
    """What the bytes behind a header are."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """How many they must be."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Read a header; the file then stands where the numbers begin.

    Raises:
        ValueError: There is none, or one that no array can have.
        OSError: The file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            header = Header(*READERS[npy.read_magic(file)](file))
    except OSError:
        raise
    except Exception as error:
        # numpy's reader of headers raises whatever its tokenizer raises
        raise ValueError("no array that numpy.save wrote") from error
    if len(header.shape) > MAX_AXES or not all(type(size) is int and size >= 0 for size in header.shape):
        raise ValueError("the header of an array that cannot be")
    return header
