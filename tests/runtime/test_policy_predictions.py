"""Predictions under policies that a bundle holds: where each window leaves, what it is told, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import IQ_SHAPE, STANDARDIZE, bundle_of, predictor_of, small_shufflenet, task, token_task, write
from typer.testing import CliRunner

from offramp.bundle import BundleTask, Head
from offramp.cli.app import app
from offramp.cli.inspection import inspect_target
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.registry import random_encoder
from offramp.errors import BundleError, DataError
from offramp.policies import Policy, simulate
from offramp.policies.simulation import certainties
from offramp.runtime import Predictor, load, rows, write_csv, write_jsonl
from offramp.runtime import torch_backend as module
from offramp.runtime.files import predict_file

WINDOWS = np.random.default_rng(0).standard_normal((60, *IQ_SHAPE)).astype(np.float32)
EXITS = ("stem", "mixing", "stage1.1", "stage2.0")


def resnet() -> StagedEncoder:
    return random_encoder(IQResNet, {"channels": [8, 8, 16, 16], "repeats": [2, 1]}, 0).eval()


def tell_apart(each: BundleTask) -> BundleTask:
    """With heads whose hidden units or outputs have mean 0 and variance 1 over the windows."""
    with torch.no_grad():
        taps = resnet().taps(torch.from_numpy(each.transform(WINDOWS)))
    heads = {}
    for exit, head in each.heads.items():
        (weight, _), *others = head.layers
        values = taps[exit].numpy() @ weight.T
        mean, spread = values.mean(0), values.std(0)
        heads[exit] = Head(((weight / spread[:, None], -mean / spread), *others))
    return replace(each, heads=heads)


def heads_outputs(task: BundleTask, windows: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of all heads over all windows, the heads in numpy."""
    with torch.no_grad():
        taps = resnet().taps(torch.from_numpy(task.transform(windows)))
    return {exit: task.heads[exit](tap.numpy()) for exit, tap in taps.items()}


def routed(each: BundleTask, criterion: str, reject_below: float | None = None) -> BundleTask:
    """With two policies, one of which lets a third leave at each exit."""
    each = tell_apart(each)
    classes = each.kind == "classification"
    temperatures = (1.0, 1.5, 2.0, 0.5) if classes else (1.0,) * 4
    answers = (0.5, 0.7, 1.5, 1.2) if classes else (1.0,) * 4
    policy = Policy(each.kind, criterion, EXITS, (np.inf,) * 3, temperatures, answers, {}, reject_below)
    rows = certainties(policy, heads_outputs(each, WINDOWS))[:-1]
    thresholds = tuple(
        float(np.quantile(row[np.isfinite(row)], 2 / 3)) if np.isfinite(row).any() else np.inf for row in rows
    )
    third = replace(policy, thresholds=thresholds)
    return replace(each, policies={"third": third.to_dict(), "never": policy.to_dict()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = resnet()
    labels = ("bpsk", "qpsk", "noise")
    return write(
        tmp_path_factory.mktemp("routed") / "bundle",
        encoder,
        routed(task(encoder, "modulation", "mixing", IQ_SHAPE, labels), "confidence", 0.5),
        routed(task(encoder, "angle", "stage1.0", IQ_SHAPE, hidden=(7,)), "agreement"),
        routed(task(encoder, "device", "stem", IQ_SHAPE, ("a", "b"), STANDARDIZE), "margin"),
        task(encoder, "plain", "stem", IQ_SHAPE, ("a", "b")),
    )


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return load(folder)


NAMES = ("modulation", "angle", "device")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_size", [60, 7, 1])
def test_predictions_are_those_of_the_simulation(predictor: Predictor, name: str, batch_size: int):
    found = predictor.predict(WINDOWS, [name], batch_size, policy="third")[name]
    each = predictor.bundle.task(name)
    policy = predictor.policy(name, "third")
    outputs = heads_outputs(each, WINDOWS)
    gaps = np.abs(certainties(policy, outputs)[:-1] - np.array(policy.thresholds)[:, None]).min(0)
    sure = gaps > 1e-4
    assert sure.sum() > 50
    expected = simulate(policy, outputs)
    names = [EXITS[index] for index in expected.exit]
    assert [left for left, known in zip(found.exits, sure, strict=True) if known] == [
        left for left, known in zip(names, sure, strict=True) if known
    ]
    assert len(set(found.exits)) >= 3
    values = expected.outputs
    if each.kind == "classification":
        scaled = values / np.float32(policy.answer_temperatures)[expected.exit][:, None]
        values = np.exp(scaled - scaled.max(1, keepdims=True))
        values /= values.sum(1, keepdims=True)
    np.testing.assert_allclose(found.outputs[sure], values[sure], rtol=1e-3, atol=1e-4)
    assert found.outputs.dtype == np.float32
    np.testing.assert_array_equal(found.rejected[sure], expected.rejected[sure])
    assert found.exit == "stage2.0"


def test_some_are_rejected(predictor: Predictor):
    found = predictor.predict(WINDOWS, ["modulation"], policy="third")["modulation"]
    assert 0 < found.rejected.sum() < len(WINDOWS)
    assert {found.exits[index] for index in np.flatnonzero(found.rejected)} == {"stage2.0"}
    assert (found.confidence[found.rejected] < 0.5 + 1e-5).all()


def test_fixed_exits_are_as_they_were(predictor: Predictor):
    found = predictor.predict(WINDOWS, ["modulation"])["modulation"]
    assert found.exit == "mixing"
    assert found.exits == ["mixing"] * len(WINDOWS)
    assert found.policy == "fixed"
    assert not found.rejected.any()


def test_never_is_full_depth(predictor: Predictor):
    found = predictor.predict(WINDOWS, ["angle"], policy="never")["angle"]
    assert set(found.exits) == {"stage2.0"}
    np.testing.assert_allclose(
        found.outputs, heads_outputs(predictor.bundle.task("angle"), WINDOWS)["stage2.0"], rtol=1e-3, atol=1e-4
    )


def test_tasks_with_one_transform_share_a_pass(predictor: Predictor, monkeypatch: pytest.MonkeyPatch):
    """Nothing runs twice, and nothing runs for windows that all the tasks that share it have answered."""
    alone = {name: predictor.predict(WINDOWS, [name], policy="third")[name] for name in NAMES}
    ran: list[tuple[int, int]] = []
    advance = type(predictor.backend.encoder).advance

    def record(self: StagedEncoder, stage: int, state: Any) -> Any:
        ran.append((stage, len(state[0])))
        return advance(self, stage, state)

    monkeypatch.setattr(type(predictor.backend.encoder), "advance", record)
    together = predictor.predict(WINDOWS, ["angle", "modulation"], policy="third")
    assert list(together) == ["angle", "modulation"]
    depths = {exit.name: exit.index for exit in predictor.backend.encoder.exits}
    last = np.max([[depths[exit] for exit in each.exits] for each in together.values()], axis=0)
    assert [stage for stage, _ in ran] == list(range(5))
    assert all(count == (last >= stage).sum() for stage, count in ran)
    for name, each in together.items():
        assert each.exits == alone[name].exits
        np.testing.assert_allclose(each.outputs, alone[name].outputs, rtol=1e-3, atol=1e-5)
    everything = predictor.predict(WINDOWS, NAMES, policy="third")
    assert everything["device"].exits == alone["device"].exits


def test_no_windows(predictor: Predictor):
    found = predictor.predict(np.empty((0, *IQ_SHAPE)), ["modulation", "angle"], policy="third")
    assert found["modulation"].outputs.shape == (0, 3)
    assert (found["modulation"].exits, found["modulation"].rejected.shape) == ([], (0,))
    assert found["angle"].outputs.shape == (0, 2)


def test_heads_on_tokens():
    encoder = small_shufflenet()
    plain = token_task(encoder, "channel", "stage2.1", IQ_SHAPE, (2, 3, 48))
    ones = (1.0,) * 2
    policy = Policy("regression", "agreement", ("stem", "stage3.0"), (np.inf,), ones, ones)
    predictor = predictor_of(bundle_of(encoder, replace(plain, policies={"p": policy.to_dict()})), encoder)
    found = predictor.predict(WINDOWS[:5], policy="p")["channel"].outputs
    fixed = predictor_of(bundle_of(encoder, replace(plain, exit="stage3.0")), encoder).predict(WINDOWS[:5])["channel"]
    np.testing.assert_array_equal(found, fixed.outputs)


def test_an_answer_that_is_not_finite_names_the_window(monkeypatch: pytest.MonkeyPatch):
    """Also across batches: the head at the last exit overflows for one window alone."""
    encoder = small_shufflenet()
    each = task(encoder, "a", "stem", IQ_SHAPE, ("x", "y"))
    ones = (1.0,) * 2
    policy = Policy("classification", "confidence", ("stem", "conv5"), (2.0,), ones, ones)

    class Broken(torch.nn.Module):
        seen = 0

        def forward(self, tap: torch.Tensor) -> torch.Tensor:
            outputs = tap[:, :2].clone()
            if self.seen <= 13 < self.seen + len(tap):
                outputs[13 - self.seen] = torch.nan
            self.seen += len(tap)
            return outputs

    usual = module.head_module
    monkeypatch.setattr(module, "head_module", lambda h: Broken() if h is each.heads["conv5"] else usual(h))
    predictor = predictor_of(bundle_of(encoder, replace(each, policies={"p": policy.to_dict()})), encoder)
    with pytest.raises(DataError, match="window 13: the outputs are not finite"):
        predictor.predict(WINDOWS, batch_size=4, policy="p")


class TestFiles:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        np.savez(tmp_path / "data.npz", sample=WINDOWS)
        return tmp_path / "data.npz"

    def test_rows(self, predictor: Predictor, folder: Path, data: Path, tmp_path: Path):
        expected = predictor.predict(WINDOWS, ["modulation"], policy="third")["modulation"]
        done = CliRunner().invoke(
            app,
            [
                "predict",
                str(folder),
                str(data),
                "--task",
                "modulation",
                "--policy",
                "third",
                "--out",
                str(tmp_path / "p.csv"),
            ],
        )
        assert done.exit_code == 0, done.output
        with (tmp_path / "p.csv").open(newline="") as stream:
            table = list(csv.DictReader(stream))
        assert list(table[0]) == ["index", "task", "prediction", "confidence", "exit"]
        assert [row["exit"] for row in table] == expected.exits
        answers = ["" if no else label for label, no in zip(expected.labels, expected.rejected, strict=True)]
        assert [row["prediction"] for row in table] == answers
        assert "" in answers
        predict_file(folder, data, "modulation", "jsonl", tmp_path / "p.jsonl", policy="third")
        lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
        assert [line["prediction"] for line in lines] == [answer or None for answer in answers]
        assert [line["exit"] for line in lines] == expected.exits

    def test_rows_of_a_regression(self, predictor: Predictor, tmp_path: Path):
        prediction = predictor.predict(WINDOWS, ["angle"], policy="third")["angle"]
        table = list(rows([prediction]))
        assert [row["exit"] for row in table] == prediction.exits
        assert all(row["confidence"] is None and len(row["prediction"]) == 2 for row in table)
        for write_table in (write_csv, write_jsonl):
            with (tmp_path / "table").open("w") as stream:
                write_table(iter(table), stream)

    def test_rejected_windows_of_recordings_have_no_label(self, folder: Path, tmp_path: Path):
        recordings = tmp_path / "recordings"
        recordings.mkdir()
        signal = WINDOWS.transpose(0, 3, 2, 1).reshape(-1, 2, 2)  # time x antennas x I/Q
        np.ascontiguousarray(signal).tofile(recordings / "one.sigmf-data")
        described = {
            "core:datatype": "cf32_le",
            "core:version": "1.2.0",
            "core:num_channels": 2,
            "core:sample_rate": 1e6,
        }
        meta = {"global": described, "captures": [{"core:sample_start": 0}], "annotations": []}
        (recordings / "one.sigmf-meta").write_text(json.dumps(meta))
        predict_file(folder, recordings, "modulation", "sigmf", tmp_path / "out", policy="third")
        found = json.loads((tmp_path / "out" / "one.sigmf-meta").read_text())["annotations"]
        expected = load(folder).predict(WINDOWS, ["modulation"], policy="third")["modulation"]
        assert ["core:label" not in each for each in found] == expected.rejected.tolist()
        assert all(("rejected" in each["core:comment"]) == ("core:label" not in each) for each in found)
        assert [each["core:comment"].rsplit(" ", 1)[1] for each in found] == expected.exits

    def test_an_unknown_policy(self, folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        with pytest.raises(BundleError, match="task 'modulation' has no policy 'x': it has third, never"):
            predict_file(folder, data, "modulation", "csv", None, policy="x")
        with pytest.raises(BundleError, match="task 'plain' has no policy 'third': it has none"):
            predict_file(folder, data, "plain", "csv", tmp_path / "p.csv", policy="third")
        assert capsys.readouterr().out == ""
        assert not (tmp_path / "p.csv").exists()


def test_inspect_lists_them(folder: Path):
    tasks = {each["name"]: each for each in inspect_target(str(folder)).to_dict()["tasks"]}
    assert tasks["angle"]["policies"] == {
        name: {"criterion": "agreement", "exits": list(EXITS)} for name in ("third", "never")
    }
    assert tasks["plain"]["policies"] == {}


def test_tasks_that_lack_it(predictor: Predictor):
    with pytest.raises(BundleError, match="task 'plain' has no policy 'third'"):
        predictor.predict(WINDOWS, policy="third")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "luck"}, "unknown criterion 'luck'"),
        ({"criterion": "agreement"}, "is not for classification"),
        ({"criterion": "learned_halting"}, "'weight' is missing"),
        ({"criterion": "learned_halting", "parameters": {"weight": [1, 2], "bias": 0}}, "is damaged: "),
        ({"criterion": "benefit", "parameters": {"weight": [[1, 2, 3, 4]], "bias": [0]}}, "is damaged: "),
        ({"criterion": "benefit", "parameters": {"weight": [1, 2, 3, 4], "bias": [0, 0]}}, "is damaged: "),
        (
            {"criterion": "learned_halting", "parameters": {"weight": [[1, 2]] * 4, "bias": 0}},
            r"certainties of shape \(1, 2\)",
        ),
        ({"parameters": [1]}, "is damaged: "),
        ({"thresholds": [0.5, 0.6]}, "takes 1 thresholds"),
        ({"thresholds": ["high"]}, "could not convert"),
        ({"thresholds": None}, "is damaged: "),
        ({"temperatures": [1.0, 0.0]}, "not a positive number"),
        ({"reject_below": "low"}, "could not convert"),
    ],
)
def test_a_damaged_policy_is_one_clear_line(changes: dict[str, Any], message: str):
    encoder = small_shufflenet()
    ones = (1.0,) * 2
    policy = Policy("classification", "confidence", ("stem", "conv5"), (0.5,), ones, ones)
    each = replace(task(encoder, "a", "stem", IQ_SHAPE, ("x", "y")), policies={"p": {**policy.to_dict(), **changes}})
    with pytest.raises(BundleError, match=message) as caught:
        predictor_of(bundle_of(encoder, each), encoder)
    assert str(caught.value).startswith("policy 'p' of task 'a' is damaged")
    assert "\n" not in str(caught.value)
