from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offramp.data.containers import hdf5_files
from offramp.data.formats import known_formats, open_table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float16", "float32", "float64", ">i2"])
def test_windows_come_back_in_the_order_asked_for(tmp_path: Path, dtype: str) -> None:
    stored = RNG.integers(0, 100, (50, 2, 3, 16)).astype(dtype)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("sample", data=stored, chunks=(7, 1, 2, 5), compression="gzip")
    windows = open_table(DataSpec(path=path)).windows
    assert (windows.count, windows.shape) == (50, (2, 3, 16))
    for indices in ([3], [49, 0, 7, 7, 20, 48, 0], [], list(range(50))):
        read = windows.read(np.array(indices, dtype=np.int64))
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, stored[indices].astype(np.float32).reshape(-1, 2, 3, 16))


@pytest.mark.parametrize("shape", [(5, 3, 16), (5, 16)])
def test_complex_windows_become_iq(write_hdf5, shape: tuple[int, ...]) -> None:
    stored = (RNG.normal(size=shape) + 1j * RNG.normal(size=shape)).astype(np.complex64)
    windows = open_table(DataSpec(path=write_hdf5(sample=stored))).windows
    read = windows.read(np.arange(5))
    assert read.shape == (5, *windows.shape) == (5, 2, *((1,) if len(shape) == 2 else ()), *shape[1:])
    for index in range(5):
        for antenna in range(windows.shape[1]):
            of_antenna = stored.reshape(5, -1, 16)[index, antenna]
            np.testing.assert_array_equal(read[index, 0, antenna] + 1j * read[index, 1, antenna], of_antenna)


def test_columns_and_class_names(write_hdf5) -> None:
    path = write_hdf5(
        sample=np.zeros((4, 2, 1, 8), np.int8),
        label=[0, 1, 1, 0],
        label_x=[2, 0, 1, 1],
        group=np.array(["a", "b", "ü", "a"], dtype=object),
        fixed=np.array([b"x", b"y", b"x", b"y"]),
        place=np.ones((4, 3)),
        valid=np.array([True, False, True, True]),
        other=np.zeros(3),
        attributes={"labels": '["no", "yes"]', "labels_x": ["p", "q", "r"], "version": "v1"},
    )
    table = open_table(DataSpec(path=path))
    assert set(table.columns) == {"label", "label_x", "group", "fixed", "place", "valid"}
    assert table.label_names == {"label": ("no", "yes"), "label_x": ("p", "q", "r")}
    assert table.columns["group"].tolist() == ["a", "b", "ü", "a"]
    assert table.columns["fixed"].tolist() == ["x", "y", "x", "y"]
    assert table.columns["valid"].tolist() == [1, 0, 1, 1]
    assert table.columns["place"].shape == (4, 3)


def test_fingerprint_follows_content_and_input(write_hdf5) -> None:
    path = write_hdf5(sample=np.zeros((4, 8)), other=np.zeros((4, 8)))
    first = open_table(DataSpec(path=path)).windows.fingerprint
    assert first == hashlib.sha256(path.read_bytes() + b"sample").hexdigest()
    assert first != open_table(DataSpec(path=path, input="other")).windows.fingerprint


def test_reads_in_a_forked_process(write_hdf5) -> None:
    windows = open_table(DataSpec(path=write_hdf5(sample=np.arange(40.0).reshape(10, 4)))).windows
    windows.read(np.array([1]))
    child = os.fork()
    if child == 0:
        os._exit(0 if windows.read(np.array([9]))[0, 3] == 39 else 1)
    assert os.waitpid(child, 0)[1] == 0


class CountingFile(io.FileIO):
    """A file that counts the bytes that are read of it."""

    count = 0

    def readinto(self, buffer: Any) -> int | None:
        read = super().readinto(buffer)
        self.count += read or 0
        return read


def test_a_pass_reads_each_chunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches would each read and decompress the whole file (300 times) without room for its chunks."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = RNG.integers(-9, 9, (2400, 2, 8, 64)).astype(np.int8)
        file.create_dataset("sample", data=data, chunks=(2400, 1, 1, 16), compression="gzip")
    windows = open_table(DataSpec(path=path)).windows
    opened: list[CountingFile] = []

    def open_counting(path: Path, **options: Any) -> h5py.File:
        opened.append(CountingFile(path))
        return h5py.File(opened[-1], "r", **options)

    monkeypatch.setattr(hdf5_files, "open_checked", open_counting)
    for first in range(0, 2400, 8):
        windows.read(np.arange(first, first + 8))
    assert path.stat().st_size / 2 < sum(file.count for file in opened) < 2 * path.stat().st_size


def test_not_a_number_is_named_by_index(write_hdf5) -> None:
    stored = np.zeros((6, 2, 1, 8), np.float32)
    stored[4, 1, 0, 3] = np.nan
    windows = open_table(DataSpec(path=write_hdf5(sample=stored))).windows
    windows.read(np.array([0, 5]))
    with pytest.raises(DataError, match="window 4 holds NaN"):
        windows.read(np.array([5, 4, 1]))


def check_message(spec: DataSpec, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_table(spec)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_bad_files(write_hdf5, tmp_path: Path) -> None:
    good = write_hdf5(sample=RNG.normal(size=(50, 2, 1, 64)), label=np.arange(50))
    truncated = tmp_path / "truncated.h5"
    truncated.write_bytes(good.read_bytes()[:20_000])
    text = tmp_path / "text.h5"
    text.write_text("not HDF5 at all\n" * 100)
    (tmp_path / "empty.h5").touch()
    (tmp_path / "data.xyz").touch()
    check_message(DataSpec(path=truncated), "truncated.h5", "truncated")
    check_message(DataSpec(path=text), "text.h5", "not an HDF5 file")
    check_message(DataSpec(path=tmp_path / "empty.h5"), "empty.h5")
    check_message(DataSpec(path=tmp_path / "absent.h5"), "absent.h5 does not exist")
    check_message(DataSpec(path=tmp_path / "data.xyz"), "data.xyz", ".h5", "data.format")
    check_message(DataSpec(path=good, input="csi"), "'csi'", "sample (50, 2, 1, 64)", "label (50,)")
    check_message(DataSpec(path=write_hdf5("zero.h5", sample=np.zeros((0, 2, 1, 8)))), "zero.h5", "no windows")
    check_message(DataSpec(path=write_hdf5("flat.h5", sample=np.zeros(8))), "flat.h5", "(N, antennas, time)")
    check_message(
        DataSpec(path=write_hdf5("names.h5", sample=np.zeros((5, 8)), attributes={"labels": "{broken"})), "labels"
    )
    unequal = write_hdf5("unequal.h5", sample=np.zeros((5, 8)), label=np.zeros(4))
    check_message(DataSpec(path=unequal, target="label"), "unequal.h5", "4 rows", "5 windows")


def test_format_overrides_suffix(write_hdf5) -> None:
    path = write_hdf5("data.cache", sample=np.zeros((4, 8)))
    assert open_table(DataSpec(path=path, format="hdf5")).windows.count == 4


@pytest.mark.parametrize(
    "names", [["X", "Y", "Z"], ["iq", "tx_beam", "gain"], ["index", "data"], ["('a', 'b', '1', '2')"], []]
)
def test_groups_where_other_layouts_have_arrays(tmp_path: Path, names: list[str]) -> None:
    """Whatever a file holds, recognising it does not fail."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in names:
            file.create_group(name)
        file.attrs["created_by"] = 7
        file["sample"] = np.zeros((4, 8))
    formats = [name for name, layout in known_formats().items() if layout.recognise(tmp_path / "a.h5")]
    assert formats[-1] == "hdf5"
    assert "sigmf" not in formats


@pytest.mark.parametrize("value", ["angle", b"angle", np.bytes_(b"angle")])
def test_default_target_and_group_by_name(write_hdf5, value: object) -> None:
    attributes = {"default_target": value, "default_group": "day"}
    path = write_hdf5(
        sample=np.zeros((4, 8)), label=[0, 1, 0, 1], angle=[0.0, 1, 2, 3], day=[0, 0, 1, 1], attributes=attributes
    )
    table = open_table(DataSpec(path=path))
    assert (table.default_target, table.default_group) == ("angle", "day")


def test_defaults_that_are_no_columns(write_hdf5) -> None:
    attributes = {"default_target": "gone", "default_group": 3}
    table = open_table(DataSpec(path=write_hdf5(sample=np.zeros((4, 8)), label=[0, 1, 0, 1], attributes=attributes)))
    assert (table.default_target, table.default_group) == ("label", None)
