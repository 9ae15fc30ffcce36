from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import check_refused, opened
from scipy.io import savemat

from offramp.data.formats import open_table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)


def write(path: Path, time: int = 8, **options: bool) -> np.ndarray:
    values = RNG.normal(40, 5, (342, time))
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"CSIamp": values}, **options)
    return values


def test_parts_of_folders_of_classes(tmp_path: Path) -> None:
    folder = tmp_path / "har"
    stored = {
        name: write(folder / name, do_compression=True)
        for name in ("train_amp/box/a1.mat", "train_amp/box/a2.mat", "train_amp/walk/b.mat", "test_amp/box/a1.mat")
    }
    # SenseFi reads the amplitudes; folders without the suffix hold something else
    write(folder / "train" / "box" / "other.mat", time=3)
    table = opened(folder, "ntu-fi", tmp_path)
    assert table.windows.shape == (3, 114, 8)
    windows = table.windows.read(np.arange(4))
    for window, values in zip(windows, stored.values(), strict=True):
        for antenna in range(3):
            np.testing.assert_array_equal(window[antenna], values[114 * antenna :][:114].astype(np.float32))
    assert table.columns["label"].tolist() == ["box", "box", "walk", "box"]
    assert table.columns["part"].tolist() == ["train", "train", "train", "test"]
    assert table.columns["recording"].tolist() == [name.removesuffix(".mat") for name in stored]


def test_parts_without_suffix_may_be_flat(tmp_path: Path) -> None:
    write(tmp_path / "id" / "train" / "007" / "a.mat")
    write(tmp_path / "id" / "test" / "walk12.mat")
    table = opened(tmp_path / "id", "ntu-fi", tmp_path)
    assert table.columns["label"].tolist() == ["007", "walk"]
    assert table.columns["part"].tolist() == ["train", "test"]


def test_flat_folder_and_folder_of_classes(tmp_path: Path) -> None:
    for name in ("fall10", "fall2", "run_3"):
        write(tmp_path / "flat" / f"{name}.mat")
    table = opened(tmp_path / "flat", "ntu-fi", tmp_path)
    assert table.columns["label"].tolist() == ["fall", "fall", "run"]
    assert set(table.columns["part"].tolist()) == {"all"}
    write(tmp_path / "classes" / "fall" / "1.mat")
    write(tmp_path / "classes" / "run" / "1.mat")
    assert opened(tmp_path / "classes", "ntu-fi", tmp_path).columns["label"].tolist() == ["fall", "run"]


def test_bad_files(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    write(folder / "box1.mat")
    other = folder / "box2.mat"
    write(other)
    intact = other.read_bytes()
    for content in (b"", b"text", intact[:100], intact[:140]):
        other.write_bytes(content)
        check_refused(folder, "box2.mat")
    other.write_bytes(intact[:-1000])
    check_refused(folder, "box2.mat", "damaged")
    write(other, do_compression=True)
    packed = bytearray(other.read_bytes())
    packed[300:320] = bytes(20)
    other.write_bytes(bytes(packed))
    check_refused(folder, "box2.mat", "damaged")
    other.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF")
    check_refused(folder, "box2.mat", "-v7")
    savemat(other, {"CSIphase": np.zeros((342, 8))})
    check_refused(folder, "box2.mat", "CSIamp")
    savemat(other, {"CSIamp": np.zeros((341, 8))})
    check_refused(folder, "box2.mat", "(341, 8)", "(342, time)")
    savemat(other, {"CSIamp": np.zeros((342, 8)) + 1j})
    check_refused(folder, "box2.mat", "complex128")
    write(other, time=9)
    check_refused(folder, "box2.mat has 9 packets", "box1.mat has 8")
    other.rename(folder / "box.mat")
    check_refused(folder, "box.mat names no class")
    (folder / "box.mat").unlink()
    savemat(folder / "box2.mat", {"CSIamp": np.full((342, 8), -np.inf)})
    check_refused(folder, "window 1 holds NaN or infinity")
    (tmp_path / "nothing").mkdir()
    check_refused(tmp_path / "nothing", "no .mat files", format="ntu-fi")


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    write(tmp_path / "set" / "box1.mat")
    windows = open_table(DataSpec(path=tmp_path / "set")).windows
    (tmp_path / "set" / "box1.mat").unlink()
    with pytest.raises(DataError, match=r"box1\.mat"):
        windows.read(np.array([0]))
