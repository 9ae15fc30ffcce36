"""Bad input: exit code 2, one clear line, nothing half-written, nothing lost."""

from __future__ import annotations

import builtins
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laboratory import COUNT, Call, Lab, arrays, task
from tiny import noise, tiny_encoder, tones

from offramp.cli import inspection
from offramp.encoders.storage import save_encoder
from offramp.experiment import pipeline

Refused = Callable[..., str]


@pytest.fixture
def run_refused(lab: Lab, refused: Refused) -> Refused:
    """Run ``suite.yaml`` of the laboratory: refused, and an earlier run's results stay as they were."""

    def run(*words: str) -> str:
        out = lab / "out"
        (out / "bundle").mkdir(parents=True)
        for name in ("results.json", "report.html", "bundle/config.json"):
            (out / name).write_text("earlier")
        line = refused("run", lab / "suite.yaml", "--out", out, words=list(words))
        for name in ("results.json", "report.html", "bundle/config.json"):
            assert (out / name).read_text() == "earlier"
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]  # no temporary files
        return line

    return run


@pytest.mark.parametrize("sizes", ["2,1,1000000000000", "2,1,33554433"])
def test_a_shape_that_fits_in_no_memory(refused: Refused, sizes: str):
    refused("inspect", "iq-resnet", "--shape", sizes, words=["--shape", "at most 67,108,864 values"])


def test_memory_that_torch_does_not_get(refused: Refused, monkeypatch: pytest.MonkeyPatch):
    def starved(*_: object) -> None:
        torch.empty(2**60, dtype=torch.float32)

    monkeypatch.setattr(inspection, "inspect_target", starved)
    refused("inspect", "iq-resnet", words="not enough memory")


class TestSuites:
    def test_unknown_key(self, lab: Lab, run_refused: Refused):
        lab.suite(task(splitt={"test": 0.5}))
        run_refused("suite.yaml", "splitt", "did you mean 'split'")

    def test_unknown_encoder(self, lab: Lab, run_refused: Refused):
        lab.suite(encoder="resnet")
        run_refused("'resnet'", "iq-shufflenet", "lwm")

    def test_unknown_metric(self, lab: Lab, run_refused: Refused):
        lab.suite(task(metric="acuracy"))
        run_refused("'acuracy'", "balanced_accuracy")

    def test_shots_of_a_regression(self, lab: Lab, run_refused: Refused):
        lab.suite(task(kind="regression", shots=5))
        run_refused("shots", "leave it out for regression")

    @pytest.mark.parametrize("text", ["encoder: [lwm\ntasks: x", "a: b: c", "\tencoder: lwm", "encoder: &a *a"])
    def test_broken_yaml(self, lab: Lab, run_refused: Refused, text: str):
        (lab / "suite.yaml").write_text(text)
        run_refused("suite.yaml is not valid YAML")

    @pytest.mark.parametrize("text", [b"", b"hello", b"- 1", b"\xff\xfe\x00"])
    def test_other_files(self, lab: Lab, run_refused: Refused, text: bytes):
        (lab / "suite.yaml").write_bytes(text)
        run_refused("suite.yaml")

    def test_missing_suite(self, lab: Lab, refused: Refused):
        refused("run", lab / "nope.yaml", "--out", lab / "o", words=["nope.yaml", "No such file"])
        refused("run", lab.folder, "--out", lab / "o", words="Is a directory")
        assert not (lab / "o").exists()


class TestData:
    def test_missing_file(self, lab: Lab, run_refused: Refused):
        lab.suite(task(data={"path": "gone.h5"}))
        run_refused("gone.h5 does not exist")

    def test_unknown_column(self, lab: Lab, run_refused: Refused):
        lab.suite(task(data={"target": "loss"}))
        run_refused("data.h5", "'loss'", "los")

    @pytest.mark.parametrize(
        ("windows", "word"),
        [
            (noise(COUNT, (3, 1, 64)), "(N, 3, 1, 64)"),
            (noise(COUNT, (2, 1, 63)), "time >= 64"),
            (noise(COUNT, (64,)), "(N, 64)"),
            (np.full((COUNT, 2, 1, 64), b"a"), "windows are real"),
            (noise(0), "no windows"),
        ],
        ids=["shape", "short", "flat", "text", "empty"],
    )
    def test_wrong_windows(self, lab: Lab, run_refused: Refused, windows: np.ndarray, word: str):
        lab.suite()
        lab.data(sample=windows)
        run_refused("data.h5", word)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, lab: Lab, run_refused: Refused, value: float):
        windows = tones(COUNT)[0]
        windows[77, 1, 0, 5] = value
        lab.suite()
        lab.data(sample=windows)
        run_refused("data.h5", "window 77 holds NaN or infinity")

    def test_labels_of_another_length(self, lab: Lab, run_refused: Refused):
        lab.suite()
        lab.data(los=np.zeros(COUNT - 1, int))
        run_refused("'los' has 119 rows", "'sample' has 120 windows")

    def test_class_with_too_few_samples(self, lab: Lab, run_refused: Refused):
        labels = arrays()["los"]
        labels[50] = 7
        lab.suite()
        lab.data(los=labels)
        run_refused("data.h5", "class '7'")

    def test_class_in_too_few_groups(self, lab: Lab, run_refused: Refused):
        made = arrays()
        made["los"][made["city"] == "city_07"] = 3
        lab.suite()
        lab.data(los=made["los"])
        run_refused("data.h5", "class '3'", "group")

    def test_single_group(self, lab: Lab, run_refused: Refused):
        lab.suite(task(split={"test": 0.25}))
        lab.data(city=np.array(["home"] * COUNT))
        run_refused("data.h5", "group")

    def test_unknown_test_group(self, lab: Lab, run_refused: Refused):
        lab.suite(task(split={"test": ["city_99"]}))
        run_refused("city_99")

    def test_single_class(self, lab: Lab, run_refused: Refused):
        lab.suite()
        lab.data(los=np.zeros(COUNT, int))
        run_refused("single class")

    def test_truncated_hdf5(self, lab: Lab, run_refused: Refused):
        lab.suite()
        content = (lab / "data.h5").read_bytes()
        (lab / "data.h5").write_bytes(content[: len(content) // 2])
        run_refused("data.h5 is truncated: copy it again")

    def test_text_instead_of_hdf5(self, lab: Lab, run_refused: Refused):
        lab.suite()
        (lab / "data.h5").write_text("time,value\n")
        run_refused("data.h5 is not an HDF5 file")

    def test_pickles_in_npz(self, lab: Lab, run_refused: Refused):
        np.savez(lab / "data.npz", sample=noise(4), los=np.array([Hostile(lab / "hurt")] * 4, dtype=object))
        lab.suite(task(data={"path": "data.npz"}))
        run_refused("data.npz", "pickled")
        assert not (lab / "hurt").exists()

    @pytest.mark.parametrize(
        ("datatype", "samples", "words"),
        [
            ("cf32_le", 200, ["annotation 0", "100 to 300", "there are 200"]),
            ("cf24_le", 400, ["datatype", "cf24"]),
            ("cf32_le", 0, ["empty file", "copy both files again"]),
        ],
    )
    def test_recordings(self, lab: Lab, run_refused: Refused, datatype: str, samples: int, words: list[str]):
        write_recording(lab / "recordings", datatype, samples)
        lab.suite(task(data={"path": "recordings", "target": "label", "group": "recording", "window": 64}))
        run_refused("one.sigmf-meta", *words)

    def test_recording_without_samples(self, lab: Lab, run_refused: Refused, refused: Refused):
        write_recording(lab / "recordings", "cf32_le", 400)
        (lab / "recordings" / "one.sigmf-data").unlink()
        lab.suite(task(data={"path": "recordings", "target": "label", "group": "recording", "window": 64}))
        run_refused("one.sigmf-meta")
        refused("inspect", lab / "recordings", words="one.sigmf-meta")


def write_recording(folder: Path, datatype: str, samples: int) -> None:
    folder.mkdir()
    np.zeros(2 * samples, np.float32).tofile(folder / "one.sigmf-data")
    meta = {
        "global": {"core:datatype": datatype, "core:version": "1.2.0", "core:sample_rate": 1e6},
        "captures": [{"core:sample_start": 0}],
        "annotations": [{"core:sample_start": 100, "core:sample_count": 200, "core:label": "on"}],
    }
    (folder / "one.sigmf-meta").write_text(json.dumps(meta))


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


class TestEncoders:
    def test_hostile_checkpoint(self, lab: Lab, run_refused: Refused, refused: Refused):
        torch.save({"model": Hostile(lab / "hurt")}, lab / "weights.pth")
        lab.suite(encoder={"name": "iq-shufflenet", "checkpoint": "weights.pth"})
        run_refused("weights.pth", "save the state_dict alone")
        refused("inspect", "lwm", "--checkpoint", lab / "weights.pth", words="weights.pth")
        assert not (lab / "hurt").exists()

    def test_checkpoint_of_another_network(self, lab: Lab, run_refused: Refused):
        torch.save({"w": torch.zeros(2)}, lab / "weights.pth")
        lab.suite(encoder={"name": "iq-shufflenet", "checkpoint": "weights.pth"})
        run_refused("weights.pth")

    def test_missing_checkpoint(self, lab: Lab, run_refused: Refused):
        lab.suite(encoder={"name": "lwm", "checkpoint": "weights.pth"})
        run_refused("no such checkpoint", "weights.pth")

    def test_unknown_device(self, lab: Lab, refused: Refused):
        refused("run", lab.suite(), "--out", lab / "o", "--device", "abacus", words=["'abacus'", "--device cpu"])

    def test_bundle_of_another_encoder(self, finished: Path, lab: Lab, refused: Refused):
        shutil.copytree(finished / "bundle", lab / "bundle")
        save_encoder(tiny_encoder(seed=9, repeats=1), lab / "bundle" / "encoder")
        refused(
            "predict", lab / "bundle", lab / "data.h5", "--task", "los", "--out", lab / "p", words="another encoder"
        )
        refused("export", lab / "bundle", "--task", "los", "--out", lab / "t.onnx", words="another encoder")
        refused("bench", lab / "bundle", words="another encoder")
        assert not (lab / "p").exists()
        assert not (lab / "t.onnx").exists()


class TestTargets:
    @pytest.mark.parametrize("target", ["nope", "nope.h5"])
    def test_inspect_nothing(self, refused: Refused, target: str):
        refused("inspect", target, words=[f"{target} is neither a file", "lwm"])

    def test_inspect_other_files(self, lab: Lab, refused: Refused):
        (lab / "data.csv").write_text("a,b")
        refused("inspect", lab / "data.csv", words=["data.csv", ".h5"])
        (lab / "empty").mkdir()
        refused("inspect", lab / "empty", words=["empty", "SigMF"])

    @pytest.mark.parametrize("shape", ["a", "2,1,63", "2,64", "", "2,1,-64"])
    def test_inspect_at_a_bad_shape(self, lab: Lab, refused: Refused, shape: str):
        refused("inspect", lab / "encoder", "--shape", shape)

    def test_predict(self, finished: Path, lab: Lab, refused: Refused):
        bundle, data, kept = finished / "bundle", lab / "data.h5", lab / "kept.csv"
        kept.write_text("kept")
        out = ("--out", kept)
        refused("predict", bundle, data, *out, words=["several tasks", "--task (los, angle)"])
        refused("predict", bundle, data, "--task", "nope", *out, words=["'nope'", "los, angle"])
        refused("predict", lab.folder, data, *out, words="is not a bundle")
        refused("predict", lab / "gone", data, *out, words="gone is not a folder")
        refused("predict", bundle, lab / "gone.h5", "--task", "los", *out, words="gone.h5 does not exist")
        refused("predict", bundle, data, "--task", "los", "--format", "xml", *out, words="--format")
        refused("predict", bundle, data, "--task", "los", "--format", "sigmf", words="folder in --out")
        refused("predict", bundle, data, "--task", "los", "--format", "sigmf", "--out", lab / "s", words="not a SigMF")
        refused("predict", bundle, data, "--task", "los", "--out", lab.folder, words="is a folder")
        lab.data(sample=noise(COUNT, (2, 2, 64)))
        refused("predict", bundle, data, "--task", "los", *out, words=["data.h5", "(2, 2, 64)", "(2, 1, 64)"])
        windows = noise(COUNT)
        windows[100] = np.nan
        lab.data(sample=windows)
        refused("predict", bundle, data, "--task", "los", *out, words=["data.h5", "window 100"])
        assert kept.read_text() == "kept"
        assert sorted(path.name for path in lab.folder.iterdir()) == ["data.h5", "encoder", "kept.csv"]

    def test_report(self, finished: Path, lab: Lab, refused: Refused):
        out = ("--out", lab / "r.html")
        refused("report", lab / "gone", *out, words=["gone", "results.json"])
        refused("report", lab / "data.h5", *out, words="data.h5 is not JSON")
        refused("report", finished, "--out", lab.folder, words="is a directory")
        assert not (lab / "r.html").exists()

    def test_export(self, finished: Path, lab: Lab, refused: Refused):
        out = ("--out", lab / "t.onnx")
        refused("export", finished / "bundle", "--task", "nope", *out, words=["'nope'", "los, angle"])
        refused("export", finished / "bundle", "--task", "los", "--exit", "deep", *out, words=["'deep'", "stage2.0"])
        refused("bench", finished / "bundle", "--task", "nope", words="'nope'")
        assert not (lab / "t.onnx").exists()

    def test_export_without_onnx(self, finished: Path, lab: Lab, refused: Refused, monkeypatch: pytest.MonkeyPatch):
        real = builtins.__import__

        def without(name: str, *rest: Any) -> Any:
            if name.startswith("onnx"):
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", without)
        words = ["needs the package onnx", "pip install offramp[onnx]"]
        refused("export", finished / "bundle", "--task", "los", "--out", lab / "t.onnx", words=words)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("--scenario beam --antennas 4", "scenario beam has one antenna: set antennas: 1"),
            ("--snr-low 30", "snr_db [30.0, 18.0]: give the lower end first"),
            ("--no-mismatch", "mismatch is for fingerprint and beam"),
            ("--scenario radar", ["--scenario", "'rml2016'"]),
            ("--samples 32", "--samples"),
            ("--scenario channels --samples 64", "unknown key 'samples'"),
            ("--scenario channels --model cdl-f", ["models.0", "'cdl-e'"]),
            ("--model cdl-a", "unknown key 'models'"),
        ],
    )
    def test_data_make(self, lab: Lab, refused: Refused, line: str, words: str | list[str]):
        refused("data", "make", "--out", lab / "s.h5", *line.split(), words=words)
        assert not (lab / "s.h5").exists()

    @pytest.mark.parametrize("line", ["nope", "run --nope", "run --seed x", "run --seed -1", "predict", "data nope"])
    def test_command_lines(self, refused: Refused, line: str):
        refused(*line.split(), words="--help')")


class TestOut:
    def test_a_file(self, finished: Path, lab: Lab, refused: Refused):
        taken = lab / "taken"
        taken.write_text("mine")
        refused("run", lab.suite(), "--out", taken, words=["taken", "is a file"])
        refused("pretrain", "--out", taken, words=["taken", "is a file"])
        refused("run", lab.suite(), "--out", taken / "below", words="taken")
        given = ("predict", finished / "bundle", lab / "data.h5", "--task", "los")
        refused(*given, "--out", taken / "p.csv", words="taken")
        assert taken.read_text() == "mine"

    def test_a_folder(self, lab: Lab, refused: Refused):
        refused("data", "make", "--out", lab.folder, words="is a directory")

    def test_features_that_do_not_fit_the_disk(self, lab: Lab, run_refused: Refused, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("offramp.experiment.features.free_bytes", lambda path: 1000)
        lab.suite()
        run_refused("data.h5", "free some space")

    @pytest.mark.parametrize("what", ["write_bundle", "save_split"])
    def test_disk_that_fills_up(self, lab: Lab, run_refused: Refused, monkeypatch: pytest.MonkeyPatch, what: str):
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", "place")

        monkeypatch.setattr(pipeline, what, full)
        lab.suite()
        run_refused("place", "No space left on device", "free some space")


def mounted(folder: Path, size: str) -> bool:
    """Whether a disk of that size could be put at a folder."""
    folder.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@pytest.mark.parametrize("size", ["16k", "48k", "80k"])
def test_real_disk_that_is_full(lab: Lab, refused: Refused, size: str):
    disk = lab / "disk"
    if not mounted(disk, size):
        pytest.skip("disks cannot be mounted here")
    try:
        refused("run", lab.suite(), "--out", disk / "out", words=["disk", "free some space"])
        left = [path.name for path in disk.rglob("*")]
        assert not [name for name in left if name.startswith(".") or name == "results.json"]
        refused("data", "make", "--out", disk / "s.h5", "--windows", 200, words=["s.h5", "No space left"])
        assert not (disk / "s.h5").exists()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_every_output_on_a_full_disk(finished: Path, lab: Lab, refused: Refused):
    disk, bundle, suite = lab / "disk", finished / "bundle", lab.suite()
    np.savez(lab / "origin.npz", sample=tones(COUNT)[0])
    convert = ("data", "convert", lab / "origin.npz", "--out", disk / "c.h5")
    if not mounted(disk, "4k"):
        pytest.skip("disks cannot be mounted here")
    try:
        (disk / "taken").write_bytes(bytes(4096))
        for given in (
            ("predict", bundle, lab / "data.h5", "--task", "los", "--out", disk / "p.csv"),
            ("report", finished, "--out", disk / "r.html"),
            ("export", bundle, "--task", "los", "--out", disk / "t.onnx"),
            ("train", suite, "--task", "los", "--steps", 1, "--batch", 8, "--out", disk / "t"),
            convert,
        ):
            refused(*given, words=[f"cannot write {disk}", "No space left on device"])
            assert [path.name for path in disk.rglob("*") if path.is_file()] == ["taken"]
        whole = [sys.executable, "-c", "from offramp.cli import main; main()", *map(str, convert)]
        done = subprocess.run(whole, capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)  # nor does HDF5 say what it thinks of it in the end
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_output_that_cannot_be_written():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        code = "from offramp.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "schema", "suite"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == ("offramp: the output: No space left on device; free some space or choose another place\n")


def test_refusal_of_a_whole_process(lab: Lab):
    """Nothing that is imported or shut down adds a line of its own."""
    (lab / "data.h5").write_text("text")
    code = "from offramp.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", lab.suite(), "--out", lab / "out"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"offramp: {lab / 'data.h5'} is not an HDF5 file: correct data.path or data.format\n"


@pytest.mark.parametrize("where", ["prepare_tasks", "run_task"])
def test_our_own_fault(lab: Lab, call: Call, monkeypatch: pytest.MonkeyPatch, where: str):
    def broken(*_: Any) -> None:
        raise RuntimeError("a slip")

    monkeypatch.setattr(pipeline, where, broken)
    code, out, err = call("run", lab.suite(), "--out", lab / "out")
    assert (code, out) == (1, "")
    assert "RuntimeError: a slip" in err
    assert err.splitlines()[-1].startswith("offramp: this is a fault of offramp itself")


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "Bad file descriptor"), EOFError("no data left")])
def test_other_system_errors_are_ours(lab: Lab, call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "prepare_tasks", broken)
    assert call("run", lab.suite(), "--out", lab / "out")[0] == 1
