from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offramp.data.formats import open_table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec


def test_windows_columns_and_names(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).normal(size=(6, 3, 16)).astype(np.complex64)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, sample=stored, label=[0, 1, 0, 1, 0, 1], group=list("aabbcc"), labels=["no", "yes"])
    table = open_table(DataSpec(path=path))
    read = table.windows.read(np.array([5, 0, 5]))
    np.testing.assert_array_equal(read[:, 0] + 1j * read[:, 1], stored[[5, 0, 5]])
    assert table.label_names == {"label": ("no", "yes")}
    assert set(table.columns) == {"label", "group"}


def test_text_labels_called_labels_are_a_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", sample=np.zeros((3, 8)), labels=["x", "y", "x"])
    assert open_table(DataSpec(path=tmp_path / "a.npz")).columns["labels"].tolist() == ["x", "y", "x"]


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/offramp-hostile-pickle"),)


@pytest.mark.parametrize("case", ["pickle", "text", "truncated", "array"])
def test_bad_files(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.npz"
    if case == "pickle":
        np.savez(path, sample=np.array([Hostile()], dtype=object))
    elif case == "text":
        path.write_text("no archive")
    elif case == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(4))
    else:
        np.savez(path, sample=np.random.default_rng(0).normal(size=(100, 64)))
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"a\.npz") as caught:
        open_table(DataSpec(path=path))
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/offramp-hostile-pickle").exists()


def test_damage_inside_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, sample=np.random.default_rng(0).normal(size=(100, 64)))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged"):
        open_table(DataSpec(path=path))
