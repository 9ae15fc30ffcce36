import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import IQ_SHAPE, STANDARDIZE, bundle_of, iq_bundle, small_shufflenet, task, token_task, write
from safetensors.numpy import load_file, save_file

from offramp.bundle import Head, load_bundle, load_examples, save_bundle, save_examples
from offramp.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return iq_bundle(tmp_path / "bundle")


def change_config(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def change_tensor(folder: Path, name: str, value: np.ndarray) -> None:
    tensors = load_file(folder / "heads.safetensors")
    assert name in tensors
    save_file({**tensors, name: value}, folder / "heads.safetensors")


def test_head_is_linear_or_mlp():
    linear = Head(((np.array([[1, 2]], np.float32), np.array([3], np.float32)),))
    assert linear(np.array([[10, 100]], np.float32)).tolist() == [[213]]
    mlp = Head((*linear.layers, (np.array([[2], [-1]], np.float32), np.array([0, 1], np.float32))))
    assert mlp(np.array([[10, 100], [-10, 0]], np.float32)).tolist() == [[426, -212], [0, 1]]
    assert (mlp.inputs, mlp.outputs) == (2, 2)


def test_round_trip(folder: Path):
    encoder = small_shufflenet()
    loaded = load_bundle(folder)
    assert loaded.encoder["sha256"] == encoder.fingerprint()
    assert [exit["name"] for exit in loaded.encoder["exits"]] == [exit.name for exit in encoder.exits]
    assert loaded.encoder_path is None
    assert list(loaded.tasks) == ["modulation", "angle", "device", "shape"]
    device = loaded.task("device")
    assert (device.kind, device.exit, device.label_names, device.window_shape) == (
        "classification",
        "stem",
        ("a", "b"),
        IQ_SHAPE,
    )
    assert device.transform == STANDARDIZE
    assert device.data == {"format": "npz", "input": "sample"}
    written = task(encoder, "angle", "stage3.0", IQ_SHAPE, hidden=(7,))
    for exit, head in loaded.task("angle").heads.items():
        for (weight, bias), (w, b) in zip(head.layers, written.heads[exit].layers, strict=True):
            np.testing.assert_array_equal(weight, w)
            np.testing.assert_array_equal(bias, b)
    assert (folder / "README.md").read_text() == "# A bundle\n"


def test_examples_keep_at_most_sixteen_windows(tmp_path: Path):
    assert load_examples(tmp_path) == {}
    windows = np.arange(20 * 6, dtype=np.float32).reshape(20, 2, 3)
    save_examples({"a": windows, "b": windows[:2]}, tmp_path)
    loaded = load_examples(tmp_path)
    np.testing.assert_array_equal(loaded["a"], windows[:16])
    np.testing.assert_array_equal(loaded["b"], windows[:2])


def test_no_torch_is_imported():
    code = "import sys, offramp.bundle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_task(folder: Path):
    with pytest.raises(BundleError, match="unknown task 'x': the bundle has modulation, angle, device, shape"):
        load_bundle(folder).task("x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "heads.safetensors").unlink(), "has no heads.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "schema None"),
        (lambda f: change_config(f, lambda c: c.update(schema=2)), "schema 2: this version of offramp reads schema 1"),
        (lambda f: change_config(f, lambda c: c["encoder"].pop("sha256")), "'sha256' is missing"),
        (lambda f: change_config(f, lambda c: c["encoder"].update(exits=[{}])), "'name' is missing"),
        (lambda f: change_config(f, lambda c: c["tasks"]["angle"].pop("metric")), "'metric' is missing"),
        (lambda f: change_config(f, lambda c: c["tasks"]["angle"].update(window_shape=3)), "is damaged"),
        (lambda f: change_config(f, lambda c: c["tasks"]["angle"].update(exit="stage9")), "no head at exit 'stage9'"),
        (lambda f: change_config(f, lambda c: c.update(tasks={})), "no tasks"),
        (
            lambda f: change_config(f, lambda c: c["tasks"]["device"]["label_names"].append("c")),
            "2 outputs instead of 3",
        ),
        (
            lambda f: (f / "heads.safetensors").write_bytes((f / "heads.safetensors").read_bytes()[:-100]),
            "heads.safetensors is damaged",
        ),
        (lambda f: change_tensor(f, "device/stem/0/weight", np.zeros((2, 9), np.float32)), "where 8 inputs arrive"),
        (lambda f: change_tensor(f, "device/stem/0/bias", np.zeros(3, np.float32)), "where 8 inputs arrive"),
        (lambda f: change_tensor(f, "device/stem/0/bias", np.zeros(2, np.float64)), "float64 instead of float32"),
        (lambda f: change_tensor(f, "device/stem/0/bias", np.array([0, np.nan], np.float32)), "holds NaN"),
    ],
)
def test_spoilt_bundle_is_one_clear_line(folder: Path, spoil, message: str):
    spoil(folder)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_run_names_its_bundle(folder: Path):
    run = folder.parent / "run"
    run.mkdir()
    folder.rename(run / "bundle")
    with pytest.raises(BundleError, match=r"run is not a bundle: it has no config.json; give .*run/bundle$"):
        load_bundle(run)


def set_at(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Change a value of a configuration; ``tasks.angle.window_shape.0`` says which."""

    def change(config: Any) -> None:
        *above, last = path.split(".")
        for key in above:
            config = config[int(key) if isinstance(config, list) else key]
        config[int(last) if isinstance(config, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("encoder", [], "encoder: input should be a valid dictionary"),
        ("encoder.architecture", 5, "encoder.architecture: input should be a valid string"),
        ("encoder.config", "none", "encoder.config: input should be a valid dictionary"),
        ("encoder.exits", [], "each exit needs a name of its own"),
        ("encoder.exits.1.name", "stem", "each exit needs a name of its own"),
        ("encoder.exits.1.width", 8.5, "encoder.exits.1.width: input should be a valid integer"),
        ("encoder.exits.1.width", True, "encoder.exits.1.width: input should be a valid integer"),
        ("encoder_path", "a" * 300, "encoder_path: this is no path"),
        ("encoder_path", "a\0b", "encoder_path: this is no path"),
        ("tasks", [], "tasks: input should be a valid dictionary"),
        ("tasks.angle.kind", "ranking", "tasks.angle.kind: input should be 'classification' or 'regression'"),
        ("tasks.angle.label_names", "abc", "tasks.angle.label_names: input should be a valid list"),
        ("tasks.device.label_names", ["a", 2], "tasks.device.label_names.1: input should be a valid string"),
        ("tasks.angle.transform", "none", "tasks.angle.transform"),
        ("tasks.angle.transform.name", "fourier", "tasks.angle.transform.name"),
        ("tasks.angle.transform.frames", 1, "tasks.angle.transform.frames: input should be greater than or equal to 2"),
        ("tasks.device.transform.mean", [0.1], "standardize needs mean and scale of 2 channels"),
        ("tasks.device.transform.scale", [1.0, float("nan")], "NaN is no number"),
        ("tasks.angle.window_shape", [], "tasks.angle.window_shape: list should have at least 1 item"),
        ("tasks.angle.window_shape", [2, 0, 96], "tasks.angle.window_shape.1: input should be greater"),
        ("tasks.angle.window_shape", [2, 2, [96]], "tasks.angle.window_shape.2: input should be a valid integer"),
        ("tasks.angle.window_shape", [2, 2, 10**9], "tasks.angle.window_shape: more than 67,108,864 values"),
        ("tasks.angle.target_shape", "NaN", "tasks.angle.target_shape: input should be a valid list"),
        ("tasks.angle.layers.stem", 10**12, "tasks.angle.layers.stem: input should be less than or equal to 2"),
        ("tasks.angle.layers.stem", "1", "tasks.angle.layers.stem: input should be a valid integer"),
        ("tasks.angle.val", [], "tasks.angle.val: input should be a valid dictionary"),
        ("tasks.angle.val", {}, "no validation score of its exit 'stage3.0'"),
        ("tasks.angle.data.hop", [1, 2], "tasks.angle.data: hop: input should be a valid integer"),
        ("tasks.angle.data.cut", "middle", "tasks.angle.data: cut: input should be"),
        (
            "tasks.angle.pooling",
            "max",
            "tasks.angle.pooling: input should be 'default', 'statistics', 'quantiles', 'second_order' or 'tokens'",
        ),
        ("tasks.angle.poolings", {"stem": "max"}, "tasks.angle.poolings.stem: input should be 'default', 'statistics'"),
        ("tasks.angle.poolings", ["stem"], "tasks.angle.poolings: input should be a valid dictionary"),
        ("tasks.angle.side", "", "tasks.angle.side: string should have at least 1 character"),
        ("tasks.angle.side", ["handmade"], "tasks.angle.side: input should be a valid string"),
        ("tasks.angle.statistics", 3, "tasks.angle.statistics: input should be a valid string"),
        ("schema", True, "has schema True"),
        ("schema", "1" * 5000, "has schema '111"),
    ],
)
def test_a_wrong_type_or_size_is_named_before_anything_is_read(folder: Path, path: str, value: object, message: str):
    change_config(folder, set_at(path, value))
    if "no validation score" not in message:
        (folder / "heads.safetensors").unlink()
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 20_000 + "]" * 20_000, "\x00", '{"schema": 1e400}'])
def test_what_is_no_configuration_at_all(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(BundleError):
        load_bundle(folder)


def test_what_a_later_version_adds_is_not_looked_at(folder: Path):
    change_config(folder, set_at("tasks.angle.novelty", {"a": 1}))
    change_config(folder, set_at("encoder.novelty", 3))
    assert load_bundle(folder).task("angle").kind == "regression"


def test_the_only_task_needs_no_name(folder: Path):
    loaded = load_bundle(folder)
    assert loaded.choose("angle").name == "angle"
    with pytest.raises(
        BundleError, match=r"several tasks: choose one with --task \(modulation, angle, device, shape\)"
    ):
        loaded.choose(None)
    change_config(folder, lambda c: [c["tasks"].pop(name) for name in ("modulation", "device", "shape")])
    assert load_bundle(folder).choose(None).name == "angle"


def test_missing_folder(tmp_path: Path):
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(tmp_path / "nothing")


def test_heads_that_do_not_fit_are_not_saved(tmp_path: Path):
    encoder = small_shufflenet()
    fitting = task(encoder, "a", "stem", IQ_SHAPE, ("x", "y"))
    spoilt = replace(fitting, heads=dict.fromkeys(fitting.heads, fitting.heads["stem"]))
    with pytest.raises(BundleError, match="where 16 inputs arrive"):
        save_bundle(bundle_of(encoder, spoilt), tmp_path / "b", "")
    assert not (tmp_path / "b" / "config.json").exists()


TARGET = (2, 3, 48)
"""Its 288 values are shared by the 96, 48, 24 ... positions of the exits."""


class TestTokens:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        encoder = small_shufflenet()
        written = token_task(encoder, "channel", "stage3.0", IQ_SHAPE, TARGET)
        return write(tmp_path / "bundle", encoder, written, task(encoder, "angle", "stem", IQ_SHAPE))

    def test_round_trip(self, folder: Path):
        written = token_task(small_shufflenet(), "channel", "stage3.0", IQ_SHAPE, TARGET)
        loaded = load_bundle(folder)
        channel, angle = loaded.task("channel"), loaded.task("angle")
        assert (channel.poolings, channel.target_shape) == (dict.fromkeys(channel.heads, "tokens"), TARGET)
        assert (set(angle.poolings.values()), angle.target_shape) == ({"default"}, ())
        for exit, head in channel.heads.items():
            np.testing.assert_array_equal(head.positions, written.heads[exit].positions)
            assert head.positions.dtype == np.int64
            np.testing.assert_array_equal(head.layers[0][0], written.heads[exit].layers[0][0])
        assert all(head.positions is None for head in angle.heads.values())

    def test_a_bundle_from_before_there_were_tokens(self, folder: Path):
        keys = ("poolings", "target_shape", "side", "statistics")
        change_config(folder, lambda c: [c["tasks"]["angle"].pop(key) for key in keys])
        angle = load_bundle(folder).task("angle")
        assert set(angle.poolings.values()) == {"default"}
        assert (angle.side, angle.statistics) == (None, None)

    def test_a_bundle_from_when_a_task_had_one_pooling(self, folder: Path):
        expected = load_bundle(folder).task("channel")

        def as_before(config: dict) -> None:
            for stored, pooling in ((config["tasks"]["channel"], "tokens"), (config["tasks"]["angle"], "default")):
                for key in ("poolings", "side", "statistics"):
                    del stored[key]
                stored["pooling"] = pooling

        change_config(folder, as_before)
        channel = load_bundle(folder).task("channel")
        assert channel.poolings == expected.poolings
        for exit, head in channel.heads.items():
            np.testing.assert_array_equal(head.positions, expected.heads[exit].positions)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda f: change_tensor(f, NAME, np.zeros((12, 24), np.int64)), "each of 288 values once"),
            (lambda f: change_tensor(f, NAME, np.arange(1, 289).reshape(12, 24)), "each of 288 values once"),
            (lambda f: change_tensor(f, NAME, np.arange(-1, 287).reshape(12, 24)), "each of 288 values once"),
            (lambda f: change_tensor(f, NAME, np.arange(276).reshape(12, 23)), "each of 288 values once"),
            (lambda f: change_tensor(f, NAME, np.arange(288)), "each of 288 values once"),
            (lambda f: change_tensor(f, NAME, np.arange(288, dtype=np.int32).reshape(12, 24)), "of int32"),
            (lambda f: change_tensor(f, NAME, np.arange(288).reshape(24, 12)), "gives 24 outputs instead of 12"),
            (lambda f: drop_tensor(f, NAME), "at exit 'stage3.0' has no positions, and the task's heads take tokens"),
            (
                lambda f: change_config(f, lambda c: c["tasks"]["channel"].update(poolings={})),
                "has positions, and the task's heads take default",
            ),
            (
                lambda f: change_config(f, lambda c: c["tasks"]["channel"].update(target_shape=[2, 3])),
                "each of 6 values",
            ),
            (lambda f: change_config(f, lambda c: c["tasks"]["channel"].update(target_shape=7)), "is damaged"),
            (lambda f: change_tensor(f, WEIGHT, np.zeros(24, np.float32)), "where 1 inputs arrive"),
            (lambda f: change_tensor(f, WEIGHT, np.full((24, 16), np.nan, np.float32)), "holds NaN"),
        ],
    )
    def test_spoilt_bundle_is_one_clear_line(self, folder: Path, spoil, message: str):
        spoil(folder)
        with pytest.raises(BundleError, match=message) as caught:
            load_bundle(folder)
        assert "\n" not in str(caught.value)

    def test_a_task_has_one_pooling(self, tmp_path: Path):
        encoder = small_shufflenet()
        tokens, plain = token_task(encoder, "a", "stem", IQ_SHAPE, TARGET), task(encoder, "a", "stem", IQ_SHAPE)
        mixed = replace(tokens, heads={**tokens.heads, "conv5": plain.heads["conv5"]})
        with pytest.raises(BundleError, match="has no positions, and the task's heads take tokens"):
            save_bundle(bundle_of(encoder, mixed), tmp_path / "b", "")


NAME, WEIGHT = "channel/stage3.0/positions", "channel/stage3.0/0/weight"


def drop_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "heads.safetensors")
    del tensors[name]
    save_file(tensors, folder / "heads.safetensors")


POLICY = {
    "kind": "classification",
    "criterion": "confidence",
    "exits": ["stem", "stage3.0"],
    "thresholds": [0.9],
    "temperatures": [1.0, 2.0],
    "answer_temperatures": [1.0, 1.5],
    "parameters": {},
    "reject_below": None,
}


class TestPolicies:
    def test_round_trip(self, tmp_path: Path):
        encoder = small_shufflenet()
        routed = replace(task(encoder, "a", "stem", IQ_SHAPE, ("x", "y")), policies={"fast": POLICY})
        folder = write(tmp_path / "bundle", encoder, routed, task(encoder, "b", "stem", IQ_SHAPE, ("x", "y")))
        loaded = load_bundle(folder)
        assert loaded.task("a").policies == {"fast": POLICY}
        assert loaded.task("b").policies == {}
        assert json.loads((folder / "config.json").read_text())["schema"] == 1

    def test_a_bundle_from_before_there_were_policies(self, folder: Path):
        change_config(folder, lambda c: [stored.pop("policies") for stored in c["tasks"].values()])
        assert load_bundle(folder).task("angle").policies == {}

    @pytest.mark.parametrize(
        ("policies", "message"),
        [
            (
                {"fast": POLICY | {"exits": ["stem", "stage9"]}},
                "policy 'fast' of task 'device' .* 'stage9', which has no",
            ),
            ({"fast": POLICY | {"exits": ["stage3.0", "stem"]}}, "stage3.0, stem, which is not the order of depth"),
            ({"fast": POLICY | {"exits": ["stem", "stem"]}}, "not the order of depth"),
            ({"fast": POLICY | {"kind": "regression"}}, "is for regression, and the task is a classification"),
            ({"fast": POLICY | {"exits": []}}, "does not name the exits"),
            ({"fast": POLICY | {"exits": [["stem"]]}}, "does not name the exits"),
            ({"fast": POLICY | {"exits": "stem"}}, "does not name the exits"),
            ({"fast": {}}, "is for None"),
            ({"fast": None}, "is damaged"),
            ([POLICY], "is damaged"),
        ],
    )
    def test_one_that_does_not_fit_is_one_clear_line(self, folder: Path, policies, message: str):
        change_config(folder, lambda c: c["tasks"]["device"].update(policies=policies))
        with pytest.raises(BundleError, match=message) as caught:
            load_bundle(folder)
        assert "\n" not in str(caught.value)

    def test_one_that_does_not_fit_is_not_saved(self, tmp_path: Path):
        encoder = small_shufflenet()
        fitting = task(encoder, "a", "stem", IQ_SHAPE, ("x", "y"))
        spoilt = replace(fitting, policies={"fast": POLICY | {"exits": ["stage9"]}})
        with pytest.raises(BundleError, match="which has no head"):
            save_bundle(bundle_of(encoder, spoilt), tmp_path / "b", "")
        assert not (tmp_path / "b" / "config.json").exists()
