"""One array of a file, whatever holds it: its shape and type as they are read, and its values when they are asked for.

Pairs of numbers with the names of a real and an imaginary part are complex: MATLAB 7.3 writes ``{real, imag}``, h5py ``{r, i}``, and tools
that keep whole numbers write either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.windows import Fetch

COMPLEX_PAIRS = (("real", "imag"), ("re", "im"), ("r", "i"), ("i", "q"))
"""Names of the fields of a complex number, in lower case."""

UNREADABLE = {"|O": "references or ragged rows", "|V0": "of a type that numpy does not know"}
"""What arrays are called that can be neither windows nor columns, by their type."""


@dataclass(frozen=True)
class StoredArray:
    """One array of a file.

    Attributes:
        shape: First axis first, as everywhere in this package.
        dtype: Of the values: numbers, complex where a pair stands for one, ``S`` or ``U`` for text, anything else for what cannot be read.
        kind: What it is called in messages and by ``offramp inspect``.
        values: All of it; while the file is open.
        rows: Rows by index, in any order; also when the file has been closed.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str
    values: Callable[[], NDArray[Any]] = field(repr=False)
    rows: Fetch = field(repr=False)

    @property
    def is_text(self) -> bool:
        """Whether the values are text or bytes of it."""
        return self.dtype.kind in "SU"

    @property
    def is_numeric(self) -> bool:
        """Whether the values are numbers, complex ones and truth values included."""
        return self.dtype.kind in "biufc"


def stored_array(
    shape: tuple[int, ...], dtype: np.dtype[Any], values: Callable[[], NDArray[Any]], rows: Fetch
) -> StoredArray:
    """An array by its type as stored; pairs of a real and an imaginary part are read as complex numbers."""
    whole = complex_type(dtype)
    if whole is None:
        kind = (
            "text" if dtype.kind in "SU" else UNREADABLE.get(dtype.str, dtype.name if dtype.kind == "c" else str(dtype))
        )
        return StoredArray(shape, dtype, kind, values, rows)
    names = ", ".join(dtype.names or ())
    return StoredArray(
        shape,
        whole,
        f"{whole} stored as {{{names}}}",
        lambda: _paired(values(), whole),
        lambda indices: _paired(rows(indices), whole),
    )


def in_memory(values: NDArray[Any]) -> StoredArray:
    """An array that has been read."""
    return stored_array(values.shape, values.dtype, lambda: values, lambda indices: values[indices])


def complex_type(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The complex type that holds a compound type of two parts exactly as far as float64 can; None if it is no such pair."""
    names = dtype.names or ()
    if tuple(name.lower() for name in names) not in COMPLEX_PAIRS:
        return None
    parts = [dtype[name] for name in names]
    if any(part.kind not in "iuf" or part.shape for part in parts):
        return None
    return np.result_type(*parts, np.complex64)


def _paired(values: NDArray[Any], whole: np.dtype[Any]) -> NDArray[Any]:
    real, imaginary = (values[name] for name in values.dtype.names or ())
    paired = np.empty(values.shape, whole)
    paired.real, paired.imag = real, imaginary
    return paired
