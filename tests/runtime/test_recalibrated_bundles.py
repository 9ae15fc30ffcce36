"""Bundles fitted anew to labelled traffic: what changes, what is carried over, what is refused; with torch and on segments without it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny import tiny_encoder, tones, write_hdf5

import offramp
from offramp import costs
from offramp.bundle import REFERENCE, load_reference
from offramp.encoders.storage import save_encoder
from offramp.errors import BundleError, DataError, OfframpError
from offramp.experiment import pipeline
from offramp.experiment.pipeline import run_suite
from offramp.experiment.policies import measuring
from offramp.export.segments import export_segments
from offramp.runtime.files import LabelledReading
from offramp.runtime.recalibration import recalibrate
from offramp.schema.suite import load_suite
from offramp.scoring.calibration import fit_temperature

EXITS = ["stem", "stage2.0", "stage3.0", "stage4.0", "conv5"]
NAMES = np.array(["low", "middle", "high"])
COUNT, GROUPS = 240, 60


def traffic(
    path: Path, seed: int = 1, level: float = 1.5, count: int = COUNT, groups: int = GROUPS, **changes: Any
) -> Path:
    windows, labels = tones(count, level=level, seed=seed)
    group = np.array([f"recording {number:03}" for number in np.arange(count) % groups])
    arrays = {"sample": windows, "label": NAMES[labels], "group": group, "angle": labels * 10.0} | changes
    return write_hdf5(path, **{name: values for name, values in arrays.items() if values is not None})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks with policies; that on tones has a certificate and one that rejects. To read, not to change."""
    folder = tmp_path_factory.mktemp("recalibrated")
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    traffic(folder / "data.h5", seed=0, count=600, groups=150)
    data = {"path": "data.h5", "target": "label", "group": "group"}
    split = {"calibration": 0.3}
    suite = {
        "encoder": "encoder",
        "tasks": [
            {"name": "tone", "data": data, "split": split},
            {"name": "angle", "kind": "regression", "data": data | {"target": "angle"}, "split": split},
        ],
        "seeds": [0],
        "controls": ["constant"],
        "policies": {
            "criteria": ["confidence", "agreement"],
            "budget": {"macs": 1e9},
            "reject_error": 0.2,
            "guarantee": {"risk": "disagreement", "level": 0.4, "delta": 0.2, "limit": 5},
        },
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    latency = {name: costs.Latency(p50=0.1 * n, p95=0.2 * n, p99=0.3 * n) for n, name in enumerate(EXITS, start=1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
        patch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))
        patch.setattr(measuring, "STAGE_ROUNDS", 1)
        patch.setattr(measuring, "RUN_ROUNDS", 1)
        patch.setattr(measuring, "ARRIVED", 500)
        run_suite(load_suite(folder / "suite.yaml"), folder / "run")
    return folder / "run" / "bundle"


@pytest.fixture(scope="module")
def segments(bundle: Path) -> Path:
    """Of one task with one policy, cut where that looks."""
    few = shutil.copytree(bundle, bundle.parent / "few")
    config = settings(few)
    tone = config["tasks"]["tone"]
    tone["policies"] = {"certified": tone["policies"]["certified"]}
    (few / "config.json").write_text(json.dumps(config | {"tasks": {"tone": tone}}))
    export_segments(few, bundle.parent / "segments")
    return bundle.parent / "segments"


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_a_run_stores_what_its_policies_were_chosen_for(bundle: Path) -> None:
    policies = settings(bundle)["tasks"]["tone"]["policies"]
    assert policies["routed"]["aim"]["budget"] == 1e9
    assert policies["routed"]["aim"]["unit"] == "MACs"
    assert policies["rejecting"]["aim"]["reject_error"] == 0.2
    promised = policies["certified"]["guarantee"]
    assert (promised["risk"], promised["level"], promised["delta"]) == ("disagreement", 0.4, 0.2)
    assert policies["certified"]["thresholds"][0] in promised["thresholds"]
    results = json.loads((bundle.parent / "results.json").read_text())["tasks"]["tone"]["policies"]["certified"]
    assert (promised["groups"], promised["mean_loss"]) == (results["groups"], results["calibration_risk"])
    assert len(promised["thresholds"]) == results["thresholds"]


def test_what_changes_and_what_is_carried_over(bundle: Path, tmp_path: Path) -> None:
    file = traffic(tmp_path / "june.h5", level=3.0)
    result = recalibrate(bundle, file, tmp_path / "new", "tone")
    before, after = contents(bundle), contents(tmp_path / "new")
    assert {name for name in before if before[name] != after[name]} == {"config.json", "README.md", REFERENCE}
    assert set(before) == set(after)
    old, new = settings(bundle), settings(tmp_path / "new")
    assert new["tasks"]["angle"] == old["tasks"]["angle"]
    kept = {key: value for key, value in old["tasks"]["tone"].items() if key not in ("temperatures", "policies")}
    assert {key: value for key, value in new["tasks"]["tone"].items() if key in kept} == kept
    assert new["tasks"]["tone"]["temperatures"] == {change.exit: change.after for change in result.exits}
    assert (result.windows, result.groups, result.grouped) == (COUNT, GROUPS, True)
    card = (tmp_path / "new" / "README.md").read_text()
    assert card.startswith((bundle / "README.md").read_text().rstrip())
    assert "## Task tone, recalibrated" in card
    json.dumps(result.to_dict(), allow_nan=False)


def test_temperatures_are_those_of_the_bundles_own_logits(bundle: Path, tmp_path: Path) -> None:
    """Found again from what the predictor answers: at a temperature of 1, log-probabilities are logits."""
    file = traffic(tmp_path / "june.h5", level=3.0)
    result = recalibrate(bundle, file, tmp_path / "new", "tone")
    windows, labels = tones(COUNT, level=3.0, seed=1)
    predictor = offramp.load(bundle)
    names = list(predictor.bundle.tasks["tone"].label_names)
    classes = np.array([names.index(name) for name in NAMES[labels]])
    change = next(each for each in result.exits if each.exit == predictor.bundle.tasks["tone"].exit)
    assert not change.kept
    logits = np.log(predictor.predict(windows, ["tone"])["tone"].outputs) * change.before
    assert change.after == pytest.approx(fit_temperature(logits, classes), rel=1e-3)
    confident = offramp.load(tmp_path / "new").predict(windows, ["tone"])["tone"]
    scaled = np.exp(logits / change.after)
    np.testing.assert_allclose(confident.outputs, scaled / scaled.sum(1, keepdims=True), atol=1e-4)


def test_drift_is_looked_for_from_the_new_traffic_on(bundle: Path, tmp_path: Path) -> None:
    """The reference holds what the new bundle answers to these windows; other tasks keep theirs, and projections stay."""
    recalibrate(bundle, traffic(tmp_path / "june.h5", level=3.0), tmp_path / "new", "tone")
    before, after = load_reference(bundle), load_reference(tmp_path / "new")
    assert after["angle"].held_out == before["angle"].held_out == "calibration"
    tone = after["tone"]
    assert (tone.held_out, tone.grouped, len(np.unique(tone.groups))) == ("traffic", True, GROUPS)
    np.testing.assert_array_equal(tone.projection.components, before["tone"].projection.components)
    predictor = offramp.load(tmp_path / "new")
    assert set(tone.policies) == {"fixed", *predictor.bundle.tasks["tone"].policies}
    order = np.argsort(np.arange(COUNT) % GROUPS, kind="stable")  # recording by recording
    windows = tones(COUNT, level=3.0, seed=1)[0][order]
    for name, answers in tone.policies.items():
        prediction = predictor.predict(windows, ["tone"], policy=None if name == "fixed" else name)["tone"]
        assert (answers.left != prediction.left).mean() < 0.02
        assert (np.abs(answers.confidence - prediction.confidence) > 1e-3).mean() < 0.02
    features = tone.projection(predictor.features(windows, "tone", tone.exit))
    np.testing.assert_allclose(tone.features, features, atol=1e-3)


def test_the_new_policies_run_where_the_report_says(bundle: Path, tmp_path: Path) -> None:
    file = traffic(tmp_path / "june.h5")
    result = recalibrate(bundle, file, tmp_path / "new", "tone")
    windows, _ = tones(COUNT, level=1.5, seed=1)
    old, new = offramp.load(bundle), offramp.load(tmp_path / "new")
    outcomes = {change.name: change.outcome for change in result.policies}
    assert outcomes["certified"] in ("renewed", "withdrawn")
    assert set(outcomes.values()) <= {"refitted", "kept", "renewed", "withdrawn"}
    for change in result.policies:
        for predictor, shares in ((old, change.shares_before), (new, change.shares_after)):
            if shares is None:
                assert change.name not in new.bundle.tasks["tone"].policies
                continue
            prediction = predictor.predict(windows, ["tone"], policy=change.name)["tone"]
            assert np.bincount(prediction.left, minlength=len(shares)) / COUNT == pytest.approx(shares, abs=2 / COUNT)


def test_a_guarantee_that_traffic_breaks_is_taken_back(bundle: Path, tmp_path: Path) -> None:
    """All windows leave at once where tones are hard to hear; nothing between that and full depth may be certified."""
    bold = shutil.copytree(bundle, tmp_path / "bold")
    config = settings(bold)
    certified = config["tasks"]["tone"]["policies"]["certified"]
    certified["thresholds"] = [0.0] * len(certified["thresholds"])
    certified["guarantee"] |= {"thresholds": ["inf", 0.0], "level": 0.2}
    (bold / "config.json").write_text(json.dumps(config))
    windows, _ = tones(COUNT, level=3.0, seed=1)
    result = recalibrate(bold, traffic(tmp_path / "june.h5", level=3.0), tmp_path / "new", "tone")
    change = next(each for each in result.policies if each.name == "certified")
    assert change.outcome == "withdrawn"
    assert change.mean_loss is not None
    assert change.mean_loss > 0.2
    assert "certified" not in settings(tmp_path / "new")["tasks"]["tone"]["policies"]
    assert "the guarantee is withdrawn" in (tmp_path / "new" / "README.md").read_text()
    with pytest.raises(BundleError, match="has no policy 'certified'"):
        offramp.load(tmp_path / "new").predict(windows[:2], ["tone"], policy="certified")


def test_bundles_of_before_say_what_they_do_not_know(bundle: Path, tmp_path: Path) -> None:
    old = shutil.copytree(bundle, tmp_path / "old")
    config = settings(old)
    for policy in config["tasks"]["tone"]["policies"].values():
        policy.pop("aim", None)
        policy.pop("guarantee", None)
    (old / "config.json").write_text(json.dumps(config))
    result = recalibrate(old, traffic(tmp_path / "june.h5"), tmp_path / "new", "tone")
    changes = {change.name: change for change in result.policies}
    assert "does not say what was certified" in changes["certified"].sentence
    assert {change.unit for name, change in changes.items() if name != "certified"} == {"exits"}


def test_twice_is_the_same_and_another_seed_deals_other_folds(bundle: Path, tmp_path: Path) -> None:
    file = traffic(tmp_path / "june.h5", level=2.0)
    first, again, other = (
        recalibrate(bundle, file, tmp_path / name, "tone", seed).to_dict() | {"out": ""}
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [each["nll_after"] for each in other["exits"]] != [each["nll_after"] for each in first["exits"]]


def test_recalibrated_segments_need_no_torch_and_agree_with_the_bundle(
    bundle: Path, segments: Path, tmp_path: Path
) -> None:
    file = traffic(tmp_path / "june.h5", level=2.0)
    code = (
        "import sys\nfrom offramp.runtime.recalibration import recalibrate\n"
        f"recalibrate({str(segments)!r}, {str(file)!r}, {str(tmp_path / 'cut')!r}, 'tone')\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    whole = recalibrate(bundle, file, tmp_path / "whole", "tone")
    cut, all_exits = (settings(tmp_path / name)["tasks"]["tone"]["temperatures"] for name in ("cut", "whole"))
    stored = settings(bundle)["tasks"]["tone"]["temperatures"]
    graphs = {
        segment["to"]
        for each in json.loads((segments / "segments.json").read_text())["passes"]
        for segment in each["segments"]
    }
    for change in whole.exits:
        expected = all_exits[change.exit] if change.exit in graphs else stored[change.exit]
        assert cut[change.exit] == pytest.approx(expected, rel=1e-3)
    assert contents(tmp_path / "cut")["graphs.weights"] == contents(segments)["graphs.weights"]
    offramp.load(tmp_path / "cut").predict(tones(3)[0], ["tone"])


def test_a_regression_has_its_policies_alone(bundle: Path, tmp_path: Path) -> None:
    result = recalibrate(bundle, traffic(tmp_path / "june.h5"), tmp_path / "new", "angle")
    assert result.exits == ()
    assert result.policies
    assert settings(tmp_path / "new")["tasks"]["angle"]["temperatures"] == {}


def test_a_regression_without_policies_has_nothing_to_fit(bundle: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(bundle, tmp_path / "plain")
    config = settings(plain)
    config["tasks"]["angle"]["policies"] = {}
    (plain / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="a regression without policies: it has neither temperatures nor thresholds"):
        recalibrate(plain, traffic(tmp_path / "june.h5"), tmp_path / "new", "angle")


def test_an_encoder_elsewhere_is_found_from_the_new_place(bundle: Path, tmp_path: Path) -> None:
    near = shutil.copytree(bundle, tmp_path / "near" / "bundle")
    shutil.move(near / "encoder", tmp_path / "near" / "shared")
    config = settings(near) | {"encoder_path": "../shared", "later": {"key": 1}}
    (near / "config.json").write_text(json.dumps(config))
    recalibrate(near, traffic(tmp_path / "june.h5"), tmp_path / "far" / "away" / "new", "tone")
    offramp.load(tmp_path / "far" / "away" / "new").predict(tones(3)[0], ["tone"])
    assert settings(tmp_path / "far" / "away" / "new")["later"] == {"key": 1}


def test_labels_may_be_in_another_order_or_some_missing(bundle: Path, tmp_path: Path) -> None:
    windows, labels = tones(COUNT, level=1.5, seed=1)
    some = labels != 1
    file = write_hdf5(
        tmp_path / "some.h5", sample=windows[some], truth=NAMES[labels[some]], where=np.arange(COUNT)[some] % GROUPS
    )
    result = recalibrate(bundle, file, tmp_path / "new", "tone", reading=LabelledReading(target="truth", group="where"))
    predictor = offramp.load(bundle)
    prediction = predictor.predict(windows[some], ["tone"], policy="routed")["tone"]
    right = np.mean([name == told for name, told in zip(prediction.labels, NAMES[labels[some]], strict=True)])
    assert next(each for each in result.policies if each.name == "routed").score_before == pytest.approx(
        right, abs=0.01
    )


@pytest.mark.parametrize(
    ("changes", "task", "message"),
    [
        ({"label": None}, "tone", "has no column 'label': set data.target"),
        ({"group": None}, "tone", "has no column 'group': set data.group"),
        (
            {"label": np.array(["low", "loud"] * (COUNT // 2))},
            "tone",
            "the label 'loud', which task 'tone' does not know: it has high, low",
        ),
        ({"angle": np.zeros((COUNT, 3))}, "angle", "has 3 values per window, and task 'angle' predicts 1"),
        ({"sample": np.zeros((COUNT, 2, 1, 32), np.float32)}, "tone", r"takes \(2, 1, 64\)"),
        ({"count": 28, "groups": 14}, "tone", "28 labelled windows of 14 recordings: give at least 30 of 8"),
        ({"groups": 7}, "tone", "of 7 recordings"),
        ({"seed": 0}, "tone", "window .* is of the data that the bundle was made from"),
        ({}, None, "choose one with --task"),
        ({}, "tune", "unknown task 'tune'"),
    ],
)
def test_what_cannot_be_used_is_said_and_nothing_is_left(
    bundle: Path, tmp_path: Path, changes: dict[str, Any], task: str | None, message: str
) -> None:
    file = traffic(tmp_path / "june.h5", **({"count": 600, "groups": 150} if "seed" in changes else {}) | changes)
    with pytest.raises(OfframpError, match=message):
        recalibrate(bundle, file, tmp_path / "new", task)
    assert [path.name for path in tmp_path.iterdir()] == ["june.h5"]


def test_places_that_are_taken_or_inside_what_is_read_are_refused(bundle: Path, tmp_path: Path) -> None:
    file = traffic(tmp_path / "june.h5")
    with pytest.raises(OfframpError, match="there already"):
        recalibrate(bundle, file, bundle, "tone")
    with pytest.raises(OfframpError, match="lies in the input"):
        recalibrate(bundle, file, bundle / "new", "tone")
    with pytest.raises(OfframpError, match="does not exist"):
        recalibrate(bundle, tmp_path / "july.h5", tmp_path / "new", "tone")
    broken = tones(COUNT)[0]
    broken[7, 0, 0, 3] = np.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        recalibrate(bundle, traffic(tmp_path / "nan.h5", sample=broken), tmp_path / "new", "tone")
    assert not (tmp_path / "new").exists()


def test_a_run_that_is_stopped_leaves_no_half_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from offramp.runtime import recalibration

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recalibration, "change_task", stopped)
    with pytest.raises(KeyboardInterrupt):
        recalibrate(bundle, traffic(tmp_path / "june.h5"), tmp_path / "new", "tone")
    assert [path.name for path in tmp_path.iterdir()] == ["june.h5"]
