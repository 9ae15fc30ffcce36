"""Arrays as other tools write them: columns laid along another axis or of odd types, complex numbers as pairs, what cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.data.inspection import inspect_file
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
N = 6
SAMPLE = RNG.standard_normal((N, 2, 1, 16)).astype(np.float32)
WAVES = (RNG.standard_normal((N, 3, 16)) + 1j * RNG.standard_normal((N, 3, 16))).astype(np.complex64)
Write = Callable[..., Path]


@pytest.fixture(params=["h5", "npz"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """The same arrays in either kind of file."""

    def to_file(**arrays: Any) -> Path:
        path = tmp_path / f"a.{request.param}"
        if request.param == "npz":
            np.savez(path, **arrays)
            return path
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                values = np.asarray(values)
                file[name] = values.astype("S") if values.dtype.kind == "U" else values
        return path

    return to_file


COLUMNS = {
    "label": np.array([0, 1, 2, 0, 1, 2], np.uint8),
    "angle": np.array([0.5, 1, 2, 3, 4, 5]),
    "day": np.array(["a", "b", "c", "a", "b", "c"]),
    "snr": np.array([-3, 0, 3, 6, 9, 12.5], np.float32),
    "gain": RNG.standard_normal(N) + 1j * RNG.standard_normal(N),
}


@pytest.mark.parametrize("shape", [(N, 1), (1, N), (N, 1, 1), (1, 1, N)])
def test_one_column_however_it_is_laid(write: Write, shape: tuple[int, ...]) -> None:
    path = write(sample=SAMPLE, **{name: values.reshape(shape) for name, values in COLUMNS.items()})
    table = open_table(DataSpec(path=path))
    for name in ("label", "angle", "day", "snr"):
        np.testing.assert_array_equal(table.columns[name], COLUMNS[name])
        assert table.columns[name].dtype.kind == COLUMNS[name].dtype.kind
    np.testing.assert_array_equal(table.columns["gain"], np.stack([COLUMNS["gain"].real, COLUMNS["gain"].imag], 1))
    data = load_dataset(DataSpec(path=path, target="label", group="day", snr="snr"), "classification")
    assert data.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert (data.group_names, data.groups.tolist()) == (("a", "b", "c"), [0, 1, 2, 0, 1, 2])
    assert data.snr_db is not None
    assert data.snr_db.tolist() == COLUMNS["snr"].tolist()
    values = load_dataset(DataSpec(path=path, target="angle", group="label"), "regression")
    assert values.targets.tolist() == COLUMNS["angle"][:, None].tolist()
    assert values.target_shape == (1,)
    assert load_dataset(DataSpec(path=path, target="day"), "classification").label_names == ("a", "b", "c")


def test_a_row_of_values_for_one_window_is_a_vector(write: Write) -> None:
    table = open_table(DataSpec(path=write(sample=SAMPLE[:1], place=np.ones((1, 3)), other=np.ones((1, 1)))))
    assert {name: values.shape for name, values in table.columns.items()} == {"place": (1, 3), "other": (1,)}


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 1, 0, 1, 0], ">i4"),
        np.array([0, 1, 1, 0, 1, 0], ">f8"),
        np.array([0, 1, 1, 0, 1, 0], np.float16),
        np.array([False, True, True, False, True, False]),
        np.array([b"0", b"1", b"1", b"0", b"1", b"0"]),
    ],
)
def test_labels_of_every_type(write: Write, labels: np.ndarray) -> None:
    path = write(sample=SAMPLE, label=labels, session=labels)
    data = load_dataset(DataSpec(path=path, target="label", group="session"), "classification")
    assert data.targets.tolist() == [0, 1, 1, 0, 1, 0]
    assert data.label_names == data.group_names == ("0", "1")
    (column,) = (column for column in inspect_file(path).columns if column.name == "label")
    assert column.counts == {"0": 3, "1": 3}


def test_whole_numbers_stored_as_floats_name_their_classes_and_group(write: Write) -> None:
    path = write(sample=SAMPLE, label=np.arange(N) % 2.0, group=np.arange(N) // 2 * 1.0, labels=["no", "yes"])
    table = open_table(DataSpec(path=path))
    assert table.default_group == "group"
    data = load_dataset(DataSpec(path=path, target="label", labels=("no", "yes")), "classification")
    assert (data.label_names, data.group_names) == (("no", "yes"), ("0", "1", "2"))


def test_text_of_any_length_and_a_byte_order_mark(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["sample"] = SAMPLE
        file["label"] = np.array(["\ufeffa", "ü", "a", "b", "b", "a"], dtype=object).reshape(N, 1)
        file["kind"] = np.arange(N) % 2
        file.attrs["labels_kind"] = '\ufeff["p", "q"]'
    table = open_table(DataSpec(path=tmp_path / "a.h5"))
    assert table.columns["label"].tolist() == ["a", "ü", "a", "b", "b", "a"]
    assert table.label_names == {"kind": ("p", "q")}


@pytest.mark.parametrize("names", [["no", "yes"], [["no", "yes"]], [["no"], ["yes"]]])
def test_names_of_classes_laid_either_way(tmp_path: Path, names: list[Any]) -> None:
    np.savez(tmp_path / "a.npz", sample=SAMPLE, label=np.arange(N) % 2, labels=np.array(names))
    assert open_table(DataSpec(path=tmp_path / "a.npz")).label_names == {"label": ("no", "yes")}


@pytest.mark.parametrize("names", [("real", "imag"), ("r", "i"), ("Re", "Im"), ("I", "Q")])
@pytest.mark.parametrize("kind", ["<f4", "<f8", ">f4", "<i2", "<i4"])
def test_pairs_are_complex(write: Write, names: tuple[str, str], kind: str) -> None:
    parts = [np.round(100 * part) if kind[1] == "i" else part for part in (WAVES.real, WAVES.imag)]
    stored = np.zeros(WAVES.shape, [(name, kind) for name in names])
    for name, part in zip(names, parts, strict=True):
        stored[name] = part
    gain = stored[:, 0, 0]
    path = write(sample=stored, gain=gain, label=np.arange(N) % 2)
    table = open_table(DataSpec(path=path))
    assert table.windows.shape == (2, 3, 16)
    expected = np.stack([part.astype(kind).astype(np.float32) for part in parts], axis=1)
    np.testing.assert_array_equal(table.windows.read(np.array([5, 0, 5])), expected[[5, 0, 5]])
    np.testing.assert_array_equal(table.columns["gain"].astype(np.float32), expected[:, :, 0, 0])
    note = inspect_file(path).note
    assert "complex" in note
    assert "I/Q (N, 2, 3, 16)" in note


def test_everything_that_layouts_promise(tmp_path: Path) -> None:
    stored = np.zeros(WAVES.shape, [("real", "<f4"), ("imag", "<f4")])
    stored["real"], stored["imag"] = WAVES.real, WAVES.imag
    np.savez(tmp_path / "a.npz", sample=stored, label=(np.arange(N) % 2)[:, None])
    table = opened(tmp_path / "a.npz", "npz", tmp_path / "cache")
    np.testing.assert_array_equal(table.windows.read(np.arange(N))[:, 1], WAVES.imag)


def test_other_pairs_are_refused_and_listed(write: Write) -> None:
    path = write(sample=np.zeros((N, 16), [("x", "<f4"), ("y", "<f4")]), label=np.arange(N))
    check_refused(path, "'sample' is [('x', '<f4'), ('y', '<f4')] (6, 16)", "real (N, ...) or complex")
    summary = inspect_file(path)
    assert (summary.count, [array.name for array in summary.arrays]) == (
        None,
        ["sample", "label"][:: -1 if path.suffix == ".h5" else 1],
    )
    assert "real (N, ...) or complex" in summary.note


def test_nothing_in_a_file_stops_inspection(tmp_path: Path) -> None:
    """Types that numpy does not know, references, ragged rows, no values at all: listed, no columns, and said where they are asked for."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["sample"] = SAMPLE
        file["label"] = np.arange(N) % 2
        file["empty"] = h5py.Empty("f4")
        file["link"] = np.array([file["label"].ref] * N, dtype=h5py.ref_dtype)
        ragged = file.create_dataset("ragged", (N,), h5py.vlen_dtype(np.int32))
        ragged[0] = [1, 2, 3]
        h5py.h5d.create(file.id, b"time", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((N,)))
        h5py.h5d.create(file.id, b"blob", h5py.h5t.create(h5py.h5t.OPAQUE, 5), h5py.h5s.create_simple((N,)))
    summary = inspect_file(path)
    assert [column.name for column in summary.columns] == ["label"]
    kinds = {array.name: array.dtype for array in summary.arrays}
    assert kinds["link"] == kinds["ragged"] == "references or ragged rows"
    assert "numpy does not know" in kinds["time"]
    for name in ("link", "ragged", "time", "blob"):
        with pytest.raises(DataError, match=rf"'{name}' is .* \(6,\); a column holds numbers or text"):
            load_dataset(DataSpec(path=path, target=name), "classification")
        check_refused(path, f"'{name}'", "windows are real", input=name)


@pytest.mark.parametrize("shape", [(N,), (1, N), (N, 1)])
def test_windows_along_the_last_axis_are_refused(write: Write, shape: tuple[int, ...]) -> None:
    """As MATLAB's h5write leaves them, with nothing to tell who wrote them."""
    path = write(sample=np.moveaxis(SAMPLE, 0, -1), label=(np.arange(N) % 2).reshape(shape))
    check_refused(path, "'sample' is (2, 1, 16, 6)", "store them along the first", target="label")


def test_iq_without_antennas_is_said(write: Write) -> None:
    assert (
        "(N, 2, 16); read as I/Q (N, 2, 1, 16) where an encoder takes I/Q"
        in inspect_file(write(sample=SAMPLE[:, :, 0])).note
    )
    assert "sample is float32 and read as (N, 2, 2)" in inspect_file(write(sample=SAMPLE[:, :, 0, :2])).note
    assert "no array is called sample" in inspect_file(write(waves=SAMPLE)).note
