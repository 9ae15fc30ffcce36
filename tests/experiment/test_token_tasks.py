"""Tasks with heads on tokens through the main job: a target with four axes, from the file to the bundle and the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from tiny import noise, stopped_at, tiny_encoder, write_hdf5

import offramp
from offramp import costs
from offramp.bundle import load_bundle
from offramp.encoders.base import StagedEncoder
from offramp.encoders.storage import save_encoder
from offramp.errors import EncoderError, OfframpError
from offramp.experiment import pipeline
from offramp.experiment.pipeline import run_suite
from offramp.experiment.prepare import load, prepare
from offramp.export import export_onnx
from offramp.heads.fit import STRENGTHS
from offramp.schema.results import Results
from offramp.schema.suite import load_suite

COUNT, GROUPS = 120, 12
EXITS = ["stem", "stage2.0", "stage3.0", "stage4.0", "conv5"]
SHAPE = (2, 2, 2, 16)
"""Of the targets: all 128 numbers of a window, in an order of their own."""
TEST = [f"user_{number:02}" for number in range(9)]
CONTROLS = ["constant", "random_encoder", "raw_input", "equal_width"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stopwatch and no pictures: they have tests of their own."""
    latency = {name: costs.Latency(p50=0.1 * n, p95=0.2 * n, p99=0.3 * n) for n, name in enumerate(EXITS, start=1)}
    monkeypatch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
    monkeypatch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))


def by_sample(_: StagedEncoder, shape: tuple[int, ...], positions: int) -> NDArray[np.int64]:
    """I and Q of the same samples belong to one position; a window's numbers are ``(2, 64)``, whatever axes the target has."""
    return np.arange(128).reshape(2, positions, -1).transpose(1, 0, 2).reshape(positions, -1)


def windows_and_targets() -> tuple[np.ndarray, np.ndarray]:
    windows = noise(COUNT)
    return windows, (windows.reshape(COUNT, *SHAPE) * 3 + 1).astype(np.float32)


def lay_out(folder: Path, *tasks: dict[str, Any], targets: np.ndarray | None = None, **suite: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    windows, made = windows_and_targets()
    user = np.array([f"user_{number:02}" for number in np.arange(COUNT) % GROUPS])
    write_hdf5(folder / "data.h5", sample=windows, future=made if targets is None else targets, user=user)
    content = {
        "encoder": "encoder",
        "tasks": list(tasks) or [task()],
        "seeds": [0, 1],
        "controls": ["constant"],
    } | suite
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "suite.yaml"


def task(name: str = "future", pooling: str = "tokens", **changes: Any) -> dict[str, Any]:
    data = {"path": "data.h5", "target": "future", "group": "user"}
    fixed = {"kind": "regression", "metric": "nmse_db", "split": {"test": TEST}, "head": {"pooling": pooling}}
    return {"name": name, "data": data} | fixed | changes


def run(suite: Path, out: str = "out", **options: Any) -> Results:
    return run_suite(load_suite(suite), suite.parent / out, **options)


def decibel(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(10 * np.log10(np.square(outputs - targets).sum() / np.square(targets).sum()))


def by_hand(tokens: np.ndarray, targets: np.ndarray, train: np.ndarray, strength: float) -> np.ndarray:
    """scikit-learn on rows that are stacked here, with the layout :func:`by_sample`; predictions of all windows."""
    count, positions, width = tokens.shape
    samples = 64 // positions
    rows = tokens.reshape(-1, width).astype(np.float64)
    parts = targets.reshape(count, 2, positions, samples).astype(np.float64)
    values = np.stack([parts[:, :, position].reshape(count, -1) for position in range(positions)], axis=1)
    of_train = (train[:, None] * positions + np.arange(positions)).ravel()
    mean, spread = rows[of_train].mean(0), rows[of_train].std(0)
    spread = np.where(spread > 1e-6, spread, np.inf)
    flat = values.reshape(count * positions, -1)
    centre, scale = flat[of_train].mean(0), flat[of_train].std(0)
    model = Ridge(alpha=strength * len(of_train)).fit(
        (rows[of_train] - mean) / spread, (flat[of_train] - centre) / scale
    )
    predicted = (model.predict((rows - mean) / spread) * scale + centre).reshape(count, positions, 2, samples)
    return predicted.transpose(0, 2, 1, 3).reshape(count, 128)


def test_from_the_file_to_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StagedEncoder, "target_positions", by_sample)
    suite = lay_out(tmp_path, task(), task("plain", "default"), controls=CONTROLS)
    results = run(suite)
    found, plain = results.tasks["future"], results.tasks["plain"]
    assert (found.pooling, plain.pooling) == ("tokens", "default")
    bundle = load_bundle(tmp_path / "out" / "bundle")
    stored = bundle.task("future")
    assert (stored.poolings, stored.target_shape) == (dict.fromkeys(EXITS, "tokens"), SHAPE)

    windows, targets = windows_and_targets()
    flat = targets.reshape(COUNT, 128)
    encoder = tiny_encoder(repeats=1).eval()
    with torch.no_grad():
        tokens = {name: tap.numpy() for name, tap in encoder.taps(torch.from_numpy(windows), pooling="tokens").items()}
    split = prepare(load_suite(suite).tasks[0], load_suite(suite), load(load_suite(suite), "cpu")).problem.split
    train, test = split.draws[0].folds[0][0], split.test
    for row in found.exits:
        outputs = stored.heads[row.exit](tokens[row.exit])
        assert row.test.per_seed[0] == pytest.approx(decibel(outputs[test], flat[test]), abs=1e-3)
        off = [np.abs(outputs - by_hand(tokens[row.exit], flat, train, each)).max() for each in STRENGTHS["ridge"]]
        assert min(off) < 2e-2 < max(off), "it is the solution for one strength of the grid"

    assert found.exits[0].test.mean < -3, "a position of the stem sees its own samples"
    assert found.exits[0].test.mean < plain.exits[0].test.mean - 2, "an average over all positions does not"
    heads = {name: (p.shape[1], p.shape[2], 128 // p.shape[1]) for name, p in tokens.items()}
    without = costs.exit_costs(encoder, (2, 1, 64), measure=False)
    assert [row.macs for row in found.exits] == [
        without[name].macs + positions * width * values for name, (positions, width, values) in heads.items()
    ]
    assert list(found.controls) == CONTROLS
    assert found.controls["raw_input"].test == plain.controls["raw_input"].test, "it has no positions"
    assert [row.exit for row in found.controls["equal_width"].exits] == EXITS
    assert found.controls["constant"].test.mean == pytest.approx(decibel(flat[train].mean(0), flat[test]), abs=0.05)

    predicted = offramp.load(tmp_path / "out" / "bundle").predict(windows)["future"].outputs
    np.testing.assert_allclose(predicted, stored.heads[stored.exit](tokens[stored.exit]), atol=1e-3)
    report = export_onnx(tmp_path / "out" / "bundle", "future", tmp_path / "future.onnx")
    graph = onnxruntime.InferenceSession(report.path)
    np.testing.assert_allclose(graph.run(None, {"windows": windows})[0], predicted, rtol=1e-3, atol=1e-3)


def test_a_layout_that_fits_the_encoder_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default cuts the flattened target into runs: half of the positions are then asked for samples that they do not see."""
    runs = run(lay_out(tmp_path / "runs")).tasks["future"].exits[0].test.mean
    monkeypatch.setattr(StagedEncoder, "target_positions", by_sample)
    samples = run(lay_out(tmp_path / "samples")).tasks["future"].exits[0].test.mean
    assert samples < runs - 2


def test_killed_at_any_moment_and_started_again(tmp_path: Path) -> None:
    suite = lay_out(tmp_path, task(), task("plain", "default"), controls=["constant", "random_encoder", "equal_width"])
    moments: list[str] = []
    expected = run(suite, "whole", on_progress=lambda what, done, total: moments.append(what))

    for call in (0, 1, 2, len(EXITS), 2 * len(EXITS)):
        with pytest.raises(KeyboardInterrupt):
            run(suite, "cut", on_progress=stopped_at(call))
    again = run(suite, "cut")
    for name, found in again.tasks.items():
        theirs = expected.tasks[name]
        assert found.model_dump(exclude={"measured"}) == theirs.model_dump(exclude={"measured"})
    for name in ("heads.safetensors", "config.json"):
        ours, theirs = ((tmp_path / out / "bundle" / name).read_bytes() for out in ("cut", "whole"))
        assert ours == theirs
    assert json.loads((tmp_path / "cut" / "results.json").read_text())["tasks"]["future"]["pooling"] == "tokens"


class TestRefusals:
    """One line, before the encoder runs over the windows."""

    def refused(self, suite: Path, error: type[OfframpError], *words: str) -> None:
        with pytest.raises(error) as caught:
            run(suite)
        for word in words:
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (suite.parent / "out" / "features").exists()

    def test_a_target_that_the_positions_cannot_share(self, tmp_path: Path) -> None:
        targets = windows_and_targets()[1][..., :15]
        suite = lay_out(tmp_path, targets=targets)
        self.refused(
            suite, EncoderError, "task future", "(2, 2, 2, 15)", "120 values", "32 positions", "pooling: default"
        )

    def test_an_exit_whose_positions_cannot_share_it(self, tmp_path: Path) -> None:
        """Sixteen divides what 32 positions have, and the other way round it does not."""
        suite = lay_out(tmp_path, targets=windows_and_targets()[1][:, 0, 0, 0])
        self.refused(suite, EncoderError, "task future", "(16,)", "32 positions")

    def test_an_encoder_without_tokens(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def pool(self: StagedEncoder, exit: int, state: Any, pooling: str = "default") -> torch.Tensor:
            if pooling != "default":
                raise EncoderError(f"unknown pooling {pooling!r}: iq-shufflenet has default")
            return state[0].mean((2, 3))

        suite = lay_out(tmp_path)
        monkeypatch.setattr(type(tiny_encoder()), "pool", pool)
        self.refused(suite, EncoderError, "task future", "unknown pooling 'tokens'")

    def test_a_budget_below_the_cheapest(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, selection={"rule": "budget", "macs": 1})
        stem = costs.exit_costs(tiny_encoder(repeats=1), (2, 1, 64), measure=False)["stem"].macs
        self.refused(suite, OfframpError, "task future", f"cheapest costs {stem + 32 * 8 * 4:g} MACs")

    def test_a_target_that_the_metric_cannot_score(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, task(metric="spectral_efficiency"))
        self.refused(suite, OfframpError, "task future", "never negative")
