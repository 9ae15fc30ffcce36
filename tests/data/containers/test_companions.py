"""Folders and files of which a link leads elsewhere, whatever their layout."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from offramp.data.formats import format_of, open_table
from offramp.data.inspection import inspect_file
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec


def windows(path: Path, **options: object) -> int:
    return open_table(DataSpec(path=path, window=32, **options)).windows.count  # type: ignore[arg-type]


def matlab(folder: Path) -> Path:
    folder.mkdir()
    for name in ("walk1.mat", "run2.mat"):
        savemat(folder / name, {"CSIamp": np.zeros((342, 3))})
    return folder / "run2.mat"


def owl(folder: Path) -> Path:
    folder.mkdir()
    (folder / "data_iq.p").write_bytes(pickle.dumps(np.zeros((2, 21, 3, 16, 2), "f4"), protocol=2))
    (folder / "labels.p").write_bytes(pickle.dumps(np.zeros((2, 21, 3), "i8"), protocol=2))
    return folder / "labels.p"


def powder(folder: Path) -> Path:
    folder.mkdir()
    meta = '{"global": {"core:datatype": "cf32"}, "annotations": {"transmitter": {"core:location": "bes"}}}'
    (folder / "one.json").write_text(meta)
    (folder / "one.bin").write_bytes(bytes(8 * 100))
    return folder / "one.bin"


@pytest.mark.parametrize(("make", "single"), [(matlab, None), (owl, "data_iq.p"), (powder, "one.json")])
def test_a_link_that_leads_out_of_a_folder(tmp_path: Path, make: object, single: str | None) -> None:
    folder = tmp_path / "set"
    linked: Path = make(folder)  # type: ignore[operator]
    places = [folder] if single is None else [folder, folder / single]
    counts = [windows(place) for place in places]
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to("../elsewhere")
    for place, count in zip(places, counts, strict=True):
        for attempt in (lambda place=place: windows(place), lambda place=place: inspect_file(place)):
            with pytest.raises(
                DataError, match=r"elsewhere, which is outside of its folder: .*data\.allow_outside: true"
            ):
                attempt()
        assert windows(place, allow_outside=True) == count
    linked.unlink()
    (tmp_path / "elsewhere").rename(folder / "elsewhere")
    linked.symlink_to("elsewhere")
    assert [windows(place) for place in places] == counts


def test_a_folder_that_is_a_link_itself(tmp_path: Path) -> None:
    matlab(tmp_path / "set")
    (tmp_path / "link").symlink_to("set")
    assert windows(tmp_path / "link") == 2


def test_a_folder_in_a_folder_that_leads_out(tmp_path: Path) -> None:
    matlab(tmp_path / "elsewhere")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "walk").symlink_to("../elsewhere")
    with pytest.raises(DataError, match="outside of its folder"):
        windows(tmp_path / "set", format="ntu-fi")
    assert windows(tmp_path / "set", allow_outside=True) == 2


NAMES = (
    "a",
    "a.h5",
    "a.npz",
    "a.pkl",
    "a.p",
    "a.mat",
    "a.sigmf",
    "a.sigmf-meta",
    "a.dat",
    "a.npy",
    "data.json",
    "a.json",
)


@pytest.mark.parametrize("name", NAMES)
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for attempt in (inspect_file, windows):
        with pytest.raises(DataError, match="FIFO"):
            attempt(tmp_path / name)


@pytest.mark.parametrize("name", ["a.dat", "a.npy", "data.h5", "a.mat", "data.json", "a.sigmf-meta"])
def test_pipes_in_a_folder(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        windows(tmp_path)


@pytest.mark.parametrize(
    "name", ["hdf5", "npz", "matlab", "rml-pickle", "sigmf", "owl", "uwb-indoor", "csitool", "deepmimo"]
)
def test_a_device_of_a_stated_format(name: str) -> None:
    with pytest.raises(DataError, match="/dev/zero is a device"):
        format_of(DataSpec(path=Path("/dev/zero"), format=name))
