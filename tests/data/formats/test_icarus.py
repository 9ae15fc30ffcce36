from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.data.inspection import inspect_file
from offramp.schema.tasks import DataSpec

FIELDS = {"Signal_Type": "LTE", "DSSS_Mod": "", "Sampling_Rate": 7.68e6, "No_of_Samples": 60, "SNR": 10}


def write(
    root: Path, name: str, parts: np.ndarray, batch: str = "batch1_10MHz", suffix: str = "", **fields: object
) -> Path:
    """A row, and samples ``(count, 2)`` of any type; a field that is None is left out."""
    folder = root / batch
    (folder / "Metadata").mkdir(parents=True, exist_ok=True)
    (folder / "IQ").mkdir(exist_ok=True)
    row = {key: value for key, value in (FIELDS | fields).items() if value is not None}
    lines = [",".join(row), ",".join(str(value) for value in row.values())]
    (folder / "Metadata" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "IQ" / f"{name}{suffix}").write_bytes(parts.tobytes())
    return folder / "Metadata" / f"{name}.csv"


def ramp(count: int, dtype: str) -> np.ndarray:
    """I = sample number, Q = - I."""
    return np.stack([np.arange(count), -np.arange(count)], axis=1).astype(dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "icarus"
    write(root, "lte", ramp(60, "<f4"))
    write(root, "psk", ramp(61, "<i2"), Signal_Type="LTE+DSSS", DSSS_Mod=2)
    seconds = {"No_of_Samples": None, "Frameduration": 60 / 7.68e6}
    write(root, "qpsk", ramp(60, "i1"), "batch2_5MHz", ".bin", Signal_Type="LTE_DSSS", DSSS_Mod="4.0", SNR=5, **seconds)
    (root / "batch3_5MHz" / "Metadata").mkdir(parents=True)
    (root / "readme.txt").write_text("not a batch")
    return root


def test_windows_and_columns(folder: Path, tmp_path: Path) -> None:
    table = opened(folder, "icarus", tmp_path, window=20)
    assert table.windows.shape == (2, 1, 20)
    windows = table.windows.read(np.arange(3))
    middle = np.arange(20, 40)
    for window, scale in zip(windows, (1, 32768, 128), strict=True):
        np.testing.assert_allclose(window[:, 0], np.stack([middle, -middle]) / scale, rtol=1e-6)
    assert table.columns["label"].tolist() == [0, 1, 2]
    assert table.label_names["label"] == ("LTE", "LTE+DSSS order 2", "LTE+DSSS order 4")
    assert table.columns["band"].tolist() == [10, 10, 5]
    assert table.columns["batch"].tolist() == ["batch1_10MHz"] * 2 + ["batch2_5MHz"]
    assert table.columns["recording"].tolist() == ["batch1_10MHz/lte", "batch1_10MHz/psk", "batch2_5MHz/qpsk"]
    assert table.columns["sample_rate"].tolist() == [7.68e6] * 3
    assert table.columns["snr"].tolist() == [10, 10, 5]
    data = load_dataset(DataSpec(path=folder, window=20, group="batch"), "classification")
    assert data.group_names == ("batch1_10MHz", "batch2_5MHz")


def test_odd_windows_and_4096_if_none_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "long", ramp(5000, "<f4"), No_of_Samples=5000)
    assert open_table(DataSpec(path=tmp_path)).windows.read(np.array([0]))[0, 0, 0, [0, -1]].tolist() == [452, 4547]
    odd = open_table(DataSpec(path=tmp_path, window=3)).windows.read(np.array([0]))
    assert odd[0, 0, 0].tolist() == [2499, 2500, 2501]


def test_inspect_needs_no_window(folder: Path) -> None:
    summary = inspect_file(folder)
    found = {column.name: column for column in summary.columns}
    assert (summary.count, summary.shape) == (3, None)
    assert found["label"].counts == {"LTE": 1, "LTE+DSSS order 2": 1, "LTE+DSSS order 4": 1}
    assert found["samples"].range == (60, 60)


def test_bad_frames(tmp_path: Path) -> None:
    write(tmp_path / "short", "frame", ramp(60, "<f4"))
    check_refused(tmp_path / "short", "IQ/frame", "60 samples", "data.window")
    write(tmp_path / "cut", "frame", ramp(40, "<f4"))
    check_refused(tmp_path / "cut", "IQ/frame", "320 bytes", "60 samples", window=20)
    write(tmp_path / "band", "frame", ramp(60, "<f4"), "batch1")
    check_refused(tmp_path / "band", "batch1", "bandwidth", "batch1_10MHz", window=20)
    row = write(tmp_path / "lonely", "frame", ramp(60, "<f4"))
    (row.parents[1] / "IQ" / "frame").unlink()
    check_refused(tmp_path / "lonely", "frame.csv has no samples", "batch1_10MHz/IQ/frame", window=20)
    (tmp_path / "nothing").mkdir()
    check_refused(tmp_path / "nothing", "no ICARUS frames", format="icarus", window=20)
    for number, (fields, word) in enumerate(
        [
            ({"Sampling_Rate": None}, "Sampling_Rate"),
            ({"Sampling_Rate": "fast"}, "Sampling_Rate"),
            ({"Sampling_Rate": -1}, "above 0"),
            ({"No_of_Samples": None}, "Frameduration"),
            ({"Signal_Type": "LTE+DSSS"}, "DSSS_Mod"),
            ({"Signal_Type": "LTE+DSSS", "DSSS_Mod": 3}, "2, 4, 8"),
            ({"Signal_Type": "LTE+DSSS", "DSSS_Mod": "nan"}, "DSSS_Mod"),
            ({"Signal_Type": None, "DSSS_Mod": None}, "DSSS_Mod"),
        ]
    ):
        write(tmp_path / f"row{number}", "frame", ramp(60, "<f4"), **fields)
        check_refused(tmp_path / f"row{number}", "frame.csv", word, window=20)
    for number, content in enumerate([b"", b"Sampling_Rate,Signal_Type\n", b"\xff\xfe\x00", b"a\x00b\n1\n"]):
        row = write(tmp_path / f"file{number}", "frame", ramp(60, "<f4"))
        row.write_bytes(content)
        check_refused(tmp_path / f"file{number}", "frame.csv", window=20)
