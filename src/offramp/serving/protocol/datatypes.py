"""Datatypes of tensors in the Open Inference Protocol, and their bytes.

Numbers travel little-endian and row-major; a BYTES tensor is its elements one after the other, each behind its length as a little-endian uint32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.serving.protocol.faults import BadRequest

BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}
MOST_ELEMENTS = 1 << 28
"""Of one tensor; dimensions of 0 count as 1."""
MOST_DIMENSIONS = 16
_LENGTH = struct.Struct("<I")


def datatype_of(array: NDArray[Any]) -> str:
    """The protocol's name for an array's dtype; text and objects are BYTES. Raises TypeError where there is none."""
    if array.dtype.kind in "OSU":
        return BYTES
    for name, dtype in DTYPES.items():
        if array.dtype == dtype:
            return name
    raise TypeError(f"the protocol has no datatype for {array.dtype}")


def checked_shape(shape: Sequence[Any], name: str) -> tuple[int, ...]:
    """Dimensions as a request gives them, all at least 0, for no more than :data:`MOST_ELEMENTS` elements."""
    if len(shape) > MOST_DIMENSIONS:
        raise BadRequest(f"input {name!r}: {len(shape)} dimensions; at most {MOST_DIMENSIONS} are taken")
    for size in shape:
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise BadRequest(f"input {name!r}: shape {list(shape)}: give whole numbers of at least 0"[:400])
    if math.prod(size or 1 for size in shape) > MOST_ELEMENTS:  # numpy reckons so too, and gives up
        raise BadRequest(
            f"input {name!r}: shape {list(shape)} has more than {MOST_ELEMENTS:,} elements: send less at a time"
        )
    return tuple(shape)


def from_bytes(content: memoryview | bytes, datatype: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """An array of what the binary extension carries; numbers are a view of ``content``, not a copy.

    Raises:
        BadRequest: The bytes are too few or too many.
    """
    elements = math.prod(shape)
    if datatype == BYTES:
        return _texts(content, elements, name).reshape(shape)
    dtype = DTYPES[datatype]
    if len(content) != elements * dtype.itemsize:
        raise BadRequest(
            f"input {name!r}: {len(content)} bytes of data, and {datatype} of shape {list(shape)} takes {elements * dtype.itemsize}"
        )
    return np.frombuffer(content, dtype).reshape(shape)


def to_bytes(array: NDArray[Any]) -> bytes:
    """The bytes of an array for the binary extension."""
    if array.dtype.kind in "OSU":
        parts = []
        for element in array.ravel().tolist():
            raw = element if isinstance(element, bytes) else str(element).encode()
            parts += [_LENGTH.pack(len(raw)), raw]
        return b"".join(parts)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _texts(content: memoryview | bytes, elements: int, name: str) -> NDArray[Any]:
    if elements * _LENGTH.size > len(content):
        raise BadRequest(f"input {name!r}: {len(content)} bytes of data cannot be {elements} elements")
    found = np.empty(elements, dtype=object)
    at = 0
    for index in range(elements):
        if at + 4 > len(content):
            raise BadRequest(f"input {name!r}: its data ends before element {index} of {elements}")
        (length,) = _LENGTH.unpack_from(content, at)
        at += 4
        if length > len(content) - at:
            raise BadRequest(f"input {name!r}: element {index} says {length} bytes, and {len(content) - at} are left")
        found[index] = bytes(content[at : at + length])
        at += length
    if at != len(content):
        raise BadRequest(f"input {name!r}: {len(content) - at} bytes too many behind its {elements} elements")
    return found
