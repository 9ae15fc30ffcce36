"""The door for what is read: every file that a user names is opened here, or checked here before a library opens it.

It must be a regular file, links followed, since a FIFO or a device has no end. Text is read up to ``TEXT_BYTES``, JSON down to ``JSON_DEPTH``. What a
file asks for in memory is compared with what it stores before it is allocated.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from offramp.errors import OfframpError

TEXT_BYTES = 16 * 2**20
"""Most bytes of a text file that is read as a whole: JSON, metadata, a table."""
JSON_DEPTH = 64
"""Most objects and arrays inside each other."""
INTEGER_BITS = 64
"""Most bits of an integer in JSON."""
SMALL_BYTES = 64 * 2**20
"""What a file may ask for in memory, however small it is."""
MAX_EXPANSION = 256
"""A file may ask for so many times its own bytes, if that is more."""
TOO_DEEP = f"it is nested deeper than {JSON_DEPTH}"
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
LARGE_NUMBER = re.compile(r"\d{19}|[eE]\+?\d{3}")
"""Stands in every text with a number that may be too large, and in few others."""
SURROGATE = re.compile(r"[\ud800-\udfff]")


def regular_file(path: Path, error: type[OfframpError] = OfframpError) -> int:
    """Size in bytes of a regular file. Nothing is opened, so that a FIFO does not block.

    Raises:
        OfframpError: Of type ``error``: the file does not exist, cannot be reached, or is a folder, FIFO, device or socket.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as failure:
        raise _cannot_read(path, failure, error) from None
    if stat.S_ISDIR(found.st_mode):
        raise _cannot_read(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), error)
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{path} is a {_kind(found.st_mode)} and not a regular file: give one that is stored on a disk")
    return found.st_size


def open_file(path: Path, error: type[OfframpError] = OfframpError) -> BufferedReader:
    """Open a regular file for reading its bytes; raises as :func:`regular_file` does."""
    regular_file(path, error)
    try:
        return open(path, "rb", opener=_without_waiting)
    except OSError as failure:
        raise _cannot_read(path, failure, error) from None


def read_text(
    path: Path, error: type[OfframpError] = OfframpError, advice: str = "correct it", limit: int = TEXT_BYTES
) -> str:
    """A text file in UTF-8, without a byte order mark.

    Raises:
        OfframpError: Of type ``error``, with ``advice`` at its end: as :func:`regular_file`, or more than ``limit`` bytes, or not UTF-8.
    """
    try:
        return _read_bytes(path, error, advice, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error(f"{path} is not a text file in UTF-8: {advice}") from None


def read_json(path: Path, error: type[OfframpError] = OfframpError, advice: str = "correct it") -> Any:
    """What a JSON file holds, see :func:`parse_json`.

    Raises:
        OfframpError: As :func:`read_text` does; or the file is no JSON, or none that is read.
    """
    content = _read_bytes(path, error, advice, TEXT_BYTES)
    try:
        return parse_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise error(f"{path} is not JSON (it is no text in UTF-8): {advice}") from None
    except ValueError as problem:
        raise error(f"{path} is not JSON ({problem}): {advice}") from None


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: It is no JSON (RFC 8259: no NaN, no infinity), is nested deeper than ``JSON_DEPTH``, or holds a number that no
            double and no integer of ``INTEGER_BITS`` can be, or text that is not Unicode.
    """
    # a call for each number takes longer than all the rest
    decoder = JSON_DECODER if LARGE_NUMBER.search(text) else FAST_DECODER
    try:
        content = decoder.decode(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    check_json(content, text)
    return content


def check_json(content: Any, text: str) -> None:
    """Raise ValueError where what a text in JSON gave is nested too deep, or holds text that is not Unicode."""
    if isinstance(content, dict | list):
        level = [content]
        for _ in range(JSON_DEPTH):
            level = [
                value
                for container in level
                for value in (container.values() if isinstance(container, dict) else container)
                if isinstance(value, dict | list)
            ]
        if level:
            raise ValueError(TOO_DEEP)
    if SURROGATE_ESCAPE.search(text):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a character, a lone surrogate") from None


def plausible(declared: int, stored: int) -> bool:
    """Whether a file that stores so many bytes may ask for so many in memory: no compression bomb, no size out of thin air."""
    return declared <= max(SMALL_BYTES, MAX_EXPANSION * stored)


def lies_below(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder or below it, links of both followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _read_bytes(path: Path, error: type[OfframpError], advice: str, limit: int) -> bytes:
    with open_file(path, error) as file:
        try:
            content = file.read(limit + 1)
        except OSError as failure:
            raise _cannot_read(path, failure, error) from None
    if len(content) > limit:
        raise error(f"{path} has more than {limit:,} bytes, the most that is read as text: {advice}")
    return content


def _cannot_read(path: Path, failure: Exception, error: type[OfframpError]) -> OfframpError:
    return error(f"{path} cannot be read: {_reason(failure)}; give a file that can be")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), -float("inf")):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > INTEGER_BITS or (number := int(text)).bit_length() > INTEGER_BITS:
        raise ValueError(f"the number {text[:20]}... is too large")
    return number


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


FAST_DECODER = json.JSONDecoder(parse_constant=_no_number)
JSON_DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_integer, parse_constant=_no_number)
"""Of JSON alone (RFC 8259), and of numbers that can be held; what it gives is for :func:`check_json`."""


def _without_waiting(path: str, flags: int) -> int:
    """A FIFO that takes the place of a file between check and opening does not block either."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _reason(failure: Exception) -> str:
    return (failure.strerror if isinstance(failure, OSError) else None) or " ".join(str(failure).split())
