"""Members of a large JSON file, one at a time: no more than one of them is ever in memory.

Only the objects and arrays down to a given depth are walked through; what lies deeper is decoded as a whole by Python's decoder, and can
be read again by its place in the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from offramp.errors import DataError
from offramp.opening import JSON_DECODER, check_json, open_file, parse_json

BLOCK = 2**20
LONGEST_MEMBER = 2**24
"""Most bytes of one value."""
LOOK_AHEAD = 32
"""Characters at the end of what has been read that may look wrong only because the rest is missing."""
SPACE = re.compile(r"[ \t\r\n]*")
Keys = tuple[str | int, ...]


class Member(NamedTuple):
    """A value, the keys (ASCII) and indices that lead to it, its first byte and the byte after it."""

    keys: Keys
    start: int
    stop: int
    value: Any


def members(path: Path, depth: int) -> Iterator[Member]:
    """Values of a JSON file that lie ``depth`` objects or arrays deep, and those that end before, in the order of the file.

    Raises:
        DataError: The file cannot be read, is no JSON or ends too early; the message names the byte.
    """
    try:
        with open_file(path, DataError) as file:
            yield from _JsonReader(path, file).members((), depth)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error


def read_member(path: Path, start: int, stop: int) -> Any:
    """A value by its place in the file.

    Raises:
        DataError: The file has changed or cannot be read.
    """
    try:
        with open_file(path, DataError) as file:
            file.seek(start)
            return parse_json(file.read(stop - start).decode())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    except ValueError as error:
        raise DataError(f"{path} has changed since it was opened: start again") from error


class _JsonReader:
    """A window of the file, as text of one character per byte, that moves forward."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._text = ""
        self._before = 0
        self._place = 0

    def members(self, keys: Keys, depth: int) -> Iterator[Member]:
        opening = self._peek()
        if depth == 0 or opening not in "{[":
            start = self._before + self._place
            value = self._value()
            yield Member(keys, start, self._before + self._place, value)
            return
        self._take(opening)
        closing = "}" if opening == "{" else "]"
        index = 0
        while self._peek() != closing:
            if index:
                self._take(",")
            key: str | int = index
            if opening == "{":
                key = self._key()
            yield from self.members((*keys, key), depth - 1)
            index += 1
        self._take(closing)

    def _key(self) -> str:
        if self._peek() != '"':
            raise self._broken()
        key = str(self._value())
        self._take(":")
        return key

    def _peek(self) -> str:
        """The next character that is no space."""
        while True:
            matched = SPACE.match(self._text, self._place)
            assert matched is not None
            self._place = matched.end()
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                raise self._broken()

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self._broken()
        self._place += 1

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = JSON_DECODER.raw_decode(self._text, self._place)
                length = end - self._place
                # a number may go on behind what has been read
                if end < len(self._text) - LOOK_AHEAD or not self._more():
                    self._place += length
                    check_json(value, self._text[self._place - length : self._place])
                    return value
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(self._text) - LOOK_AHEAD or error.msg.startswith("Unterminated string")
                if not (unfinished and self._more()):
                    raise self._broken() from error
            except (RecursionError, ValueError) as error:
                raise self._broken() from error

    def _more(self) -> bool:
        """Read on, at least as much as is held already, so that long values are not decoded over and over."""
        kept = self._text[self._place :]
        if len(kept) > LONGEST_MEMBER:
            raise DataError(f"{self._path} has a value of more than {LONGEST_MEMBER:,} bytes: write it anew")
        block = self._file.read(max(BLOCK, len(kept))).decode("latin-1")
        self._before += self._place
        self._place = 0
        self._text = kept + block
        return bool(block)

    def _broken(self) -> DataError:
        return DataError(
            f"{self._path} is no JSON, or ends too early, at byte {self._before + self._place}: copy it again"
        )
