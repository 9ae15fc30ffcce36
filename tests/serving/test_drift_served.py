"""Drift, from requests that name their source to what the server shows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from served import Made, Served, make, serving

from offramp.bundle import save_reference
from offramp.bundle.reference import TaskReference
from offramp.runtime import load
from offramp.runtime.reference import answers_of, fit_projection

RECORDINGS, LENGTH = 40, 6


def recording(seed: int, tone: float = 0.0) -> np.ndarray:
    """Windows of noise that share a gain, as those of one radio do; with a tone in it, of another kind."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * (0.1 * np.arange(96) + rng.uniform(size=(LENGTH, 1)))
    signal = np.stack([np.cos(phase), np.sin(phase)], axis=1)[:, :, None]
    windows = rng.standard_normal((LENGTH, 2, 2, 96)) * rng.uniform(0.8, 1.2) + tone * signal
    return windows.astype(np.float32)


def with_reference(made: Made) -> None:
    """Recordings as those that will come, for one of the tasks."""
    predictor = load(made.segments)
    windows = np.concatenate([recording(number) for number in range(RECORDINGS)])
    exit = "stem"
    features = predictor.features(windows, "plain", exit)
    projection = fit_projection(predictor.features(recording(9999), "plain", exit), 4)
    reference = TaskReference(
        kind="classification",
        classes=2,
        exit=exit,
        grouped=True,
        held_out="calibration",
        groups=np.repeat(np.arange(RECORDINGS, dtype=np.int32), LENGTH),
        features=projection(features),
        projection=projection,
        value_projection=None,
        policies={"fixed": answers_of(predictor.predict(windows, ["plain"])["plain"], None)},
    )
    save_reference({"plain": reference}, made.segments)


def drift(server: Served) -> dict[str, Any]:
    (task,) = [task for task in server.ask("GET", "/status")[1]["tasks"] if task["name"] == "plain"]
    found: dict[str, Any] = task["drift"]
    return found


def send(server: Served, windows: np.ndarray, source: str) -> None:
    described = {
        "inputs": [
            {
                "name": "windows",
                "datatype": "FP32",
                "shape": list(windows.shape),
                "parameters": {"binary_data_size": windows.nbytes},
            }
        ],
        "parameters": {"source": source},
    }
    head = json.dumps(described).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert server.ask("POST", "/v2/models/plain/infer", head + windows.tobytes(), headers)[0] == 200


def until_seen(server: Served, recordings: int) -> dict[str, Any]:
    ends = time.monotonic() + 30
    while drift(server)["recordings"] < recordings and time.monotonic() < ends:
        time.sleep(0.1)
    return drift(server)


def test_a_change_shows_on_the_page_and_in_the_metrics_until_the_task_is_loaded_anew(tmp_path: Path) -> None:
    made = make(tmp_path)
    with_reference(made)
    with serving(made.segments, tmp_path) as server:
        assert drift(server)["state"] == "learning"
        for number in range(20):
            send(server, recording(1000 + number), f"radio {number}")
        before = until_seen(server, 20)
        assert (before["recordings"], before["state"], before["since"]) == (20, "steady", None)
        assert set(before["p_values"]) == {"confidence", "classes", "features", "feature spread"}
        for number in range(20):
            send(server, recording(2000 + number, tone=3.0), f"beacon {number}")
        after = until_seen(server, 40)
        assert after["state"] == "alarm"
        assert min(after["p_values"].values()) < after["level"]
        metrics = server.ask("GET", "/metrics")[1].decode()
        assert 'offramp_drift_alarm{task="plain"} 1.0' in metrics
        assert server.ask("POST", "/v2/repository/models/plain/load", {})[0] == 200
        assert drift(server)["state"] == "learning"
