"""Ctrl-C and kill -9: the same command again ends with the same results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from laboratory import Call, Lab

from offramp.experiment import features, pipeline


def reproducible(folder: Path) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_text())
    del results["environment"]
    for task in results["tasks"].values():
        del task["measured"], task["sentence"]
    return results


@pytest.mark.parametrize("where", ["prepare_tasks", "run_task", "write_bundle"])
def test_control_c(lab: Lab, call: Call, monkeypatch: pytest.MonkeyPatch, where: str):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, where, interrupted)
        code, out, err = call("run", lab.suite(), "--out", lab / "out")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "offramp: interrupted; run the same command again to go on"
    assert "Traceback" not in err
    assert not (lab / "out" / "results.json").exists()


def test_control_c_amid_features(lab: Lab, finished: Path, call: Call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "batch_size", lambda shape: 16)
    monkeypatch.setattr(features, "SAVE_EVERY", 1)
    suite = lab.suite()
    code, *_ = call("run", suite, "--out", lab / "whole")
    assert code == 0
    real, batches = features.Transform.__call__, []

    def interrupting(self: Any, windows: Any) -> Any:
        batches.extend([len(windows)] if len(windows) > 1 else [])  # shapes are found with one window
        if len(batches) == 4 and len(windows) > 1:
            raise KeyboardInterrupt
        return real(self, windows)

    with monkeypatch.context() as patch:
        patch.setattr(features.Transform, "__call__", interrupting)
        assert call("run", suite, "--out", lab / "out")[0] == 130
        assert call("run", suite, "--out", lab / "out")[0] == 0
    assert sum(batches) == 120 + 16  # three batches were kept
    assert reproducible(lab / "out") == reproducible(lab / "whole")


def test_a_file_that_was_cut_to_nothing(lab: Lab, call: Call, finished: Path):
    """A kill between the making of a file and its header."""
    suite, out = lab.copy_of(finished.parent), lab / "out"
    assert call("run", suite, "--out", out, "--keep-features")[0] == 0
    for number, path in enumerate(sorted((out / "features").rglob("*.npy"))):
        path.write_bytes(path.read_bytes()[: [0, 5, 100, 200][number % 4]])
    (out / "results.json").unlink()
    assert call("run", suite, "--out", out)[0] == 0
    assert reproducible(out) == reproducible(finished)


def test_kill(finished: Path, lab: Lab, call: Call):
    """As soon as features are there; the results are those of a run that was left alone."""
    suite, out = lab.copy_of(finished.parent), lab / "out"
    command = [sys.executable, "-c", "from offramp.cli import main; main()", "run", suite, "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (out / "features").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (out / "features").exists()
    assert not (out / "results.json").exists()
    assert call("run", suite, "--out", out)[0] == 0
    assert reproducible(out) == reproducible(finished)
    heads = [folder / "bundle" / "heads.safetensors" for folder in (out, finished)]
    assert heads[0].read_bytes() == heads[1].read_bytes()
