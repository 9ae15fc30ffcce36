"""Paths and patterns, and messages that stay short however many names there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from offramp.data.places import find_places, listing, open_each
from offramp.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b1.h5", "a1.h5", "a2.h5", "._a1.h5", "[x].h5", "deep/down/a3.h5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.h5").symlink_to(tmp_path / "a1.h5")
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["b1.h5", "a1.h5"], ["b1.h5", "a1.h5"]),
        (["a?.h5"], ["a1.h5", "a2.h5"]),
        (["[ab]1.h5"], ["a1.h5", "b1.h5"]),
        (["[x].h5"], ["[x].h5"]),  # it exists
        (["**/a*.h5"], ["a1.h5", "a2.h5", "deep/down/a3.h5"]),
        (["a1.h5", "a1.h5", "link.h5", "a*.h5"], ["a1.h5", "a2.h5"]),
    ],
)
def test_find_places(folder: Path, paths: list[str], expected: list[str]) -> None:
    assert find_places([folder / path for path in paths]) == [folder / name for name in expected]


@pytest.mark.parametrize(("path", "words"), [("c.h5", "does not exist"), ("c*.h5", "matches no file"), ("x" * 999, "")])
def test_nothing_there(folder: Path, path: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"{words}.*correct data\.path"):
        find_places(folder / path)


def test_listing() -> None:
    assert listing(["a", "b"]) == "a, b"
    assert listing([str(number) for number in range(9)]) == "0, 1, 2, 3, and 5 more"
    assert len(listing(["x" * 5000] * 7)) < 150


def refuse(name: str, place: int) -> int:
    if place:
        raise DataError(f"{name} is bad" + "!" * 1000)
    return place


def test_open_each() -> None:
    assert open_each([("a", 0), ("b", 0)], refuse, False, "files") == ([0, 0], ())
    with pytest.raises(DataError, match=r"^a is bad"):
        open_each([("a", 1)], refuse, True, "files")
    with pytest.raises(
        DataError, match=r"2 of 3 files cannot be used: a, c; the first: a is bad.*skip_bad: true"
    ) as caught:
        open_each([("a", 1), ("b", 0), ("c", 1)], refuse, False, "files")
    assert len(str(caught.value)) < 500
    opened, (note,) = open_each([("a", 1), ("b", 0)], refuse, True, "files")
    assert opened == [0]
    assert note.startswith("1 of 2 files cannot be used and are passed over: a; the first: a is bad")
