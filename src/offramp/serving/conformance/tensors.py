"""Small tensors as the protocol carries them, in JSON, as bytes, and in the typed fields of gRPC. Written from the public text alone,
so that what it reads and writes is a second opinion on what a server does.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""How ``struct`` writes one element."""
DATATYPES = (*FORMATS, "BF16", "BYTES")
"""Those of the protocol, and BF16, which Triton adds."""
BINARY_ONLY = ("FP16", "BF16")
"""What JSON numbers do not carry."""
TYPED_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where gRPC carries the elements of a datatype."""
MOST_ELEMENTS = 4_000_000
"""Elements of the largest input that is made."""
MOST_DIMENSIONS = 32

Element = bool | int | float | bytes


@dataclass(frozen=True)
class TensorDescription:
    """A tensor in a model's metadata; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


@dataclass(frozen=True)
class WireTensor:
    """A tensor with its elements in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: tuple[Element, ...]


def sample(described: TensorDescription, batch: int = 1) -> WireTensor:
    """A valid tensor: variable dimensions are 1, but the first is ``batch``.

    The elements are small, and the same in every datatype that can hold them, so that JSON, bytes and gRPC carry them without loss.

    Raises:
        ValueError: It would have more than :data:`MOST_ELEMENTS`, or more dimensions than can be nested.
    """
    if len(described.shape) > MOST_DIMENSIONS:
        raise ValueError(f"input {described.name} has {len(described.shape)} dimensions, more than {MOST_DIMENSIONS}")
    shape = tuple(size if size >= 0 else (batch if axis == 0 else 1) for axis, size in enumerate(described.shape))
    count = math.prod(shape)
    if count > MOST_ELEMENTS:
        raise ValueError(f"input {described.name} has {count} elements, more than the {MOST_ELEMENTS} that are made")
    elements = tuple(_element(described.datatype, index) for index in range(count))
    return WireTensor(described.name, described.datatype, shape, elements)


def _element(datatype: str, index: int) -> Element:
    if datatype == "BYTES":
        return str(index % 10).encode()
    if datatype == "BOOL":
        return index % 2 == 0
    if datatype in ("FP16", "BF16", "FP32", "FP64"):
        return ((index * 7) % 16 - 8) / 8
    return index % 5


def to_json(tensor: WireTensor, nested: bool = False) -> list[Any]:
    """The elements as a JSON array, flat or in the tensor's own dimensions."""
    flat: list[Any] = [element.decode() if isinstance(element, bytes) else element for element in tensor.elements]
    if nested:
        for axis in range(len(tensor.shape) - 1, 0, -1):
            size, rows = tensor.shape[axis], math.prod(tensor.shape[:axis])
            flat = [flat[row * size : (row + 1) * size] for row in range(rows)]
    return flat


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> WireTensor:
    """Read a JSON array, flat or nested.

    Raises:
        ValueError: It does not hold what datatype and shape say.
    """
    if not isinstance(data, list):
        raise ValueError(f"output {name}: data is no array")
    flat: list[Any] = data
    for _ in shape[1:]:
        if not any(isinstance(part, list) for part in flat):
            break
        flat = [element for part in flat for element in (part if isinstance(part, list) else [part])]
    if len(flat) != math.prod(shape):
        raise ValueError(f"output {name}: {len(flat)} elements, but its shape {list(shape)} has {math.prod(shape)}")
    return WireTensor(name, datatype, shape, tuple(_from_json(name, datatype, element) for element in flat))


def _from_json(name: str, datatype: str, element: object) -> Element:
    if datatype == "BYTES" and isinstance(element, str):
        return element.encode(errors="surrogatepass")
    if isinstance(element, int | float) and datatype != "BYTES":
        if datatype in ("FP16", "BF16", "FP32", "FP64") and not isinstance(element, bool):
            return element if isinstance(element, float) else _float(element)
        if element in (0, 1) and datatype == "BOOL":
            return bool(element)
        whole = element if isinstance(element, int) else int(element) if element.is_integer() else None
        if whole is not None and not isinstance(element, bool) and _fits(datatype, whole):
            return whole
    shown = str(element)[:40] if isinstance(element, str | int | float) else type(element).__name__
    raise ValueError(f"output {name}: {shown} is no {datatype}")


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _fits(datatype: str, value: int) -> bool:
    if datatype == "BOOL":
        return False  # 0 and 1 have been taken
    try:
        struct.pack("<" + FORMATS[datatype], value)
    except struct.error:
        return False
    return True


def to_bytes(tensor: WireTensor) -> bytes:
    """Little-endian, row-major, without padding; each element of BYTES after its length in four bytes."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(element)) + element for element in tensor.elements)  # type: ignore[arg-type, operator]
    if tensor.datatype == "BF16":
        return b"".join(struct.pack("<f", element)[2:] for element in tensor.elements)
    return struct.pack(f"<{len(tensor.elements)}{FORMATS[tensor.datatype]}", *tensor.elements)


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> WireTensor:
    """Read what :func:`to_bytes` writes.

    Raises:
        ValueError: The number of bytes does not fit datatype and shape.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return WireTensor(name, datatype, shape, _split(name, raw, count))
    width = 2 if datatype == "BF16" else struct.calcsize("<" + FORMATS[datatype])
    if len(raw) != count * width:
        raise ValueError(f"output {name}: {len(raw)} bytes, but {list(shape)} of {datatype} has {count * width}")
    if datatype == "BF16":
        wide = b"".join(b"\0\0" + raw[start : start + 2] for start in range(0, len(raw), 2))
        return WireTensor(name, datatype, shape, struct.unpack(f"<{count}f", wide))
    return WireTensor(name, datatype, shape, struct.unpack(f"<{count}{FORMATS[datatype]}", raw))


def _split(name: str, raw: bytes, count: int) -> tuple[bytes, ...]:
    elements: list[bytes] = []
    place = 0
    while place < len(raw):
        length = int.from_bytes(raw[place : place + 4], "little")
        if place + 4 + length > len(raw):
            raise ValueError(f"output {name}: the length before element {len(elements)} of BYTES leads past the end")
        elements.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    if len(elements) != count:
        raise ValueError(f"output {name}: {len(elements)} elements of BYTES, but its shape has {count}")
    return tuple(elements)


def difference(first: Sequence[WireTensor], second: Sequence[WireTensor]) -> str:
    """What tells two answers apart, whatever the order of their tensors; empty if nothing does.

    Numbers may differ as far as another order of sums makes them (relative 1e-4, absolute 1e-5; 1e-2 in 16 bits).
    """
    ours, theirs = ({tensor.name: tensor for tensor in tensors} for tensors in (first, second))
    if ours.keys() != theirs.keys():
        return f"outputs {sorted(ours)} and {sorted(theirs)}"
    for name, tensor in ours.items():
        other = theirs[name]
        if (tensor.datatype, tensor.shape) != (other.datatype, other.shape):
            return f"{name}: {tensor.datatype} {list(tensor.shape)} and {other.datatype} {list(other.shape)}"
        near = 1e-2 if tensor.datatype in BINARY_ONLY else 1e-4
        for index, (one, two) in enumerate(zip(tensor.elements, other.elements, strict=True)):
            if not _same(one, two, near):
                return f"{name}: element {index} is {one!r} and {two!r}"
    return ""


def _same(one: Element, two: Element, near: float) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return (math.isnan(one) and math.isnan(two)) or math.isclose(one, two, rel_tol=near, abs_tol=near / 10)
    return one == two
