"""The reference of a bundle: read back as written, the same bytes, and one clear line for what is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from offramp.bundle import REFERENCE, TaskReference, load_reference, save_reference
from offramp.bundle.reference import PolicyAnswers, Projection
from offramp.errors import BundleError

COUNT, WIDTH = 30, 5


def projection(rng: np.random.Generator, kept: int, width: int = WIDTH) -> Projection:
    return Projection(
        rng.standard_normal(width).astype(np.float32), rng.standard_normal((kept, width)).astype(np.float32)
    )


def classification(seed: int = 0) -> TaskReference:
    rng = np.random.default_rng(seed)
    answers = {
        name: PolicyAnswers(
            exits,
            rng.integers(0, len(exits), COUNT).astype(np.uint8),
            rng.random(COUNT).astype(np.float32),
            rng.integers(0, 3, COUNT).astype(np.int32),
        )
        for name, exits in {"fixed": ("b",), "routed / odd": ("a", "b")}.items()
    }
    features = rng.standard_normal((COUNT, 4)).astype(np.float32)
    groups = np.sort(rng.integers(0, 7, COUNT)).astype(np.int32)
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    return TaskReference(
        "classification", 3, "a", True, "validation", groups, features, projection(rng, 4), None, answers
    )


def regression() -> TaskReference:
    rng = np.random.default_rng(1)
    answers = PolicyAnswers(
        ("b",), np.zeros(COUNT, np.uint8), values=rng.standard_normal((COUNT, 2)).astype(np.float32)
    )
    changes = {"kind": "regression", "classes": 0, "held_out": "calibration", "policies": {"fixed": answers}}
    return replace(classification(2), value_projection=projection(rng, 2), **changes)


def arrays(reference: TaskReference) -> list[Any]:
    found: list[Any] = [
        reference.groups,
        reference.features,
        reference.projection.mean,
        reference.projection.components,
    ]
    if reference.value_projection is not None:
        found += [reference.value_projection.mean, reference.value_projection.components]
    for answers in reference.policies.values():
        found += [answers.left, answers.confidence, answers.predicted, answers.values]
    return found


def test_round_trip(tmp_path: Path) -> None:
    written = {"los": classification(), "range in m": regression()}
    save_reference(written, tmp_path)
    read = load_reference(tmp_path)
    assert list(read) == list(written)
    for name, task in written.items():
        told = ("kind", "classes", "exit", "grouped", "held_out")
        assert [getattr(read[name], each) for each in told] == [getattr(task, each) for each in told]
        assert {policy: each.exits for policy, each in read[name].policies.items()} == {
            policy: each.exits for policy, each in task.policies.items()
        }
        for ours, theirs in zip(arrays(read[name]), arrays(task), strict=True):
            if theirs is None:
                assert ours is None
            else:
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype


def test_the_same_is_written_as_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        save_reference({"los": classification(), "range": regression()}, folder)
    first, second = ((folder / REFERENCE).read_bytes() for folder in folders)
    assert first == second


def test_without_one_nothing_is_there(tmp_path: Path) -> None:
    assert load_reference(tmp_path) == {}
    save_reference({"los": classification()}, tmp_path)
    assert load_reference(tmp_path)
    save_reference({}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_projection_is_a_product() -> None:
    made = Projection(np.array([1, 2, 3], np.float32), np.array([[1, 0, 0], [0, 2, -1]], np.float32))
    np.testing.assert_array_equal(made(np.array([[1, 2, 3], [4, 4, 4]], np.float32)), [[0, 0], [3, 3]])
    with pytest.raises(
        BundleError, match=r"rows of shape \(1, 2\) cannot be compared with the reference's, which are 3 wide"
    ):
        made(np.zeros((1, 2), np.float32))


def change(name: str, value: np.ndarray | None) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with safe_open(path, "np") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        assert name in tensors
        kept = {each: array for each, array in tensors.items() if each != name}
        save_file(kept if value is None else kept | {name: value}, path, metadata)

    return spoil


def retell(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with safe_open(path, "np") as file:
            told = json.loads(file.metadata()["offramp"])
        edit(told)
        save_file(load_file(path), path, {"offramp": json.dumps(told)})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "reference.safetensors is damaged"),
        (lambda path: path.write_bytes(b""), "reference.safetensors is damaged"),
        (lambda path: save_file(load_file(path), path), "it lacks 'offramp'"),
        (lambda path: save_file(load_file(path), path, {"offramp": "{"}), "reference.safetensors is damaged"),
        (lambda path: save_file(load_file(path), path, {"offramp": "[]"}), "another schema than 1"),
        (retell(lambda told: told.update(schema=2)), "another schema than 1"),
        (retell(lambda told: told["tasks"]["los"].pop("exit")), "los.exit"),
        (retell(lambda told: told["tasks"]["los"].update(held_out="x")), "held_out"),
        (retell(lambda told: told["tasks"]["los"]["policies"].update(fixed=[])), "policies.fixed"),
        (
            retell(lambda told: told["tasks"]["los"]["policies"].update(other=["a"])),
            "it lacks 'los/policies/other/left'",
        ),
        (retell(lambda told: told["tasks"]["los"].update(classes=2)), "predicted holds a class that there is none of"),
        (change("los/groups", None), "it lacks 'los/groups'"),
        (change("los/groups", np.zeros(COUNT, np.int64)), "los/groups is int64"),
        (change("los/groups", np.arange(COUNT, dtype=np.int32)[::-1].copy()), "does not count recordings"),
        (change("los/groups", np.full(COUNT, 2**31 - 1, np.int32)), "does not count recordings"),
        (change("los/features", np.zeros((COUNT, 3), np.float32)), r"los/features is float32 \(30, 3\)"),
        (change("los/features", np.full((COUNT, 4), np.nan, np.float32)), "los/features holds NaN"),
        (change("los/projection/components", np.zeros((4, 6), np.float32)), "components is float32"),
        (change("los/policies/fixed/left", np.ones(COUNT, np.uint8)), "left names an exit that the policy lacks"),
        (change("los/policies/fixed/confidence", np.zeros(3, np.float32)), "confidence is float32"),
        (change("los/policies/fixed/predicted", np.full(COUNT, -1, np.int32)), "a class that there is none of"),
        (change("range/policies/fixed/values", np.zeros((COUNT, 9), np.float32)), "values is float32"),
    ],
)
def test_damage_is_one_clear_line(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    save_reference({"los": classification(), "range": regression()}, tmp_path)
    spoil(tmp_path / REFERENCE)
    with pytest.raises(BundleError, match=message) as caught:
        load_reference(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("save the bundle again, or delete the file")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / REFERENCE).mkdir()
    with pytest.raises(BundleError, match=r"reference\.safetensors cannot be read"):
        load_reference(tmp_path)


def test_no_torch_is_imported() -> None:
    code = "import sys, offramp.bundle.reference, offramp.runtime.reference; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
