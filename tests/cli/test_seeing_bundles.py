"""Bundles with side features, poolings and statistics on the command line: what is spoilt in them is one line, and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import IQ_SHAPE, bundle_of, seeing_task, small_shufflenet
from laboratory import Call, Lab, task
from safetensors.numpy import load_file, save_file

from offramp.bundle import ENCODER, save_bundle, save_examples
from offramp.encoders.recalibration import recalibrated, statistics_of, with_statistics
from offramp.encoders.storage import save_encoder
from offramp.encoders.taps import freeze

Refused = Callable[..., str]
LAYER = "set/stages.0.1.running_var"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """One task with everything that heads may see, on statistics of other windows."""
    encoder = freeze(small_shufflenet())
    statistics = statistics_of(recalibrated(encoder, [3 * encoder.input.draw(32, IQ_SHAPE)]))
    stored = seeing_task(
        with_statistics(encoder, statistics), "los", "stage2.1", IQ_SHAPE, {"stem": "statistics"}, "power_only"
    )
    folder = tmp_path / "bundle"
    save_encoder(encoder, folder / ENCODER)
    save_examples({"los": encoder.input.draw(5, IQ_SHAPE).numpy()}, folder)
    whole = replace(bundle_of(encoder, replace(stored, statistics="set")), statistics={"set": statistics})
    save_bundle(whole, folder, "# A bundle\n")
    np.savez(tmp_path / "windows.npz", sample=encoder.input.draw(6, IQ_SHAPE, 1).numpy())
    return folder


def tensors(file: str, change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        held = load_file(folder / file)
        change(held)
        save_file(held, folder / file)

    return spoil


def statistics(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    return tensors("statistics.safetensors", change)


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        change(content["tasks"]["los"])
        (folder / "config.json").write_text(json.dumps(content))

    return spoil


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no statistics": (lambda f: (f / "statistics.safetensors").unlink(), "it has no statistics.safetensors"),
    "no file of tensors": (lambda f: (f / "statistics.safetensors").write_bytes(b"x" * 99), "is damaged"),
    "other set": (config(lambda t: t.update(statistics="other")), "names the statistics 'other', which"),
    "a missing layer": (statistics(lambda s: s.pop(LAYER)), "stages.0.1.running_var is on one side alone"),
    "a layer too many": (statistics(lambda s: s.update({"set/x.running_mean": s[LAYER]})), "x.running_mean is on one"),
    "another shape": (statistics(lambda s: s.update({LAYER: np.ones(9, np.float32)})), "running_var have shape (9,)"),
    "NaN": (statistics(lambda s: s[LAYER].fill(np.nan)), "set/stages.0.1.running_var is not float32, or holds NaN"),
    "infinity": (statistics(lambda s: s[LAYER].fill(np.inf)), "is not float32, or holds NaN or infinity"),
    "doubles": (statistics(lambda s: s.update({LAYER: s[LAYER].astype(np.float64)})), "is not float32"),
    "no variance": (statistics(lambda s: s[LAYER].fill(-1)), "is below zero"),
    "unknown side": (config(lambda t: t.update(side="spectrum")), "unknown side features 'spectrum': choose handmade"),
    "side of the system": (config(lambda t: t.update(side="os:system")), "os defines no function of its own"),
    "side not imported": (config(lambda t: t.update(side="wave_tricks:f")), "with --import wave_tricks"),
    "another side": (config(lambda t: t.update(side="handmade")), "at exit 'input' takes taps of shape (19,) where"),
    "no side": (config(lambda t: t.update(side=None)), "has a head at 'input', an exit that the encoder lacks"),
    "unknown pooling": (config(lambda t: t["poolings"].update(stem="max")), "poolings.stem: input should be 'default'"),
    "pooling elsewhere": (
        config(lambda t: t["poolings"].update(root="quantiles")),
        "has a pooling at 'root', an exit that the encoder lacks",
    ),
    "another pooling": (
        config(lambda t: t["poolings"].update(stem="quantiles")),
        "at exit 'stem' takes taps of shape (35,) where the encoder gives (59,)",
    ),
    "pooling of tokens": (config(lambda t: t["poolings"].update(stem="tokens")), "no positions, and the task's heads"),
    "tokens at the input": (config(lambda t: t["poolings"].update(input="tokens")), "at exit 'input' has no positions"),
    "a narrower head": (
        tensors("heads.safetensors", lambda h: h.update({"los/stem/0/weight": h["los/stem/0/weight"][:, 1:].copy()})),
        "at exit 'stem' takes taps of shape (34,) where the encoder gives (35,)",
    ),
    "a query for one row": (
        lambda f: (
            tensors("heads.safetensors", lambda h: h.update({"los/input/query": np.ones(19, np.float32)}))(f),
            config(lambda t: t["poolings"].update(input="tokens"))(f),
        ),
        "at exit 'input' takes taps of shape (19, 19) where the encoder gives (19,)",
    ),
    "no head at the input": (
        config(lambda t: t["layers"].pop("input")),
        "has no head at exit 'input'",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_spoilt_is_one_line(name: str, bundle: Path, refused: Refused, tmp_path: Path) -> None:
    spoil, words = SPOILT[name]
    spoil(bundle)
    line = refused("predict", bundle, tmp_path / "windows.npz", "--out", tmp_path / "p.csv", words=words)
    assert len(line) < 500
    assert not (tmp_path / "p.csv").exists()
    refused("export", bundle, "--out", tmp_path / "t.onnx", words=words)
    assert not (tmp_path / "t.onnx").exists()
    assert "wave_tricks" not in sys.modules


def test_as_it_is_it_answers(bundle: Path, call: Call, tmp_path: Path) -> None:
    code, out, err = call("predict", bundle, tmp_path / "windows.npz")
    assert (code, out.count("\n")) == (0, 7), err


FEATURES = """
def level(x):
    return x.square().sum(1).flatten(1).mean(1, keepdim=True).log()
"""


@pytest.fixture
def own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A laboratory with side features of its own, in the module ``own_features`` of the current folder."""
    (lab / "own_features.py").write_text(FEATURES)
    monkeypatch.chdir(lab.folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield lab
    sys.modules.pop("own_features", None)


def test_side_features_of_ones_own_are_imported_by_the_command_line_alone(
    own: Lab, call: Call, refused: Refused
) -> None:
    suite = own.suite(task(head={"side": "own_features:level"}))
    words = "task los, "
    refused("run", suite, "--out", own / "run", words=[words, "with --import own_features"])
    refused("run", suite, "--dry-run", words=[words, "with --import own_features"])
    assert "own_features" not in sys.modules
    code, _, err = call("--import", "own_features", "run", suite, "--out", own / "run")
    assert code == 0, err
    bundle = own / "run" / "bundle"
    code, out, _ = call("--import", "own_features", "predict", bundle, own / "data.h5")
    assert (code, out.count("\n")) == (0, 121)
    del sys.modules["own_features"]
    refused("predict", bundle, own / "data.h5", words="import the module first, e.g. with --import own_features")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"side": "spectrum"}, "unknown side features 'spectrum': choose handmade, handmade_level_free"),
        ({"side": "os:system"}, "os defines no function of its own called system"),
        ({"side": ""}, "tasks.0.head.side: string should have at least 1 character"),
        ({"pooling": "max"}, "tasks.0.head.pooling"),
        ({"pooling": ["default", "statistics"]}, "tasks.0.head.pooling"),
    ],
)
def test_heads_that_cannot_be_had(head: dict[str, Any], words: str, lab: Lab, refused: Refused) -> None:
    refused("run", lab.suite(task(head=head)), "--out", lab / "run", words=words)
    assert not (lab / "run" / "features").exists()
