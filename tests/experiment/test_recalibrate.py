"""Whose BatchNorm statistics a task gets: of windows outside its test set, without labels, shared by tasks on the same windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from seeing import EXITS, TEST, arrays, is_test, lay_out, run, task, without_stopwatch
from tiny import tiny_encoder

from offramp.bundle import load_bundle
from offramp.encoders.base import StagedEncoder
from offramp.encoders.recalibration import statistics_of
from offramp.encoders.taps import freeze
from offramp.experiment import pipeline, recalibrate
from offramp.experiment.controls import rows
from offramp.experiment.prepare import Context, Prepared, load, prepare_tasks
from offramp.experiment.recalibrate import choose_statistics
from offramp.schema.suite import load_suite


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_stopwatch(monkeypatch)


def chosen(suite: Path) -> tuple[Context, list[Prepared]]:
    loaded = load_suite(suite)
    context = Context(load(loaded, "cpu"), loaded, suite.parent / "features", "cpu", lambda *_: None)
    return context, choose_statistics(context, prepare_tasks(loaded, context.encoder))


def test_statistics_are_those_of_the_first_layer_by_hand(tmp_path: Path) -> None:
    """160 windows outside the test set are one batch."""
    context, (found,) = chosen(lay_out(tmp_path, task(), recalibrate="always"))
    data = arrays()
    encoder = freeze(tiny_encoder(repeats=1))
    convolution, norm = encoder.stages[0][0], found.encoder.stages[0][1]
    before = convolution(encoder.begin(torch.from_numpy(data["sample"][~is_test(data["city"])]))[0])
    torch.testing.assert_close(norm.running_mean, before.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(norm.running_var, before.var((0, 2, 3)), atol=1e-4, rtol=1e-2)
    assert found.statistics == "tone"
    assert found.view.encoder is found.encoder
    assert context.encoder.fingerprint() == encoder.fingerprint(), "the encoder itself is left as it was"


def test_the_transform_comes_first(tmp_path: Path) -> None:
    _, (found,) = chosen(lay_out(tmp_path, task(transform="standardize"), recalibrate="always"))
    data = arrays()
    encoder = freeze(tiny_encoder(repeats=1))
    windows = found.transform(data["sample"][~is_test(data["city"])])
    before = encoder.stages[0][0](encoder.begin(torch.from_numpy(windows))[0])
    torch.testing.assert_close(found.encoder.stages[0][1].running_mean, before.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)


def test_neither_test_windows_nor_labels_are_looked_at(tmp_path: Path) -> None:
    plain, spoilt = arrays(), arrays()
    test = is_test(spoilt["city"])
    spoilt["sample"][test] = 1e6 * np.random.default_rng(1).standard_normal(spoilt["sample"][test].shape)
    spoilt["label"] = np.random.default_rng(2).permutation(spoilt["label"])
    found = []
    for name, data in (("plain", plain), ("spoilt", spoilt)):
        _, (prepared,) = chosen(lay_out(tmp_path / name, task(), recalibrate="always", data=data))
        found.append(statistics_of(prepared.encoder))
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name])


def test_windows_set_aside_for_guarantees_are_not_looked_at(tmp_path: Path) -> None:
    split = {"test": TEST, "calibration": 0.25}
    _, (found,) = chosen(lay_out(tmp_path, task(split=split), recalibrate="always"))
    assert found.problem.split.calibration.size
    windows = torch.cat(list(found.calibration_batches("cpu"))).numpy()
    known = {row.tobytes(): number for number, row in enumerate(arrays()["sample"])}
    seen = {known[row.tobytes()] for row in windows}
    held = {*found.problem.split.test.tolist(), *found.problem.split.calibration.tolist()}
    assert not seen & held
    assert seen | held == set(range(240))


def test_tasks_on_the_same_windows_share_them(tmp_path: Path) -> None:
    other = {"test": [name.replace("city_0", "city_1") for name in TEST]}
    suite = lay_out(
        tmp_path,
        task(),
        task("angle", "angle", kind="regression", head={"side": "power_only"}),
        task("elsewhere", split=other),
        task("scaled", transform="standardize"),
        recalibrate="always",
    )
    _, found = chosen(suite)
    assert [each.statistics for each in found] == ["tone", "tone", "elsewhere", "scaled"]
    assert found[0].encoder is found[1].encoder
    assert len({id(each.encoder) for each in found}) == 3


@pytest.mark.parametrize("recalibrate", ["never", "auto", "always"])
def test_the_suite_decides(recalibrate: str, tmp_path: Path) -> None:
    """The stored statistics are of unit-power noise; those of windows at level 1 are hardly better or worse, and auto is either."""
    results = run(lay_out(tmp_path, task(), task("angle", "angle", kind="regression"), recalibrate=recalibrate))
    bundle = load_bundle(tmp_path / "out" / "bundle")
    said = {name: each.statistics for name, each in results.tasks.items()}
    assert len(set(said.values())) == 1, "tasks on the same windows decide together"
    recalibrated = said["tone"] == "recalibrated"
    assert recalibrated == {"never": False, "always": True}.get(recalibrate, recalibrated)
    assert [each.statistics for each in bundle.tasks.values()] == ["tone" if recalibrated else None] * 2
    assert set(bundle.statistics) == ({"tone"} if recalibrated else set())
    assert (tmp_path / "out" / "bundle" / "statistics.safetensors").exists() == recalibrated


@pytest.mark.parametrize("spoilt", [True, False])
def test_auto_takes_the_better_ones_on_validation(
    spoilt: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the encoder's own statistics make it blind, new ones see; where new ones would, its own stay."""

    def blinded(encoder: StagedEncoder) -> StagedEncoder:
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.fill_(1e6)
        return encoder

    if spoilt:
        plain = pipeline.load
        monkeypatch.setattr(pipeline, "load", lambda *given: blinded(plain(*given)))
    else:
        measured = recalibrate.recalibrated
        monkeypatch.setattr(recalibrate, "recalibrated", lambda *given: blinded(measured(*given)))
    results = run(lay_out(tmp_path, task(), recalibrate="auto", seeds=[0]))
    assert results.tasks["tone"].statistics == ("recalibrated" if spoilt else "own")
    assert max(row.val.mean for row in results.tasks["tone"].exits) > 0.6
    assert [row.exit for row in results.tasks["tone"].exits] == EXITS


def test_random_weights_get_statistics_of_the_same_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[torch.Tensor]] = []
    twin = rows.random_twin

    def watched(encoder, batches, draw):  # type: ignore[no-untyped-def]
        kept = list(batches)
        seen.append(kept)
        return twin(encoder, kept, draw)

    monkeypatch.setattr(rows, "random_twin", watched)
    suite = lay_out(tmp_path, task(), recalibrate="always", controls=["random_encoder"])
    run(suite)
    _, (ours,) = chosen(suite)
    assert len(seen) == 2, "one draw each for two seeds"
    for batches in seen:
        for theirs, mine in zip(batches, ours.calibration_batches("cpu"), strict=True):
            assert torch.equal(theirs, mine)
