"""Bytes to messages of the protocol, within limits: gRPC itself would decompress, and protobuf would take apart, whatever comes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from offramp.serving.protocol.faults import BadRequest, ServingFault, TooLarge

MOST_FIELDS = 10_000
"""Of a message and of the inputs and outputs in it, parameters and dimensions among them: protobuf takes microseconds and a hundred bytes for each."""
NOT_COUNTED = 16 << 10
"""Bytes of a message in which so many fields do no harm."""
_IN_IT = (5, 6)
"""Inputs and outputs in a ``ModelInferRequest``."""
_GZIP, _DEFLATE = b"\x1f\x8b", b"\x78"


def reading(request_type: Any, most: int) -> Callable[[bytes], Any]:
    """What makes a message of bytes; of those that are none, a fault for the call to raise, as gRPC itself would call it one of the server.

    Args:
        request_type: Class of the message.
        most: Bytes, also behind a compression.
    """

    def read(content: bytes) -> Any:
        try:
            plain = _decompressed(content, most)
            if len(plain) > NOT_COUNTED:
                _count(plain, 0, len(plain), _IN_IT, MOST_FIELDS)
            return request_type.FromString(plain)
        except ServingFault as fault:
            return fault
        except DecodeError:
            return BadRequest(f"the message is no {request_type.DESCRIPTOR.full_name}")

    return read


def _decompressed(content: bytes, most: int) -> bytes:
    """A message as it was before a client compressed it. No message of the protocol begins as compressed ones do."""
    if content.startswith(_GZIP):
        machine = zlib.decompressobj(16 + zlib.MAX_WBITS)
    elif content.startswith(_DEFLATE):
        machine = zlib.decompressobj()
    else:
        return content
    try:
        found = machine.decompress(content, most + 1)
    except zlib.error as error:
        raise BadRequest(f"the message is compressed, and broken: {error}") from None
    if len(found) > most:
        raise TooLarge(f"a message of more than {most:,} bytes behind its compression")
    if not machine.eof:
        raise BadRequest("the message is compressed, and ends before its end")
    return found


def _count(content: bytes, at: int, end: int, in_it: tuple[int, ...], left: int) -> int:
    """How many fields may follow behind those from one place to another (https://protobuf.dev/programming-guides/encoding).

    Raises:
        TooLarge: None may, and there are more. What makes no sense is left to protobuf.
    """
    while at < end:
        left -= 1
        if left < 0:
            raise TooLarge(f"a message of more than {MOST_FIELDS:,} fields: send less at a time")
        tag, at = _number(content, at)
        kind = tag & 7
        if kind == 0:
            _, at = _number(content, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            size, at = _number(content, at)
            if tag >> 3 in in_it:
                left = _count(content, at, min(at + size, end), (), left)
            at += size
        elif kind == 5:
            at += 4
    return left


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while at < len(content):
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    return value, at
