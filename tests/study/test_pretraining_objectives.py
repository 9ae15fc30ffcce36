"""The table of pretraining objectives: what it scores, what it keeps, and that ID and OOD tasks stand apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pretraining_objectives import Candidate, ExitScore, asked_suite, best_exit, by_pooling, scores_of, written

from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import save_encoder
from offramp.schema.suite import LoadedSuite, load_suite


def small_suite() -> LoadedSuite:
    """Two tasks of the embedded suite with 300 windows."""
    suite = asked_suite(load_suite(), 1, "default", ["modulation", "interference"])
    tasks = []
    for task in suite.suite.tasks:
        assert task.data.synthetic is not None
        synthetic = task.data.synthetic.model_copy(update={"windows": 300, "antennas": 1, "samples": 64})
        tasks.append(task.model_copy(update={"data": task.data.model_copy(update={"synthetic": synthetic})}))
    return replace(suite, suite=suite.suite.model_copy(update={"tasks": tasks}))


def test_every_exit_is_scored_on_validation_and_what_is_done_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder("iq-resnet-small", weights="random", channels=[4, 4, 4, 8, 8], repeats=[1, 1, 1])
    provenance = {
        "pretraining": {"objective": "mixed", "labels": "general", "steps": 9},
        "labels": ["snr_db"],
        "step": 9,
    }
    save_encoder(encoder, tmp_path / "encoder", provenance)
    ours, suite = Candidate("ours", str(tmp_path / "encoder")), small_suite()
    scores = scores_of(ours, suite, tmp_path / "out")
    assert set(scores) == {"modulation", "interference"}
    names = ["input", *(exit.name for exit in encoder.exits)]  # the suite has side features
    for of_task in scores.values():
        assert [exit.exit for exit in of_task] == names
        assert [exit.share for exit in of_task] == sorted(exit.share for exit in of_task)
        assert of_task[-1].share == 1
        assert all(0 <= exit.score <= 1 for exit in of_task)
    monkeypatch.setattr("pretraining_objectives.fit_exits", None)
    assert scores_of(ours, suite, tmp_path / "out") == scores

    page = written([ours], suite.tasks, {"ours": scores})
    assert "| ours | mixed, labels general, views same, 9 steps |" in page
    known, unseen = page.split("## OOD tasks")
    assert "### modulation" in known
    assert "interference" not in known
    assert "### interference" in unseen


def test_the_best_exit_follows_the_metrics_sign_and_the_shallowest_wins() -> None:
    tasks = {task.name: task for task in load_suite().tasks}
    exits = [ExitScore("a", 0.1, 3.0), ExitScore("b", 0.5, 5.0), ExitScore("c", 1.0, 5.0)]
    assert best_exit(exits, tasks["modulation"]).exit == "b"
    assert best_exit(exits, tasks["direction"]).exit == "a"


def test_the_best_exit_of_every_pooling_stands_side_by_side() -> None:
    task = {task.name: task for task in load_suite().tasks}["modulation"]
    scores = {
        "suite": {"ours": {"modulation": [ExitScore("a", 0.1, 0.5), ExitScore("b", 1.0, 0.4)]}},
        "default": {"ours": {"modulation": [ExitScore("a", 0.1, 0.3), ExitScore("b", 1.0, 0.6)]}},
    }
    lines = by_pooling([task], scores)
    assert "| encoder | suite | default |" in lines
    assert lines[-1] == "| ours | 0.500 (a, 10%) | 0.600 (b, 100%) |"
