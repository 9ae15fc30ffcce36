from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
BLOCK = 2048


def write(
    path: Path, frames: int = 2, blocks: int = 15, per: int = 1, angles: tuple[int, ...] = (), **other: Any
) -> Path:
    """Two gains, then two beams, then angles, one after the other, as the README says; one label for ``per`` samples."""
    conditions = [(gain, beam, angle) for gain in (40, 50) for beam in (3, 7) for angle in (angles or (0,))]
    samples = frames * blocks * BLOCK
    labels = np.repeat(np.array(conditions), samples // per, axis=0)
    made = {
        "iq": RNG.standard_normal((len(conditions) * samples, 2)).astype(np.float32),
        "tx_beam": labels[:, 1].astype(np.float64),
        "rx_beam": np.full(len(labels), 12, np.int8),
        "gain": labels[:, 0],
    }
    made |= {"angle": labels[:, 2]} if angles else {}
    with h5py.File(path, "w") as file:
        for name, values in (made | other).items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    ("name", "blocks", "per"),
    [
        ("srf-basic-config-24-beams-tx-ant-0-rx-ant-1.h5", 15, 1),
        ("mrf-basic-config-5-beams.h5", 5, 1),
        ("a.h5", 15, BLOCK),
        ("a.h5", 4, 4 * BLOCK),
    ],
)
def test_windows_labels_and_frames(tmp_path: Path, name: str, blocks: int, per: int) -> None:
    path = write(tmp_path / name, blocks=blocks, per=per)
    table = opened(path, "deepbeam", tmp_path)
    count = 4 * 2 * blocks
    assert (table.windows.count, table.windows.shape) == (count, (2, 1, BLOCK))
    assert (table.default_target, table.default_group) == ("tx_beam", "frame")
    assert table.columns["tx_beam"].tolist() == np.repeat([3, 7, 3, 7], count // 4).tolist()
    assert table.columns["gain"].tolist() == np.repeat([40, 50], count // 2).tolist()
    assert set(table.columns["rx_beam"]) == {12}
    assert table.columns["frame"].tolist() == np.repeat(np.arange(8), blocks).tolist()
    with h5py.File(path) as file:
        stored = file["iq"][17 * BLOCK : 18 * BLOCK]
    np.testing.assert_array_equal(table.windows.read(np.array([17]))[0, :, 0], stored.T)


def test_angles_of_arrival(tmp_path: Path) -> None:
    path = write(tmp_path / "srf.h5", frames=1, blocks=1, angles=(-45, 0, 45))
    table = opened(path, "deepbeam", tmp_path)
    assert table.default_target == "angle"
    data = load_dataset(DataSpec(path=path, target="angle"), "classification")
    assert data.label_names == ("-45", "0", "45")
    assert [data.label_names[number] for number in data.targets] == ["-45", "0", "45"] * 4


def test_gains_in_words(tmp_path: Path) -> None:
    gains = np.repeat([b"att-tx-0-0-", b"att-tx-5-0-"], 4 * 15 * BLOCK)
    table = opened(write(tmp_path / "mrf.h5", gain=gains), "deepbeam", tmp_path)
    assert table.columns["gain"].tolist() == np.repeat(["att-tx-0-0-", "att-tx-5-0-"], 60).tolist()


def test_other_content(tmp_path: Path) -> None:
    labels = np.zeros(4 * 2 * 15 * BLOCK, int)
    labels[70_000:] = 1
    path = write(tmp_path / "a.h5", tx_beam=labels)
    check_refused(path, "a.h5", "'tx_beam' changes inside block 34")
    check_refused(write(tmp_path / "a.h5", gain=np.zeros(7)), "'gain' must have one label per sample, block or frame")
    check_refused(write(tmp_path / "a.h5", gain=np.zeros((8, 2))), "'gain' must have")
    pairs = np.zeros(8, [("r", "<i2"), ("i", "<i2")])
    check_refused(write(tmp_path / "a.h5", gain=pairs), "'gain' is", "neither numbers nor text")
    check_refused(write(tmp_path / "a.h5", iq=np.zeros((5000, 2))), "5,000 samples", "whole number of blocks of 2048")
    check_refused(write(tmp_path / "a.h5", iq=np.zeros((0, 2))), "0 samples")
    check_refused(write(tmp_path / "a.h5", iq=np.zeros((2048, 3))), "'iq'", format="deepbeam")
    with h5py.File(path, "w") as file:
        file["iq"] = np.zeros((2048, 2))
        file["gain"] = np.zeros(2048)
    check_refused(path, "'tx_beam'", format="deepbeam")


def test_numbers_that_are_not_whole_stay_as_they_are(tmp_path: Path) -> None:
    gains = np.array([40.5, np.nan, np.inf, 1e300])
    path = write(tmp_path / "a.h5", frames=1, blocks=1, gain=gains)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = open_table(DataSpec(path=path))
    np.testing.assert_array_equal(table.columns["gain"], gains)


def test_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:1_000_000])
    check_refused(path, "a.h5", "truncated")
