"""The messages of GNU Radio's ZeroMQ sinks that pass tags (``pass_tags`` of gr-zeromq, header version 1, GNU Radio 3.7 to 3.10).

In front of the samples of each message stand, without padding, in the byte order of the publisher, which is taken to be little-endian::

    uint16  0x5FF0
    uint8   1
    uint64  number of the message's first item since the flow graph began
    uint64  number of tags
    per tag: uint64 number of its item, then key, value and source as serialised PMTs, which are big-endian
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from offramp.errors import DataError

MAGIC = b"\xf0\x5f"
VERSION = 1
HEADER = struct.Struct("<2sBQQ")
MOST_TAGS = 2**16
DEEPEST = 32
"""PMTs inside each other."""
ELEMENT_BYTES = (1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 8, 16)
"""Of uniform vectors, by their kind."""

SIMPLE: dict[int, bool | None] = {0x00: True, 0x01: False, 0x06: None}
NUMBERS = {
    0x03: struct.Struct(">i"),
    0x04: struct.Struct(">d"),
    0x05: struct.Struct(">dd"),
    0x0B: struct.Struct(">Q"),
    0x0D: struct.Struct(">q"),
}
SYMBOL, PAIR, VECTOR, DICT, UNIFORM, TUPLE = 0x02, 0x07, 0x08, 0x09, 0x0A, 0x0C

Pmt = bool | int | float | complex | str | bytes | tuple[Any, ...] | None


@dataclass(frozen=True)
class StreamTag:
    """A tag on an item.

    Attributes:
        item: Number since the flow graph began.
        key: Such as ``rx_time``.
        value: As plain Python: pairs, lists, dictionaries, vectors and tuples are tuples, uniform vectors bytes.
    """

    item: int
    key: str
    value: Pmt


@dataclass(frozen=True)
class TaggedMessage:
    """A message of a sink that passes tags.

    Attributes:
        first: Number of its first item since the flow graph began.
        tags: In the order of the message.
        content: Its items, as bytes.
    """

    first: int
    tags: tuple[StreamTag, ...]
    content: memoryview


def read_tagged(message: memoryview) -> TaggedMessage:
    """Take a message apart.

    Raises:
        DataError: It has no such header, or is damaged.
    """
    if len(message) < HEADER.size or message[:2] != MAGIC:
        raise DataError("a message without the header of tags")
    _, version, first, count = HEADER.unpack_from(message)
    if version != VERSION:
        raise DataError(f"a message whose header of tags has version {version}, and {VERSION} is known")
    if count > MOST_TAGS:
        raise DataError(f"a message with {count:,} tags, and at most {MOST_TAGS:,} are read")
    at, tags = HEADER.size, []
    try:
        for _ in range(count):
            (item,) = struct.unpack_from("<Q", message, at)
            key, at = _pmt(message, at + 8)
            value, at = _pmt(message, at)
            _, at = _pmt(message, at)
            tags.append(StreamTag(item, str(key), value))
    except (struct.error, IndexError, UnicodeDecodeError, TypeError) as error:
        raise DataError("a message whose header of tags is damaged") from error
    return TaggedMessage(first, tuple(tags), message[at:])


def _pmt(data: memoryview, at: int, depth: int = 0) -> tuple[Pmt, int]:
    """A serialised PMT (``pmt/pmt_serial_tags.h``), and where it ends."""
    if depth > DEEPEST:
        raise DataError(f"a message with tags nested deeper than {DEEPEST}")
    kind, at = data[at], at + 1
    if kind in SIMPLE:
        return SIMPLE[kind], at
    if kind in NUMBERS:
        form = NUMBERS[kind]
        found = form.unpack_from(data, at)
        return complex(*found) if len(found) == 2 else found[0], at + form.size
    if kind == SYMBOL:
        (length,) = struct.unpack_from(">H", data, at)
        return _taken(data, at + 2, length).decode(), at + 2 + length
    if kind in (PAIR, DICT):  # a list is a chain of pairs, a dictionary one of entries that are pairs
        items = []
        while kind in (PAIR, DICT):
            item, at = _pmt(data, at, depth + 1)
            items.append(item)
            kind, at = data[at], at + 1
        last, at = _pmt(data, at - 1, depth + 1)
        return (*items, *([] if last is None else [last])), at
    if kind in (VECTOR, TUPLE):
        (length,) = struct.unpack_from(">I", data, at)
        items, at = [], at + 4
        for _ in range(length):
            item, at = _pmt(data, at, depth + 1)
            items.append(item)
        return tuple(items), at
    if kind == UNIFORM:
        element, length, padding = struct.unpack_from(">BIB", data, at)
        begin, size = at + 6 + padding, length * ELEMENT_BYTES[element & 0x7F]
        return _taken(data, begin, size), begin + size
    raise DataError(f"a message with a tag of the unknown kind {kind}")


def _taken(data: memoryview, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise IndexError(at + size)
    return bytes(data[at : at + size])
