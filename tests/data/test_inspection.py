from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from offramp.data.formats import open_table
from offramp.data.inspection import inspect_file
from offramp.data.summary import summarise_table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec


def columns(summary) -> dict:
    return {column.name: column for column in summary.columns}


def test_hdf5(write_hdf5) -> None:
    path = write_hdf5(
        sample=np.zeros((5, 2, 3, 8), np.int8),
        label=[0, 1, 1, 1, 0],
        snr=[1.0, 2.0, np.nan, -4.0, 0.0],
        day=np.array([b"x", b"y", b"x", b"x", b"x"]),
        place=np.arange(10.0).reshape(5, 2),
        attributes={"labels": '["no", "yes"]'},
    )
    summary = inspect_file(path)
    assert (summary.format, summary.count, summary.rows, summary.shape) == ("hdf5", 5, "window", (2, 3, 8))
    found = columns(summary)
    assert found["label"].counts == {"yes": 3, "no": 2}
    assert found["day"].counts == {"x": 4, "y": 1}
    assert found["snr"].range == (-4.0, 2.0)
    assert (found["place"].shape, found["place"].range) == ((2,), (0.0, 9.0))
    assert [array.dtype for array in summary.arrays if array.name == "sample"] == ["int8"]
    assert json.loads(json.dumps(summary.to_dict()))["columns"]


def test_arrays_are_listed_where_the_windows_are_unknown(write_hdf5, tmp_path: Path) -> None:
    summary = inspect_file(write_hdf5(waves=np.zeros((5, 8)), label=[0] * 5))
    assert (summary.count, summary.shape, summary.columns) == (None, None, ())
    assert {array.name: array.shape for array in summary.arrays} == {"waves": (5, 8), "label": (5,)}
    np.savez(tmp_path / "a.npz", waves=np.zeros((5, 8)), label=[0] * 5)
    assert {array.name: array.shape for array in inspect_file(tmp_path / "a.npz").arrays} == {
        "waves": (5, 8),
        "label": (5,),
    }


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", sample=np.zeros((5, 8)), label=[0, 0, 2, 2, 2])
    assert columns(inspect_file(tmp_path / "a.npz"))["label"].counts == {"2": 3, "0": 2}


def test_recordings_before_and_after_cutting(write_sigmf) -> None:
    write_sigmf(np.zeros(400, "<c8"), "cf32_le", [(0, 50, "a"), (100, 50, "b")], name="set/one", collection="c")
    path = write_sigmf(np.zeros(2000, "<i2"), "ci16_le", [(0, 100, "b")], name="set/two").parent
    summary = inspect_file(path)
    assert (summary.format, summary.count, summary.rows, summary.shape) == ("sigmf", 2, "recording", None)
    found = columns(summary)
    assert found["label"].counts == {"b": 2, "a": 1}
    assert found["datatype"].counts == {"cf32_le": 1, "ci16_le": 1}
    assert found["seconds"].range == (0.4, 1.0)
    assert found["sample_rate"].range == (1000.0, 1000.0)
    assert found["annotated_seconds"].range == (0.05, 0.1)
    spec = DataSpec(path=path, window=25)
    cut = summarise_table(open_table(spec), str(spec.path), "sigmf")
    assert (cut.count, cut.shape, cut.rows) == (8, (2, 1, 25), "window")
    assert columns(cut)["label"].counts == {"b": 6, "a": 2}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.h5 does not exist"):
        inspect_file(tmp_path / "none.h5")


def test_real_recordings(real: Path) -> None:
    summary = inspect_file(real / "rtl433-sigmf")
    assert summary.count == 124
    assert columns(summary)["datatype"].counts == {"cu8": 124}
    assert len(columns(summary)["label"].counts) == 13
