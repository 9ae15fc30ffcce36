"""What a command writes never takes the place of what it reads, or of anything that it does not write itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from laboratory import Call, Lab, task
from tiny import tones

from offramp.files import LOCK, run_folder

Refused = Callable[..., str]


@pytest.fixture
def given(finished: Path, lab: Lab) -> tuple[object, ...]:
    return "predict", finished / "bundle", lab / "data.h5", "--task", "los"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestPredict:
    def test_never_over_its_input(self, given: tuple[object, ...], lab: Lab, refused: Refused):
        (lab / "link.csv").symlink_to("data.h5")
        (lab / "hard.csv").hardlink_to(lab / "data.h5")
        before = snapshot(lab.folder)
        for name in ("data.h5", "link.csv", "hard.csv"):
            refused(*given, "--out", lab / name, words=[name, "read as an input", "choose another --out"])
        assert snapshot(lab.folder) == before
        assert (lab / "link.csv").is_symlink()

    def test_never_into_the_bundle(self, finished: Path, lab: Lab, refused: Refused):
        shutil.copytree(finished / "bundle", lab / "bundle")
        before = snapshot(lab.folder)
        given = ("predict", lab / "bundle", lab / "data.h5", "--task", "los")
        refused(*given, "--out", lab / "bundle" / "p.csv", words="lies in the input")
        assert snapshot(lab.folder) == before

    @pytest.mark.parametrize("name", ["other.h5", "code.py", "model.onnx", "results.json", "notes.csv"])
    def test_never_over_other_files(self, given: tuple[object, ...], lab: Lab, refused: Refused, name: str):
        (lab / name).write_bytes(b"\0 mine")
        refused(*given, "--out", lab / name, words=[name, "does not look like predictions"])
        assert (lab / name).read_bytes() == b"\0 mine"

    @pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p", "p.dat"])
    def test_again_over_what_it_wrote(self, given: tuple[object, ...], lab: Lab, call: Call, name: str):
        assert call(*given, "--out", lab / name)[0] == 0
        first = (lab / name).read_bytes()
        assert call(*given, "--out", lab / name, "--format", "jsonl")[0] == 0
        assert (lab / name).read_bytes() != first
        assert call(*given, "--out", lab / name)[0] == 0
        assert (lab / name).read_bytes() == first

    def test_through_links(self, given: tuple[object, ...], lab: Lab, call: Call):
        (lab / "t.csv").write_text("old")
        (lab / "l.csv").symlink_to("t.csv")
        assert call(*given, "--out", lab / "l.csv") == (0, "", "")
        assert (lab / "l.csv").is_symlink()
        assert (lab / "t.csv").read_text() == call(*given)[1]

    def test_devices(self, given: tuple[object, ...], lab: Lab, call: Call, refused: Refused):
        os.mkfifo(lab / "pipe")
        refused(*given, "--out", lab / "pipe", words="is a device or a pipe")
        assert (lab / "pipe").is_fifo()
        assert call(*given, "--out", "/dev/null") == (0, "", "")
        assert Path("/dev/null").is_char_device()

    def test_annotations_of_others_stay(self, finished: Path, lab: Lab, call: Call, refused: Refused):
        recordings, out = lab / "recordings", lab / "out"
        recordings.mkdir()
        np.random.default_rng(0).standard_normal(2 * 200).astype(np.float32).tofile(recordings / "a.sigmf-data")
        meta = {"global": {"core:datatype": "cf32_le", "core:version": "1.2.0"}, "captures": [{"core:sample_start": 0}]}
        (recordings / "a.sigmf-meta").write_text(json.dumps(meta | {"annotations": []}))
        given = ("predict", finished / "bundle", recordings, "--task", "los", "--format", "sigmf", "--out")
        for place in (recordings, recordings / "below", lab.folder):
            refused(*given, place, words="recordings")
        shutil.copytree(recordings, out)
        refused(*given, out, words=["a.sigmf-meta", "does not look like annotations of ours"])
        assert list(snapshot(out).values()) == list(snapshot(recordings).values())
        (out / "a.sigmf-meta").unlink()
        assert call(*given, out)[0] == 0
        assert call(*given, out)[0] == 0


class TestOthers:
    def test_report(self, finished: Path, lab: Lab, call: Call, refused: Refused):
        shutil.copytree(finished, lab / "run")
        results = (lab / "run" / "results.json").read_bytes()
        for given in ("run", "run/results.json"):
            refused("report", lab / given, "--out", lab / "run" / "results.json", words="read as an input")
        refused("report", finished, "--out", lab / "run" / "results.json", words="does not look like an HTML page")
        assert (lab / "run" / "results.json").read_bytes() == results
        assert call("report", lab / "run", "--out", lab / "run" / "report.html")[0] == 0
        assert call("report", lab / "run", "--out", "/dev/null")[0] == 0
        assert Path("/dev/null").is_char_device()

    def test_data(self, lab: Lab, call: Call, refused: Refused):
        np.savez(lab / "origin.npz", sample=tones(12)[0], label=np.arange(12) % 2)
        before = snapshot(lab.folder)
        refused("data", "convert", lab / "origin.npz", "--out", lab / "origin.npz", words="read as an input")
        for name in ("data.h5", "encoder/config.json"):
            refused("data", "convert", lab / "origin.npz", "--out", lab / name, words="move it away")
            refused("data", "make", "--out", lab / name, "--windows", 10, words="move it away")
        refused("data", "make", "--out", "/dev/null", words="is a device")
        assert snapshot(lab.folder) == before
        given = ("data", "convert", lab / "origin.npz", "--out", lab / "cache.h5")
        assert (call(*given)[0], call(*given)[0]) == (0, 0)
        with h5py.File(lab / "cache.h5") as file:
            assert file["sample"].shape == (12, 2, 1, 64)

    def test_export(self, finished: Path, lab: Lab, call: Call, refused: Refused):
        given = ("export", finished / "bundle", "--task", "los", "--out")
        (lab / "other.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
        for name in ("data.h5", "other.onnx"):
            refused(*given, lab / name, words=[name, "does not look like a graph that Offramp exported"])
        heads = finished / "bundle" / "heads.safetensors"
        before = heads.read_bytes()
        refused(*given, heads, words="lies in the input")
        assert heads.read_bytes() == before
        assert (call(*given, lab / "t.onnx")[0], call(*given, lab / "t.onnx")[0]) == (0, 0)


class TestFolders:
    def test_a_run_spares_its_encoder_and_data(self, lab: Lab, call: Call, refused: Refused):
        out = lab / "out"
        shutil.copytree(lab / "encoder", out / "bundle" / "encoder")
        shutil.copytree(lab / "encoder", out / "encoder")
        (out / "features").mkdir()
        shutil.copy(lab / "data.h5", out / "features" / "data.h5")
        before = snapshot(lab.folder)
        lab.suite(name="encoder.yaml", encoder="out/bundle/encoder")
        refused("run", lab / "encoder.yaml", "--out", out, words=["holds the input", "out/bundle/encoder"])
        lab.suite(task(data={"path": "out/features/data.h5"}), name="data.yaml")
        refused("run", lab / "data.yaml", "--out", out, words=["holds the input", "data.h5"])
        lab.suite(name="train.yaml", encoder="out/encoder")
        refused("train", lab / "train.yaml", "--task", "los", "--out", out, words="read as an input")
        refused("pretrain", "--out", lab.folder, words=["encoder", "checkpoint.pt", "choose another --out"])
        after = snapshot(lab.folder)
        assert {name: content for name, content in after.items() if not name.endswith(".yaml")} == before

    def test_a_run_beside_its_data_spares_what_else_is_there(self, lab: Lab, call: Call):
        (lab / "features").mkdir()
        (lab / "features" / "mine.npy").write_text("mine")
        assert call("run", lab.suite(), "--out", lab.folder)[0] == 0
        assert [path.name for path in (lab / "features").iterdir()] == ["mine.npy"]
        assert (lab / "results.json").exists()

    @pytest.mark.parametrize("command", ["run", "train", "pretrain"])
    def test_one_run_at_a_time(self, lab: Lab, refused: Refused, command: str):
        given = {
            "run": ("run", lab.suite()),
            "train": ("train", lab.suite(), "--task", "los"),
            "pretrain": ("pretrain",),
        }
        with run_folder(lab / "out", []):
            refused(*given[command], "--out", lab / "out", words=["another run writes to", "choose another --out"])
            assert [path.name for path in (lab / "out").iterdir()] == [LOCK]
