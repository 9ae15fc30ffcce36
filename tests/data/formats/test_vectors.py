"""Columns that are vectors: complex ones, several axes, too large to hold, places as groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import check_refused

from offramp.data.cache import write_cache
from offramp.data.dataset import load_dataset
from offramp.data.formats import arrays, open_table
from offramp.data.inspection import inspect_file
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
N = 10
SAMPLE = RNG.standard_normal((N, 2, 1, 16)).astype(np.float32)


def complex_array(*shape: int) -> np.ndarray:
    return (RNG.standard_normal((N, *shape)) + 1j * RNG.standard_normal((N, *shape))).astype(np.complex64)


COLUMNS = {
    "gain": complex_array(),
    "steering": complex_array(3),
    "future": complex_array(2, 4),
    "box": RNG.standard_normal((N, 2, 3)),
    "counts": RNG.integers(0, 9, (N, 2, 2, 2)),
    "seen": RNG.random((N, 4)) > 0.5,
}
SHAPES = {"gain": (2,), "steering": (2, 3), "future": (2, 2, 4), "box": (2, 3), "counts": (2, 2, 2), "seen": (4,)}


def expected(name: str) -> np.ndarray:
    """One row per window; complex numbers as all real parts, then all imaginary parts."""
    values = COLUMNS[name].reshape(N, -1)
    return np.hstack((values.real, values.imag)) if np.iscomplexobj(values) else values.astype(float)


@pytest.fixture(params=["hdf5", "npz", "cache", "large"])
def path(request: pytest.FixtureRequest, tmp_path: Path, write_hdf5, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same columns in every kind of file, held in memory and not."""
    if request.param == "large":
        monkeypatch.setattr(arrays, "MAX_DIMENSIONS", 1)
    if request.param == "npz":
        np.savez(tmp_path / "a.npz", sample=SAMPLE, **COLUMNS)
        return tmp_path / "a.npz"
    path = write_hdf5("a.h5", sample=SAMPLE, **COLUMNS)
    if request.param == "cache":
        write_cache(open_table(DataSpec(path=path)), tmp_path / "cache.h5")
        return tmp_path / "cache.h5"
    return path


@pytest.mark.parametrize("name", COLUMNS)
def test_vector_targets(path: Path, name: str) -> None:
    data = load_dataset(DataSpec(path=path, target=name), "regression")
    assert data.targets.dtype == np.float32
    assert data.targets.flags.c_contiguous
    np.testing.assert_allclose(data.targets, expected(name), rtol=1e-6)
    assert data.target_shape == SHAPES[name]


def test_inspected_with_their_shapes(path: Path) -> None:
    found = {column.name: column for column in inspect_file(path).columns}
    assert {name: column.shape for name, column in found.items()} == SHAPES


def test_target_shape_of_others(write_hdf5) -> None:
    path = write_hdf5(sample=SAMPLE, label=np.arange(N) % 2, angle=RNG.random(N), place=RNG.random((N, 3)))
    shapes = {
        name: load_dataset(DataSpec(path=path, target=name), kind).target_shape
        for name, kind in (("label", "classification"), ("angle", "regression"), ("place", "regression"))
    }
    assert shapes == {"label": (), "angle": (1,), "place": (3,)}


def test_large_columns_are_read_only_as_the_target(write_hdf5, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(
        sample=SAMPLE, label=np.arange(N) % 2, future=RNG.standard_normal((N, 2, 40, 40)).astype(np.float32)
    )
    table = open_table(DataSpec(path=path))
    assert set(table.columns) == {"label"}
    assert table.large["future"].shape == (2, 40, 40)
    reads = []
    fetch = arrays.real_of
    monkeypatch.setattr(arrays, "real_of", lambda values: (reads.append(values.shape), fetch(values))[1])
    load_dataset(DataSpec(path=path, target="label"), "classification")
    assert (N, 2, 40, 40) not in reads
    monkeypatch.setattr("offramp.data.dataset.BLOCK", 4)
    data = load_dataset(DataSpec(path=path, target="future"), "regression")
    assert [shape[0] for shape in reads if len(shape) == 4] == [4, 4, 2]
    assert data.targets.shape == (N, 3200)


def test_many_rows_of_a_short_vector_are_not_held(write_hdf5, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_VALUES", 3 * N - 1)
    place = RNG.random((N, 3))
    table = open_table(DataSpec(path=write_hdf5(sample=SAMPLE, place=place, label=np.arange(N))))
    assert (set(table.columns), set(table.large)) == ({"label"}, {"place"})
    np.testing.assert_allclose(table.large["place"].read(np.array([9, 0])), place[[9, 0]], rtol=1e-6)


def test_not_a_number_in_a_large_column(write_hdf5) -> None:
    future = np.zeros((N, 40, 40), np.float32)
    future[7, 3, 3] = np.inf
    path = write_hdf5(sample=SAMPLE, future=future)
    with pytest.raises(DataError, match=r"data\.h5: 'future': window 7 holds NaN or infinity"):
        load_dataset(DataSpec(path=path, target="future"), "regression")


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"target": "future"}, "classification", ["'future'", "one, or kind: regression"]),
        ({"target": "label", "group": "future"}, "classification", ["'future'", "data.group"]),
        ({"target": "label", "snr": "future"}, "classification", ["'future'", "data.snr"]),
        ({"target": "other"}, "regression", ["label", "future"]),
    ],
)
def test_large_columns_where_one_value_is_needed(
    write_hdf5, fields: dict[str, Any], kind: Any, words: list[str]
) -> None:
    path = write_hdf5(sample=SAMPLE, label=np.arange(N) % 2, future=np.ones((N, 40, 40)))
    with pytest.raises(DataError) as caught:
        load_dataset(DataSpec(path=path, **fields), kind)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_places_as_groups(write_hdf5) -> None:
    place = np.repeat([[1.5, 2], [0, 1], [1.5, -2]], [3, 3, 4], axis=0).astype(np.float32)
    path = write_hdf5(sample=SAMPLE, angle=RNG.random(N), place=place)
    data = load_dataset(DataSpec(path=path, target="angle", group="place"), "regression")
    assert data.group_names == ("0, 1", "1.5, -2", "1.5, 2")
    assert data.groups.tolist() == [2] * 3 + [0] * 3 + [1] * 4


def test_no_usual_target(write_hdf5) -> None:
    path = write_hdf5(sample=SAMPLE, kind=np.arange(N) % 2)
    with pytest.raises(DataError, match=r"name the column to predict in data\.target: kind"):
        load_dataset(DataSpec(path=path), "classification")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"scenario": np.array([b"a", b"b"] * 5)}, "scenario"),
        ({"scenario": np.array([b"a"] * N)}, None),
        ({"source_file": np.array([b"%d" % number for number in range(N)])}, None),
        ({"source_file": np.array([b"a", b"b"] * 5), "scenario": np.array([b"c", b"d"] * 5)}, "scenario"),
        ({"location": np.repeat(RNG.random((5, 2)), 2, axis=0), "source_file": np.array([b"a", b"b"] * 5)}, "location"),
        ({"location": RNG.random((N, 2)), "source_file": np.array([b"a", b"b"] * 5)}, "source_file"),
        ({"group": np.arange(N) // 2}, "group"),
        ({"group": np.arange(N) / 3}, None),
    ],
)
def test_default_groups(write_hdf5, groups: dict[str, np.ndarray], expected: str | None) -> None:
    assert open_table(DataSpec(path=write_hdf5(sample=SAMPLE, **groups))).default_group == expected


def test_a_file_of_many_arrays_is_listed_in_short(write_hdf5) -> None:
    path = write_hdf5(**{f"array{number}": np.zeros(3) for number in range(30)})
    check_refused(path, "array0 (3,)", "18 more")
