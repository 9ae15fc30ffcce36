from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.data.inspection import inspect_file
from offramp.schema.tasks import DataSpec


def write(folder: Path, name: str, samples: np.ndarray, transmitter: str = "bes", **changes: Any) -> Path:
    """A pair of files; ``changes`` replace sections of the metadata."""
    base = folder / name
    base.parent.mkdir(parents=True, exist_ok=True)
    meta = {
        "global": {"core:datatype": "cf32", "core:sample_rate": 5e6, "core:version": "0.0.1", "core:sha512": "f" * 128},
        "captures": {"core:sample_start": 0, "core:center_frequency": 2.685e9},
        "annotations": {
            "core:sample_count": len(samples),
            "transmitter": {"core:location": transmitter, "core:model": "X310"},
            "receiver": {"core:location": "humanities"},
        },
        **changes,
    }
    base.with_suffix(".json").write_text(json.dumps(meta))
    base.with_suffix(".bin").write_bytes(samples.astype("<c8").tobytes())
    return base.with_suffix(".json")


def ramp(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count) - 1j * np.arange(first, first + count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "powder", "day1/meb_1", ramp(100), " MEB ")
    write(tmp_path / "powder", "day1/bes_1", ramp(47, 1000), "bes")
    write(tmp_path / "powder", "day2/bes_1", ramp(9, 5000), "bes")
    return tmp_path / "powder"


def test_windows_and_columns(folder: Path, tmp_path: Path) -> None:
    table = opened(folder, "powder", tmp_path, window=20, hop=10)
    assert table.windows.shape == (2, 1, 20)
    # 3 windows fit into 47 samples, 9 into 100, none into 9; files are read in the order of their names
    firsts = [1000, 1010, 1020, *range(0, 81, 10)]
    windows = table.windows.read(np.arange(12))
    for window, first in zip(windows, firsts, strict=True):
        np.testing.assert_array_equal(window[0, 0], np.arange(first, first + 20))
        np.testing.assert_array_equal(window[1, 0], -np.arange(first, first + 20))
    assert table.label_names["label"] == ("bes", "meb")
    assert table.columns["label"].tolist() == [0] * 3 + [1] * 9
    assert table.columns["recording"].tolist() == [0] * 3 + [1] * 9
    assert table.label_names["recording"] == ("day1/bes_1", "day1/meb_1", "day2/bes_1")
    assert set(table.columns) == {
        "label", "recording", "day", "sample_rate", "sample_start", "center_frequency", "sample_count",
        "transmitter_model", "receiver_location",
    }  # fmt: skip
    assert set(table.columns["day"].tolist()) == {1.0}
    assert set(table.columns["center_frequency"].tolist()) == {2.685e9}
    assert table.columns["sample_count"].tolist() == [47.0] * 3 + [100.0] * 9
    assert table.label_names["receiver_location"] == ("humanities",)


def test_groups_are_recordings_by_name(folder: Path) -> None:
    data = load_dataset(DataSpec(path=folder, target="label", window=9), "classification")
    assert data.label_names == ("bes", "meb")
    assert data.group_names == ("day1/bes_1", "day1/meb_1", "day2/bes_1")
    assert np.bincount(data.groups).tolist() == [5, 11, 1]


def test_512_samples_if_none_are_asked_for(tmp_path: Path) -> None:
    meta = write(tmp_path, "one", ramp(1600))
    for path in (meta, meta.with_suffix(".bin"), tmp_path):
        table = open_table(DataSpec(path=path))
        assert table.windows.read(np.arange(3))[:, 0, 0, 0].tolist() == [0, 512, 1024]
        assert table.label_names["recording"] == ("one",)
    assert open_table(DataSpec(path=meta, window=100, windows_per_recording=3)).windows.count == 3


def test_inspect_shows_recordings(folder: Path) -> None:
    summary = inspect_file(folder)
    found = {column.name: column for column in summary.columns}
    assert (summary.rows, summary.count, summary.shape) == ("recording", 3, None)
    assert found["label"].counts == {"bes": 2, "meb": 1}
    assert found["samples"].range == (9, 100)


def test_fingerprint_follows_samples_metadata_and_cut(folder: Path) -> None:
    def fingerprint(**fields: Any) -> str:
        return open_table(DataSpec(path=folder, **{"window": 9, **fields})).windows.fingerprint

    prints = {fingerprint(), fingerprint(window=8), fingerprint(hop=3), fingerprint(windows_per_recording=1)}
    write(folder, "day2/bes_1", ramp(9, 5001), "bes")
    prints.add(fingerprint())
    write(folder, "day2/bes_1", ramp(9, 5001), "meb")
    assert len({*prints, fingerprint()}) == 6


def test_bad_recordings(tmp_path: Path) -> None:
    good = write(tmp_path / "a", "good", ramp(600))
    check_refused(good, "good.json", "no windows of 601 samples", "data.window", window=601)
    cut = write(tmp_path / "b", "cut", ramp(600))
    cut.with_suffix(".bin").write_bytes(cut.with_suffix(".bin").read_bytes()[:-3])
    check_refused(cut, "cut.bin", "4797 bytes", "copy it again")
    lonely = write(tmp_path / "c", "lonely", ramp(600))
    lonely.with_suffix(".bin").unlink()
    check_refused(tmp_path / "c", "lonely.bin is missing", format="powder")
    headless = write(tmp_path / "d", "headless", ramp(600))
    headless.unlink()
    check_refused(tmp_path / "d", "headless.json is missing", format="powder")
    (tmp_path / "e").mkdir()
    check_refused(tmp_path / "e", "no POWDER recordings", format="powder")
    integers = write(tmp_path / "f", "integers", ramp(600), **{"global": {"core:datatype": "ci16_le"}})
    check_refused(integers, "integers.json", "'ci16_le'", "cf32")
    nameless = write(tmp_path / "g", "nameless", ramp(600), annotations={"transmitter": {}})
    check_refused(nameless, "nameless.json", "core:location")
    for number, content in enumerate(["{broken", "[]", '{"global": [], "captures": [{}]}', "\x00\xff", "[" * 100_000]):
        broken = write(tmp_path / "h", f"broken{number}", ramp(600))
        broken.write_text(content, encoding="latin1")
        check_refused(broken, f"broken{number}.json")


def test_samples_that_vanish_are_named(tmp_path: Path) -> None:
    meta = write(tmp_path, "gone", ramp(600))
    windows = open_table(DataSpec(path=meta)).windows
    meta.with_suffix(".bin").write_bytes(b"12345678")
    with pytest.raises(Exception, match=r"gone\.bin ends before sample 512"):
        windows.read(np.array([0]))


def test_where_windows_were_and_what_gives_none(folder: Path) -> None:
    table = open_table(DataSpec(path=folder, window=20, hop=20))
    assert table.positions is not None
    assert table.positions.names.tolist() == ["day1/bes_1"] * 2 + ["day1/meb_1"] * 5
    assert table.positions.starts.tolist() == [0, 20, 0, 20, 40, 60, 80]
    firsts = table.windows.read(np.arange(7))[:, 0, 0, 0]
    np.testing.assert_array_equal(firsts, table.positions.starts + np.array([1000] * 2 + [0] * 5))
    assert table.silent == ("day2/bes_1",)
    assert table.notes == ("1 of 3 recordings give no windows: day2/bes_1",)


def test_an_unusable_recording_is_passed_over(folder: Path) -> None:
    (folder / "day1" / "bes_1.bin").unlink()
    (folder / "day1" / "._meb_1.json").write_bytes(b"\x00")
    table = open_table(DataSpec(path=folder, window=9, skip_bad=True))
    assert table.label_names["recording"] == ("day1/meb_1", "day2/bes_1")
    assert table.notes[0].startswith("1 of 3 recordings cannot be used and are passed over: day1/bes_1; ")
