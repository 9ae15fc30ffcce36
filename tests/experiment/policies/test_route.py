"""Policies in a suite, from the file to the bundle: reproduced, executable, and refused before any work where they cannot be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import tiny_encoder, tones, write_hdf5

import offramp
from offramp import costs
from offramp.encoders.storage import save_encoder
from offramp.errors import OfframpError, PolicyError, SuiteError
from offramp.experiment import pipeline
from offramp.experiment.pipeline import run_suite
from offramp.experiment.policies import measuring
from offramp.schema.suite import load_suite

COUNT, GROUPS = 400, 80
EXITS = ["stem", "stage2.0", "stage3.0", "stage4.0", "conv5"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stopwatch and no pictures: they have tests of their own."""
    latency = {name: costs.Latency(p50=0.1 * n, p95=0.2 * n, p99=0.3 * n) for n, name in enumerate(EXITS, start=1)}
    monkeypatch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
    monkeypatch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))
    monkeypatch.setattr(measuring, "STAGE_ROUNDS", 1)
    monkeypatch.setattr(measuring, "RUN_ROUNDS", 1)
    monkeypatch.setattr(measuring, "ARRIVED", 500)


def lay_out(folder: Path, policies: Any, split: dict[str, Any] | None = None, **task: Any) -> Path:
    """A suite file beside its encoder and its data: three tones in noise, five windows a recording."""
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    windows, labels = tones(COUNT, level=1.5)
    group = np.array([f"recording {number:02}" for number in np.arange(COUNT) % GROUPS])
    write_hdf5(folder / "data.h5", sample=windows, label=labels, group=group, angle=labels * 10.0)
    data = {"path": "data.h5", "target": "label", "group": "group", "labels": ["low", "middle", "high"]}
    asked = {"name": "tone", "data": data, "split": split or {}} | task
    content = {"encoder": "encoder", "tasks": [asked], "seeds": [0, 1], "controls": ["constant"], "policies": policies}
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "suite.yaml"


def run(suite: Path, out: str = "out") -> dict[str, Any]:
    run_suite(load_suite(suite), suite.parent / out)
    return json.loads((suite.parent / out / "results.json").read_text())


def test_from_the_suite_to_the_bundle(tmp_path: Path) -> None:
    asked = {
        "criteria": ["confidence", "patience", "bin_accuracy"],
        "noise_db": 0,
        "unseen_class": "high",
        "reject_error": 0.3,
        "guarantee": {"level": 0.3, "delta": 0.2},
    }
    suite = lay_out(tmp_path, asked, split={"calibration": 0.25})
    first, second = run(suite)["tasks"]["tone"], run(suite, "again")["tasks"]["tone"]
    assert first["policies"] == second["policies"]
    comparison, measured = first["policies"], first["measured"]["policies"]
    assert [budget["exit"] for budget in comparison["budgets"]] == EXITS
    assert comparison["budgets"][comparison["chosen"]]["exit"] == first["chosen"]["exit"]
    assert [budget["budget"] for budget in comparison["budgets"]] == [exit["macs"] for exit in first["exits"]]
    assert comparison["sentence"]
    assert {"noise added at 0 dB", "unseen class high"} <= {row["name"] for row in comparison["shifts"]}
    assert comparison["certified"]["groups"] == 15
    assert measured["batch"] == 64
    assert len(measured["executed"]) == 2
    assert {row["name"] for row in measured["arrivals"]} >= {"full depth", "routed at matched time"}

    predictor = offramp.load(tmp_path / "out" / "bundle")
    windows, _ = tones(COUNT, level=1.5)
    stored = predictor.bundle.tasks["tone"].policies
    assert {"routed", "rejecting", "confidence", "patience per exit"} <= set(stored)
    for name in stored:
        prediction = predictor.predict(windows[:50], ["tone"], policy=name)["tone"]
        assert len(prediction.outputs) == 50


def test_the_routed_policy_of_the_bundle_leaves_where_the_results_say(tmp_path: Path) -> None:
    suite = lay_out(tmp_path, {"criteria": ["margin"], "budget": {"macs": 1e9}})
    result = run(suite)["tasks"]["tone"]
    split = json.loads((tmp_path / "out" / "splits" / "tone.json").read_text())
    windows, _ = tones(COUNT, level=1.5)
    predictor = offramp.load(tmp_path / "out" / "bundle")
    prediction = predictor.predict(windows[split["test"]], ["tone"], policy="routed")["tone"]
    shifts = {row["name"]: row for row in result["policies"]["shifts"]}
    shares = {exit: prediction.exits.count(exit) / len(split["test"]) for exit in EXITS}
    assert shares == pytest.approx(shifts["test"]["exit_share"])


@pytest.mark.parametrize(
    ("policies", "split", "message"),
    [
        ({"budget": {"macs": 1}}, {}, "nearest possible is"),
        ({"service_level": {"macs": 1}}, {}, "nearest possible is"),
        ({"guarantee": {"level": 0.05}}, {"calibration": 0.2}, "12 calibration groups, and at least 45"),
        ({"unseen_class": "loud"}, {}, "has a class 'loud': there are high, low, middle"),
    ],
)
def test_what_cannot_be_had_is_said_before_any_work(
    tmp_path: Path, policies: dict[str, Any], split: dict[str, Any], message: str
) -> None:
    suite = lay_out(tmp_path, policies, split)
    with pytest.raises(PolicyError, match=message):
        run(suite)
    assert not (tmp_path / "out" / "features").exists()


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({"guarantee": {"level": 0.1}}, "policies.guarantee needs windows of its own: add split.calibration"),
        ({"criteria": ["agreement"]}, "no task has one answer per window and a criterion for its kind"),
        ({"criteria": ["sureness"]}, "unknown criterion 'sureness'"),
        ({"guarantee": {"level": 0.1, "delta": 0}}, "greater than 0"),
        ({"budget": {"macs": 1, "latency_ms": 1}}, "give either macs or latency_ms"),
        ({"batch": 5000}, "4096"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(tmp_path: Path, policies: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        load_suite(lay_out(tmp_path, policies))


def test_a_budget_of_time_that_no_exit_meets_says_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(OfframpError, match=r"nearest possible is .* ms"):
        run(lay_out(tmp_path, {"criteria": ["confidence"], "budget": {"latency_ms": 1e-9}}))


def test_a_regression_is_routed_by_agreement(tmp_path: Path) -> None:
    data = {"path": "data.h5", "target": "angle", "group": "group"}
    suite = lay_out(
        tmp_path,
        {"guarantee": {"level": 0.4, "delta": 0.2, "limit": 6}},
        {"calibration": 0.25},
        kind="regression",
        data=data,
    )
    comparison = run(suite)["tasks"]["tone"]["policies"]
    names = {row["name"] for row in comparison["budgets"][0]["policies"]}
    assert names == {name + rule for name in ("agreement", "learned_halting", "benefit") for rule in ("", " per exit")}
    assert comparison["reliability"] == []
    assert comparison["certified"]["risk"] == "error_above_full"
