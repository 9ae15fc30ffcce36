from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.formats import format_of
from offramp.data.formats.datasets import rml2018
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
COUNT = 60


def write(path: Path, **arrays: np.ndarray) -> Path:
    made = {
        "X": RNG.standard_normal((COUNT, 1024, 2)).astype(np.float32),
        "Y": np.eye(24, dtype=np.int64)[np.arange(COUNT) % 24],
        "Z": (np.arange(COUNT)[:, None] % 26) * 2 - 20,
    } | arrays
    with h5py.File(path, "w") as file:
        for name, values in made.items():
            if values is not None:
                file[name] = values
    return path


def test_windows_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rml2018, "BLOCK", 7)
    path = write(tmp_path / "GOLD_XYZ_OSC.0001_1024.hdf5")
    table = opened(path, "rml2018", tmp_path)
    assert table.windows.shape == (2, 1, 1024)
    assert (table.default_target, table.default_group) == ("modulation", None)
    with h5py.File(path) as file:
        stored = file["X"][()]
    read = table.windows.read(np.array([5, 59]))
    np.testing.assert_array_equal(
        read[:, 0, 0] + 1j * read[:, 1, 0], stored[[5, 59], :, 0] + 1j * stored[[5, 59], :, 1]
    )
    assert table.columns["modulation"].tolist() == [index % 24 for index in range(COUNT)]
    assert table.columns["snr"].tolist() == [index % 26 * 2 - 20 for index in range(COUNT)]


def test_corrected_order_of_classes(tmp_path: Path) -> None:
    """By places that tell the two orders in circulation apart: the wrong one begins 32PSK, 16APSK, 32QAM and ends OOK, 16QAM."""
    names = opened(write(tmp_path / "a.hdf5"), "rml2018", tmp_path).label_names["modulation"]
    assert len(set(names)) == 24
    assert names[:4] == ("OOK", "4ASK", "8ASK", "BPSK")
    assert [names.index(name) for name in ("QPSK", "32PSK", "128APSK", "16QAM", "256QAM", "AM-SSB-WC")] == [
        4,
        7,
        11,
        12,
        16,
        17,
    ]
    assert names[-5:] == ("AM-DSB-WC", "AM-DSB-SC", "FM", "GMSK", "OQPSK")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"Y": np.zeros((COUNT, 24), int)}, ["one-hot", "window 0"]),
        ({"Y": np.eye(24, dtype=int)[np.arange(COUNT) % 24] * 2}, ["one-hot"]),
        ({"Y": np.ones((COUNT - 1, 24), int)}, ["Y is (59, 24)"]),
        ({"Y": np.zeros((COUNT, 11), int)}, ["Y (N, 24)"]),
        ({"Z": np.zeros((COUNT - 1, 1), int)}, ["Z is (59, 1)", "60 windows"]),
        ({"X": np.zeros((COUNT, 2, 1024))}, ["X is (60, 2, 1024)", "X (N, samples, 2)"]),
        ({"X": np.array([b"text"])}, ["'X'"]),
        ({"Z": None}, ["'Z'"]),
    ],
)
def test_other_content(tmp_path: Path, arrays: dict[str, np.ndarray], words: list[str]) -> None:
    check_refused(write(tmp_path / "a.hdf5", **arrays), "a.hdf5", *words, format="rml2018")


def test_one_wrong_label_is_named(tmp_path: Path) -> None:
    labels = np.eye(24, dtype=int)[np.arange(COUNT) % 24]
    labels[41, 3] = 1
    check_refused(write(tmp_path / "a.hdf5", Y=labels), "window 41")


@pytest.mark.parametrize("name", ["X", "Z"])
def test_a_number_in_place_of_an_array(tmp_path: Path, name: str) -> None:
    check_refused(write(tmp_path / "a.hdf5", **{name: np.float32(7)}), "a.hdf5", f"{name} is ()", format="rml2018")


def test_truncated_or_not_hdf5(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5")
    path.write_bytes(path.read_bytes()[:300_000])
    assert format_of(DataSpec(path=path)) == "hdf5"
    check_refused(path, "a.hdf5", "truncated")
    check_refused(path, "a.hdf5", "truncated", format="rml2018")
    path.write_text("nothing")
    check_refused(path, "not an HDF5 file", format="rml2018")
