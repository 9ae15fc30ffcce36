"""Arrays of pickles, whose bytes stay in the file until rows are asked for."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError


@dataclass(frozen=True)
class Payload:
    """The bytes of an array, still in the file and as the protocol writes them."""

    path: Path
    offset: int
    size: int
    decode: Callable[[bytes], bytes] | None

    def read(self, start: int, stop: int) -> bytes:
        """Bytes from ``start`` to ``stop`` of the array."""
        if self.decode is not None:
            return _decoded(self)[start:stop]
        with self.path.open("rb") as file:
            file.seek(self.offset + start)
            return file.read(stop - start)


@dataclass
class PickledArray:
    """An array of a pickle: numbers or text, or Python objects in ``items``."""

    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = np.dtype("O")  # noqa: RUF009 - a dtype never changes
    fortran: bool = False
    content: bytes | Payload = b""
    items: list[Any] | None = None

    def rows(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Rows by index, in any order.

        Raises:
            DataError: The file ends before.
        """
        if self.fortran:
            return self.values()[indices]
        unique, inverse = np.unique(indices, return_inverse=True)
        out = np.empty((len(unique), *self.shape[1:]), dtype=self.dtype)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        for run in np.split(np.arange(len(unique)), np.flatnonzero(np.diff(unique) != 1) + 1):
            if len(run):
                first, stop = int(unique[run[0]]), int(unique[run[-1]]) + 1
                out[run] = self._numbers(first * size, stop * size).reshape(stop - first, *self.shape[1:])
        return out[inverse]

    def values(self) -> NDArray[Any]:
        """The whole array.

        Raises:
            DataError: The file ends before.
        """
        numbers = self._numbers(0, math.prod(self.shape) * self.dtype.itemsize)
        return numbers.reshape(self.shape, order="F" if self.fortran else "C")

    def _numbers(self, start: int, stop: int) -> NDArray[Any]:
        read = self.content[start:stop] if isinstance(self.content, bytes) else self.content.read(start, stop)
        if len(read) != stop - start:
            where = self.content.path if isinstance(self.content, Payload) else "a pickle"
            raise DataError(f"{where} has an array {self.shape} of {self.dtype} with too few bytes: copy it again")
        return np.frombuffer(read, dtype=self.dtype)


@dataclass(frozen=True)
class StackedRows:
    """Rows of several arrays as if they were one.

    Attributes:
        arrays: With rows of one shape.
        kept: Which rows of each, int64 ``(n,)``.
    """

    arrays: Sequence[PickledArray]
    kept: Sequence[NDArray[np.int64]]

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Rows by index, in any order."""
        starts = np.cumsum([0, *(len(rows) for rows in self.kept)])
        number = np.searchsorted(starts, indices, side="right") - 1
        out = np.empty((len(indices), *self.arrays[0].shape[1:]), dtype=self.arrays[0].dtype)
        for wanted in np.unique(number):
            places = number == wanted
            out[places] = self.arrays[wanted].rows(self.kept[wanted][indices[places] - starts[wanted]])
        return out


def unescape(line: bytes) -> bytes:
    """The bytes of a quoted string of Python 2."""
    return codecs.escape_decode(line[1:-1])[0]


def utf8_to_latin1(text: bytes) -> bytes:
    """Bytes that Python 3 wrote as text, protocols 1 and 2."""
    return text.decode("utf-8", "surrogatepass").encode("latin-1")


def unicode_to_latin1(line: bytes) -> bytes:
    """Bytes that Python 3 wrote as text, protocol 0."""
    return line.decode("raw-unicode-escape").encode("latin-1")


@lru_cache(8)
def _decoded(payload: Payload) -> bytes:
    assert payload.decode is not None
    with payload.path.open("rb") as file:
        file.seek(payload.offset)
        stored = file.read(payload.size)
    try:
        return payload.decode(stored)
    except ValueError as error:
        raise DataError(f"{payload.path} has an array that cannot be decoded: copy it again") from error
