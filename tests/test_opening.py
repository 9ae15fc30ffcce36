"""What is read through the door: regular files alone, text and JSON within bounds."""

import json
import os
import socket
from pathlib import Path

import pytest

from offramp.errors import DataError, OfframpError, SuiteError
from offramp.opening import (
    JSON_DEPTH,
    MAX_EXPANSION,
    SMALL_BYTES,
    lies_below,
    open_file,
    parse_json,
    plausible,
    read_json,
    read_text,
    regular_file,
)


def refused(path: Path, *words: str) -> None:
    for read in (regular_file, open_file, read_text, read_json):
        with pytest.raises(DataError) as caught:
            read(path, DataError)
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 500
        assert all(word in message for word in (*words, str(path)[-20:])), message


def test_a_regular_file_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a.txt")
    assert regular_file(tmp_path / "link") == 3
    with open_file(tmp_path / "link") as file:
        assert file.read() == b"abc"


def test_what_has_no_end_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    refused(tmp_path / "pipe", "FIFO", "regular file")
    refused(tmp_path / "link", "FIFO")
    refused(Path("/dev/zero"), "device")
    refused(tmp_path, "Is a directory")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        refused(tmp_path / "s", "socket")


def test_what_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "No such file")
    refused(tmp_path / ("a" * 300), "File name too long")
    (tmp_path / "circle").symlink_to("circle")
    refused(tmp_path / "circle", "cannot be read")
    with pytest.raises(DataError, match="cannot be read"):
        regular_file(Path("a\0b"), DataError)


def test_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffä".encode())
    assert read_text(path) == "ä"
    assert read_text(path, limit=5) == "ä"
    with pytest.raises(SuiteError, match=r"a\.txt has more than 4 bytes.*: shorten it"):
        read_text(path, SuiteError, "shorten it", 4)
    path.write_bytes(b"\xff")
    with pytest.raises(OfframpError, match=r"a\.txt is not a text file in UTF-8: save it so"):
        read_text(path, advice="save it so")


def test_json_as_the_library_reads_it(tmp_path: Path) -> None:
    content = {"a": [1, -2.5, 1e300, 2**64 - 1, -(2**63), None, True, "ä\U0001f600", {}], "b" * 40: "1" * 400}
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False), "\ufeff" + json.dumps(content)):
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[" * 100_000 + "]" * 100_000, "deeper than"),
        ('{"a":' * 900 + "1" + "}" * 900, "deeper than"),
        ("[" * (JSON_DEPTH + 1) + "]" * (JSON_DEPTH + 1), "deeper than"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is too large"),
        ("1" * 400 + ".5", "is too large"),
        (str(2**64), "is too large"),
        ("9" * 10_000, "is too large"),
        (r'"\ud800"', "half a character"),
        (r'{"\udc00": 1}', "half a character"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "a.json", DataError, "copy it again")
    assert words in str(caught.value)
    assert str(caught.value).endswith(": copy it again")
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_the_deepest_json() -> None:
    content = parse_json("[" * JSON_DEPTH + "]" * JSON_DEPTH)
    for _ in range(JSON_DEPTH - 1):
        (content,) = content
    assert content == []


def test_json_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(OfframpError, match=r"a\.json is not JSON \(it is no text in UTF-8\)"):
        read_json(tmp_path / "a.json")


def test_memory_that_a_file_may_ask_for() -> None:
    assert plausible(SMALL_BYTES, 0)
    assert not plausible(SMALL_BYTES + 1, 0)
    assert plausible(MAX_EXPANSION * SMALL_BYTES, SMALL_BYTES)
    assert not plausible(MAX_EXPANSION * SMALL_BYTES + 1, SMALL_BYTES)


def test_below_a_folder_after_links(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "leads").symlink_to("../out")
    (tmp_path / "door").symlink_to("in")
    assert lies_below(tmp_path / "in" / "a", tmp_path / "in")
    assert lies_below(tmp_path / "in" / "b" / ".." / "a", tmp_path / "door")
    assert lies_below(tmp_path / "door" / "a", tmp_path / "in")
    assert not lies_below(tmp_path / "in" / "leads" / "a", tmp_path / "in")
    assert not lies_below(tmp_path / "in" / ".." / "a", tmp_path / "in")
    assert not lies_below(tmp_path / "inside", tmp_path / "in")
