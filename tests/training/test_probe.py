"""The ID probe against scikit-learn, what it leaves alone, and its picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from tiny import EXITS, tiny_encoder

from offramp.simulation.windows import synthetic_windows
from offramp.training import probe
from offramp.training.curves import draw_probe
from offramp.training.probe import ProbeRows, accuracies, probe_exits, ridge_accuracy


def test_the_ridge_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 12))
    labels = rng.integers(0, 4, 600)
    features = centres[labels] * 0.6 + rng.standard_normal((600, 12)) * np.logspace(0, 1, 12) + 3
    fit, scored = slice(0, 400), slice(400, 600)
    scaler = StandardScaler().fit(features[fit])
    ridge = Ridge(alpha=probe.STRENGTH * 400).fit(scaler.transform(features[fit]), np.eye(4)[labels[fit]])
    expected = float((ridge.predict(scaler.transform(features[scored])).argmax(1) == labels[scored]).mean())
    rows, classes = torch.from_numpy(features), torch.from_numpy(labels)
    assert 0.4 < expected < 1
    assert ridge_accuracy(rows[fit], classes[fit], rows[scored], classes[scored]) == expected


def test_constant_features_do_no_harm() -> None:
    labels = torch.arange(40) % 2
    features = torch.stack([labels * 1e-20, torch.full((40,), 3.0)], dim=1).double()
    assert ridge_accuracy(features[:20], labels[:20], features[20:], labels[20:]) == pytest.approx(0.5, abs=0.5)
    assert ridge_accuracy(features[:20, :1], labels[:20], features[20:, :1], labels[20:]) == 1


def test_windows_without_a_direction_are_left_out() -> None:
    def rows(count: int, known: int) -> ProbeRows:
        sector = torch.arange(count) % 3
        features = torch.nn.functional.one_hot(sector).float()
        sector[known:] = -1
        return ProbeRows({"only": features}, {"modulation": torch.zeros(count).long(), "sector": sector})

    assert accuracies(rows(60, 45), rows(30, 12)) == {"modulation": {"only": 1.0}, "sector": {"only": 1.0}}


def test_a_probe_scores_every_exit_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK", 60)
    encoder = tiny_encoder().train()
    before, state = encoder.fingerprint(), torch.get_rng_state()
    scores = probe_exits(encoder)
    assert encoder.training
    assert encoder.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert probe_exits(encoder) == scores
    for task in ("modulation", "sector"):
        assert list(scores[task]) == EXITS
        assert all(0 <= score <= 1 for score in scores[task].values())
    assert scores["sector"]["stem"] > 1.5 / 8  # two signals of neighbouring antennas tell a direction


def test_blocks_are_independent_of_each_other() -> None:
    first, second = (synthetic_windows(4, 1, 64, probe.SNR_DB, probe.SEED, block).iq for block in (0, 1))
    assert not torch.equal(first, second)


def test_the_picture_has_a_line_for_every_exit_in_both_panels(tmp_path: Path) -> None:
    lines = [
        {"step": step, "scores": {task: {"stem": 0.3, "last": 0.2 + step / 100} for task in ("modulation", "sector")}}
        for step in (0, 1, 2, 8, 64)
    ]
    draw_probe(lines, tmp_path / "probe.svg")
    text = (tmp_path / "probe.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for word in ("signal type", "direction of arrival", "stem", "last", "steps"):
        assert f">{word}" in text
    draw_probe(lines, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
    draw_probe(lines[:1], tmp_path / "one.svg")
