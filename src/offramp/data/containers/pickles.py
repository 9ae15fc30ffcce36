"""Pickles of numpy arrays, read as data: nothing that a file names is ever imported or called.

The opcodes are interpreted here (``pickletools`` in the standard library documents them), protocols 0 to 5, from Python 2 and 3. Literals, tuples, lists
and dictionaries become themselves. The few names that numpy writes into a pickle (``numpy.ndarray.__reduce__`` and ``numpy.dtype.__reduce__``)
become :class:`PickledArray` or a number; every other name, persistent or extension object is refused. Strings of Python 2 are read as
Latin-1. The bytes of large arrays stay in the file until rows of them are asked for, so that a pickle may be larger than memory.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from offramp.data.containers.pickled_arrays import (
    BLOCK,
    ESCAPED,
    RAW_UNICODE,
    UTF8,
    Encoding,
    Payload,
    PickledArray,
)
from offramp.errors import DataError, OfframpError
from offramp.opening import open_file

LAZY_BYTES = 4096
"""Strings at least as long stay in the file."""
NAMES = {
    f"{module}.{name}": name
    for modules, names in (
        (("numpy",), ("ndarray", "dtype")),
        (("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct", "scalar")),
        (("numpy.core.numeric", "numpy._core.numeric"), ("_frombuffer",)),
        (("_codecs",), ("encode",)),
        (("__builtin__", "builtins"), ("bytes",)),
    )
    for module in modules
    for name in names
}
"""What numpy's arrays, types and scalars write into a pickle."""
DTYPE = re.compile(r"(b1|[iufc]\d{1,2}|[SU]\d{1,4}|O\d?)")


def read_pickle(path: Path, offset: int = 0) -> Any:
    """What a pickle holds, arrays as :class:`PickledArray`.

    Args:
        path: The file.
        offset: Where in it the pickle starts.

    Raises:
        DataError: The file is no pickle, ends early, or holds anything but data; the message names what it asks for.
    """
    try:
        with open_file(path, DataError) as file:
            file.seek(offset)
            found = _Machine(path, file).run()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    except EOFError as error:
        raise DataError(f"{path} is truncated: copy it again") from error
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, struct.error) as error:
        raise DataError(f"{path} is not a pickle of arrays, or damaged: copy it again") from error
    if isinstance(found, _Name | _Type):  # the name of a class, and nothing made of it
        raise DataError(f"{path} is not a pickle of arrays, or damaged: copy it again")
    return found


def starts_dictionary(path: Path) -> bool:
    """Whether a file begins as the pickle of a dictionary does, in any protocol; never raises."""
    try:
        with open_file(path) as file:
            head = file.read(12)
    except (OSError, OfframpError):
        return False
    return re.match(rb"\(d|\}[qr]|\x80[\x02-\x05](\x95.{8})?\}", head, re.DOTALL) is not None


@dataclass
class _Type:
    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Name:
    name: str


class _Machine:
    """The stack that a pickle's opcodes work on."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self.read(1)) != pickle.STOP:
            if code in LITERALS:
                self.push(LITERALS[code](self))
            elif code in OPERATIONS:
                OPERATIONS[code](self)
            elif code in REFUSED:
                raise DataError(_refusal(self.path, REFUSED[code](self)))
            else:
                raise ValueError(code)
        return self.stack.pop()

    def read(self, size: int) -> bytes:
        if size > self.size:
            raise EOFError
        read = self.file.read(size)
        if len(read) < size:
            raise EOFError
        return read

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.read(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        line = self.file.readline(BLOCK)
        if not line.endswith(b"\n"):
            raise EOFError
        return line[:-1]

    def word(self) -> str:
        return self.line().decode("ascii")

    def string(self, size: int, value: Callable[[bytes], Any], encoding: Encoding | None = None) -> Any:
        """A string of known size, or where it is."""
        if size < LAZY_BYTES:
            return value(self.read(size))
        payload = Payload(self.path, self.file.tell(), size, encoding)
        if payload.offset + size > self.size:
            raise EOFError
        self.file.seek(size, 1)
        return payload

    def to_line_end(self, value: Callable[[bytes], Any], encoding: Encoding, quotes: int) -> Any:
        """A string that ends with its line, or where it is; its first and last ``quotes`` bytes are none of its own."""
        offset = self.file.tell()
        line = self.file.readline(LAZY_BYTES)
        if line.endswith(b"\n"):
            return value(line[quotes : -1 - quotes])
        while not line.endswith(b"\n"):
            line = self.file.readline(BLOCK)
            if not line:
                raise EOFError
        return Payload(self.path, offset + quotes, self.file.tell() - 1 - offset - 2 * quotes, encoding)

    def named(self, module: str, name: str) -> _Name:
        full = f"{module}.{name}"
        if full not in NAMES:
            raise DataError(_refusal(self.path, full))
        return _Name(NAMES[full])

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def unmark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def drop(self) -> None:
        self.unmark()

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.drop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def build_dictionary(self) -> None:
        items = self.unmark()
        self.push({})
        self.update(items)

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("too short a stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def stack_global(self) -> None:
        module, name = self.last(2)
        self.push(self.named(module, name))

    def reduce(self) -> None:
        function, arguments = self.last(2)
        match function.name, arguments:
            case "_reconstruct", _:
                made: Any = PickledArray()
            case "dtype", (str(code), *_) if DTYPE.fullmatch(code):
                made = _Type(code)
            case "scalar", (_Type() as kind, str() | bytes() as raw):
                made = np.frombuffer(_bytes(raw), kind.numpy(), 1)[0].item()
            case "_frombuffer", (content, _Type() as kind, (*shape,), order):
                made = _fill(PickledArray(), tuple(shape), kind, order == "F", content)
            case "encode", (str() | Payload() as text, "latin1"):
                made = text.encode("latin-1") if isinstance(text, str) else text
            case "bytes", ():
                made = b""
            case _:
                raise ValueError(function)
        self.push(made)

    def build(self) -> None:
        (state,) = self.last(1)
        made = self.stack[-1]
        match made, state:
            case PickledArray(), (*_, (*shape,), _Type() as kind, fortran, content):
                _fill(made, tuple(shape), kind, fortran, content)
            case _Type(), (_, "<" | ">" | "|" | "=" as order, *_):
                made.order = order
            case _:
                raise ValueError(made)


def _fill(array: PickledArray, shape: tuple[Any, ...], kind: _Type, fortran: Any, content: Any) -> PickledArray:
    """Give an array what its state says, after checks that its bytes are as many as its shape needs."""
    dtype = kind.numpy()
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(shape)
    array.shape, array.dtype, array.fortran = shape, dtype, bool(fortran)
    if dtype.kind == "O":
        if not isinstance(content, list):
            raise ValueError(shape)
        array.items = content
        return array
    array.content = content if isinstance(content, Payload) else _bytes(content)
    known = array.content.size if isinstance(array.content, Payload) else len(array.content)
    is_encoded = isinstance(array.content, Payload) and array.content.encoding is not None
    needed = math.prod(shape) * dtype.itemsize
    # a letter in the file stands for one byte at most
    if needed > known or (needed < known and not is_encoded):
        raise ValueError(shape)
    return array


def _bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text


def _key(key: Any) -> Any:
    """Keys are words and numbers and pairs of them: others could take forever to hash."""
    for part in key if isinstance(key, tuple) else (key,):
        if not isinstance(part, str | int | float | bytes | None):
            raise ValueError(key)
    return key


def _integer(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line)


def _refusal(path: Path, name: str) -> str:
    shown = name if name.isprintable() and len(name) < 100 else repr(name)[:100]
    return f"{path} asks for {shown}, which is not data and is never loaded: save plain arrays, e.g. with numpy.savez"


def _latin1(raw: bytes) -> str:
    return raw.decode("latin-1")


def _utf8(raw: bytes) -> str:
    return raw.decode("utf-8")


def _escaped(raw: bytes) -> str:
    text = raw.decode("raw-unicode-escape")
    text.encode("utf-8")  # raises at half a character
    return text


LITERALS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.NONE: lambda machine: None,
    pickle.NEWTRUE: lambda machine: True,
    pickle.NEWFALSE: lambda machine: False,
    pickle.INT: lambda machine: _integer(machine.line()),
    pickle.LONG: lambda machine: int(machine.line().rstrip(b"L")),
    pickle.BININT: lambda machine: machine.number("<i"),
    pickle.BININT1: lambda machine: machine.number("<B"),
    pickle.BININT2: lambda machine: machine.number("<H"),
    pickle.LONG1: lambda machine: int.from_bytes(machine.read(machine.number("<B")), "little", signed=True),
    pickle.LONG4: lambda machine: int.from_bytes(machine.read(machine.number("<I")), "little", signed=True),
    pickle.FLOAT: lambda machine: float(machine.line()),
    pickle.BINFLOAT: lambda machine: machine.number(">d"),
    pickle.STRING: lambda machine: machine.to_line_end(lambda text: _latin1(ESCAPED.decode(text)), ESCAPED, 1),
    pickle.BINSTRING: lambda machine: machine.string(machine.number("<I"), _latin1),
    pickle.SHORT_BINSTRING: lambda machine: machine.string(machine.number("<B"), _latin1),
    pickle.UNICODE: lambda machine: machine.to_line_end(_escaped, RAW_UNICODE, 0),
    pickle.BINUNICODE: lambda machine: machine.string(machine.number("<I"), _utf8, UTF8),
    pickle.SHORT_BINUNICODE: lambda machine: machine.string(machine.number("<B"), _utf8, UTF8),
    pickle.BINUNICODE8: lambda machine: machine.string(machine.number("<Q"), _utf8, UTF8),
    pickle.BINBYTES: lambda machine: machine.string(machine.number("<I"), bytes),
    pickle.SHORT_BINBYTES: lambda machine: machine.string(machine.number("<B"), bytes),
    pickle.BINBYTES8: lambda machine: machine.string(machine.number("<Q"), bytes),
    pickle.BYTEARRAY8: lambda machine: machine.string(machine.number("<Q"), bytes),
    pickle.EMPTY_TUPLE: lambda machine: (),
    pickle.EMPTY_LIST: lambda machine: [],
    pickle.EMPTY_DICT: lambda machine: {},
    pickle.GLOBAL: lambda machine: machine.named(machine.word(), machine.word()),
    pickle.GET: lambda machine: machine.memo[int(machine.line())],
    pickle.BINGET: lambda machine: machine.memo[machine.number("<B")],
    pickle.LONG_BINGET: lambda machine: machine.memo[machine.number("<I")],
    pickle.DUP: lambda machine: machine.stack[-1],
}
"""Opcodes that push one value."""

OPERATIONS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: lambda machine: machine.number("<B"),
    pickle.FRAME: lambda machine: machine.number("<Q"),
    pickle.MARK: _Machine.mark,
    pickle.POP: _Machine.pop,
    pickle.POP_MARK: _Machine.drop,
    pickle.TUPLE: lambda machine: machine.push(tuple(machine.unmark())),
    pickle.TUPLE1: lambda machine: machine.push(tuple(machine.last(1))),
    pickle.TUPLE2: lambda machine: machine.push(tuple(machine.last(2))),
    pickle.TUPLE3: lambda machine: machine.push(tuple(machine.last(3))),
    pickle.LIST: lambda machine: machine.push(machine.unmark()),
    pickle.DICT: _Machine.build_dictionary,
    pickle.APPEND: lambda machine: machine.extend(machine.last(1)),
    pickle.APPENDS: lambda machine: machine.extend(machine.unmark()),
    pickle.SETITEM: lambda machine: machine.update(machine.last(2)),
    pickle.SETITEMS: lambda machine: machine.update(machine.unmark()),
    pickle.PUT: lambda machine: machine.put(int(machine.line())),
    pickle.BINPUT: lambda machine: machine.put(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.put(machine.number("<I")),
    pickle.MEMOIZE: lambda machine: machine.put(len(machine.memo)),
    pickle.STACK_GLOBAL: _Machine.stack_global,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
}
"""Opcodes that change the stack."""

REFUSED: dict[bytes, Callable[[_Machine], str]] = {
    pickle.INST: lambda machine: f"{machine.word()}.{machine.word()}",
    **dict.fromkeys((pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX), lambda machine: "a new Python object"),
    **dict.fromkeys((pickle.PERSID, pickle.BINPERSID), lambda machine: "a persistent object"),
    **dict.fromkeys((pickle.EXT1, pickle.EXT2, pickle.EXT4), lambda machine: "an extension object"),
    **dict.fromkeys((pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET), lambda machine: "a set"),
    **dict.fromkeys((pickle.NEXT_BUFFER, pickle.READONLY_BUFFER), lambda machine: "a buffer outside the file"),
}
"""Opcodes that make anything but data."""
