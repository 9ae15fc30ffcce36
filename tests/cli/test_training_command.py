"""offramp train: an encoder folder that a suite can name, learned from training windows alone."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from laboratory import EXITS, TEST, Call, Lab, arrays, task

from offramp.data.dataset import load_dataset
from offramp.data.splits import make_split
from offramp.encoders.registry import load_encoder
from offramp.schema.suite import load_suite

QUICK = ("--task", "los", "--steps", 3, "--batch", 8)


def test_a_suite_can_name_what_was_trained(lab: Lab, call: Call) -> None:
    suite = lab.suite()
    code, out, err = call("train", suite, *QUICK, "--out", lab / "joint")
    assert code == 0, err
    *scores, folder = out.splitlines()
    assert [line.split()[0] for line in scores] == EXITS
    assert folder == str(lab / "joint" / "encoder")
    trained, given = load_encoder(lab / "joint" / "encoder"), load_encoder(lab / "encoder")
    assert trained.fingerprint() != given.fingerprint()
    stored = json.loads((lab / "joint" / "encoder" / "config.json").read_text())["provenance"]
    assert stored["started_from"]["sha256"] == given.fingerprint()
    assert stored["training"]["method"] == "joint"
    assert set(stored["validation"]) == {"metric", *EXITS}
    again = lab.suite(name="again.yaml", encoder="joint/encoder", seeds=[0])
    assert call("run", again, "--out", lab / "run")[0] == 0
    assert json.loads((lab / "run" / "results.json").read_text())["encoder"]["sha256"] == trained.fingerprint()


def test_no_test_window_is_read(lab: Lab, call: Call) -> None:
    content = arrays()
    before = call("train", lab.suite(), *QUICK, "--out", lab / "whole")
    windows = content["sample"].copy()
    windows[np.isin(content["city"], TEST)] = np.nan
    lab.data(sample=windows)
    after = call("train", lab.suite(), *QUICK, "--out", lab / "holes")
    assert after[0] == 0, after[2]
    assert after[1].splitlines()[:-1] == before[1].splitlines()[:-1]
    whole, holes = (load_encoder(lab / name / "encoder").fingerprint() for name in ("whole", "holes"))
    assert whole == holes


def test_it_learns_from_the_first_seeds_training_windows(lab: Lab, call: Call) -> None:
    """With the labels of all other windows shuffled, the weights come out the same."""
    suite = lab.suite(seeds=[3, 0])
    call("train", suite, *QUICK, "--out", lab / "true")
    loaded = load_suite(suite)
    spec = loaded.tasks[0]
    split = make_split(load_dataset(spec.data, spec.kind), spec.split, spec.kind, spec.shots, (3, 0), 0)
    train = split.draws[0].folds[0][0]
    assert 0 < len(train) < 80
    other = np.setdiff1d(np.arange(120), train)
    windows = arrays()["sample"].copy()
    windows[other] = windows[other][::-1]
    lab.data(sample=windows)
    call("train", suite, *QUICK, "--out", lab / "other")
    true, changed = (load_encoder(lab / name / "encoder").fingerprint() for name in ("true", "other"))
    assert true == changed


def test_up_to_one_exit(lab: Lab, call: Call) -> None:
    code, out, err = call("train", lab.suite(), *QUICK, "--method", "full", "--exit", "stage3.0", "--out", lab / "o")
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[:-1]] == ["stage3.0"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "jointly"], "choose one of joint, progressive"),
        (["--task", "angle"], "unknown task 'angle': the suite has los"),
        (["--steps", 0], "steps 0: give 1 or more"),
        (["--method", "full", "--exit", "attic"], "unknown exit 'attic'"),
        (["--exit", "stem"], "is for the methods low-rank and full"),
        (["--device", "abacus"], "device 'abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    lab: Lab, refused: Callable[..., str], options: list[object], words: str
) -> None:
    refused("train", lab.suite(task()), *QUICK, "--out", lab / "out", *options, words=words)


def test_a_folder_holds_one_training(lab: Lab, call: Call, refused: Callable[..., str]) -> None:
    first = call("train", lab.suite(), *QUICK, "--out", lab / "out")
    assert call("train", lab.suite(), *QUICK, "--out", lab / "out") == first
    refused("train", lab.suite(), *QUICK, "--out", lab / "out", "--seed", 1, words="seed 0 -> 1")
