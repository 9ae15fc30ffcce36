"""MATLAB files of both kinds. Those of 7.3 are written here by hand: HDF5 behind MATLAB's header, axes reversed, classes as attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layouts import check_refused, opened
from scipy.io import savemat

from offramp.data.dataset import load_dataset
from offramp.data.formats import known_formats, open_table
from offramp.data.inspection import inspect_file
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
N, ANTENNAS, TIME = 12, 3, 16
WAVES = (RNG.standard_normal((N, ANTENNAS, TIME)) + 1j * RNG.standard_normal((N, ANTENNAS, TIME))).astype(np.complex64)
LABEL = np.arange(N) % 2.0
"""MATLAB's numbers are doubles."""
Write = Callable[..., Path]


def write_v5(path: Path, **variables: Any) -> Path:
    savemat(path, variables, oned_as="column")
    return path


def write_v73(path: Path, **variables: Any) -> Path:
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in variables.items():
            values = np.asarray(values)
            kind = {"f4": "single", "f8": "double", "c8": "single", "c16": "double"}.get(
                values.dtype.str[1:], str(values.dtype)
            )
            if values.ndim == 1 and values.dtype.kind != "U":
                values = values[:, None]
            if values.dtype.kind == "U":
                rows = np.atleast_1d(values)
                values = np.array(
                    [[ord(letter) for letter in row.ljust(rows.dtype.itemsize // 4)] for row in rows], np.uint16
                )
                kind = "char"
            elif values.dtype.kind == "b":
                values, kind = values.astype(np.uint8), "logical"
            elif values.dtype.kind == "c":
                pairs = np.zeros(values.shape, [("real", values.real.dtype), ("imag", values.real.dtype)])
                pairs["real"], pairs["imag"] = values.real, values.imag
                values = pairs
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


@pytest.fixture(params=[write_v5, write_v73])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    return lambda name="a.mat", **variables: request.param(tmp_path / name, **variables)


def test_windows_columns_and_names(write: Write, tmp_path: Path) -> None:
    names = np.array(["no", "never"])
    place = RNG.standard_normal((N, 3))
    session = np.array([f"day {number}" for number in np.arange(N) // 4])
    path = write(
        sample=WAVES, label=LABEL, labels=names, place=place, group=np.arange(N) // 3, session=session, good=LABEL > 0
    )
    table = opened(path, "matlab", tmp_path / "cache")
    assert table.windows.shape == (2, ANTENNAS, TIME)
    read = table.windows.read(np.arange(N))
    np.testing.assert_array_equal(read[:, 0] + 1j * read[:, 1], WAVES)
    assert table.label_names == {"label": ("no", "never")}
    np.testing.assert_array_equal(table.columns["place"], place)
    assert table.columns["session"].tolist() == session.tolist()
    assert table.columns["good"].tolist() == LABEL.tolist()
    assert (table.default_target, table.default_group) == ("label", "group")
    data = load_dataset(DataSpec(path=path, target="label", group="session"), "classification")
    assert (data.label_names, data.targets.tolist()) == (("no", "never"), LABEL.tolist())
    assert data.group_names == ("day 0", "day 1", "day 2")


@pytest.mark.parametrize("laid", ["column", "row"])
def test_windows_along_the_last_axis_come_first(write: Write, laid: str) -> None:
    label = LABEL[:, None] if laid == "column" else LABEL[None]
    place = RNG.standard_normal((3, N))
    path = write(sample=np.moveaxis(WAVES, 0, -1), label=label, place=place)
    table = open_table(DataSpec(path=path, target="label"))
    assert (table.windows.count, table.windows.shape) == (N, (2, ANTENNAS, TIME))
    read = table.windows.read(np.array([N - 1, 0, 0]))
    np.testing.assert_array_equal(read[:, 0] + 1j * read[:, 1], WAVES[[N - 1, 0, 0]])
    np.testing.assert_array_equal(table.columns["place"], place.T)
    np.testing.assert_array_equal(
        load_dataset(DataSpec(path=path, target="place"), "regression").targets, place.T.astype("f4")
    )


def test_the_columns_that_are_asked_for_tell_what_counts_windows(write: Write) -> None:
    path = write(sample=WAVES.real, modulation=LABEL, frequency=np.arange(TIME * 1.0))
    for target, count in (("modulation", N), ("frequency", TIME)):
        table = open_table(DataSpec(path=path, target=target))
        assert table.windows.count == count
    assert open_table(DataSpec(path=path)).windows.count == N


def test_without_columns_the_first_axis_counts(write: Write) -> None:
    windows = open_table(DataSpec(path=write(sample=WAVES))).windows
    assert windows.count == N
    np.testing.assert_array_equal(windows.read(np.array([3]))[0, 1], WAVES[3].imag)


def test_axes_of_one_size_are_refused(write: Write) -> None:
    square = RNG.standard_normal((N, 2, N)).astype(np.float32)
    words = ("'sample' is (12, 2, 12)", "either its first or its last axis", "windows first")
    check_refused(write("both.mat", sample=square, label=LABEL), *words)
    check_refused(write("none.mat", sample=square), *words)
    table = open_table(DataSpec(path=write("first.mat", sample=square, place=np.ones((N, 3))), target="place"))
    np.testing.assert_array_equal(table.windows.read(np.array([1])), square[[1]])
    table = open_table(DataSpec(path=write("last.mat", sample=square, place=np.ones((3, N))), target="place"))
    np.testing.assert_array_equal(table.windows.read(np.array([1]))[0], square[:, :, 1])


def test_a_target_that_fits_both_axes_is_told_by_other_columns_or_refused(write: Write) -> None:
    windows, place = np.moveaxis(WAVES, 0, -1), np.ones((ANTENNAS, N))
    assert (
        open_table(
            DataSpec(path=write("told.mat", sample=windows, place=place, label=LABEL), target="place")
        ).windows.count
        == N
    )
    check_refused(write("untold.mat", sample=windows, place=place), "either its first or its last axis", target="place")


def test_iq_without_antennas(write: Write) -> None:
    path = write(sample=WAVES[:, 0].real[:, None].repeat(2, 1), label=LABEL)
    assert open_table(DataSpec(path=path)).windows.shape == (2, TIME)


def test_other_names_and_columns_of_another_length(write: Write) -> None:
    path = write(waves=WAVES, label=np.ones(5))
    assert inspect_file(path).count is None
    assert {array.name: array.shape for array in inspect_file(path).arrays} == {"waves": WAVES.shape, "label": (5, 1)}
    assert open_table(DataSpec(path=path, input="waves")).windows.count == N
    check_refused(path, "set data.input to one of")
    check_refused(path, "'label' has 5 rows and 'waves' has 12 windows", input="waves", target="label")


def test_cells_and_structs_of_older_files_are_named_and_passed_over(tmp_path: Path) -> None:
    cells = np.empty(N, object)
    cells[:] = ["a", "b"] * (N // 2)
    path = write_v5(
        tmp_path / "a.mat", sample=WAVES, label=LABEL, words=cells, about={"rate": 1.0}, none=np.zeros((0, 0))
    )
    summary = inspect_file(path)
    assert [column.name for column in summary.columns] == ["label"]
    kinds = {array.name: array.dtype for array in summary.arrays}
    assert (kinds["words"], kinds["about"]) == ("cell", "struct")
    check_refused(path, "'words' is cell (12, 1); a column holds numbers or text", target="words")
    check_refused(path, "'about' is struct", input="about")


def test_cells_of_newer_files_are_named_and_passed_over(tmp_path: Path) -> None:
    path = write_v73(tmp_path / "a.mat", sample=WAVES, label=LABEL)
    with h5py.File(path, "r+") as file:
        file["#refs#/a"] = np.arange(N)
        file["words"] = np.array([[file["#refs#/a"].ref] * N], dtype=h5py.ref_dtype)
        file["words"].attrs["MATLAB_class"] = np.bytes_("cell")
        file["none"] = np.array([0, 0], np.uint64)
        file["none"].attrs["MATLAB_class"] = np.bytes_("double")
        file["none"].attrs["MATLAB_empty"] = 1
        file["about/sample"] = WAVES.real.T
        file["about/sample"].attrs["MATLAB_class"] = np.bytes_("single")
    kinds = {array.name: array.dtype for array in inspect_file(path).arrays}
    assert (kinds["words"], kinds["none"]) == ("cell", "empty double")
    assert "#refs#/a" not in kinds
    check_refused(path, "'words' is cell (12, 1)", target="words")
    assert open_table(DataSpec(path=path, input="about/sample")).windows.shape == (ANTENNAS, TIME)


def test_axes_as_hdf5_has_them_where_that_format_is_named(tmp_path: Path) -> None:
    path = write_v73(tmp_path / "a.mat", sample=np.moveaxis(WAVES, 0, -1), label=LABEL)
    windows = open_table(DataSpec(path=path, format="hdf5", target="label")).windows
    assert (windows.count, windows.shape) == (N, (2, TIME, ANTENNAS))


def test_a_matlab_file_with_the_suffix_of_hdf5(tmp_path: Path) -> None:
    path = write_v73(tmp_path / "a.h5", sample=WAVES, label=LABEL)
    assert [name for name, layout in known_formats().items() if layout.recognise(path)] == ["matlab"]


@pytest.mark.parametrize("size", [0, 100, 400, 2000])
def test_bad_files(tmp_path: Path, size: int) -> None:
    whole = write_v5(tmp_path / "whole.mat", sample=WAVES, label=LABEL).read_bytes()
    (tmp_path / "cut.mat").write_bytes(whole[:size])
    check_refused(tmp_path / "cut.mat", "cut.mat", "copy it again")
    newer = write_v73(tmp_path / "newer.mat", sample=WAVES, label=LABEL).read_bytes()
    (tmp_path / "short.mat").write_bytes(newer[: 512 + size])
    check_refused(tmp_path / "short.mat", "short.mat")
    (tmp_path / "text.mat").write_text("no MATLAB file\n" * 30)
    check_refused(tmp_path / "text.mat", "text.mat is no MATLAB file or damaged")
