"""What a dry run says is what the run then does."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from tiny import tiny_encoder, tones, write_hdf5

from offramp.data.splits import save_split
from offramp.encoders.storage import save_encoder
from offramp.errors import DataError, EncoderError
from offramp.experiment.plan import PlannedTask, plan_suite, plan_table
from offramp.experiment.prepare import load, prepare
from offramp.schema.suite import LoadedSuite, load_suite

COUNT = 180
NAMES = ["near", "far", "[bold]lost"]


def lay_out(folder: Path, *tasks: dict[str, Any], **suite: Any) -> LoadedSuite:
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    windows, labels = tones(COUNT)
    city = np.array([f"city_{number:02}" for number in np.arange(COUNT) % 12])
    columns = {
        "los": np.array(NAMES)[labels],
        "city": city,
        "angle": labels * 10.0,
        "grid": windows.reshape(COUNT, 128),
    }
    write_hdf5(folder / "data.h5", sample=windows, **columns)
    data = {"path": "data.h5", "target": "los", "group": "city"}
    listed = [{"name": f"t{n}", "data": data | t.pop("data", {})} | t for n, t in enumerate(tasks)]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"encoder": "encoder", "seeds": [4, 5], "tasks": listed} | suite))
    return load_suite(folder / "suite.yaml")


def saved_counts(loaded: LoadedSuite, number: int, folder: Path) -> dict[str, tuple[int, int, int]]:
    """Windows per class in the first draw's first fold, from the file that a run leaves."""
    prepared = prepare(loaded.tasks[number], loaded, load(loaded, "cpu"))
    save_split(prepared.problem.split, prepared.dataset, folder / "split.json")
    split = json.loads((folder / "split.json").read_text())
    fold = split["draws"][0]["folds"][0]
    train, validation = (fold["train"], fold["validation"]) if isinstance(fold, dict) else fold
    labels = np.array(NAMES)[tones(COUNT)[1]]
    found = [Counter(labels[np.array(part)].tolist()) for part in (train, validation, split["test"])]
    return {name: tuple(part[name] for part in found) for name in NAMES}


@pytest.mark.parametrize("task", [{"split": {"test": ["city_00", "city_05"]}}, {"shots": 7}, {"split": {"test": 0.4}}])
def test_counts_are_those_of_the_saved_split(tmp_path: Path, task: dict[str, Any]):
    loaded = lay_out(tmp_path, task)
    (plan,) = plan_suite(loaded, "cpu")
    assert {name: tuple(counts) for name, *counts in plan.counts} == saved_counts(loaded, 0, tmp_path)
    prepared = prepare(loaded.tasks[0], loaded, load(loaded, "cpu"))
    outside = np.unique(prepared.dataset.groups[prepared.outside_test()])
    assert plan.groups == (len(outside), 12 - len(outside))


def test_regression_has_one_row(tmp_path: Path):
    (plan,) = plan_suite(lay_out(tmp_path, {"kind": "regression", "data": {"target": "angle"}}), "cpu")
    ((name, *counts),) = plan.counts
    assert (name, sum(counts)) == ("all", COUNT)


def test_disk_and_time(tmp_path: Path):
    regression = {"kind": "regression", "data": {"target": "angle"}}
    first, second = plan_suite(lay_out(tmp_path, {}, regression, controls=["constant"]), "cpu")
    width = sum(exit.width for exit in tiny_encoder(repeats=1).exits)
    assert (first.disk_bytes, second.disk_bytes) == (4 * width * COUNT, 0)  # they share the features
    assert 0 < second.seconds < 100
    (controlled,) = plan_suite(lay_out(tmp_path, {}, controls=["random_encoder"]), "cpu")
    assert controlled.disk_bytes == 3 * first.disk_bytes  # one random encoder per seed


def test_tokens_take_the_disk_that_they_fill(tmp_path: Path):
    tasks = [
        {"kind": "regression", "data": {"target": "grid"}, "head": {"pooling": pooling}}
        for pooling in ("default", "tokens", "tokens")
    ]
    first, second, third = plan_suite(lay_out(tmp_path, *tasks, controls=["constant"]), "cpu")
    taps = tiny_encoder(repeats=1).eval().taps(torch.zeros(1, 2, 1, 64), pooling="tokens")
    assert second.disk_bytes == 4 * COUNT * sum(tap.numel() for tap in taps.values())
    assert 0 < first.disk_bytes < second.disk_bytes
    assert third.disk_bytes == 0
    assert 0 < third.seconds < 100


def test_it_refuses_what_the_run_refuses(tmp_path: Path):
    odd = {"kind": "regression", "data": {"target": "angle"}, "head": {"pooling": "tokens"}}
    with pytest.raises(EncoderError, match=r"task t0, .*data\.h5: a target of shape \(1,\) .* 32 positions"):
        plan_suite(lay_out(tmp_path, odd), "cpu")
    with pytest.raises(DataError, match="city_77"):
        plan_suite(lay_out(tmp_path, {"split": {"test": ["city_77"]}}), "cpu")
    loaded = lay_out(tmp_path, {"transform": "spectrogram"})
    with pytest.raises(EncoderError, match=r"task t0, .*data\.h5"):
        plan_suite(loaded, "cpu")


def test_table():
    plans = [
        PlannedTask("los", (("near", 1000, 20, 3), ("[bold]lost", 4, 5, 6)), (8, 2), 90.4, 2_000_000),
        PlannedTask("angle", (("all", 7, 8, 9),), (3, 1), 24.6, 0),
    ]
    stream = io.StringIO()
    Console(file=stream, width=100).print(plan_table(plans))
    text = stream.getvalue()
    assert "1,000" in text
    assert "[bold]lost" in text
    assert "los: 8 groups to fit on, 2 to test on; about 90 s" in text
    assert "In all about 2.0 minutes and 2 MB of disk" in text
