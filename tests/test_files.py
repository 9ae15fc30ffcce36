"""Whole files or none, and one-line errors from a full or forbidden disk."""

import errno
import os
from pathlib import Path

import pytest

from offramp.errors import OfframpError
from offramp.files import atomic_path, free_bytes, output_folder, write_text


def one_line(caught: pytest.ExceptionInfo[OfframpError], *words: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.json"
    write_text(path, "old ä")
    write_text(path, "new ö")
    assert path.read_text(encoding="utf-8") == "new ö"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_error_in_between_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            assert temporary.suffix == ".bin"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(OfframpError) as caught, atomic_path(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    one_line(caught, "x.json", "No space left")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OfframpError) as caught:
        write_text(tmp_path / "file" / "x.json", "")
    one_line(caught, "x.json")


def test_the_output_folder(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "a" / "b").is_dir()
    assert output_folder(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "file").write_text("")
    with pytest.raises(OfframpError) as caught:
        output_folder(tmp_path / "file")
    one_line(caught, "is a file", "choose a folder")
    with pytest.raises(OfframpError) as caught:
        output_folder(tmp_path / "file" / "below")
    one_line(caught, "cannot write")


def test_free_space_where_nothing_is_yet(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(found.f_bavail * found.f_frsize, rel=0.05)
