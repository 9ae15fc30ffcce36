"""Snapshots and their probes along a whole run."""

from __future__ import annotations

import json
from pathlib import Path

from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import read_config
from offramp.training.config import PretrainingConfig
from offramp.training.pretrain import pretrain

SHORT = PretrainingConfig(encoder="tiny-test", steps=6, batch=8)


def test_snapshots_show_the_way_from_random_weights_to_the_end(tmp_path: Path) -> None:
    folder = pretrain(SHORT, tmp_path)
    snapshots = sorted((tmp_path / "snapshots").iterdir())
    assert [path.name for path in snapshots] == [f"step-{step:06d}" for step in (0, 1, 2, 3, 6)]
    prints = [load_encoder(path).fingerprint() for path in snapshots]
    assert prints[0] == load_encoder("tiny-test", weights="random").fingerprint()
    assert prints[-1] == load_encoder(folder).fingerprint()
    assert len(set(prints)) == 5
    assert [read_config(path)["provenance"]["step"] for path in snapshots] == [0, 1, 2, 3, 6]
    lines = [json.loads(line) for line in (tmp_path / "probe.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 6]
    assert set(lines[0]["scores"]) == {"modulation", "sector"}
    assert "<svg" in (tmp_path / "probe.svg").read_text()
