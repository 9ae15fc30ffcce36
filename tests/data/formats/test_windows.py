"""Cutting, spreading, columns of metadata, fingerprints."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.data.formats.windows import cut, digest, metadata_columns, numbered, read_interleaved, spread
from offramp.errors import DataError


@given(
    st.lists(st.integers(0, 60), max_size=5),
    st.integers(1, 12),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(1, 6)),
)
def test_cut_as_by_hand(lengths: list[int], window: int, hop: int, most: int | None) -> None:
    origin, starts = cut(lengths, window, hop, most)
    for number, length in enumerate(lengths):
        found = starts[origin == number].tolist()
        every = [start for start in range(0, length, hop) if start + window <= length]
        if most is None or len(every) <= most:
            assert found == every
        else:
            assert len(found) == most
            assert set(found) <= set(every)
            assert found == sorted(found)
            assert most == 1 or (found[0], found[-1]) == (every[0], every[-1])
    assert sorted(origin.tolist()) == origin.tolist()


def test_spread_is_even() -> None:
    assert spread(11, 3).tolist() == [0, 5, 10]
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert np.ptp(np.diff(spread(1000, 7))) <= 1


def test_metadata_that_all_have() -> None:
    columns = metadata_columns(
        [{"rate": "5e6", "place": "roof", "run": "10_5", "gain": 3}, {"rate": 1e6, "place": 7, "run": "10_6", "x": 1}]
    )
    assert set(columns) == {"rate", "place", "run"}
    assert columns["rate"].tolist() == [5e6, 1e6]
    assert columns["place"].tolist() == ["roof", "7"]
    assert columns["run"].tolist() == ["10_5", "10_6"]
    assert metadata_columns([]) == {}


def test_numbered_text() -> None:
    numbers, names = numbered(["b", "a", "b"])
    assert (numbers.tolist(), names) == ([1, 0, 1], ("a", "b"))


def test_fingerprint_is_of_content_and_what_is_said_about_it(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    prints = [digest([], [one, two]), digest([], [two, one]), digest([1], [one, two]), digest([], [one])]
    one.write_bytes(b"3")
    assert len({*prints, digest([], [one, two])}) == 5
    with pytest.raises(DataError, match="absent"):
        digest([], [tmp_path / "absent"])


def test_interleaved_samples_and_their_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    np.arange(20, dtype="<i2").tofile(path)
    assert read_interleaved(path, 3, 2, np.dtype("<i2")).tolist() == [[6, 8], [7, 9]]
    with pytest.raises(DataError, match=r"a\.bin ends before sample 11"):
        read_interleaved(path, 9, 2, np.dtype("<i2"))
    os.unlink(path)
    with pytest.raises(DataError, match=r"a\.bin cannot be read: No such file"):
        read_interleaved(path, 0, 1, np.dtype("<i2"))
