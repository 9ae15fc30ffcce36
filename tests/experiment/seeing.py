"""A small suite whose heads see poolings and side features, on an encoder with statistics of its own, for several tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import tiny_encoder, tones, write_hdf5

from offramp import costs
from offramp.encoders.storage import save_encoder
from offramp.experiment import pipeline
from offramp.experiment.pipeline import run_suite
from offramp.experiment.policies import measuring
from offramp.schema.results import Results
from offramp.schema.suite import load_suite

COUNT, GROUPS = 240, 24
EXITS = ["stem", "stage2.0", "stage3.0", "stage4.0", "conv5"]
TEST = [f"city_{number:02}" for number in range(8)]


def without_stopwatch(patch: pytest.MonkeyPatch) -> None:
    """No stopwatch and no pictures: they have tests of their own."""
    names = ["input", *EXITS]
    latency = {name: costs.Latency(p50=0.1 * n, p95=0.2 * n, p99=0.3 * n) for n, name in enumerate(names, start=1)}
    patch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
    patch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))
    patch.setattr(measuring, "STAGE_ROUNDS", 1)
    patch.setattr(measuring, "RUN_ROUNDS", 1)
    patch.setattr(measuring, "ARRIVED", 500)


def arrays(level: float = 1.0) -> dict[str, np.ndarray]:
    windows, labels = tones(COUNT, level=level)
    city = np.array([f"city_{number:02}" for number in np.arange(COUNT) % GROUPS])
    return {"sample": windows, "label": labels, "angle": labels * 10.0 + 5, "city": city}


def is_test(city: np.ndarray) -> np.ndarray:
    return np.isin(city, TEST)


def task(name: str = "tone", target: str = "label", **changes: Any) -> dict[str, Any]:
    data = {"path": "data.h5", "target": target, "group": "city"}
    return {"name": name, "data": data, "split": {"test": TEST}} | changes


def lay_out(folder: Path, *tasks: dict[str, Any], recalibrate: str = "never", data: Any = None, **suite: Any) -> Path:
    """A suite file beside its encoder and its data."""
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    write_hdf5(folder / "data.h5", **(data or arrays()))
    encoder = {"name": "encoder", "recalibrate": recalibrate}
    content = {"encoder": encoder, "tasks": list(tasks), "seeds": [0, 1], "controls": ["constant"]} | suite
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "suite.yaml"


def run(suite: Path, out: str = "out", **options: Any) -> Results:
    return run_suite(load_suite(suite), suite.parent / out, **options)
