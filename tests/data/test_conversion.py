"""Conversion to one cache: what goes in comes out, whatever happens on the way, and within little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from python2_pickles import protocol0, protocol2

from offramp.data.conversion import convert
from offramp.data.formats import open_table
from offramp.data.inspection import inspect_file
from offramp.errors import DataError, OfframpError
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
CONTENT = {(word, snr): RNG.standard_normal((6, 2, 32)).astype(np.float32) for word in ("A", "B") for snr in (0, 10)}


def pickled(path: Path) -> Path:
    path.write_bytes(protocol0(CONTENT))
    return path


def test_a_cache_inspects_as_its_origin(tmp_path: Path) -> None:
    path, out = pickled(tmp_path / "a.pkl"), tmp_path / "new" / "cache.h5"
    progress = []
    convert(DataSpec(path=path), out, on_progress=lambda done, total: progress.append((done, total)))
    assert progress[-1] == (24, 24)
    before, after = inspect_file(path), inspect_file(out)
    assert after.format == "hdf5"
    assert (after.count, after.shape, after.target, after.group) == (
        before.count,
        before.shape,
        before.target,
        before.group,
    )
    named = [{column.name: column for column in summary.columns} for summary in (before, after)]
    assert named[0] == named[1]
    origin, cache = open_table(DataSpec(path=path)).windows, open_table(DataSpec(path=out)).windows
    np.testing.assert_array_equal(cache.read(np.arange(24)), origin.read(np.arange(24)))


def test_recordings_are_cut(tmp_path: Path, write_sigmf) -> None:
    samples = RNG.standard_normal(400).astype(np.float32)
    folder = write_sigmf(samples, "cf32_le", [(0, 100, "a"), (100, 100, "b")]).parent
    convert(DataSpec(path=folder, window=32, hop=16), tmp_path / "c.h5")
    table, spec = open_table(DataSpec(path=tmp_path / "c.h5")), DataSpec(path=folder, window=32, hop=16)
    np.testing.assert_array_equal(
        table.windows.read(np.arange(table.windows.count)),
        open_table(spec).windows.read(np.arange(table.windows.count)),
    )
    assert (table.default_target, table.default_group) == ("label", "recording")
    with pytest.raises(DataError, match="samples per window"):
        convert(DataSpec(path=folder), tmp_path / "d.h5")


def test_refusals(tmp_path: Path) -> None:
    path = pickled(tmp_path / "a.pkl")
    with pytest.raises(DataError, match=r"unknown format 'rlm': choose one of .*rml-pickle"):
        convert(DataSpec(path=path, format="rlm"), tmp_path / "c.h5")
    with pytest.raises(DataError, match="does not exist"):
        convert(DataSpec(path=tmp_path / "none.pkl"), tmp_path / "c.h5")
    with pytest.raises(OfframpError, match="choose another --out"):
        convert(DataSpec(path=path), tmp_path / "." / "a.pkl")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["a.pkl"]
    assert path.read_bytes() == protocol0(CONTENT)


def test_damage_leaves_the_earlier_file(tmp_path: Path) -> None:
    broken = {key: array.copy() for key, array in CONTENT.items()}
    broken["B", 10][5, 0, 0] = np.nan
    (tmp_path / "a.pkl").write_bytes(protocol0(broken))
    convert(DataSpec(path=pickled(tmp_path / "whole.pkl")), tmp_path / "c.h5")
    earlier = (tmp_path / "c.h5").read_bytes()
    with pytest.raises(DataError, match="window 23 holds NaN"):
        convert(DataSpec(path=tmp_path / "a.pkl"), tmp_path / "c.h5")
    assert (tmp_path / "c.h5").read_bytes() == earlier
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_is_no_cache_of_ours_stays(tmp_path: Path) -> None:
    path, out = pickled(tmp_path / "a.pkl"), tmp_path / "recordings.h5"
    with h5py.File(out, "w") as file:
        file["sample"] = np.zeros((4, 2, 1, 64), np.float32)
    earlier = out.read_bytes()
    with pytest.raises(OfframpError, match=r"recordings\.h5 is there and does not look like a data file that Offramp"):
        convert(DataSpec(path=path), out)
    assert out.read_bytes() == earlier


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "Can't write data (long story)")

    path = pickled(tmp_path / "a.pkl")
    monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
    with pytest.raises(OfframpError, match=r"cannot write .*c\.h5: No space left on device; free some space"):
        convert(DataSpec(path=path), tmp_path / "c.h5")
    assert list(tmp_path.iterdir()) == [path]


MEASURE = """
import json, resource, sys
from pathlib import Path
import offramp.data.conversion as conversion
from offramp.schema.tasks import DataSpec
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
conversion.convert(DataSpec(path=Path(sys.argv[1])), Path(sys.argv[2]))
end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps((end - start) * 1024))
"""


def peak_growth(path: Path, out: Path) -> int:
    """Bytes that a process grows by when it converts a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE, path, out], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_radioml_2018_is_converted_within_a_fraction_of_its_size(tmp_path: Path) -> None:
    count = 36_000  # 295 MB, as the real file without chunks
    path = tmp_path / "GOLD_XYZ_OSC.0001_1024.hdf5"
    with h5py.File(path, "w") as file:
        file["Y"] = np.eye(24, dtype=np.int64)[np.arange(count) % 24]
        file["Z"] = np.zeros((count, 1), np.int64)
        windows = file.create_dataset("X", (count, 1024, 2), "f4")
        for start in range(0, count, 1000):
            windows[start : start + 1000] = np.full((1000, 1024, 2), start, np.float32)
    growth = peak_growth(path, tmp_path / "c.h5")
    assert growth < 150e6 < path.stat().st_size
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["sample"].shape == (count, 2, 1, 1024)
        assert file["sample"][35_999, 1, 0, 1023] == 35_000


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_pickles_are_converted_within_a_fraction_of_their_size(tmp_path: Path) -> None:
    content = {("A", snr): np.full((500, 2, 1024), snr, np.float32) for snr in range(24)}  # 98 MB
    path = tmp_path / "a.pkl"
    path.write_bytes(protocol2(content))
    assert peak_growth(path, tmp_path / "c.h5") < 70e6 < path.stat().st_size
