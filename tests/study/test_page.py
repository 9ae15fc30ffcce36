"""The page from made-up scores: right numbers in, right verdicts out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import page
import pytest
from claims import claims
from plan import (
    LABEL_SEEDS,
    PRETRAINED,
    RANDOM,
    SCRATCH_EXITS,
    SCRATCH_SEEDS,
    SCRATCH_SHOTS,
    SHOTS,
    TASKS,
)
from summary import Study

EXITS = ("stem", "mixing", "stage1.0", "stage1.1", "stage2.0", "stage2.1", "stage3.0", "stage3.1")
MACS = np.array([1, 10, 20, 30, 40, 60, 80, 100.0])
TEST = 400


def correctness(rng: np.random.Generator, accuracy: list[float], *shape: int) -> np.ndarray:
    """bool ``(E, *shape)`` with these accuracies."""
    return np.stack([rng.random(shape) < value for value in accuracy])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Pretrained encoders are best at ``stage1.1`` (0.8 against 0.6 at the end) on OOD tasks, and flat on ID tasks."""
    rng = np.random.default_rng(0)
    for folder in ("scores", "scratch", "criteria"):
        (tmp_path / folder).mkdir()
    for task in TASKS:
        for name in (*PRETRAINED, *RANDOM):
            if name in RANDOM:
                accuracy = [0.5] * 8
            else:
                accuracy = [0.8] * 8 if task.shift == "id" else [0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.6, 0.6]
            correct = np.stack([np.arange(2000) % 1000 < 1000 * value for value in accuracy])
            np.savez(
                tmp_path / "scores" / f"{name}-{task.name}.npz",
                exits=np.array(EXITS),
                budgets=np.array(SHOTS),
                groups=np.arange(TEST),
                linear=correctness(rng, accuracy, len(SHOTS), LABEL_SEEDS, TEST),
                held_out=np.tile(np.array(accuracy)[:, None, None], (1, len(SHOTS), LABEL_SEEDS)),
                held_out_right=correct[:, None].repeat(LABEL_SEEDS, 1),
                held_out_groups=np.tile(np.arange(2000), (LABEL_SEEDS, 1)),
                neighbour=correctness(rng, accuracy, LABEL_SEEDS, TEST),
                equal_width=correctness(rng, accuracy, LABEL_SEEDS, TEST),
            )
        right = correctness(rng, [0.9, 0.4], len(SCRATCH_SHOTS), SCRATCH_SEEDS, TEST)
        assert len(right) == len(SCRATCH_EXITS)
        np.savez(tmp_path / "scratch" / f"{task.name}.npz", right=right, groups=np.arange(TEST))
        criteria = {"held-out accuracy": [0.01, 0.9], "always full": [0.2, 0.0], "LogME": [0.005, 0.5]}
        for name in PRETRAINED:
            written = json.dumps({"10": criteria, "100": criteria})
            (tmp_path / "criteria" / f"{name}-{task.name}.json").write_text(written)
    costs = {
        name: {"macs": macs, "milliseconds": macs / 10, "joules": None} for name, macs in zip(EXITS, MACS, strict=True)
    }
    shapes = {f"2x{task.spec.antennas}x{task.spec.samples}": costs for task in TASKS}
    (tmp_path / "costs.json").write_text(json.dumps(shapes))
    layer = {
        "exits": EXITS,
        "effective_rank": [5.0] * 8,
        "intraclass_correlation": [0.5] * 8,
        "retrieval": [0.1] * 8,
        "cka": np.full((8, 8), 0.5).tolist(),
        "probe": {"modulation": [0.3] * 8, "sector": [0.8] * 8},
    }
    steps = [0, 5, 10, 20, 40, 80, 160]
    (tmp_path / "layers.json").write_text(json.dumps([{"step": step, **layer} for step in steps]))
    return tmp_path


def test_claims_follow_from_the_scores(runs: Path):
    study = Study(runs)
    savings = {task.name: study.saving(task) for task in TASKS}
    holds = {claim.text: claim.holds for claim in claims(study, savings)}
    assert list(holds.values()) == [True, True, True, True, False, True, True]  # the flat ID tasks leave at the stem
    assert study.exits_chosen("rml2016", 500) == ("stage1.1",)
    assert study.over_full("rml2016", 500).mean == pytest.approx(0.2, abs=0.02)
    assert study.over_random("beam", 10).mean == pytest.approx(0.3, abs=0.02)
    assert study.gains_that_hold(500) == {
        "modulation": False, "direction_sector": False, "rml2016": True, "fingerprint": True, "beam": True
    }  # fmt: skip


def test_the_saving_stops_before_the_first_exit_that_is_worse(runs: Path):
    study = Study(runs)
    flat = study.saving(TASKS[0])
    assert flat.exits == ("stem",)
    assert flat.macs == pytest.approx(0.99)
    assert flat.time == pytest.approx(0.99)
    ood = study.saving(TASKS[2])
    assert ood.exits == ("mixing",)  # 0.6, as the last exit has; the stem has 0.5
    assert ood.macs == pytest.approx(0.9)


def test_the_page_shows_what_did_not_hold(runs: Path, tmp_path: Path):
    docs = tmp_path / "docs"
    docs.mkdir()
    page.write_page(runs, docs)
    text = (docs / "study.md").read_text()
    assert all(task.name in text for task in TASKS)
    assert "**Left out**: `interference` stands in every table and counts for no claim" in text
    verdicts = [
        line.split(" | ") for line in text.split("## In short")[1].split("## Score against MACs")[0].splitlines()
    ]
    assert not any("interference" in cell for line in verdicts for cell in line[:3])
    assert sum(line[-1].startswith(("yes: ", "**no**: ")) for line in verdicts) == 7
    failures = text.split("## What did not hold")[1]
    assert "Training from scratch on 500 labels per class beats the frozen encoder on modulation" in failures
    assert "LogME cost less" in failures
    assert "Energy is left out" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (docs / line.split("(")[1].rstrip(")")).exists()
