"""The reference that a run leaves: of windows that no head learned from, as the bundle itself answers them, the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import tiny_encoder, tones, write_hdf5

from offramp import costs
from offramp.bundle import REFERENCE, TaskReference, load_bundle, load_reference
from offramp.data.dataset import Dataset, load_dataset
from offramp.data.splits import Split, load_split
from offramp.encoders.storage import save_encoder
from offramp.experiment import pipeline
from offramp.experiment.pipeline import run_suite
from offramp.runtime import load
from offramp.runtime.reference import answers_of, first_exit
from offramp.schema.suite import load_suite

COUNT, GROUPS = 480, 48
NAMES = np.array([f"city_{number:02}" for number in np.arange(COUNT) % GROUPS])


@pytest.fixture(autouse=True, scope="module")
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        latency = costs.Latency(p50=0.1, p95=0.2, p99=0.3)
        exits = ["stem", "stage2.0", "stage3.0", "stage4.0", "conv5"]
        patch.setattr(costs, "exit_latencies", lambda *_, **__: dict.fromkeys(exits, latency))
        patch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))
        yield


def lay_out(folder: Path, **suite: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    windows, labels = tones(COUNT)
    angle = np.stack([labels * 10.0 + 5, labels * -2.0], axis=1)
    write_hdf5(folder / "data.h5", sample=windows, label=labels, town=NAMES, angle=angle)
    content = {"encoder": "encoder", "seeds": [0], "controls": []} | suite
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "suite.yaml"


def task(name: str, target: str = "label", group: str | None = "town", **changes: Any) -> dict[str, Any]:
    data = {"path": "data.h5", "target": target} | ({"group": group} if group else {})
    return {"name": name, "data": data} | changes


SUITE = {
    "tasks": [
        task("grouped", split={"calibration": 0.25}),
        task("validated"),
        task("angle", "angle", kind="regression"),
        task("alone", group=None),
        task("few", shots=8),
    ],
    "policies": {},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suite = lay_out(tmp_path_factory.mktemp("reference"), **SUITE)
    run_suite(load_suite(suite), suite.parent / "out")
    return suite


def parts(ran: Path, name: str) -> tuple[TaskReference, Dataset, Split]:
    loaded = load_suite(ran)
    spec = next(each for each in loaded.tasks if each.name == name)
    dataset = load_dataset(spec.data, spec.kind)
    split = load_split(ran.parent / "out" / "splits" / f"{name}.json", dataset)
    return load_reference(ran.parent / "out" / "bundle")[name], dataset, split


@pytest.mark.parametrize("name", ["grouped", "validated", "angle", "alone"])
def test_it_is_what_the_bundle_answers_to_held_out_windows(ran: Path, name: str) -> None:
    reference, dataset, split = parts(ran, name)
    held = split.calibration if name == "grouped" else split.draws[0].folds[0][1]
    assert reference.held_out == ("calibration" if name == "grouped" else "validation")
    assert reference.grouped == (name != "alone")
    if reference.grouped:
        held = held[np.argsort(dataset.groups[held], kind="stable")]
        expected = np.unique(dataset.groups[held], return_inverse=True)[1]
    else:
        held, expected = np.sort(held), np.arange(len(held))
    np.testing.assert_array_equal(reference.groups, expected)
    predictor = load(ran.parent / "out" / "bundle")
    windows = dataset.windows.read(held)
    stored = predictor.bundle.task(name)
    assert set(reference.policies) == {"fixed", *stored.policies}
    for policy, kept in reference.policies.items():
        prediction = predictor.predict(windows, [name], policy=None if policy == "fixed" else policy)[name]
        live = answers_of(prediction, reference.value_projection)
        assert live.exits == kept.exits
        assert np.mean(live.left == kept.left) > 0.99  # a window may stand at a threshold
        same = live.left == kept.left
        for ours, theirs in zip((live.confidence, live.values), (kept.confidence, kept.values), strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                np.testing.assert_allclose(ours[same], theirs[same], atol=1e-3)
    assert reference.exit == first_exit(stored)
    features = predictor.features(windows, name, reference.exit)
    np.testing.assert_allclose(reference.projection(features), reference.features, atol=1e-3)


def test_projections_have_not_seen_the_windows(ran: Path) -> None:
    reference, dataset, split = parts(ran, "grouped")
    rows = load(ran.parent / "out" / "bundle").features(
        dataset.windows.read(split.draws[0].folds[0][0]), "grouped", reference.exit
    )
    np.testing.assert_allclose(reference.projection.mean, rows.mean(0), atol=1e-4)
    reference, dataset, split = parts(ran, "angle")
    assert reference.value_projection is not None
    train = dataset.targets[split.draws[0].folds[0][0]]
    np.testing.assert_allclose(reference.value_projection.mean, train.mean(0), rtol=1e-5)


def test_windows_of_recordings_that_heads_learned_from_are_called_so(ran: Path) -> None:
    """Of few shots, drawn window by window, recordings are on both sides; each window is answered by a head that did not see it."""
    reference, dataset, split = parts(ran, "few")
    assert split.draws[0].by_group == (reference.held_out == "validation")
    held = np.concatenate([held for _, held in split.draws[0].folds])
    assert len(reference.groups) == len(held)
    (answers,) = (reference.policies[name] for name in ("fixed",))
    right = dataset.targets[held[np.argsort(dataset.groups[held], kind="stable")]]
    scores = load_bundle(ran.parent / "out" / "bundle").task("few").val
    if reference.held_out == "validation":
        held = np.sort(held)
        right = dataset.targets[held[np.argsort(dataset.groups[held], kind="stable")]]
    assert answers.predicted is not None
    exit = load_bundle(ran.parent / "out" / "bundle").task("few").exit
    assert np.mean(answers.predicted == right) == pytest.approx(scores[exit], abs=1e-6)


def test_the_same_suite_gives_the_same_bytes(ran: Path, tmp_path: Path) -> None:
    suite = lay_out(tmp_path, **SUITE)
    run_suite(load_suite(suite), tmp_path / "elsewhere" / "out")
    ours = tmp_path / "elsewhere" / "out" / "bundle" / REFERENCE
    assert ours.read_bytes() == (ran.parent / "out" / "bundle" / REFERENCE).read_bytes()
