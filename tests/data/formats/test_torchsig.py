"""Files in the two layouts of TorchSig 2, made with h5py alone as its HDF5Writer makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layouts import check_refused, opened

RNG = np.random.default_rng(0)
CLASSES = ["qpsk", "ofdm-64", "qpsk", "lfm-data", "ofdm-64"]
SIGNALS = [(RNG.standard_normal(256) + 1j * RNG.standard_normal(256)).astype(np.complex64) for _ in CLASSES]


def created(path: Path) -> h5py.File:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    file = h5py.File(path, "w", libver="latest")
    file.attrs.update({"torchsig_version": "2.1.1", "compression": "lzf", "created_by": "TorchSig HDF5FileHandler"})
    return file


def write_values(group: h5py.Group, values: dict[str, Any]) -> None:
    for name, value in values.items():
        group.create_dataset(name, data=value)


def write(path: Path, counts: list[int] | None = None, signals: list[np.ndarray] = SIGNALS) -> Path:
    """Version 2.1: keys count all signals; a component says its SNR, its generator the class index."""
    with created(path) as file:
        data, metadata, index, components = (
            file.create_group(n) for n in ("data", "metadata", "index", "component_signals")
        )
        generators = {name: f"14005{number}" for number, name in enumerate(sorted(set(CLASSES)))}
        write_values(metadata.create_group("1399"), {"sample_rate": 10e6, "num_iq_samples_dataset": 256})
        for number, (name, key) in enumerate(generators.items()):
            write_values(
                metadata.create_group(key), {"class_index": number, "class_name": name, "parent_metadata_id": "1399"}
            )
        key = 0
        for number, signal in enumerate(signals):
            count = 1 if counts is None else counts[number]
            data.create_dataset(str(key), data=signal, chunks=True, compression="lzf", shuffle=True, fletcher32=True)
            write_values(
                metadata.create_group(str(key)),
                {"duration_in_samples": 256, "center_freq": 0, "bandwidth": 2.5e6, "parent_metadata_id": "1399"},
            )
            parts = [str(key + 1 + part) for part in range(count)]
            for part in parts:
                data.create_dataset(part, data=signal[..., :100])
                name = CLASSES[number]
                own = {"class_name": name, "snr_db": 10.0 + number, "center_freq": -1e5, "bandwidth": 2.5e6}
                write_values(metadata.create_group(part), {**own, "parent_metadata_id": generators[name]})
            if parts:
                components.create_dataset(str(key), data=parts)
            index.create_dataset(str(number), data=str(key))
            key += 1 + count
    return path


def write_2_0(path: Path) -> Path:
    with created(path) as file:
        for number, (name, signal) in enumerate(zip(CLASSES, SIGNALS, strict=True)):
            group = file.create_group(str(number))
            group.create_dataset("data", data=signal)
            of_signal = group.create_group("metadata").create_group("0")
            write_values(
                of_signal,
                {"class_name": name, "class_index": sorted(set(CLASSES)).index(name), "snr_db": 10.0 + number},
            )
            write_values(of_signal, {"center_freq": -1e5, "bandwidth": 2.5e6, "start_in_samples": 0})
    return path


@pytest.mark.parametrize("writer", [write, write_2_0])
@pytest.mark.parametrize("as_folder", [False, True])
def test_windows_and_classes(tmp_path: Path, writer, as_folder: bool) -> None:
    path = writer(tmp_path / "set" / "data.h5")
    table = opened(path.parent if as_folder else path, "torchsig", tmp_path)
    assert table.windows.shape == (2, 1, 256)
    for window, signal in zip(table.windows.read(np.arange(5)), SIGNALS, strict=True):
        np.testing.assert_array_equal(window[0, 0] + 1j * window[1, 0], signal)
    names = table.label_names["class_name"]
    assert [names[number] for number in table.columns["class_name"]] == CLASSES
    assert table.columns["class_index"].tolist() == [sorted(set(CLASSES)).index(name) for name in CLASSES]
    assert table.columns["snr_db"].tolist() == [10, 11, 12, 13, 14]
    assert set(table.columns["center_freq"]) == {-1e5}
    assert set(table.columns["signals"]) == {1}
    assert (table.default_target, table.default_group) == ("class_name", None)


def test_more_than_ten_windows_stay_in_order(tmp_path: Path) -> None:
    signals = [np.full(8, number, np.complex64) for number in range(12)]
    with created(tmp_path / "a.h5") as file:
        for number, signal in enumerate(signals):
            file[f"{number}/data"] = signal
            file[f"{number}/metadata/0/class_name"] = "tone"
    read = opened(tmp_path / "a.h5", "torchsig", tmp_path).windows.read(np.arange(12))
    assert read[:, 0, 0, 0].tolist() == list(range(12))


def test_several_signals_in_a_window(tmp_path: Path) -> None:
    table = opened(write(tmp_path / "data.h5", counts=[1, 3, 0, 1, 2]), "torchsig", tmp_path)
    assert table.columns["signals"].tolist() == [1, 3, 0, 1, 2]
    assert set(table.columns) == {"signals"}
    assert table.default_target == "signals"


def test_real_iq(tmp_path: Path) -> None:
    signals = [np.stack((signal.real, signal.imag)) for signal in SIGNALS]
    read = opened(write(tmp_path / "data.h5", signals=signals), "torchsig", tmp_path).windows.read(np.array([3]))
    np.testing.assert_array_equal(read[0, :, 0], signals[3])


def test_other_content(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    check_refused(write(path, signals=[np.zeros((64, 64), np.float32)] * 5), "float32 (64, 64)", "spectrograms")
    shorter = [*SIGNALS[:3], SIGNALS[3][:200], SIGNALS[4]]
    check_refused(write(path, signals=shorter), "window 3 has 200 samples and the first 256")
    with h5py.File(write(path), "a") as file:
        del file["index/2"]
        file["index/2"] = 5
    check_refused(path, "data.h5", "not as TorchSig writes it")
    with h5py.File(write(path), "a") as file:
        del file["data/4"]
    check_refused(path, "data.h5")
    with created(path) as file:
        file.create_group("index")
    check_refused(path, "no windows")
    check_refused(tmp_path, "data.h5")


def test_parents_in_a_circle(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "data.h5"), "a") as file:
        file["metadata/1399"].create_dataset("parent_metadata_id", data="1399")
    opened(tmp_path / "data.h5", "torchsig", tmp_path)


def test_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "data.h5")
    path.write_bytes(path.read_bytes()[:-2000])
    check_refused(path, "data.h5")
