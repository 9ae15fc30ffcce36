"""MATLAB files: which of the two kinds one is, and the arrays of the older kind, read as data.

``-v4`` to ``-v7`` are MATLAB's own layout; ``-v7.3`` is HDF5 behind a header of 512 bytes. The layout is read here and not by SciPy, whose reader
trusts what a file says of sizes and types, and takes the process with it where that is wrong. Numbers come in the type that they are stored in.
Cells, structs, objects, strings (which are objects), sparse matrices and function handles are named and never made.

Source: "MAT-File Format" (MathWorks): chapter 1, level 5, with the types of table 1-1 and the classes of table 1-3; chapter 2, level 4.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError, OfframpError
from offramp.opening import open_file, plausible, regular_file

HDF5_HEADER = b"MATLAB 7.3"
CLASSES = (
    *(
        "",
        "cell",
        "struct",
        "object",
        "char",
        "sparse",
        "double",
        "single",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
    ),
    *("uint32", "int64", "uint64", "function", "opaque", "object"),
)
"""Names of MATLAB's classes by their number."""
OPAQUE = CLASSES.index("opaque")
READ_CLASSES = (
    "double",
    "single",
    "logical",
    "char",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
"""MATLAB's classes of numbers and text."""
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of elements that hold numbers."""
UINT32, INT32, MATRIX, PACKED, UTF8, UTF16, UTF32 = 6, 5, 14, 15, 16, 17, 18
COMPLEX, LOGICAL = 0x0800, 0x0200
"""Flags of a variable."""
FILE_HEADER = 128
LONGEST_HEADER = 4096
"""Most bytes of what a variable says of itself."""
MAX_VARIABLES = 4096
MAX_AXES = 32
LEVEL_4_NUMBERS = ("f8", "f4", "i4", "i2", "u2", "u1")
LEVEL_4_CLASSES = ("double", "char", "sparse")


class _Broken(Exception):
    """Something in the file cannot be; there is no need to say what."""


@dataclass(frozen=True, eq=False)
class MatlabVariables:
    """What a file holds.

    Attributes:
        arrays: Numbers, complex ones included, in MATLAB's order of axes; rows of characters as text ``(rows,)`` without the blanks behind.
        others: Class and shape of what is passed over.
    """

    arrays: dict[str, NDArray[Any]]
    others: dict[str, tuple[str, tuple[int, ...]]]


class StoredVariable(NamedTuple):
    """What a variable says of itself.

    Attributes:
        name: As MATLAB has it.
        kind: Its class; ``logical`` for truth values.
        shape: In MATLAB's order of axes.
        is_complex: Whether an imaginary part follows the real one.
        numbers: Level 4: type of the values, with the order of its bytes. Level 5 says that later.
        start: First byte of its element, or of its values in level 4.
        length: Bytes of them.
        is_packed: Whether its element is compressed.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    is_complex: bool
    numbers: str
    start: int
    length: int
    is_packed: bool


def is_matlab_hdf5(path: Path) -> bool:
    """Whether a file was saved by MATLAB as HDF5; never raises."""
    try:
        with open_file(path) as file:
            return file.read(len(HDF5_HEADER)) == HDF5_HEADER
    except (OSError, OfframpError):
        return False


def list_mat(path: Path) -> dict[str, StoredVariable]:
    """What the variables of a MATLAB file of ``-v7`` or older say of themselves; nothing else is read.

    Raises:
        DataError: No MATLAB file, or damaged.
    """
    with _said_of(path), open_file(path, DataError) as file:
        return {variable.name: variable for variable in _variables(path, file)}


def read_mat(path: Path, names: Collection[str] | None = None) -> MatlabVariables:
    """Variables of a MATLAB file of ``-v7`` or older, in memory.

    Args:
        path: The file.
        names: Of the variables to read; all if None.

    Raises:
        DataError: No MATLAB file, or damaged.
    """
    arrays, others = {}, {}
    with _said_of(path), open_file(path, DataError) as file:
        order = _byte_order(file)
        for variable in {variable.name: variable for variable in _variables(path, file)}.values():
            if names is not None and variable.name not in names:
                continue
            if variable.kind not in READ_CLASSES:
                others[variable.name] = variable.kind, variable.shape
            elif variable.numbers:
                arrays[variable.name] = _values_of_level_4(file, variable)
            else:
                arrays[variable.name] = _values(file, variable, order)
    return MatlabVariables(arrays, others)


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (_Broken, OSError, struct.error, zlib.error, MemoryError) as error:
        raise DataError(f"{path} is no MATLAB file or damaged: copy it again") from error


def _byte_order(file: IO[bytes]) -> str:
    """Of level 5; empty for level 4, whose first number is below 5,000 and so has a byte that is 0."""
    file.seek(0)
    head = file.read(FILE_HEADER)
    if len(head) >= 4 and 0 in head[:4]:
        return ""
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if order is None or struct.unpack(order + "H", head[124:126])[0] >> 8 != 1:
        raise _Broken
    return order


def _variables(path: Path, file: IO[bytes]) -> Iterator[StoredVariable]:
    size, order = regular_file(path, DataError), _byte_order(file)
    place, count = (FILE_HEADER if order else 0), 0
    while place + 8 <= size:
        file.seek(place)
        variable = _of_level_5(file, order) if order else _of_level_4(file)
        place = variable.start + variable.length
        count += 1
        if place > size or count > MAX_VARIABLES:
            raise _Broken
        # what has no name is where MATLAB keeps the insides of objects
        if variable.name:
            yield variable


def _of_level_5(file: IO[bytes], order: str) -> StoredVariable:
    element, length = struct.unpack(order + "II", file.read(8))
    start, content = file.tell(), file.read(min(length, LONGEST_HEADER))
    if element == PACKED:
        element, _ = struct.unpack_from(
            order + "II", content := zlib.decompressobj().decompress(content, LONGEST_HEADER)
        )
        content = content[8:]
        is_packed = True
    else:
        is_packed = False
    if element != MATRIX:
        raise _Broken
    if not length:
        return StoredVariable("", "", (), False, "", start, 0, False)
    said, _ = _said(content, order)
    return said._replace(start=start, length=length, is_packed=is_packed)


def _said(content: bytes, order: str) -> tuple[StoredVariable, int]:
    """What the content of a variable begins with, and where its values follow."""
    element, flags, place = _element(content, 0, order)
    if element != UINT32 or len(flags) != 8:
        raise _Broken
    (bits,) = struct.unpack_from(order + "I", flags)
    number, shape = bits & 0xFF, ()
    if not 0 < number < len(CLASSES):
        raise _Broken
    if number != OPAQUE:
        element, sizes, place = _element(content, place, order)
        if element != INT32 or not 8 <= len(sizes) <= 4 * MAX_AXES or len(sizes) % 4:
            raise _Broken
        shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
        if min(shape) < 0:
            raise _Broken
    _, name, place = _element(content, place, order)
    kind = "logical" if bits & LOGICAL else CLASSES[number]
    return StoredVariable(name.decode("latin-1"), kind, shape, bool(bits & COMPLEX), "", 0, 0, False), place


def _element(content: bytes, place: int, order: str) -> tuple[int, bytes, int]:
    """Type and bytes of an element, and where the next one begins."""
    (first,) = struct.unpack_from(order + "I", content, place)
    if first >> 16:
        element, length, start, following = first & 0xFFFF, first >> 16, place + 4, place + 8
        if length > 4:
            raise _Broken
    else:
        element, length = struct.unpack_from(order + "II", content, place)
        start, following = place + 8, place + 8 + -(-length // 8) * 8
    if start + length > len(content):
        raise _Broken
    return element, content[start : start + length], following


def _values(file: IO[bytes], variable: StoredVariable, order: str) -> NDArray[Any]:
    file.seek(variable.start)
    content = file.read(variable.length)
    if variable.is_packed:
        content = _unpacked(content, order)
    _, place = _said(content, order)
    if not math.prod(variable.shape):
        return np.zeros(variable.shape[:-1], "U1") if variable.kind == "char" else np.zeros(variable.shape)
    element, stored, place = _element(content, place, order)
    if variable.kind == "char":
        return _text(_codes(element, stored, order), variable.shape)
    values = _numbers(element, stored, order)
    if variable.is_complex:
        element, stored, _ = _element(content, place, order)
        imaginary = _numbers(element, stored, order)
        if values.size != imaginary.size:
            raise _Broken
        values = _complex(values, imaginary)
    return _shaped(values, variable.shape)


def _complex(real: NDArray[Any], imaginary: NDArray[Any]) -> NDArray[Any]:
    """Of parts that may be infinite, which a product with the imaginary unit would spoil."""
    values = np.empty(real.shape, np.result_type(real, imaginary, np.complex64))
    values.real, values.imag = real, imaginary
    return values


def _unpacked(content: bytes, order: str) -> bytes:
    """The content of a compressed variable, all of it and as long as it says."""
    unpacking = zlib.decompressobj()
    element, length = struct.unpack(order + "II", unpacking.decompress(content, 8))
    if element != MATRIX or not plausible(length, len(content)):
        raise _Broken
    unpacked = unpacking.decompress(unpacking.unconsumed_tail, length) if length else b""
    # the end has a checksum
    if len(unpacked) != length or unpacking.decompress(unpacking.unconsumed_tail, 1) or not unpacking.eof:
        raise _Broken
    return unpacked


def _numbers(element: int, stored: bytes, order: str) -> NDArray[Any]:
    if element not in NUMBERS:
        raise _Broken
    dtype = np.dtype(order + NUMBERS[element])
    if len(stored) % dtype.itemsize:
        raise _Broken
    return np.frombuffer(stored, dtype).astype(dtype.newbyteorder("="))


def _codes(element: int, stored: bytes, order: str) -> NDArray[Any]:
    """Numbers of the characters in Unicode, half pairs of UTF-16 each for itself."""
    if element == UTF8:
        try:
            return np.array([ord(letter) for letter in stored.decode("utf-8")], dtype=np.uint32)
        except UnicodeDecodeError as error:
            raise _Broken from error
    return _numbers({UTF16: 4, UTF32: UINT32}.get(element, element), stored, order)


def _text(codes: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.str_]:
    """Characters along the last axis as one text each, without the blanks behind."""
    letters = np.ascontiguousarray(_shaped(codes, shape)).astype(np.uint32)
    letters[(letters > 0x10FFFF) | ((letters >= 0xD800) & (letters <= 0xDFFF))] = ord("\ufffd")
    return np.char.rstrip(letters.view(f"U{shape[-1]}")[..., 0])


def _shaped(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if values.size != math.prod(shape):
        raise _Broken
    return values.reshape(shape, order="F")


def _of_level_4(file: IO[bytes]) -> StoredVariable:
    head = file.read(20)
    order = "<" if 0 <= struct.unpack_from("<i", head)[0] <= 5000 else ">"
    mode, rows, columns, is_complex, letters = struct.unpack(order + "5i", head)
    machine, mode = divmod(mode, 1000)
    unused, mode = divmod(mode, 100)
    number, kind = divmod(mode, 10)
    if machine not in (0, 1) or unused or number >= len(LEVEL_4_NUMBERS) or kind >= len(LEVEL_4_CLASSES):
        raise _Broken
    if min(rows, columns) < 0 or is_complex not in (0, 1) or not 0 < letters <= LONGEST_HEADER:
        raise _Broken
    numbers = np.dtype("<>"[machine] + LEVEL_4_NUMBERS[number])
    name = file.read(letters).rstrip(b"\0").decode("latin-1")
    length = rows * columns * numbers.itemsize * (1 + is_complex)
    return StoredVariable(
        name, LEVEL_4_CLASSES[kind], (rows, columns), bool(is_complex), numbers.str, file.tell(), length, False
    )


def _values_of_level_4(file: IO[bytes], variable: StoredVariable) -> NDArray[Any]:
    file.seek(variable.start)
    dtype = np.dtype(variable.numbers)
    values = np.frombuffer(file.read(variable.length), dtype).astype(dtype.newbyteorder("="))
    if variable.kind == "char":
        with np.errstate(invalid="ignore"):
            return _text(values.astype(np.uint8), variable.shape)
    if variable.is_complex:
        values = _complex(*values.reshape(2, -1))
    return _shaped(values, variable.shape)
