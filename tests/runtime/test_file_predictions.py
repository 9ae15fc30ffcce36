"""Predictions for whole files are those for their windows, batch by batch."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf
from bundles import IQ_SHAPE, small_shufflenet, task, write

import offramp
from offramp.bundle import BundleTask
from offramp.data.table import WindowSource
from offramp.errors import BundleError, DataError, OfframpError
from offramp.runtime import files
from offramp.runtime.files import Reading, open_windows, predict_file
from offramp.runtime.predictor import Predictor


def windows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *IQ_SHAPE)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", sample=windows(23))
    return tmp_path / "data.npz"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_equals_the_predictor(iq_folder: Path, data: Path, tmp_path: Path):
    predict_file(iq_folder, data, "modulation", "csv", tmp_path / "p.csv")
    expected = offramp.load(iq_folder).predict(windows(23), tasks=["modulation"])["modulation"]
    rows = read_csv(tmp_path / "p.csv")
    assert list(rows[0]) == ["index", "task", "prediction", "confidence", "exit"]
    assert [int(row["index"]) for row in rows] == list(range(23))
    assert [row["prediction"] for row in rows] == expected.labels
    np.testing.assert_array_equal(np.float32([row["confidence"] for row in rows]), expected.confidence)
    assert {(row["task"], row["exit"]) for row in rows} == {("modulation", "stage2.1")}


def test_jsonl_of_a_regression(iq_folder: Path, data: Path, tmp_path: Path):
    predict_file(iq_folder, data, "angle", "jsonl", tmp_path / "p.jsonl")
    expected = offramp.load(iq_folder).predict(windows(23), tasks=["angle"])["angle"]
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(np.float32([row["prediction"] for row in rows]), expected.outputs)
    assert {row["confidence"] for row in rows} == {None}


def test_a_device_is_called_one(iq_folder: Path):
    with pytest.raises(DataError, match=r"^/dev/zero is a device and not a regular file"):
        predict_file(iq_folder, Path("/dev/zero"), "modulation", "csv", None)


@pytest.mark.parametrize("form", ["(N, 2, time)", "(N, time, 2)", "complex", "pairs"])
def test_a_file_of_any_form_of_iq(iq_folder: Path, tmp_path: Path, form: str):
    raw = np.random.default_rng(4).standard_normal((5, 2, 128)).astype(np.float32)
    pairs = np.zeros((5, 128), [("real", "f4"), ("imag", "f4")])
    pairs["real"], pairs["imag"] = raw[:, 0], raw[:, 1]
    forms = {
        "(N, 2, time)": raw,
        "(N, time, 2)": raw.transpose(0, 2, 1),
        "complex": raw[:, 0] + 1j * raw[:, 1],
        "pairs": pairs,
    }
    np.savez(tmp_path / "data.npz", sample=forms[form])
    predict_file(iq_folder, tmp_path / "data.npz", "shape", "csv", tmp_path / "p.csv")
    expected = offramp.load(iq_folder).predict(raw[:, :, None], tasks=["shape"])["shape"]
    np.testing.assert_array_equal(
        np.float32([row["confidence"] for row in read_csv(tmp_path / "p.csv")]), expected.confidence
    )


def test_a_window_that_overflows_is_named_and_nothing_is_written(iq_folder: Path, tmp_path: Path):
    large = windows(23)
    large[17] = 3e38
    np.savez(tmp_path / "data.npz", sample=large)
    with pytest.raises(DataError, match="window 17 overflows float32"):
        predict_file(iq_folder, tmp_path / "data.npz", "device", "csv", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_standard_output(iq_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    predict_file(iq_folder, data, "device", "csv", None)
    predict_file(iq_folder, data, "device", "csv", tmp_path / "p.csv")
    assert capsys.readouterr().out == (tmp_path / "p.csv").read_text()


def test_batch_by_batch(iq_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No more than one block is ever in memory; each is predicted before the next is read."""
    monkeypatch.setattr(files, "BLOCK", 10)
    events: list[tuple[str, int]] = []
    read, predict = WindowSource.read, Predictor.predict

    def reading(self: WindowSource, indices: Any) -> Any:
        events.append(("read", len(indices)))
        return read(self, indices)

    def predicting(self: Predictor, x: Any, **options: Any) -> Any:
        events.append(("predict", len(x)))
        return predict(self, x, **options)

    monkeypatch.setattr(WindowSource, "read", reading)
    monkeypatch.setattr(Predictor, "predict", predicting)
    progress: list[tuple[int, int]] = []
    predict_file(
        iq_folder,
        data,
        "modulation",
        "csv",
        tmp_path / "p.csv",
        on_progress=lambda what, done, total: progress.append((done, total)),
    )
    assert events == [(what, count) for count in (10, 10, 3) for what in ("read", "predict")]
    assert progress == [(10, 23), (20, 23), (23, 23)]
    rows = read_csv(tmp_path / "p.csv")
    monkeypatch.undo()
    expected = offramp.load(iq_folder).predict(windows(23), tasks=["modulation"])["modulation"]
    assert [row["prediction"] for row in rows] == expected.labels
    np.testing.assert_allclose(np.float32([row["confidence"] for row in rows]), expected.confidence, atol=1e-5)


def test_an_error_in_a_late_block_leaves_the_earlier_file(
    iq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "BLOCK", 10)
    broken = windows(23)
    broken[21, 0, 0, 0] = np.inf
    np.savez(tmp_path / "data.npz", sample=broken)
    (tmp_path / "p.csv").write_text("earlier")
    with pytest.raises(DataError, match="window 21"):
        predict_file(iq_folder, tmp_path / "data.npz", "modulation", "csv", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "p.csv"]


@pytest.fixture
def recordings(tmp_path: Path) -> Callable[..., Path]:
    def make(annotations: list[tuple[int, int]], samples: int = 400) -> Path:
        folder = tmp_path / "recordings"
        folder.mkdir(exist_ok=True)
        values = np.random.default_rng(1).standard_normal((samples, 2, 2)).astype(np.float32)
        values.tofile(folder / "one.sigmf-data")
        meta = {
            "global": {
                "core:datatype": "cf32_le",
                "core:version": "1.2.0",
                "core:num_channels": 2,
                "core:sample_rate": 1e6,
            },
            "captures": [{"core:sample_start": 0}],
            "annotations": [{"core:sample_start": start, "core:sample_count": count} for start, count in annotations],
        }
        (folder / "one.sigmf-meta").write_text(json.dumps(meta))
        return folder

    return make


def test_sigmf(iq_folder: Path, tmp_path: Path, recordings: Callable[..., Path]):
    folder = recordings([(50, 100), (200, 40)])
    predict_file(iq_folder, folder, "modulation", "sigmf", tmp_path / "out")
    signal = sigmf.SigMFFile(metadata=json.loads((tmp_path / "out" / "one.sigmf-meta").read_text()))
    signal.validate()
    found = signal.get_annotations()
    assert [(a["core:sample_start"], a["core:sample_count"]) for a in found] == [(50, 96), (200, 40)]
    predict_file(iq_folder, folder, "modulation", "csv", tmp_path / "p.csv")
    assert [a["core:label"] for a in found] == [row["prediction"] for row in read_csv(tmp_path / "p.csv")]


def test_recordings_without_annotations_are_cut_from_start_to_end(iq_folder: Path, recordings: Callable[..., Path]):
    chosen = offramp.load(iq_folder).bundle.task("modulation")
    table = open_windows(chosen, recordings([]))
    assert table.windows.count == 4
    assert table.windows.shape == IQ_SHAPE


class TestEveryRecordingAnswers:
    """Two antennas, windows of 96 samples."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        self.record(tmp_path / "new" / "annotated", 400, [(50, 100), (200, 40)])
        self.record(tmp_path / "new" / "plain", 300)
        return tmp_path / "new"

    def record(self, path: Path, samples: int, annotations: list[tuple[int, int]] = [], rate: float = 1e6) -> None:  # noqa: B006
        path.parent.mkdir(parents=True, exist_ok=True)
        np.random.default_rng(1).standard_normal((samples, 2, 2)).astype(np.float32).tofile(f"{path}.sigmf-data")
        known = {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:num_channels": 2, "core:sample_rate": rate}
        meta = {
            "global": known,
            "captures": [{"core:sample_start": 0, "core:datetime": "2024-01-01T00:00:00Z"}],
            "annotations": [{"core:sample_start": start, "core:sample_count": count} for start, count in annotations],
        }
        Path(f"{path}.sigmf-meta").write_text(json.dumps(meta))

    def knowing(self, iq_folder: Path, **data: Any) -> BundleTask:
        task = offramp.load(iq_folder).bundle.task("modulation")
        return replace(task, data=task.data | data)

    @pytest.mark.parametrize("place", [".", "*.sigmf-meta", "*"])
    def test_rows(self, iq_folder: Path, folder: Path, place: str):
        predict_file(iq_folder, folder / place, "modulation", "csv", folder.parent / "p.csv")
        rows = read_csv(folder.parent / "p.csv")
        assert list(rows[0]) == ["index", "task", "prediction", "confidence", "exit", "recording", "sample", "time"]
        assert [(row["recording"], int(row["sample"])) for row in rows] == [
            ("annotated", 50),
            ("annotated", 200),
            ("plain", 0),
            ("plain", 96),
            ("plain", 192),
        ]
        assert rows[-1]["time"] == "2024-01-01T00:00:00.000192000Z"

    def test_a_recording_without_windows(self, iq_folder: Path, folder: Path):
        self.record(folder / "tiny", 95)
        chosen = self.knowing(iq_folder)
        with pytest.raises(DataError, match=r"1 of the recordings give no windows of 96 samples: tiny; .*skip_bad"):
            open_windows(chosen, folder)
        table = open_windows(chosen, folder, Reading(skip_bad=True))
        assert table.windows.count == 5
        assert table.notes[0] == "1 of 3 recordings give no windows: tiny"
        with pytest.raises(DataError, match="give longer recordings"):
            open_windows(chosen, folder / "tiny.sigmf-meta")

    def test_an_unusable_recording(self, iq_folder: Path, folder: Path):
        (folder / "broken.sigmf-meta").write_text("{")
        notes: list[str] = []
        with pytest.raises(DataError, match="1 of 3 recordings cannot be used: broken"):
            predict_file(iq_folder, folder, "modulation", "csv", None)
        out = folder.parent / "p.csv"
        predict_file(iq_folder, folder, "modulation", "csv", out, reading=Reading(skip_bad=True), on_note=notes.append)
        assert len(read_csv(out)) == 5
        assert [note.split(":")[0] for note in notes] == [
            "1 of 3 recordings cannot be used and are passed over",
            "1 of 5 windows are padded with zeros, 1 of them by more than half",
        ]

    def test_another_rate_than_the_training_data(self, iq_folder: Path, folder: Path):
        at_half = self.knowing(iq_folder, sample_rate=5e5)
        with pytest.raises(DataError, match=r"1000000 Hz, .* was fitted at 500000 Hz: .*data\.resample: 500000"):
            open_windows(at_half, folder)
        for table in (
            open_windows(at_half, folder, Reading(resample=5e5)),
            open_windows(self.knowing(iq_folder, sample_rate=5e5, resample=5e5), folder),
        ):
            assert table.positions is not None
            assert table.positions.starts.tolist() == [50, 200, 0]
            assert table.positions.stops.tolist() == [150, 240, 192]
        assert open_windows(self.knowing(iq_folder, sample_rate=1e6), folder).windows.count == 5

    def test_several_rates(self, iq_folder: Path, folder: Path):
        self.record(folder / "fast", 400, rate=2e6)
        with pytest.raises(DataError, match=r"fitted at 1000000 Hz: bring them there with data\.resample: 1000000"):
            open_windows(self.knowing(iq_folder, sample_rate=1e6), folder)
        with pytest.raises(DataError, match=r"sample rates differ"):
            open_windows(self.knowing(iq_folder), folder)

    def test_annotations_at_another_rate(self, iq_folder: Path, folder: Path, tmp_path: Path):
        predict_file(iq_folder, folder, "modulation", "sigmf", tmp_path / "out", reading=Reading(resample=5e5))
        found = json.loads((tmp_path / "out" / "plain.sigmf-meta").read_text())["annotations"]
        assert [(a["core:sample_start"], a["core:sample_count"]) for a in found] == [(0, 192)]


def test_an_array_of_another_name(iq_folder: Path, tmp_path: Path):
    np.savez(tmp_path / "data.npz", other=windows(3))
    chosen = offramp.load(iq_folder).bundle.task("modulation")
    with pytest.raises(DataError, match=r"set data\.input to one of other"):
        open_windows(chosen, tmp_path / "data.npz")
    assert open_windows(chosen, tmp_path / "data.npz", Reading(input="other")).windows.count == 3


def test_several_files(iq_folder: Path, tmp_path: Path):
    for name, count in (("a", 3), ("b", 4)):
        np.savez(tmp_path / f"{name}.npz", sample=windows(count))
    predict_file(iq_folder, tmp_path / "?.npz", "modulation", "csv", tmp_path / "p.csv")
    expected = offramp.load(iq_folder).predict(np.concatenate((windows(3), windows(4))), tasks=["modulation"])
    assert [row["prediction"] for row in read_csv(tmp_path / "p.csv")] == expected["modulation"].labels


def test_a_suffix_that_says_nothing(tmp_path: Path, data: Path):
    """Then the format is the one that the bundle's own data had; otherwise the file tells it."""
    chosen = task(small_shufflenet(), "modulation", "stem", IQ_SHAPE, ("a", "b"))
    data.rename(tmp_path / "data.cache")
    assert open_windows(chosen, tmp_path / "data.cache").windows.count == 23


class TestRefusals:
    def test_which_task(self, iq_folder: Path, data: Path):
        with pytest.raises(BundleError, match="several tasks: choose one with --task"):
            predict_file(iq_folder, data, None, "csv", None)
        with pytest.raises(BundleError, match="unknown task 'x'"):
            predict_file(iq_folder, data, "x", "csv", None)

    def test_the_only_task_need_not_be_named(self, tmp_path: Path, data: Path):
        encoder = small_shufflenet()
        write(tmp_path / "bundle", encoder, task(encoder, "only", "stem", IQ_SHAPE, ("a", "b")))
        predict_file(tmp_path / "bundle", data, None, "csv", tmp_path / "p.csv")
        assert {row["task"] for row in read_csv(tmp_path / "p.csv")} == {"only"}

    def test_shape(self, iq_folder: Path, data: Path):
        with pytest.raises(DataError, match=r"data\.npz holds windows of shape \(2, 2, 96\), .* takes \(2, 1, 128\)"):
            predict_file(iq_folder, data, "shape", "csv", None)

    def test_outputs(self, iq_folder: Path, data: Path, tmp_path: Path, recordings: Callable[..., Path]):
        with pytest.raises(DataError, match="give a folder in --out"):
            predict_file(iq_folder, data, "modulation", "sigmf", None)
        with pytest.raises(DataError, match="not a SigMF recording"):
            predict_file(iq_folder, data, "modulation", "sigmf", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        with pytest.raises(DataError, match="is a folder"):
            predict_file(iq_folder, data, "modulation", "csv", tmp_path)
        folder = recordings([])
        with pytest.raises(OfframpError, match="is a file"):
            predict_file(iq_folder, folder, "modulation", "sigmf", data)
        with pytest.raises(OfframpError, match="is read as an input"):
            predict_file(iq_folder, folder, "modulation", "sigmf", folder)

    def test_missing(self, iq_folder: Path, tmp_path: Path):
        with pytest.raises(DataError, match=r"gone\.h5 does not exist"):
            predict_file(iq_folder, tmp_path / "gone.h5", "modulation", "csv", None)
