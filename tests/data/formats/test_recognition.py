"""Recognising a path never raises, whatever it is, and an empty folder is taken for SigMF alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from offramp.data.formats import known_formats

SUFFIXES = (".h5", ".npz", ".pkl", ".p", ".dat", ".mat", ".csv", ".json", ".bin", ".sigmf-meta", ".hdf5", "")


@pytest.mark.parametrize("name", known_formats())
def test_odd_paths(tmp_path: Path, name: str) -> None:
    recognise = known_formats()[name].recognise
    (tmp_path / "empty").mkdir()
    assert recognise(tmp_path / "empty") == (name == "sigmf")
    for suffix in SUFFIXES:
        file = tmp_path / f"file{suffix}"
        file.touch()
        link = tmp_path / f"link{suffix}"
        link.symlink_to(tmp_path / f"nowhere{suffix}")
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        for path in (file, link, folder, tmp_path / f"absent{suffix}"):
            assert recognise(path) in (True, False)


def test_every_layout_comes_before_those_that_take_anything() -> None:
    assert list(known_formats())[-1] == "sigmf"
