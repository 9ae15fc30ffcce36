"""Caches of all WavesFM tasks, written as its preprocessing scripts write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.dataset import load_dataset
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
N = 12


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal((N, *shape)).astype(np.float32)


def words(*values: str) -> np.ndarray:
    """As ``h5py.string_dtype`` stores them."""
    return np.array([values[number % len(values)] for number in range(N)], dtype=object)


RML = ("8PSK", "AM-DSB", "AM-SSB", "BPSK", "CPFSK", "GFSK", "PAM4", "QAM16", "QAM64", "QPSK", "WBFM")
PAIRS = [["AM-DSB", "AM radio"], ["AM-SSB", "AM radio"], ["ASK", "short-range"]]
THIRDS = np.arange(N) % 3
CACHES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str | None, tuple[str, ...]]]] = {
    "rml": (
        {"sample": floats(2, 1, 128), "label": THIRDS, "snr": np.full(N, -20, np.int16), "modulation": words("8PSK")},
        {
            "labels": json.dumps(RML),
            "mu": "[0.0, 0.0]",
            "std": "[0.0058, 0.0062]",
            "class_weights": np.ones(11, np.float32),
        },
        ("label", None, RML[:3]),
    ),
    "radcom": (
        {
            "sample": floats(2, 1, 128),
            "label": THIRDS,
            "modulation": words("ASK"),
            "signal_type": words("x"),
            "snr": floats(),
        },
        {"label_pairs": json.dumps(PAIRS), "mean": np.zeros(2, np.float32), "std": np.ones(2, np.float32)},
        ("label", None, ("AM-DSB / AM radio", "AM-SSB / AM radio", "ASK / short-range")),
    ),
    "rfp": (
        {
            "sample": floats(2, 1, 512),
            "label": np.arange(N) % 4,
            "source_file": words("a", "b", "c", "d"),
            "start": np.arange(N) * 512,
            "sample_rate": np.full(N, np.nan, np.float32),
        },
        {"labels": json.dumps(["bes", "browning", "honors", "meb"]), "mean": np.zeros(2), "std": np.ones(2)},
        ("label", "source_file", ("bes", "browning", "honors", "meb")),
    ),
    "interf": (
        {
            "sample": floats(2, 1, 4096),
            "label": THIRDS,
            "band": np.full(N, 10, np.int8),
            "fs": floats(),
            "source_file": np.array([f"IQ/{number}" for number in range(N)], dtype=object),
        },
        {"mu": "[0.0, 0.0]", "std": "[0.00275, 0.0026]", "max_len": 4096},
        ("label", None, ("0", "1", "2")),
    ),
    "deepmimo": (
        {
            "sample": floats(2, 32, 32),
            "label_los": np.arange(N) % 2,
            "label_beam_16": np.arange(N),
            "label_beam_64": np.arange(N) * 5,
            "scenario": words("city_18_denver", "city_15_indianapolis"),
        },
        {
            "labels_los": '["NLoS", "LoS"]',
            "mean": "[0.1, 0.2]",
            "std": "[1.0, 1.0]",
            "beam_options": "[16, 64]",
            "resize": "none",
        },
        ("label_los", "scenario", ("NLoS", "LoS")),
    ),
    "sensing": (
        {
            "csi": floats(3, 16, 16),
            "label": THIRDS,
            "source_file": np.array([f"run{number}.mat" for number in range(N)], dtype=object),
        },
        {
            "labels": np.array([b"run", b"walk", b"fall", b"box", b"circle", b"clean"]),
            "mu": "[0.7, 0.7, 0.7]",
            "min_val": 2.44,
        },
        ("label", None, ("run", "walk", "fall")),
    ),
    "rfs": (
        {
            "image": floats(1, 16, 16),
            "label": THIRDS,
            "source_file": np.array([f"{n}.png" for n in range(N)], dtype=object),
        },
        {"labels": np.array(["ads-b", "airband", "ais"], dtype=object), "mean": "[0.5]", "std": "[0.5]"},
        ("label", None, ("ads-b", "airband", "ais")),
    ),
}


@pytest.fixture
def write(write_hdf5: Callable[..., Path]) -> Callable[..., Path]:
    def write(arrays: dict[str, Any], attributes: dict[str, Any]) -> Path:
        return write_hdf5("cache.h5", attributes, **arrays)

    return write


@pytest.mark.parametrize("name", CACHES)
def test_classification_caches(write, tmp_path: Path, name: str) -> None:
    arrays, attributes, (target, group, classes) = CACHES[name]
    path = write(arrays, attributes)
    table = opened(path, "hdf5", tmp_path)
    field = next(iter(arrays))
    np.testing.assert_array_equal(table.windows.read(np.arange(N)), arrays[field])
    assert set(table.columns) == set(arrays) - {field}
    assert (table.default_target, table.default_group) == (target, group)
    data = load_dataset(DataSpec(path=path), "classification")
    assert data.label_names == classes
    assert data.grouped == (group is not None)


def test_smallest_codebook_if_there_is_no_other_target(write, tmp_path: Path) -> None:
    arrays, _, _ = CACHES["deepmimo"]
    path = write({name: values for name, values in arrays.items() if name != "label_los"}, {})
    assert opened(path, "hdf5", tmp_path).default_target == "label_beam_16"


@pytest.mark.parametrize("as_text", [True, False])
def test_positions_become_metres_again(write, tmp_path: Path, as_text: bool) -> None:
    low, high = [0.0, 0.0, 0.0], [80.0, 60.0, 40.0]
    metres = RNG.uniform(low, high, (N, 3)).astype(np.float32)
    label = (2 * metres / np.float32(high) - 1).astype(np.float32)
    attributes = {"coord_nominal_min": low, "coord_nominal_max": high, "mu": "[0.4]", "scene": "outdoor"}
    attributes = {key: json.dumps(value) if as_text else value for key, value in attributes.items()}
    files = words("dataset_SNR10_outdoor.mat", "dataset_SNR20_outdoor.mat")
    table = opened(
        write({"features": floats(4, 16, 16), "label": label, "source_file": files}, attributes), "hdf5", tmp_path
    )
    np.testing.assert_allclose(table.columns["label"], metres, atol=1e-4)
    assert (table.default_target, table.default_group) == ("label", "source_file")


def test_places_measured_at_several_snrs_stay_together(write, tmp_path: Path) -> None:
    attributes = {"coord_nominal_min": "[0, 0, 0]", "coord_nominal_max": "[80, 60, 40]"}
    label = np.tile(RNG.uniform(-1, 1, (N // 2, 3)), (2, 1)).astype(np.float32)
    path = write({"features": floats(4, 8, 8), "label": label, "source_file": words("a", "a", "b")}, attributes)
    assert opened(path, "hdf5", tmp_path).default_group == "label"


def cir(missing: str, taps: int = 150) -> tuple[dict[str, Any], dict[str, Any]]:
    """Raw impulse responses of three anchors; the last one is missing in every other window."""
    responses = 3 + 5 * floats(2, 3, taps)
    responses[::2, :, 2] = np.nan if missing == "nan" else 0
    arrays = {
        "cir": responses,
        "location": np.repeat(RNG.uniform(0, 9, (N // 4, 2)), 4, axis=0).astype(np.float32),
        "anchor_mask": np.ones((N, 3), np.uint8),
        "rec_time": np.arange(3 * N).reshape(N, 3),
        "burst_id": np.arange(N),
    }
    attributes = {
        "mean_real": 2.5,
        "mean_imag": -1.0,
        "std_real": 4.0,
        "std_imag": 0.0,
        "loc_min": np.zeros(2, np.float32),
        "loc_max": np.ones(2, np.float32),
        "anchors": '["a", "b", "c"]',
        "fill_missing": missing,
    }
    return arrays, attributes


@pytest.mark.parametrize("missing", ["zero", "nan"])
def test_impulse_responses_as_the_loader_of_wavesfm_gives_them(write, tmp_path: Path, missing: str) -> None:
    arrays, attributes = cir(missing)
    table = opened(write(arrays, attributes), "hdf5", tmp_path)
    assert table.windows.shape == (2, 3, 256)
    read = table.windows.read(np.arange(N))
    for index in range(N):
        for anchor in range(3):
            for part, (mean, std) in enumerate([(2.5, 4.0), (-1.0, 1.0)]):  # a std of 0 counts as 1
                expected = (arrays["cir"][index, part, anchor] - mean) / std
                if missing == "nan" and index % 2 == 0 and anchor == 2:
                    expected = np.zeros(150)
                np.testing.assert_allclose(read[index, part, anchor, :150], expected, rtol=1e-6, atol=1e-6)
    assert not read[..., 150:].any()


def test_places_measured_several_times_are_groups(write, tmp_path: Path) -> None:
    arrays, attributes = cir("zero", taps=128)
    path = write(arrays, attributes)
    table = opened(path, "hdf5", tmp_path)
    assert table.windows.shape == (2, 3, 128)
    assert (table.default_target, table.default_group) == ("location", "location")
    np.testing.assert_array_equal(table.columns["location"], arrays["location"])
    data = load_dataset(DataSpec(path=path), "regression")
    assert len(data.group_names) == N // 4
    for group in range(N // 4):
        assert len(np.unique(data.targets[data.groups == group], axis=0)) == 1
    arrays["location"] = RNG.uniform(0, 9, (N, 2))
    (tmp_path / "cache.h5").unlink()
    assert opened(write(arrays, attributes), "hdf5", tmp_path).default_group is None


def test_missing_anchors_that_are_not_to_be_filled(write) -> None:
    arrays, attributes = cir("nan")
    check_refused(write(arrays, attributes | {"fill_missing": "zero"}), "window 0 holds NaN")


def test_other_impulse_responses_stay_as_they_are(write, tmp_path: Path) -> None:
    arrays, _ = cir("zero")
    table = opened(write(arrays, {}), "hdf5", tmp_path)
    np.testing.assert_array_equal(table.windows.read(np.arange(N)), arrays["cir"])


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"mean_real": "loud"}, "'mean_real' must be numbers"),
        ({"mean_real": "[" * 5000}, "'mean_real' must be numbers"),
        ({"mean_real": "[1e999]"}, "'mean_real' must be numbers"),
        ({"mean_real": [1.0, 2.0]}, "one number each"),
        ({"std_imag": np.nan}, "'std_imag' must be finite"),
    ],
)
def test_bad_statistics(write, attributes: dict[str, Any], expected: str) -> None:
    arrays, known = cir("zero")
    check_refused(write(arrays, known | attributes), "cache.h5", expected)


@pytest.mark.parametrize("bounds", [("[0]", "[1]"), ("[0, 0, 0]", "[1, 1]"), ("{", "[1, 1, 1]")])
def test_bad_coordinates(write, bounds: tuple[str, str]) -> None:
    attributes = dict(zip(("coord_nominal_min", "coord_nominal_max"), bounds, strict=True))
    check_refused(write({"features": floats(4, 8, 8), "label": floats(3)}, attributes), "cache.h5", "coord_nominal")


def test_missing_bound(write) -> None:
    check_refused(
        write({"features": floats(4, 8, 8), "label": floats(3)}, {"coord_nominal_min": "[0, 0, 0]"}),
        "coord_nominal_max",
    )
