from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from offramp.data import cache
from offramp.data.cache import write_cache
from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError, OfframpError
from offramp.schema.tasks import DataSpec

COUNT = 25


def table(broken: int | None = None) -> Table:
    windows = np.random.default_rng(0).standard_normal((COUNT, 2, 3, 8)).astype(np.float32)
    if broken is not None:
        windows[broken] = np.nan
    return Table(
        windows=WindowSource("made", COUNT, (2, 3, 8), "f" * 64, lambda indices: windows[indices]),
        columns={
            "label": np.arange(COUNT) % 3,
            "label_site": np.arange(COUNT) % 2,
            "modulation": np.arange(COUNT) % 2,
            "city": np.array(["Köln", "東京", "a", "b", "c"] * 5),
            "angle": np.linspace(-60, 60, COUNT, dtype=np.float32),
            "place": np.zeros((COUNT, 2)),
        },
        label_names={"label": ("x", "y", "z"), "label_site": ("in", "out"), "modulation": ("bpsk", "qpsk")},
    )


def test_it_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BLOCK", 10)
    progress = []
    made = table()
    write_cache(made, tmp_path / "new" / "c.h5", lambda done, total: progress.append((done, total)))
    assert progress == [(10, 25), (20, 25), (25, 25)]
    found = open_table(DataSpec(path=tmp_path / "new" / "c.h5"))
    assert found.windows.shape == (2, 3, 8)
    np.testing.assert_array_equal(found.windows.read(np.arange(COUNT)), made.windows.read(np.arange(COUNT)))
    assert set(found.columns) == set(made.columns)
    for name, values in made.columns.items():
        np.testing.assert_array_equal(found.columns[name], values)
    assert {name: found.label_names[name] for name in made.label_names} == made.label_names


def test_classes_keep_their_names(tmp_path: Path) -> None:
    write_cache(table(), tmp_path / "c.h5")
    for target, names in (("label", ("x", "y", "z")), ("label_site", ("in", "out")), ("modulation", ("bpsk", "qpsk"))):
        spec = DataSpec(path=tmp_path / "c.h5", target=target)
        assert load_dataset(spec, "classification").label_names == names


def test_bad_windows_leave_the_earlier_file(tmp_path: Path) -> None:
    write_cache(table(), tmp_path / "c.h5")
    earlier = (tmp_path / "c.h5").read_bytes()
    with pytest.raises(DataError, match="window 7 holds NaN"):
        write_cache(table(broken=7), tmp_path / "c.h5")
    assert (tmp_path / "c.h5").read_bytes() == earlier
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [OSError(28, "Can't write data (long story)"), RuntimeError("Unable to\n close")])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(h5py.File, "flush", full)
    reason = "No space left on device" if isinstance(error, OSError) else "Unable to close"
    with pytest.raises(OfframpError, match=rf"cannot write .*c\.h5: {reason}; free some space"):
        write_cache(table(), tmp_path / "c.h5")
    assert list(tmp_path.iterdir()) == []


def test_defaults_shapes_and_large_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = table()
    future = np.random.default_rng(1).standard_normal((COUNT, 2, 30, 30)).astype(np.float32)
    box = np.arange(COUNT * 6.0).reshape(COUNT, 6)
    made = replace(
        made,
        columns={**made.columns, "box": box},
        column_shapes={"box": (2, 3)},
        large={"future": WindowSource("made", COUNT, (2, 30, 30), "", lambda indices: future[indices])},
        default_target="angle",
        default_group="city",
    )
    monkeypatch.setattr(cache, "BLOCK_BYTES", 4 * (2 * 3 * 8 + 1800) * 6)
    progress = []
    write_cache(made, tmp_path / "c.h5", lambda done, total: progress.append(done))
    assert progress == [6, 12, 18, 24, 25]
    found = open_table(DataSpec(path=tmp_path / "c.h5"))
    assert (found.default_target, found.default_group) == ("angle", "city")
    np.testing.assert_array_equal(found.columns["box"], box)
    assert found.column_shapes == {"box": (2, 3)}
    assert found.large["future"].shape == (2, 30, 30)
    np.testing.assert_array_equal(found.large["future"].read(np.arange(COUNT)), future)


def test_a_window_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BLOCK_BYTES", 10)
    write_cache(table(), tmp_path / "c.h5")
    assert open_table(DataSpec(path=tmp_path / "c.h5")).windows.count == COUNT


def test_a_column_called_as_the_windows(tmp_path: Path) -> None:
    made = table()
    with pytest.raises(DataError, match="column 'sample'"):
        write_cache(replace(made, columns={"sample": np.arange(COUNT)}), tmp_path / "c.h5")
    assert list(tmp_path.iterdir()) == []
