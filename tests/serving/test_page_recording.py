"""Recordings from memory: the answers of ``offramp predict``, no file touched, and one line for whatever is wrong with them."""

from __future__ import annotations

import base64
import builtins
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offramp
from offramp.bundle import BundleTask
from offramp.errors import DataError, OfframpError
from offramp.runtime.files import predict_file
from offramp.runtime.predictor import Predictor
from offramp.serving.page import recording as recording_module
from offramp.serving.page.recording import read_dropped, recording_document
from offramp.serving.page.spectrogram import MOST_COLUMNS, spectrogram

RATE = 1e6


def dropped(
    samples: np.ndarray,
    datatype: str = "cf32_le",
    annotations: Sequence[tuple[int, int]] = (),
    **fields: Any,
) -> tuple[bytes, bytes]:
    """Metadata and data."""
    meta = {
        "global": {
            "core:datatype": datatype,
            "core:version": "1.2.0",
            "core:sample_rate": RATE,
            **{f"core:{k}": v for k, v in fields.items()},
        },
        "captures": [
            {
                "core:sample_start": fields.get("offset", 0),
                "core:datetime": "2026-01-01T00:00:00Z",
                "core:frequency": 3.6e9,
            }
        ],
        "annotations": [{"core:sample_start": start, "core:sample_count": count} for start, count in annotations],
    }
    return json.dumps(meta).encode(), samples.tobytes()


def archive(meta: bytes, data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("one/one.sigmf-meta", meta), ("one/one.sigmf-data", data)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def noise(samples: int, channels: int = 2, dtype: str = "<f4", scale: float = 1.0) -> np.ndarray:
    """Interleaved I and Q of all channels."""
    return (scale * np.random.default_rng(5).standard_normal((samples, channels, 2))).astype(dtype)


@pytest.fixture(scope="module")
def predictor(iq_folder: Path) -> Predictor:
    return offramp.load(iq_folder)


@pytest.fixture
def modulation(predictor: Predictor) -> BundleTask:
    return predictor.bundle.task("modulation")


Case = tuple[str, np.ndarray, str, list[tuple[int, int]], dict[str, Any]]
CASES: dict[str, Case] = {
    "from start to end": ("modulation", noise(700), "cf32_le", [], {"num_channels": 2}),
    "annotated, some shorter than a window": (
        "modulation",
        noise(700),
        "cf32_le",
        [(50, 100), (200, 40), (300, 300)],
        {"num_channels": 2},
    ),
    "fixed point": ("modulation", noise(700, 2, ">i2", 9000), "ci16_be", [], {"num_channels": 2}),
    "unsigned bytes": ("shape", noise(900, 1, "u1", 30), "cu8", [], {}),
    "counted from an offset": ("shape", noise(900, 1), "cf32_le", [(1100, 300)], {"offset": 1000}),
    "a regression": ("angle", noise(400), "cf32_le", [], {"num_channels": 2}),
}


@pytest.mark.parametrize("packed", [False, True], ids=["two files", "archive"])
@pytest.mark.parametrize("case", CASES)
def test_the_answers_are_those_of_predict(
    predictor: Predictor, iq_folder: Path, tmp_path: Path, case: str, packed: bool
) -> None:
    name, samples, datatype, annotations, fields = CASES[case]
    meta, data = dropped(samples, datatype, annotations, **fields)
    (tmp_path / "one.sigmf-meta").write_bytes(meta)
    (tmp_path / "one.sigmf-data").write_bytes(data)
    predict_file(iq_folder, tmp_path / "one.sigmf-meta", name, "jsonl", tmp_path / "p.jsonl")
    expected = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]

    task = predictor.bundle.task(name)
    found = read_dropped(task, None, archive(meta, data)) if packed else read_dropped(task, meta, data)
    predictions = [
        predictor.predict(found.windows(first, first + 3), tasks=[name])[name]
        for first in range(0, len(found.asked), 3)
    ]
    document = recording_document(found, predictions)
    json.dumps(document, allow_nan=False)
    windows = document["windows"]
    assert document["cut"] == len(windows["start"]) == len(expected) > 1
    assert windows["start"] == [row["sample"] for row in expected]
    assert windows["exit"] == [row["exit"] for row in expected]
    assert windows["time"] == [row["time"] for row in expected]
    if task.kind == "classification":
        assert windows["prediction"] == [row["prediction"] for row in expected]
        np.testing.assert_allclose(windows["confidence"], [row["confidence"] for row in expected], atol=1e-5)
    else:
        np.testing.assert_allclose(windows["prediction"], [row["prediction"] for row in expected], atol=1e-5)
        assert set(windows["confidence"]) == {None}
    about = document["recording"]
    assert (about["samples"], about["sample_rate"], about["frequency_hz"]) == (len(samples), RATE, 3.6e9)


def test_of_many_windows_some_are_asked(predictor: Predictor, modulation: BundleTask) -> None:
    meta, data = dropped(noise(96 * 40), num_channels=2)
    every, some = read_dropped(modulation, meta, data), read_dropped(modulation, meta, data, most=7)
    assert (len(every.asked), len(some.asked)) == (40, 7)
    assert some.positions.starts[[0, -1]].tolist() == [0, 96 * 39]
    assert len(set(np.diff(some.asked).tolist())) <= 2
    np.testing.assert_array_equal(some.windows(0, 7), every.windows(0, 40)[some.asked])
    document = recording_document(some, [predictor.predict(some.windows(0, 7), tasks=["modulation"])["modulation"]])
    assert (document["cut"], len(document["windows"]["start"])) == (40, 7)


def test_a_task_that_resamples_takes_other_rates(predictor: Predictor, modulation: BundleTask) -> None:
    meta, data = dropped(noise(4 * 96), num_channels=2)
    halved = replace(modulation, data=modulation.data | {"sample_rate": RATE / 2, "resample": RATE / 2})
    found = read_dropped(halved, meta, data)
    assert found.positions.starts.tolist() == [0, 192]
    assert found.windows(0, 2).shape == (2, 2, 2, 96)


@contextmanager
def watched_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Whatever is opened, in each way that Python has."""
    opened: list[object] = []

    def watch(module: Any, name: str) -> None:
        real = getattr(module, name)

        def watching(path: object, *rest: Any, **named: Any) -> Any:
            opened.append(path)
            return real(path, *rest, **named)

        monkeypatch.setattr(module, name, watching)

    for module, name in (
        (builtins, "open"),
        (io, "open"),
        (os, "open"),
        (np, "fromfile"),
        (np, "memmap"),
        (os, "stat"),
    ):
        watch(module, name)
    yield opened
    monkeypatch.undo()


@pytest.mark.parametrize("dataset", ["/etc/passwd", "../../secret", "other.bin"])
def test_no_file_is_opened_whatever_the_metadata_name(
    predictor: Predictor, modulation: BundleTask, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    meta, data = dropped(noise(400), num_channels=2)
    expected = recording_document(
        found := read_dropped(modulation, meta, data),
        [predictor.predict(found.windows(0, 9), ["modulation"])["modulation"]],
    )
    named = meta.replace(b'"core:version"', f'"core:dataset": "{dataset}", "core:version"'.encode())
    for content in ((named, data), (None, archive(named, data))):
        with watched_files(monkeypatch) as opened:
            found = read_dropped(modulation, *content)
            windows = found.windows(0, 9)
            document = recording_document(found, [predictor.predict(windows, ["modulation"])["modulation"]])
        assert opened == []
        assert document == expected


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no JSON": (lambda meta: b"{", "not JSON"),
    "no text": (lambda meta: b"\xff\xfe\x00", "not JSON"),
    "NaN": (lambda meta: json.dumps(meta).replace("1000000.0", "NaN").encode(), "NaN is no number"),
    "too deep": (lambda meta: b"[" * 9000 + b"]" * 9000, "nested deeper"),
    "a list": (lambda meta: b"[]", "object with 'global'"),
    "no datatype": (lambda meta: meta["global"].pop("core:datatype"), "DATATYPE"),
    "another datatype": (lambda meta: meta["global"].update({"core:datatype": "weird8"}), "unknown datatype 'weird8'"),
    "a rate of zero": (lambda meta: meta["global"].update({"core:sample_rate": 0}), "core:sample_rate"),
    "no channels": (lambda meta: meta["global"].update({"core:num_channels": 0}), "core:num_channels"),
    "three channels": (lambda meta: meta["global"].update({"core:num_channels": 3}), "shape"),
    "2**62 channels": (lambda meta: meta["global"].update({"core:num_channels": 2**62}), "core:num_channels"),
    "a negative start": (lambda meta: meta["annotations"].append({"core:sample_start": -5}), "core:sample_start"),
    "an annotation behind the end": (
        lambda meta: meta["annotations"].append({"core:sample_start": 350, "core:sample_count": 100}),
        "truncated",
    ),
    "an endless annotation": (
        lambda meta: meta["annotations"].append({"core:sample_start": 0, "core:sample_count": 10**18}),
        "truncated",
    ),
    "a header": (lambda meta: meta["captures"][0].update({"core:header_bytes": 8}), "core:header_bytes"),
    "more trailing bytes than bytes": (lambda meta: meta["global"].update({"core:trailing_bytes": 10**9}), "trailing"),
    "captures of text": (lambda meta: meta.update(captures="all"), "captures"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_metadata(modulation: BundleTask, what: str) -> None:
    change, word = BAD[what]
    meta, data = dropped(noise(400), num_channels=2)
    content = json.loads(meta)
    changed = change(content)
    written = changed if isinstance(changed, bytes) else json.dumps(content).encode()
    for attempt in ((written, data), (None, archive(written, data))):
        with pytest.raises(DataError) as caught:
            read_dropped(modulation, *attempt)
        assert "\n" not in str(caught.value)
        assert "the recording" in str(caught.value)
        # an archive whose metadata cannot be parsed is none
        assert word in str(caught.value) or (attempt[0] is None and "no SigMF archive" in str(caught.value))


def test_too_many_stretches_are_not_even_cut(modulation: BundleTask) -> None:
    meta, data = dropped(noise(4000), num_channels=2, annotations=[(0, 4000)] * 2000)
    content = json.loads(meta)
    content["captures"] = [{"core:sample_start": start, "core:frequency": float(start)} for start in range(0, 4000, 4)]
    with pytest.raises(DataError, match="1,000 captures and 2,000 annotations: drop a part"):
        read_dropped(modulation, json.dumps(content).encode(), data)


def test_bad_data(modulation: BundleTask, predictor: Predictor) -> None:
    def refused(task: BundleTask, meta: bytes | None, data: bytes, word: str) -> None:
        with pytest.raises(DataError, match=word) as caught:
            read_dropped(task, meta, data)
        assert "\n" not in str(caught.value)

    meta, data = dropped(noise(400), num_channels=2)
    refused(modulation, meta, b"", "no samples|cannot be read")
    refused(modulation, meta, data[: 95 * 16], "give longer recordings")
    refused(modulation, None, data, "no SigMF archive")
    refused(modulation, None, archive(meta, data)[:-4000], "no SigMF archive|ends before")
    refused(
        replace(modulation, data={"sample_rate": 2e6}),
        meta,
        data,
        "1000000 samples per second, and .* at 2000000: bring",
    )
    refused(replace(modulation, window_shape=(2, 32, 32, 1)), meta, data, "choose another task")
    broken = noise(400)
    broken[250, 1, 0] = np.inf
    found = read_dropped(modulation, meta, broken.tobytes())
    with pytest.raises(DataError, match="the recording: window 2 holds NaN or infinity"):
        found.windows(0, 4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_metadata_say(modulation: BundleTask, data: st.DataObject) -> None:
    """Either windows of the task's shape, or an error of ours: nothing else, and nothing large."""
    number = st.one_of(
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.sampled_from([0, 1, 2, 1e308, -1, 2**31, 0.5, True, None, "2", [], {}]),
    )
    meta, content = dropped(noise(200), num_channels=2, annotations=[(10, 100)])
    parsed = json.loads(meta)
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from([parsed["global"], parsed["captures"][0], parsed["annotations"][0]]))
        keys = [
            "core:sample_rate",
            "core:num_channels",
            "core:offset",
            "core:trailing_bytes",
            "core:sample_start",
            "core:sample_count",
            "core:header_bytes",
            "core:datatype",
            "core:frequency",
            "core:label",
            "core:global_index",
            "core:datetime",
        ]
        part[data.draw(st.sampled_from(keys))] = data.draw(number)
    content = content[: data.draw(st.integers(0, len(content)))]
    with suppress(OfframpError):
        found = read_dropped(modulation, json.dumps(parsed).encode(), content)
        windows = found.windows(0, len(found.asked))
        assert windows.shape[1:] == modulation.window_shape
        json.dumps(spectrogram(found.read, found.about.samples).document(), allow_nan=False)


def tone(samples: int, frequency: float, amplitude: float) -> np.ndarray:
    return (amplitude * np.exp(2j * np.pi * frequency * np.arange(samples)))[:, None].astype(np.complex64)


def reading(signal: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, count: signal[start : start + count]


@pytest.mark.parametrize("samples", [20_000, 400_000])
def test_a_tone_is_where_it_is_and_as_strong_as_it_is(samples: int) -> None:
    signal = tone(samples, 0.125, 0.5)
    signal[: samples // 2] = 0
    picture = spectrogram(reading(signal), samples)
    bins, columns = picture.power_db.shape
    middle = columns // 2
    peak = picture.power_db[:, middle + 2 : -2]
    assert (peak.argmax(0) == bins // 2 + bins // 8).all()
    np.testing.assert_allclose(peak.max(0), 20 * np.log10(0.5), atol=0.01)
    assert picture.power_db[:, : middle - 1].max() < -200
    assert columns <= MOST_COLUMNS
    assert 0 <= columns * picture.samples_per_column - samples < bins


def test_a_real_tone() -> None:
    signal = 0.25 * np.cos(2 * np.pi * 0.25 * np.arange(20_000)).astype(np.float32)[:, None]
    picture = spectrogram(reading(signal), len(signal))
    assert not picture.two_sided
    inside = picture.power_db[:, 2:-2]
    assert (inside.argmax(0) == len(inside) // 2).all()
    np.testing.assert_allclose(inside.max(0), 20 * np.log10(0.25), atol=0.01)


@pytest.mark.parametrize("samples", [1, 5, 100, 5000])
def test_against_scipy(samples: int) -> None:
    rng = np.random.default_rng(samples)
    signal = (rng.standard_normal((samples, 2)) + 1j * rng.standard_normal((samples, 2))).astype(np.complex64)
    picture = spectrogram(reading(signal), samples)
    bins, columns = picture.power_db.shape
    quarter = bins // 4
    padded = np.pad(signal, ((quarter, bins), (0, 0)))
    _, _, power = scipy.signal.spectrogram(
        padded,
        window="hann",
        nperseg=bins,
        noverlap=bins // 2,
        scaling="spectrum",
        detrend=False,
        return_onesided=False,
        axis=0,
    )
    expected = np.fft.fftshift(power.mean(1), axes=0)[:, :columns]
    np.testing.assert_allclose(picture.power_db, 10 * np.log10(np.maximum(expected, 1e-30)), atol=0.02)


def test_a_picture_of_nothing_and_of_too_much() -> None:
    for signal in (
        np.zeros((300, 1), np.complex64),
        np.full((300, 1), np.nan, np.complex64),
        np.full((300, 1), 3e38 + 3e38j, np.complex64),
    ):
        document = spectrogram(reading(signal), 300).document()
        json.dumps(document, allow_nan=False)
        cells = base64.b64decode(document["cells"])
        assert len(cells) == document["bins"] * document["columns"]


def test_a_long_recording_is_read_once_and_drawn_small() -> None:
    """At most one column is in memory at a time."""
    counts: list[int] = []

    def read(start: int, count: int) -> np.ndarray:
        counts.append(count)
        return np.zeros((count, 1), np.complex64)

    samples = 5_000_000
    picture = spectrogram(read, samples)
    assert picture.power_db.shape == (256, 1024)
    assert max(counts) <= samples / 1024 + 2 * 256
    assert sum(counts) <= 1.1 * samples
    assert recording_module.MOST_WINDOWS <= 4096
