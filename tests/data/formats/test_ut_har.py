from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.inspection import inspect_file

RNG = np.random.default_rng(0)
COUNTS = {"train": 4, "val": 2, "test": 3}


def save(path: Path, values: Any, **options: Any) -> None:
    """As SenseFi's files: written by numpy.save under another suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, values, **options)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return {part: RNG.normal(size=(count, 250, 90)) for part, count in COUNTS.items()}


@pytest.fixture
def folder(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    for part, values in arrays.items():
        save(tmp_path / "ut" / "data" / f"X_{part}.csv", values)
        save(tmp_path / "ut" / "label" / f"y_{part}.csv", np.arange(len(values)).astype(np.float64))
    return tmp_path / "ut"


def test_windows_and_columns(folder: Path, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    table = opened(folder, "ut-har", tmp_path)
    assert table.windows.shape == (1, 250, 90)
    everything = np.concatenate(list(arrays.values()))
    np.testing.assert_array_equal(table.windows.read(np.arange(9))[:, 0], everything.astype(np.float32))
    assert table.columns["label"].tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert table.columns["part"].tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    assert table.default_group is None


def test_inspect_lists_arrays(folder: Path) -> None:
    summary = inspect_file(folder)
    assert {array.name: array.shape for array in summary.arrays}["data/X_val.csv"] == (2, 250, 90)
    assert next(column for column in summary.columns if column.name == "part").counts == {
        "train": 4,
        "test": 3,
        "val": 2,
    }


@pytest.mark.parametrize("shape", [(4, 1, 250, 90), (4, 22_500)])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2"])
def test_other_shapes_and_types_of_the_same_numbers(folder: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = RNG.integers(-9, 9, (4, 250, 90))
    for part in ("val", "test"):
        (folder / "data" / f"X_{part}.csv").unlink()
    save(folder / "data" / "X_train.csv", values.reshape(shape).astype(dtype))
    table = opened(folder, "ut-har", folder)
    np.testing.assert_array_equal(table.windows.read(np.arange(4))[:, 0], values)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("owned"),))


def test_bad_files(
    folder: Path, arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    windows, labels = folder / "data" / "X_val.csv", folder / "label" / "y_val.csv"
    intact = windows.read_bytes(), labels.read_bytes()

    def check(*words: str) -> None:
        check_refused(folder, *words)
        windows.write_bytes(intact[0])
        labels.write_bytes(intact[1])

    windows.write_bytes(intact[0][:-1])
    check("X_val.csv is truncated")
    for content in (b"", b"0.1,0.2\n", intact[0][:9], intact[0][:6] + b"\x09\x00" + intact[0][8:]):
        windows.write_bytes(content)
        check("X_val.csv", "numpy.save")
    save(windows, np.array([Hostile()], dtype=object), allow_pickle=True)
    check("X_val.csv", "pickled Python objects")
    windows.write_bytes(pickle.dumps(Hostile()))
    check("X_val.csv", "numpy.save")
    assert not Path("owned").exists()
    save(windows, arrays["val"][:, :100])
    check("X_val.csv", "(2, 100, 90)", "(N, 250, 90)")
    save(windows, arrays["val"][:0])
    check("X_val.csv", "(0, 250, 90)")
    save(windows, np.asfortranarray(arrays["val"]))
    check("X_val.csv", "by columns", "row by row")
    save(windows, arrays["val"] + 1j)
    check("X_val.csv", "complex128")
    save(labels, np.arange(3))
    check("y_val.csv", "2 windows")
    for values in ([0.0, 0.5], [0.0, np.nan], [-1, 0]):
        save(labels, np.array(values))
        check("y_val.csv", "0, 1, 2")
    labels.unlink()
    check("y_val.csv", "No such file")
    bad = arrays["val"].copy()
    bad[1, 3, 4] = np.inf
    save(windows, bad)
    check("window 5 holds NaN or infinity")
    (tmp_path / "nothing").mkdir()
    check_refused(tmp_path / "nothing", "no UT-HAR", format="ut-har")
