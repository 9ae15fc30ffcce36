"""Every command does what its help says."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import sigmf
from laboratory import Call, Lab
from tiny import tones

import offramp
from offramp.cli.data import ScenarioName
from offramp.data.simulated import read_synthetic
from offramp.schema.results import Results
from offramp.schema.tasks import ChannelSpec, SyntheticSpec

COMMANDS = ["run", "inspect", "predict", "report", "pretrain", "bench", "export", "schema"]


def test_no_arguments_and_help(call: Call):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert call("--help") == (0, out, "")
    for name in [*COMMANDS, "data"]:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", [*COMMANDS, "data make", "data convert"])
def test_help_of_a_command(call: Call, name: str):
    code, out, _ = call(*name.split(), "-h")
    assert code == 0
    lines = out.splitlines()
    (example,) = [line for line in lines if line.startswith("  Example: ")]
    assert example.startswith(f"  Example: offramp {name} ")
    assert lines[lines.index(example) + 1] == ""  # it is not wrapped
    assert "\\" not in out
    if "Arguments:" in lines:
        arguments = lines[lines.index("Arguments:") + 1 : lines.index("Options:") - 1]
        assert all(len(line.split()) > 2 for line in arguments if line[2] != " ")  # each is explained


def test_version(call: Call):
    assert call("--version") == (0, f"{offramp.__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str):
    words = {"COMP_WORDS": "offramp in", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "offramp in"}
    done = subprocess.run(
        [sys.executable, "-c", "from offramp.cli import main; main()"],
        env=os.environ | words | {"_OFFRAMP_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        capture_output=True,
        text=True,
    )
    assert "inspect" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_run(finished: Path, lab: Lab, call: Call):
    code, out, _ = call(
        "run", lab.suite(), "--out", lab / "run", "--seed", 3, "--keep-features", "--by-reference", "--device", "cpu"
    )
    assert code == 0
    assert sorted(path.name for path in (lab / "run").iterdir()) == [
        "bundle", "features", "report.html", "results.json", "splits",
    ]  # fmt: skip
    result = Results.model_validate_json((lab / "run" / "results.json").read_text()).tasks["los"]
    assert f"los: {result.measured.sentence or result.sentence}\n" in out  # on one line
    assert f"bundle: {lab / 'run' / 'bundle'}" in out
    seed_0 = (finished / "splits" / "los.json").read_text()
    assert (lab / "run" / "splits" / "los.json").read_text() != seed_0
    assert not (finished / "features").exists()
    assert (finished / "bundle" / "encoder").exists()
    assert not (lab / "run" / "bundle" / "encoder").exists()
    assert call("predict", lab / "run" / "bundle", lab / "data.h5")[0] == 0


def test_dry_run_writes_nothing(lab: Lab, call: Call):
    suite = lab.suite()
    before = sorted(lab.folder.rglob("*"))
    code, out, err = call("run", suite, "--out", lab / "run", "--dry-run")
    assert (code, err) == (0, "")
    assert "8 groups to fit on, 4 to test on" in out
    assert "minutes" in out
    assert sorted(lab.folder.rglob("*")) == before


def test_inspect(finished: Path, call: Call):
    data = finished.parent / "data.h5"
    code, out, err = call("inspect", data)
    assert (code, err) == (0, "")
    assert "120 windows of shape (2, 1, 64)" in " ".join(out.split())
    assert "city_00 (10)" in out
    code, out, _ = call("inspect", finished / "bundle", "--json")
    assert [task["name"] for task in json.loads(out)["tasks"]] == ["los", "angle"]
    code, out, _ = call("inspect", finished.parent / "encoder", "--shape", "2,3,80", "--json")
    assert json.loads(out)["input_shape"] == [2, 3, 80]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_predict(finished: Path, tmp_path: Path, call: Call, form: str):
    given = ("predict", finished / "bundle", finished.parent / "data.h5", "--task", "los", "--format", form)
    code, out, err = call(*given)
    assert (code, err) == (0, "")
    assert call(*given, "--out", tmp_path / "new" / "p") == (0, "", "")
    assert (tmp_path / "new" / "p").read_text() == out
    rows = list(csv.DictReader(io.StringIO(out))) if form == "csv" else list(map(json.loads, out.splitlines()))
    assert list(rows[0]) == ["index", "task", "prediction", "confidence", "exit"]
    expected = offramp.load(finished / "bundle").predict(tones(120)[0], tasks=["los"])["los"]
    assert [int(row["index"]) for row in rows] == list(range(120))
    assert [row["prediction"] for row in rows] == expected.labels
    np.testing.assert_array_equal(np.float32([row["confidence"] for row in rows]), expected.confidence)
    assert {row["exit"] for row in rows} == {expected.exit}


def test_predict_into_a_pipe_that_closes(finished: Path):
    command = f"'{sys.executable}' -c 'from offramp.cli import main; main()'"
    data = finished.parent / "data.h5"
    line = f"{command} predict '{finished}/bundle' '{data}' --task los | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout == "index,task,prediction,confidence,exit\n0\n"
    assert done.stderr == ""


def test_predict_as_sigmf(finished: Path, tmp_path: Path, call: Call):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    np.random.default_rng(0).standard_normal(2 * 200).astype(np.float32).tofile(recordings / "a.sigmf-data")
    meta = {
        "global": {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:sample_rate": 1e6},
        "captures": [{"core:sample_start": 0}],
        "annotations": [],
    }
    (recordings / "a.sigmf-meta").write_text(json.dumps(meta))
    given = ("predict", finished / "bundle", recordings, "--task", "los", "--format", "sigmf")
    assert call(*given, "--out", tmp_path / "out") == (0, "", "")
    (written,) = (tmp_path / "out").iterdir()
    signal = sigmf.SigMFFile(metadata=json.loads(written.read_text()))
    signal.validate()
    assert [a["core:sample_start"] for a in signal.get_annotations()] == [0, 64, 128]


def test_report_names_runs_by_folder(finished: Path, tmp_path: Path, call: Call):
    code, out, _ = call("report", finished, finished / "results.json", "--out", tmp_path / "r.html")
    assert (code, out) == (0, f"{tmp_path / 'r.html'}\n")
    assert (tmp_path / "r.html").read_text().count("<html") == 1


def test_export(finished: Path, tmp_path: Path, call: Call):
    given = ("export", finished / "bundle", "--task", "los", "--exit", "stem", "--out", tmp_path / "t.onnx")
    code, out, err = call(*given)
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 't.onnx'}: task los up to exit stem, ")
    assert (tmp_path / "t.onnx").stat().st_size > 1000


def test_bench(finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    from offramp.export import bench as benching

    monkeypatch.setattr(benching, "BACKENDS", ("torch",))
    monkeypatch.setattr(benching, "REPEATS", 1)
    real = benching.bench_bundle
    monkeypatch.setattr(benching, "bench_bundle", lambda folder, task: real(folder, task, batches=(1,)))
    code, out, _ = call("bench", finished / "bundle", "--json")
    assert code == 0
    bench = json.loads(out)
    assert bench["task"] == "los"
    assert [exit["exit"] for exit in bench["runs"][0]["exits"]][-1] == "conv5"


def test_data_make_can_be_inspected_and_used(lab: Lab, call: Call):
    out = lab / "simulated.h5"
    assert call("data", "make", "--out", out, "--windows", 90, "--antennas", 1, "--samples", 64)[0] == 0
    with h5py.File(out) as file:
        assert file["sample"].shape == (90, 2, 1, 64)
    assert "qpsk" in call("inspect", out)[1]  # classes have their names


def test_data_convert_gives_what_predict_reads(lab: Lab, call: Call):
    origin, out = lab / "origin.npz", lab / "converted.h5"
    np.savez(origin, sample=tones(12)[0], label=np.arange(12) % 2, labels=["no", "yes"], group=np.arange(12) // 3)
    assert call("data", "convert", origin, "--out", out)[:2] == (0, f"{out}\n")
    _, shown, _ = call("inspect", out)
    assert "no (6), yes (6)" in shown
    assert "target label, group group" in " ".join(shown.split())
    code, _, err = call("data", "convert", out, "--out", out)
    assert (code, err.count("\n"), "--out" in err) == (2, 1, True)
    code, _, err = call("data", "convert", origin, "--out", out, "--format", "csv")
    assert (code, err.count("\n"), "rml2018" in err) == (2, 1, True)


def test_data_make_offers_every_scenario():
    from offramp.simulation.scenarios import SCENARIOS

    assert [scenario.value for scenario in ScenarioName] == [*SCENARIOS, "channels"]


@pytest.mark.parametrize(("scenario", "antennas"), [("directions", 4), ("fingerprint", 4), ("beam", 1)])
def test_data_make_writes_the_windows_of_a_suite(tmp_path: Path, call: Call, scenario: str, antennas: int):
    given = ("--scenario", scenario, "--windows", 40, "--samples", 64, "--snr-low", 20, "--snr-high", 20, "--seed", 3)
    assert call("data", "make", "--out", tmp_path / "made.h5", *given)[0] == 0
    settings = {"scenario": scenario, "windows": 40, "antennas": antennas, "samples": 64, "snr_db": (20, 20), "seed": 3}
    table = read_synthetic(SyntheticSpec.model_validate(settings))
    with h5py.File(tmp_path / "made.h5") as file:
        np.testing.assert_array_equal(file["sample"], table.windows.read(np.arange(40)))
        assert set(file) == {"sample", *table.columns}
        for name, column in table.columns.items():
            np.testing.assert_array_equal(file[name], column)


def test_data_make_without_mismatch(tmp_path: Path, call: Call):
    given = ("--scenario", "beam", "--windows", 20, "--samples", 64, "--no-mismatch")
    assert call("data", "make", "--out", tmp_path / "alike.h5", *given)[0] == 0
    spec = SyntheticSpec(scenario="beam", windows=20, antennas=1, samples=64, mismatch=False)
    with h5py.File(tmp_path / "alike.h5") as file:
        np.testing.assert_array_equal(file["sample"], read_synthetic(spec).windows.read(np.arange(20)))


def test_data_make_of_channels(tmp_path: Path, call: Call):
    pytest.importorskip("sionna")
    given = (
        "--scenario",
        "channels",
        "--windows",
        10,
        "--antennas",
        4,
        "--model",
        "umi-los",
        "--snr-low",
        20,
        "--seed",
        3,
    )
    assert call("data", "make", "--out", tmp_path / "made.h5", *given)[0] == 0
    settings = {"windows": 10, "antennas": 4, "models": ["umi-los"], "snr_db": (20, 25), "seed": 3}
    table = read_synthetic(ChannelSpec.model_validate({"scenario": "channels"} | settings))
    with h5py.File(tmp_path / "made.h5") as file:
        np.testing.assert_array_equal(file["sample"], table.windows.read(np.arange(10)))
        assert set(file) == {"sample", "future", *table.columns}


def test_schema(call: Call):
    assert "tasks" in json.loads(call("schema", "suite")[1])["properties"]
    assert "environment" in json.loads(call("schema", "results")[1])["properties"]


def test_pretrain(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    from offramp.training import pretrain

    seen = {}

    def fake(config: pretrain.PretrainingConfig, out: Path, device: str, on_step: object) -> Path:
        seen.update(steps=config.steps, batch=config.batch, seed=config.seed, out=out)
        for step in (99, 100):
            on_step(pretrain.PretrainingProgress(step, 0.5, 0.25, 0.1))
        return out / "encoder"

    monkeypatch.setattr(pretrain, "pretrain", fake)
    code, out, err = call("pretrain", "--out", tmp_path / "p", "--steps", 200, "--batch", 8)
    assert (code, out) == (0, f"{tmp_path / 'p' / 'encoder'}\n")
    assert "step 100: loss 0.500, matched 25.0%" in err
    assert seen == {"steps": 200, "batch": 8, "seed": 0, "out": tmp_path / "p"}


def test_light_commands_do_not_import_torch(finished: Path):
    for arguments in (["--help"], ["inspect", str(finished.parent / "data.h5")], ["inspect", str(finished / "bundle")]):
        code = (
            f"import sys; from offramp.cli import run; run({arguments!r}); "
            "sys.exit('torch' in sys.modules or (sys.argv[1] == '--help' and 'numpy' in sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code, arguments[0]], stdout=subprocess.DEVNULL).returncode == 0


def test_main_leaves_with_the_code():
    code = "import atexit; from offramp.cli import main; atexit.register(print, 'at exit'); main()"
    done = subprocess.run([sys.executable, "-c", code, "nope"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == "at exit\n"
