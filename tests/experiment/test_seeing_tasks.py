"""Suites whose heads see poolings, side features and recalibrated statistics, from the file to the graph."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from seeing import COUNT, EXITS, arrays, is_test, lay_out, run, task, without_stopwatch
from sklearn.metrics import accuracy_score
from tiny import stopped_at, tiny_encoder
from torch import Tensor

import offramp
from offramp.bundle import BundleTask, load_bundle
from offramp.encoders.channel_transformer import ChannelTransformer
from offramp.encoders.recalibration import statistics_of, with_statistics
from offramp.encoders.registry import random_encoder
from offramp.encoders.side import SIDES
from offramp.encoders.storage import save_encoder
from offramp.encoders.taps import freeze
from offramp.errors import EncoderError, OfframpError
from offramp.experiment.prepare import load, prepare
from offramp.export import export_onnx
from offramp.policies import Policy, simulate
from offramp.schema.results import Results, TaskResult
from offramp.schema.suite import load_suite

SEEN = ["input", *EXITS]
CONTROLS = ["constant", "random_encoder", "equal_width", "tap_alone", "handmade_level_free"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_stopwatch(monkeypatch)


def tasks() -> list[dict[str, Any]]:
    return [
        task(head={"pooling": "auto", "side": "handmade"}),
        task("angle", "angle", kind="regression", head={"pooling": "quantiles", "side": "power_only"}),
        task("plain"),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Results]]:
    with pytest.MonkeyPatch.context() as patch:
        without_stopwatch(patch)
        suite = lay_out(
            tmp_path_factory.mktemp("seeing"),
            *tasks(),
            recalibrate="always",
            controls=CONTROLS,
            policies={"criteria": ["confidence"], "noise_db": 0},
            data=arrays(level=1.5),
        )
        yield suite, run(suite)


Whole = tuple[Path, Results]


def taps_by_hand(bundle: Path, stored: BundleTask, windows: np.ndarray) -> dict[str, np.ndarray]:
    """What the heads of a task take, from the encoder's own taps and the side features by themselves."""
    loaded = load_bundle(bundle)
    encoder = freeze(tiny_encoder(repeats=1))
    if stored.statistics is not None:
        encoder = with_statistics(encoder, loaded.statistics[stored.statistics])
    x = torch.from_numpy(windows)
    beside = [] if stored.side is None else [SIDES[stored.side].compute(x)]
    taps = {"input": beside[0]} if beside else {}
    for name in EXITS:
        taps[name] = torch.cat([*beside, encoder.taps(x, [name], stored.poolings.get(name, "default"))[name]], 1)
    return {name: tap.numpy() for name, tap in taps.items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


class TestResults:
    def test_rows_of_all_exits_and_what_they_see(self, whole: Whole) -> None:
        _, results = whole
        tone, angle, plain = (results.tasks[name] for name in ("tone", "angle", "plain"))
        assert [row.exit for row in tone.exits] == [row.exit for row in angle.exits] == SEEN
        assert [row.exit for row in plain.exits] == EXITS
        assert (tone.pooling, tone.side, tone.statistics) == ("auto", "handmade", "recalibrated")
        assert (plain.pooling, plain.side, plain.statistics) == ("default", None, "recalibrated")
        assert {row.pooling for row in tone.exits} <= {"default", "statistics", "quantiles"}
        assert [row.pooling for row in angle.exits] == ["default"] + ["quantiles"] * 5
        assert [exit.name for exit in results.encoder.exits] == EXITS, "the encoder itself has no exit before it"
        for found in results.tasks.values():
            assert 0 <= found.exits[0].macs_saved_fraction < 1
            assert found.full.exit == "conv5"
            assert found.sentence

    def test_macs_are_those_of_side_features_encoder_and_head(self, whole: Whole) -> None:
        suite, results = whole
        bundle = load_bundle(suite.parent / "out" / "bundle")
        plain = {
            name: cost.reach_macs
            for name, cost in offramp.exit_costs(tiny_encoder(repeats=1), (2, 1, 64), measure=False).items()
        }
        for name, found in results.tasks.items():
            stored = bundle.tasks[name]
            side = 0 if stored.side is None else SIDES[stored.side].macs((2, 1, 64))
            for row in found.exits:
                head = sum(weight.size for weight, _ in stored.heads[row.exit].layers)
                assert row.macs == side + plain.get(row.exit, 0) + head

    def test_controls_see_the_same(self, whole: Whole) -> None:
        _, results = whole
        tone = results.tasks["tone"]
        random = tone.controls["random_encoder"]
        assert [row.exit for row in random.exits] == SEEN
        assert [row.macs for row in random.exits] == [row.macs for row in tone.exits]
        assert random.exits[0].test == tone.exits[0].test, "before the encoder there is nothing random"
        assert random.exits[1].test != tone.exits[1].test
        assert [row.exit for row in tone.controls["equal_width"].exits] == SEEN
        assert "tap_alone" not in results.tasks["plain"].controls, "there is nothing beside its taps"
        assert (
            tone.controls["handmade_level_free"].width
            == SIDES["handmade_level_free"].compute(torch.ones(1, 2, 1, 64)).shape[1]
        )

    def test_scores_are_those_of_the_bundles_heads(self, whole: Whole) -> None:
        suite, results = whole
        folder, data = suite.parent / "out" / "bundle", arrays(level=1.5)
        test = is_test(data["city"])
        bundle = load_bundle(folder)
        for name, found in results.tasks.items():
            taps = taps_by_hand(folder, bundle.tasks[name], data["sample"][test])
            for row in found.exits:
                outputs = bundle.tasks[name].heads[row.exit](taps[row.exit])
                if name == "angle":
                    score = np.abs(outputs[:, 0] - data["angle"][test]).mean()
                else:
                    score = accuracy_score(data["label"][test], outputs.argmax(1))
                assert row.test.per_seed[0] == pytest.approx(score, abs=1e-3)

    def test_the_tap_alone_is_the_same_task_without_side_features(self, whole: Whole, tmp_path: Path) -> None:
        _, results = whole
        plain = task(head={"pooling": "auto"})
        expected = run(lay_out(tmp_path, plain, recalibrate="always", data=arrays(level=1.5))).tasks["tone"]
        found = results.tasks["tone"].controls["tap_alone"]
        for ours, theirs in zip(found.exits, expected.exits, strict=True):
            assert (ours.exit, ours.macs, ours.val, ours.test) == (theirs.exit, theirs.macs, theirs.val, theirs.test)

    def test_auto_is_the_best_pooling_on_validation(self, whole: Whole, tmp_path: Path) -> None:
        """Against runs with each pooling alone, exit by exit."""
        _, results = whole
        alone: dict[str, TaskResult] = {}
        for pooling in ("default", "statistics", "quantiles"):
            suite = lay_out(
                tmp_path / pooling,
                task(head={"pooling": pooling, "side": "handmade"}),
                recalibrate="always",
                data=arrays(level=1.5),
            )
            alone[pooling] = run(suite).tasks["tone"]
        for number, row in enumerate(results.tasks["tone"].exits[1:], start=1):
            scores = {pooling: found.exits[number].val.mean for pooling, found in alone.items()}
            assert row.val.mean == max(scores.values())
            assert row.pooling == next(pooling for pooling, score in scores.items() if score == row.val.mean)
            assert row.test == alone[row.pooling].exits[number].test


class TestBundle:
    def test_statistics_are_those_of_the_tasks_windows(self, whole: Whole) -> None:
        suite, _ = whole
        bundle = load_bundle(suite.parent / "out" / "bundle")
        assert {stored.statistics for stored in bundle.tasks.values()} == {"tone"} == set(bundle.statistics)
        own = statistics_of(tiny_encoder(repeats=1))
        assert set(bundle.statistics["tone"]) == set(own)
        assert not np.array_equal(bundle.statistics["tone"]["stages.0.1.running_mean"], own["stages.0.1.running_mean"])
        assert bundle.encoder["sha256"] == tiny_encoder(repeats=1).fingerprint()

    @pytest.mark.parametrize("exit", [None, "input", "stage3.0"])
    def test_predictions_are_heads_on_taps(self, exit: str | None, whole: Whole, tmp_path: Path) -> None:
        suite, _ = whole
        folder, windows = suite.parent / "out" / "bundle", arrays(level=1.5)["sample"][:40]
        predictor = offramp.load(folder)
        if exit is not None:
            predictor = offramp.load(leaving_at(folder, tmp_path / "moved", exit))
        together = predictor.predict(windows)
        for name, answer in together.items():
            stored = predictor.bundle.tasks[name]
            outputs = stored.heads[stored.exit](taps_by_hand(folder, stored, windows)[stored.exit])
            if stored.kind == "classification":
                outputs = softmax(outputs / stored.temperature)
            np.testing.assert_allclose(answer.outputs, outputs, rtol=1e-3, atol=1e-4)
            assert set(answer.exits) == {stored.exit}
            alone = predictor.predict(windows, [name])[name]
            np.testing.assert_array_equal(alone.outputs, answer.outputs)

    def test_policies_are_executed_as_they_are_simulated(self, whole: Whole) -> None:
        suite, results = whole
        folder, windows = suite.parent / "out" / "bundle", arrays(level=1.5)["sample"]
        predictor = offramp.load(folder)
        stored = predictor.bundle.tasks["tone"]
        assert "routed" in stored.policies
        taps = taps_by_hand(folder, stored, windows)
        outputs = {name: stored.heads[name](tap) for name, tap in taps.items()}
        for name, parts in stored.policies.items():
            policy = Policy.from_dict(parts)
            assert set(policy.exits) <= set(SEEN)
            expected = simulate(policy, outputs)
            found = predictor.predict(windows, ["tone"], policy=name)["tone"]
            same = np.array(found.exits) == np.array(policy.exits)[expected.exit]
            assert same.mean() > 0.99, "but for windows within rounding of a threshold"
        compared = results.tasks["tone"].policies
        assert [budget.exit for budget in compared.budgets] == SEEN


def leaving_at(bundle: Path, copy: Path, exit: str) -> Path:
    """A copy of a bundle whose tasks leave at another exit, where they have it."""
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).symlink_to(path)
    config = json.loads((copy / "config.json").read_text())
    for stored in config["tasks"].values():
        if exit in stored["layers"]:
            stored["exit"] = exit
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(config))
    return copy


GRAPHS = [("tone", "input"), ("tone", "conv5"), ("angle", "stage3.0")]


@pytest.fixture(scope="module")
def graphs(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Files by task and exit; exporting takes seconds."""
    suite, _ = whole
    found = {}
    for name, exit in GRAPHS:
        path = tmp_path_factory.mktemp("graphs") / f"{name}.onnx"
        report = export_onnx(suite.parent / "out" / "bundle", name, path, exit=exit)
        assert (report.exit, report.max_difference <= 1e-4) == (exit, True)
        found[name, exit] = path
    return found


class TestGraphs:
    @pytest.mark.parametrize(("name", "exit"), GRAPHS)
    def test_equal_to_the_bundle(self, name: str, exit: str, whole: Whole, graphs: dict[tuple[str, str], Path]) -> None:
        suite, _ = whole
        folder, windows = suite.parent / "out" / "bundle", arrays(level=1.5)["sample"][:50]
        session = onnxruntime.InferenceSession(graphs[name, exit])
        stored = load_bundle(folder).tasks[name]
        expected = stored.heads[exit](taps_by_hand(folder, stored, windows)[exit])
        if stored.kind == "classification":
            expected = softmax(expected / stored.temperatures[exit])
        scale = max(1.0, float(np.abs(expected).max()))
        for count in (1, 7, 50):
            (answers,) = session.run(None, {"windows": windows[:count]})
            assert np.abs(answers - expected[:count]).max() <= 1e-4 * scale

    def test_they_hold_neither_paths_nor_what_does_not_run(
        self, whole: Whole, graphs: dict[tuple[str, str], Path]
    ) -> None:
        suite, _ = whole
        package = Path(offramp.__file__).parent
        for path in graphs.values():
            content = path.read_bytes()
            for word in (".py", "site-packages", "Traceback", str(package), str(suite.parent), str(Path.home())):
                assert word.encode() not in content, word
        model = onnx.load(graphs["tone", "input"])
        assert not any(node.op_type in ("Conv", "BatchNormalization") for node in model.graph.node)
        assert not any(node.metadata_props for node in model.graph.node)
        assert graphs["tone", "input"].stat().st_size < graphs["tone", "conv5"].stat().st_size


def test_killed_at_any_moment_and_started_again(tmp_path: Path) -> None:
    suite = lay_out(tmp_path, *tasks()[:2], recalibrate="auto", controls=["random_encoder"], seeds=[0])
    moments: list[str] = []
    expected = run(suite, "whole", on_progress=lambda what, done, total: moments.append(what))
    assert any("side features" in what for what in moments)
    assert any("statistics" in what for what in moments)

    for call in (0, 1, 3, 8, 21):
        with pytest.raises(KeyboardInterrupt):
            run(suite, "cut", on_progress=stopped_at(call))
        assert not (tmp_path / "cut" / "results.json").exists()
    again = run(suite, "cut")
    for name, found in again.tasks.items():
        assert found.model_dump(exclude={"measured"}) == expected.tasks[name].model_dump(exclude={"measured"})
    files = sorted(path.name for path in (tmp_path / "whole" / "bundle").iterdir() if path.is_file())
    assert files == sorted(path.name for path in (tmp_path / "cut" / "bundle").iterdir() if path.is_file())
    for name in files:
        if name != "README.md":  # it says how long the run took
            ours, theirs = ((tmp_path / out / "bundle" / name).read_bytes() for out in ("cut", "whole"))
            assert ours == theirs, name
    assert not (tmp_path / "cut" / "features").exists()


SOURCE = """
def features(x):
    power = x.square().sum(1).flatten(1)
    return power.view(len(x), 16, -1).mean(2).log()
"""


def features_of_power(x: Tensor) -> np.ndarray:
    power = np.square(x).sum(1).reshape(len(x), -1)
    return np.log(power.reshape(len(x), 16, -1).mean(2))


@pytest.fixture
def my_features(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of a user's, imported."""
    module = ModuleType("my_features")
    exec(SOURCE.replace("len(x)", "x.shape[0]"), module.__dict__)
    monkeypatch.setitem(sys.modules, "my_features", module)
    return module


class TestOfTheUsersOwn:
    SIDE = "my_features:features"

    def test_from_the_suite_to_the_graph(self, my_features: ModuleType, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, task(head={"side": self.SIDE}), controls=["random_encoder"])
        found, folder = run(suite).tasks["tone"], tmp_path / "out" / "bundle"
        assert (found.side, found.exits[0].exit) == (self.SIDE, "input")
        stored = load_bundle(folder).tasks["tone"]
        windows = arrays()["sample"][:30]
        expected = softmax(stored.heads["input"](features_of_power(windows)) / stored.temperatures["input"])
        export_onnx(folder, "tone", tmp_path / "t.onnx", exit="input")
        (answers,) = onnxruntime.InferenceSession(tmp_path / "t.onnx").run(None, {"windows": windows})
        np.testing.assert_allclose(answers, expected, rtol=1e-3, atol=1e-4)
        moved = leaving_at(folder, tmp_path / "moved", "input")
        np.testing.assert_allclose(offramp.load(moved).predict(windows)["tone"].outputs, expected, rtol=1e-3, atol=1e-4)

    def test_neither_suite_nor_bundle_imports_it(
        self, my_features: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite = lay_out(tmp_path, task(head={"side": self.SIDE}))
        run(suite)
        monkeypatch.delitem(sys.modules, "my_features")
        (tmp_path / "my_features.py").write_text(SOURCE)
        monkeypatch.syspath_prepend(tmp_path)
        for call in (
            lambda: run(suite, "again"),
            lambda: offramp.load(tmp_path / "out" / "bundle"),
            lambda: export_onnx(tmp_path / "out" / "bundle", "tone", tmp_path / "t.onnx"),
        ):
            with pytest.raises(
                EncoderError, match=r"import the module first, e\.g\. with --import my_features"
            ) as caught:
                call()
            assert "\n" not in str(caught.value)
        assert "my_features" not in sys.modules
        assert not (tmp_path / "again" / "features").exists()

    def test_another_definition_is_computed_anew(
        self, my_features: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        suite = lay_out(tmp_path, task(head={"side": self.SIDE}))
        first = run(suite, keep_features=True).tasks["tone"].exits[0]
        exec("def features(x):\n    return x[:, :, 0, :3].flatten(1)\n", my_features.__dict__)
        second = run(suite, keep_features=True).tasks["tone"].exits[0]
        assert second.macs != first.macs
        assert second.test != first.test

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("x.new_tensor(x.numpy().mean((2, 3)))", "made of operations of torch alone"),
            ("x.mean()", r"return a float32 tensor \(N, width\)"),
            ("x.flatten(1)[:, :8].reshape(-1, 4, 2)", "give 4 positions, and the tap at 'stem' has one row"),
            ("1 / 0", "ZeroDivisionError"),
        ],
    )
    def test_what_they_do_wrong_is_said_before_any_work(
        self, body: str, message: str, my_features: ModuleType, tmp_path: Path
    ) -> None:
        exec(f"def features(x):\n    return {body}\n", my_features.__dict__)
        with pytest.raises(OfframpError, match=message) as caught:
            run(lay_out(tmp_path, task(head={"side": self.SIDE})))
        assert "task tone" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
        assert not (tmp_path / "out" / "features").exists()

    def test_features_that_are_not_finite_name_the_window(self, my_features: ModuleType, tmp_path: Path) -> None:
        exec("def features(x):\n    return (x[:, 0, 0, :2] - x[:, 0, 0, :2]).log()\n", my_features.__dict__)
        with pytest.raises(OfframpError, match=r"features at input of window 0 are not finite"):
            run(lay_out(tmp_path, task(head={"side": self.SIDE})))


def test_the_encoder_runs_where_the_suite_was_prepared(tmp_path: Path) -> None:
    """A task's view is what its bundle has: widths of the heads that are counted are those that are fitted."""
    suite = lay_out(tmp_path, task(head={"pooling": "quantiles", "side": "dft_power"}))
    loaded = load_suite(suite)
    found = prepare(loaded.tasks[0], loaded, load(loaded, "cpu"))
    run(suite)
    heads = load_bundle(tmp_path / "out" / "bundle").tasks["tone"].heads
    assert {name: (head.inputs,) for name, head in heads.items()} == found.view.tap_shapes


LAST_SLOT = """
def features(x):
    return x[:, :, -1].unflatten(-1, (-1, 4)).unflatten(2, (-1, 4)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
"""


class TestTokens:
    """Heads that look at positions, with side features of the window or of each position beside them."""

    def test_side_features_by_position(self, my_features: ModuleType, tmp_path: Path) -> None:
        """The next slot is the last one turned: a head on the last slot's own values needs no encoder."""
        exec(LAST_SLOT, my_features.__dict__)
        rng = np.random.default_rng(0)
        channels = rng.standard_normal((COUNT, 3, 8, 8)) + 1j * rng.standard_normal((COUNT, 3, 8, 8))
        future = channels[:, -1:] * np.exp(0.7j)
        past, target = (np.stack([part.real, part.imag], 1).astype(np.float32) for part in (channels, future))
        data = arrays() | {"sample": past, "future": target}
        asked = task(
            "next",
            "future",
            kind="regression",
            metric="nmse_db",
            head={"pooling": "tokens", "side": "my_features:features"},
        )
        suite = lay_out(tmp_path, asked, data=data, controls=["random_encoder"])
        encoder = random_encoder(ChannelTransformer, {"width": 16, "depth": 2, "heads": 2}, 0)
        save_encoder(encoder, tmp_path / "encoder")
        found = run(suite).tasks["next"]
        assert [row.exit for row in found.exits] == ["input", "embedding", "block1", "block2"]
        assert found.exits[0].test.mean < -60
        folder = tmp_path / "out" / "bundle"
        stored = load_bundle(folder).tasks["next"]
        assert stored.heads["input"].positions.shape == (4, 32)
        assert (stored.heads["input"].inputs, stored.heads["block2"].inputs) == (32, 32 + 16)
        for exit in ("input", "block2"):
            moved = leaving_at(folder, tmp_path / exit, exit)
            values = offramp.load(moved).predict(past[:9])["next"].outputs.reshape(9, *target.shape[1:])
            np.testing.assert_allclose(values, target[:9], atol=0.05)
            export_onnx(moved, "next", tmp_path / f"{exit}.onnx")
            (answers,) = onnxruntime.InferenceSession(tmp_path / f"{exit}.onnx").run(None, {"windows": past[:9]})
            np.testing.assert_allclose(answers.reshape(values.shape), values, atol=1e-3)

    def test_attention_beside_features_of_the_window(self, tmp_path: Path) -> None:
        suite = lay_out(tmp_path, task(head={"pooling": "attention", "side": "power_only"}), seeds=[0])
        found, folder = run(suite).tasks["tone"], tmp_path / "out" / "bundle"
        assert [row.exit for row in found.exits] == SEEN
        stored, windows = load_bundle(folder).tasks["tone"], arrays()["sample"][:20]
        assert stored.heads["input"].query is None, "one row has no positions"
        tokens = freeze(tiny_encoder(repeats=1)).taps(torch.from_numpy(windows), ["stage3.0"], "tokens")["stage3.0"]
        beside = SIDES["power_only"].compute(torch.from_numpy(windows))[:, None].expand(-1, tokens.shape[1], -1)
        seen = torch.cat([beside, tokens], 2).double().numpy()
        head = stored.heads["stage3.0"]
        weight = np.exp(seen @ head.query - (seen @ head.query).max(1, keepdims=True))
        pooled = (seen * (weight / weight.sum(1, keepdims=True))[..., None]).sum(1)
        expected = softmax((pooled @ head.layers[0][0].T + head.layers[0][1]) / stored.temperatures["stage3.0"])
        moved = leaving_at(folder, tmp_path / "moved", "stage3.0")
        np.testing.assert_allclose(offramp.load(moved).predict(windows)["tone"].outputs, expected, atol=1e-4)
