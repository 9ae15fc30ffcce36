"""Several files of arrays as one: every row is the one that its file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)


def save(path: Path, count: int, **arrays: Any) -> dict[str, np.ndarray]:
    """Windows, labels and a vector; ``None`` leaves one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {
        "sample": RNG.standard_normal((count, 2, 1, 8)).astype(np.float32),
        "label": np.arange(count) % 2,
        "place": RNG.standard_normal((count, 3)),
        "group": np.full(count, len(path.stem)),
    } | arrays
    held = {name: values for name, values in held.items() if values is not None}
    np.savez(path, **held)
    return held


def test_rows(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.npz", 5), save(tmp_path / "bb.npz", 3)
    spec = DataSpec(path=(tmp_path / "a.npz", tmp_path / "bb.npz"), target="label")
    table = open_table(spec)
    order = np.array([7, 0, 4, 5, 0])
    expected = np.concatenate((first["sample"], second["sample"]))
    np.testing.assert_array_equal(table.windows.read(order), expected[order])
    np.testing.assert_array_equal(table.columns["place"], np.concatenate((first["place"], second["place"])))
    assert table.columns["group"].tolist() == [1] * 5 + [2] * 3
    assert table.default_group == "group"  # which neither file's own, with one value, could be
    assert [table.label_names["file"][number] for number in table.columns["file"]] == ["a.npz"] * 5 + ["bb.npz"] * 3
    assert load_dataset(spec, "classification").windows.count == 8


def test_fingerprints(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        save(path, 4)

    def fingerprint(*listed: Path) -> str:
        return open_table(DataSpec(path=listed)).windows.fingerprint

    assert fingerprint(paths[0]) == open_table(DataSpec(path=paths[0])).windows.fingerprint
    prints = [fingerprint(paths[0]), fingerprint(*paths), fingerprint(*reversed(paths))]
    save(paths[1], 4)
    assert len({*prints, fingerprint(*paths)}) == 4


def test_classes_are_told_by_name(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", 4, labels=np.array(["x", "y"]))
    save(tmp_path / "b.npz", 4, labels=np.array(["z", "x"]))
    dataset = load_dataset(DataSpec(path=tmp_path / "*.npz", target="label"), "classification")
    assert [dataset.label_names[number] for number in dataset.targets] == ["x", "y", "x", "y", "z", "x", "z", "x"]


def test_a_column_that_one_file_has_to_leave_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from offramp.data.formats import arrays

    monkeypatch.setattr(arrays, "MAX_VALUES", 12)
    first, second = save(tmp_path / "a.npz", 5), save(tmp_path / "b.npz", 3)
    table = open_table(DataSpec(path=tmp_path / "*.npz"))
    rows = table.large["place"].read(np.arange(8))
    np.testing.assert_allclose(rows, np.concatenate((first["place"], second["place"])), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample": np.zeros((3, 2, 1, 9), np.float32)}, r"b\.npz holds windows of shape \(2, 1, 9\) and .*a\.npz"),
        ({"place": None}, r"b\.npz has no column 'place', which .*a\.npz has"),
        ({"extra": np.zeros(3)}, r"a\.npz has no column 'extra', which .*b\.npz has"),
        ({"place": np.zeros((3, 4))}, r"b\.npz: 'place' has \(4,\) values per window and in .*a\.npz \(3,\)"),
        ({"label": np.array(["x", "y", "x"])}, r"b\.npz: 'label' is text and in .*a\.npz numbers"),
        ({"labels": np.array(["x", "y"])}, r"a\.npz does not name the classes of 'label'"),
    ],
)
def test_a_file_that_differs(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    save(tmp_path / "a.npz", 4)
    save(tmp_path / "b.npz", 3, **change)
    with pytest.raises(DataError, match=words):
        open_table(DataSpec(path=tmp_path / "*.npz"))


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", 4)
    (tmp_path / "b.npz").write_text("no archive")
    (tmp_path / "c.txt").write_text("no data")
    with pytest.raises(DataError, match=r"1 of 2 files cannot be used: b\.npz; .*data\.skip_bad: true"):
        open_table(DataSpec(path=tmp_path / "*.npz"))
    table = open_table(DataSpec(path=tmp_path / "*", skip_bad=True))
    assert table.windows.count == 4
    assert [note.split(":")[1].split(";")[0] for note in table.notes] == [" c.txt", " b.npz"]


def test_a_window_that_cannot_be_used_is_named_with_its_file(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", 4)
    windows = np.zeros((3, 2, 1, 8), np.float32)
    windows[1, 0, 0, 0] = np.nan
    save(tmp_path / "b.npz", 3, sample=windows)
    with pytest.raises(DataError, match=r"b\.npz: window 1 holds NaN"):
        open_table(DataSpec(path=tmp_path / "*.npz")).windows.read(np.arange(7))
