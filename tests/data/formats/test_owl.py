from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.dataset import load_dataset
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
EMITTERS, SNRS, SNAPSHOTS, SAMPLES = 3, 21, 4, 16
IQ = RNG.normal(size=(EMITTERS, SNRS, SNAPSHOTS, SAMPLES, 2))
LABELS = np.broadcast_to(np.array([2, 0, 1])[:, None, None], IQ.shape[:3])


def write(folder: Path, iq: Any = IQ, labels: Any = LABELS, protocol: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("data_iq.p", iq), ("labels.p", labels)):
        ordered = np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values
        (folder / name).write_bytes(pickle.dumps(ordered, protocol=protocol))
    return folder


def python2(values: np.ndarray) -> bytes:
    """As numpy under Python 2 pickled an array, protocol 2: the bytes are a string."""
    shape = b"(" + b"".join(b"K" + bytes([size]) for size in values.shape) + b"t"
    kind = (
        b"cnumpy\ndtype\n(U\x02"
        + values.dtype.str[1:].encode()
        + b"K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    raw = values.tobytes()
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    return b"\x80\x02" + start + b"(K\x01" + shape + kind + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb."


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i2"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_windows_and_columns(tmp_path: Path, dtype: str, protocol: int) -> None:
    iq = (100 * IQ).astype(dtype)
    table = opened(write(tmp_path / "owl", iq, protocol=protocol), "owl", tmp_path)
    assert table.windows.shape == (2, 1, SAMPLES)
    windows = table.windows.read(np.arange(table.windows.count))
    at = 0
    for emitter in range(EMITTERS):
        for level in range(SNRS):
            for snapshot in range(SNAPSHOTS):
                np.testing.assert_array_equal(windows[at, :, 0], iq[emitter, level, snapshot].T.astype(np.float32))
                assert table.columns["label"][at] == [2, 0, 1][emitter]
                assert table.columns["snr"][at] == 2 * level - 20
                at += 1


def test_pickles_of_python_2(tmp_path: Path) -> None:
    folder = write(tmp_path / "owl")
    (folder / "data_iq.p").write_bytes(python2(IQ))
    (folder / "labels.p").write_bytes(python2(LABELS.astype("<i8")))
    assert np.array_equal(pickle.loads((folder / "data_iq.p").read_bytes(), encoding="latin1"), IQ)
    table = opened(folder, "owl", tmp_path)
    np.testing.assert_array_equal(table.windows.read(np.array([5]))[0, :, 0], IQ[0, 1, 1].T.astype(np.float32))


def test_one_snapshot_at_all_snrs_is_one_group(tmp_path: Path) -> None:
    data = load_dataset(DataSpec(path=write(tmp_path / "owl"), target="label", snr="snr"), "classification")
    assert len(data.group_names) == EMITTERS * SNAPSHOTS
    for group in range(EMITTERS * SNAPSHOTS):
        rows = data.groups == group
        assert len(set(data.targets[rows])) == 1
        assert data.snr_db is not None
        assert sorted(data.snr_db[rows]) == list(range(-20, 21, 2))
    assert data.label_names == ("0", "1", "2")


def test_the_file_stands_for_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "owl")
    assert opened(folder / "data_iq.p", "owl", tmp_path).windows.count == EMITTERS * SNRS * SNAPSHOTS


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("owned"),))


def test_bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, (changes, words) in enumerate(
        [
            ({"iq": IQ[:, :20]}, ("data_iq.p", "20 SNRs", "-20 to 20 dB")),
            ({"iq": IQ[..., 0]}, ("data_iq.p", "(3, 21, 4, 16)")),
            ({"iq": IQ[:, :, :, :0]}, ("data_iq.p", "(3, 21, 4, 0, 2)")),
            ({"iq": IQ + 1j}, ("data_iq.p", "no array of numbers")),
            ({"iq": {"a": 1}}, ("data_iq.p", "no array of numbers")),
            ({"iq": Hostile()}, ("data_iq.p", "never loaded")),
            ({"labels": Hostile()}, ("labels.p", "never loaded")),
            ({"labels": LABELS[:2]}, ("labels.p", "(2, 21, 4)")),
            ({"labels": LABELS - 1}, ("labels.p", "0, 1, 2")),
            ({"labels": LABELS + 0.5}, ("labels.p", "0, 1, 2")),
            ({"iq": np.where(np.arange(SAMPLES) == 3, np.nan, 1.0)[:, None] * IQ}, ("window 0 holds NaN",)),
        ]
    ):
        check_refused(write(tmp_path / str(number), **changes), *words)
    assert not Path("owned").exists()
    folder = write(tmp_path / "cut")
    path = folder / "data_iq.p"
    path.write_bytes(path.read_bytes()[:-100])
    check_refused(folder, "data_iq.p")
    path.unlink()
    check_refused(folder, "data_iq.p", "No such file", format="owl")
