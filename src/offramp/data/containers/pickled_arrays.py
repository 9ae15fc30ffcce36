"""Arrays of pickles, whose bytes stay in the file until rows are asked for."""

from __future__ import annotations

import codecs
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.opening import open_file

BLOCK = 2**18
"""Bytes of an encoded string that are decoded at a time."""


class Encoding(NamedTuple):
    """How a protocol writes bytes as text: how to decode a piece, and where in a piece the last whole character ends."""

    decode: Callable[[bytes], bytes]
    whole: Callable[[bytes], int]


@dataclass(frozen=True)
class Payload:
    """The bytes of an array, still in the file and as the protocol writes them."""

    path: Path
    offset: int
    size: int
    encoding: Encoding | None

    def read(self, start: int, stop: int) -> bytes:
        """Bytes from ``start`` to ``stop`` of the array; fewer if it ends before."""
        if self.encoding is None:
            return self.stored(start, stop)
        blocks = _blocks(self)
        # where the file has fewer bytes than the array, the last piece ends before stop
        last = min(bisect_left(blocks.decoded, stop), len(blocks.decoded) - 1)
        first = min(bisect_right(blocks.decoded, start) - 1, last)
        read = b"".join(_decoded(self, *blocks.stored[number : number + 2]) for number in range(first, last))
        return read[start - blocks.decoded[first] : stop - blocks.decoded[first]]

    def stored(self, start: int, stop: int) -> bytes:
        """Bytes from ``start`` to ``stop`` as they stand in the file."""
        with open_file(self.path, DataError) as file:
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


def _before_escape(piece: bytes) -> int:
    """Where to cut a piece: before a backslash that begins an escape of up to 6 bytes which may go on behind the piece."""
    last = piece.rfind(b"\\", max(0, len(piece) - 5))
    if last < 0:
        return len(piece)
    backslashes = last + 1 - len(piece[: last + 1].rstrip(b"\\"))
    return last if backslashes % 2 else len(piece)


ESCAPED = Encoding(lambda text: codecs.escape_decode(text)[0], _before_escape)
"""Strings of Python 2, protocol 0, without their quotes."""
RAW_UNICODE = Encoding(lambda text: text.decode("raw-unicode-escape").encode("latin-1"), _before_escape)
"""Bytes that Python 3 wrote as text, protocol 0."""
UTF8 = Encoding(
    lambda text: text.decode("utf-8", "surrogatepass").encode("latin-1"),
    lambda piece: len(piece) - (piece[-1] >= 0xC0),
)
"""Bytes that Python 3 wrote as text, protocols 1 and 2: one or two bytes for each."""


class _Blocks(NamedTuple):
    """Where the pieces of an encoded payload begin, and its end: in the array and in the file."""

    decoded: list[int]
    stored: list[int]


@lru_cache(8)
def _blocks(payload: Payload) -> _Blocks:
    assert payload.encoding is not None
    blocks = _Blocks([0], [0])
    while (start := blocks.stored[-1]) < payload.size:
        stop = min(start + BLOCK, payload.size)
        if stop < payload.size:
            stop = start + (payload.encoding.whole(payload.stored(start, stop)) or stop - start)
        blocks.decoded.append(blocks.decoded[-1] + len(_decoded(payload, start, stop)))
        blocks.stored.append(stop)
    return blocks


@lru_cache(8)
def _decoded(payload: Payload, start: int, stop: int) -> bytes:
    """The piece of an encoded payload between two places in the file."""
    assert payload.encoding is not None
    try:
        return payload.encoding.decode(payload.stored(start, stop))
    except ValueError as error:
        raise DataError(f"{payload.path} has an array that cannot be decoded: copy it again") from error
