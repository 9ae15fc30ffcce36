from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.formats import open_table
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
PAIRS = [("AM-DSB", "AM radio"), ("PULSED", "Airborne-range"), ("PULSED", "Air-Ground-MTI")]


def write(path: Path, shape: tuple[int, ...] = (256,)) -> dict[tuple[str, str, str, str], np.ndarray]:
    content = {
        (*pair, snr, str(number)): RNG.standard_normal(shape).astype(np.float32)
        for pair in PAIRS
        for snr in ("-20", "10")
        for number in range(12)
    }
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in content.items():
            file[str(key)] = values
    return content


@pytest.mark.parametrize("shape", [(256,), (256, 1)])
def test_windows_and_columns(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "RadComOta2.45GHz.hdf5"
    content = write(path, shape)
    table = opened(path, "radcom", tmp_path)
    assert (table.windows.count, table.windows.shape) == (72, (2, 1, 128))
    assert (table.default_target, table.default_group) == ("label", None)
    assert table.label_names["label"] == (
        "AM-DSB / AM radio",
        "PULSED / Air-Ground-MTI",
        "PULSED / Airborne-range",
    )
    for index, window in enumerate(table.windows.read(np.arange(72))):
        word, kind = (table.label_names[name][table.columns[name][index]] for name in ("modulation", "signal_type"))
        assert table.label_names["label"][table.columns["label"][index]] == f"{word} / {kind}"
        snr = f"{table.columns['snr'][index]:g}"
        same = [values.ravel() for key, values in content.items() if key[:3] == (word, kind, snr)]
        assert any((window.ravel() == values).all() for values in same)
        assert (window[0, 0] == window.ravel()[:128]).all()


def test_other_content(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    with h5py.File(path, "a") as file:
        file["('AM-DSB', 'AM radio', '10', 'x', 'y')"] = np.zeros(256)
    check_refused(path, "a.h5", "'y')", format="radcom")
    write(path)
    with h5py.File(path, "a") as file:
        del file["('AM-DSB', 'AM radio', '10', '3')"]
        file["('AM-DSB', 'AM radio', '10', '3')"] = np.zeros(255)
    check_refused(path, "a.h5", "'3') is float64 (255,)", "128 I, then 128 Q")
    write(path)
    with h5py.File(path, "a") as file:
        del file["('AM-DSB', 'AM radio', '10', '3')"]
        file["('AM-DSB', 'AM radio', 'loud', '3')"] = np.zeros(256)
    check_refused(path, "'loud'", format="radcom")
    h5py.File(tmp_path / "empty.h5", "w").close()
    check_refused(tmp_path / "empty.h5", "(none)", format="radcom")


def test_code_in_a_name_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["__import__('os').getcwd()"] = np.zeros(256)
    check_refused(path, "__import__", format="radcom")


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    path.write_bytes(path.read_bytes()[:30_000])
    check_refused(path, "a.h5", "truncated")


def test_reads_in_a_forked_process(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    windows = open_table(DataSpec(path=path)).windows
    expected = windows.read(np.array([9]))
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(windows.read(np.array([9])), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
