"""The comparison of a small run: what is matched with what, and that the numbers follow from one another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from alternatives import comparison, networks
from alternatives.comparison import compare_alternatives, pick, with_verdicts
from alternatives.presentation import markdown
from alternatives.records import Alternatives
from compare_alternatives import alternatives
from tiny import tones, write_hdf5

from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.registry import random_encoder
from offramp.encoders.storage import save_encoder
from offramp.errors import OfframpError, SuiteError
from offramp.experiment import pipeline
from offramp.schema.suite import load_suite

EXITS = ["stem", "mixing", "stage1.0", "stage2.0", "stage3.0"]


def suite(folder: Path, **changes: Any) -> dict[str, Any]:
    data = {"path": "data.h5", "target": "los", "group": "city"}
    return {
        "encoder": "encoder",
        "tasks": [
            {"name": "los", "data": data, "split": {"test": [f"city_{n:02}" for n in range(8)]}},
            {"name": "angle", "kind": "regression", "data": data | {"target": "angle"}, "split": {"test": 0.3}},
        ],
        "controls": ["constant"],
        "seeds": [0, 1],
    } | changes


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two tasks; these tones are easy, so the exit in between is chosen by hand."""
    folder = tmp_path_factory.mktemp("alternatives")
    config = {"channels": [16, 32, 32, 32, 32], "repeats": [1, 1, 1]}
    save_encoder(random_encoder(IQResNet, config, 0), folder / "encoder")
    windows, labels = tones(360)
    city = np.array([f"city_{number:02}" for number in np.arange(360) % 24])
    write_hdf5(folder / "data.h5", sample=windows, los=labels, city=city, angle=labels * 10.0 + 5)
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda runs, path: None)
        pipeline.run_suite(load_suite(folder / "suite.yaml"), folder / "run")
    path = folder / "run" / "bundle" / "config.json"
    config = json.loads(path.read_text())
    config["tasks"]["los"]["exit"] = "stage1.0"
    path.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def compared(lab: Path) -> Alternatives:
    """Both tasks by the command line, with few sizes and epochs and no patience with the stop-watch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "PRUNED", (0.5,))
        patch.setattr(networks, "NARROW", (0.5,))
        patch.setattr(comparison, "SECONDS", 0.0)
        patch.setattr(comparison, "REPEATS", 3)
        alternatives(lab / "suite.yaml", lab / "run", task=["los"], epochs=2)
    return Alternatives.model_validate_json((lab / "run" / "alternatives.json").read_text())


def test_every_method_alone_and_at_the_exit(compared: Alternatives):
    (task,) = compared.tasks.values()
    assert [network.exit for network in task.exits] == EXITS
    made = [(each.network.method, each.network.exit) for each in task.alternatives]
    both = (task.full, task.chosen)
    assert made == [(m, end) for m in ("int8", "pruned", "distilled") for end in both] + [("tuned", task.chosen)]
    assert task.notes == []
    assert set(task.picked) == {each.network.name for each in task.alternatives}


def test_smaller_is_smaller(compared: Alternatives):
    (task,) = compared.tasks.values()
    full, exit = (next(n for n in task.exits if n.exit == end) for end in (task.full, task.chosen))
    size = {(each.network.method, each.network.exit): each.network for each in task.alternatives}
    for plain in (full, exit):
        assert size["pruned", plain.exit].parameters < 0.7 * plain.parameters
        assert size["distilled", plain.exit].parameters < 0.7 * plain.parameters
        assert size["pruned", plain.exit].bytes < plain.bytes
    assert size["int8", task.full].bytes < 0.7 * full.bytes
    assert size["tuned", task.chosen].parameters < 1.01 * exit.parameters


def test_matched_is_the_best_exit_on_validation_at_no_more_time(compared: Alternatives):
    (task,) = compared.tasks.values()
    for each in task.alternatives:
        for place, matched in enumerate(each.matched):
            limit = 1.02 * each.network.timings[place].relative
            fast = [network for network in task.exits if network.timings[place].relative <= limit]
            if not fast:
                assert (matched.exit, matched.gain, matched.verdict) == (None, None, "faster")
                continue
            best = max(fast, key=lambda network: network.val)
            assert matched.exit == best.exit
            assert matched.gain.mean == pytest.approx(each.network.test.mean - best.test.mean)
            assert matched.gain.ci95[0] <= matched.gain.mean <= matched.gain.ci95[1]
            assert matched.val_gain == pytest.approx(each.network.val - best.val)
            assert matched.gain.unit == "group"
    chosen = next(n for n in task.exits if n.exit == task.chosen)
    for each in task.alternatives:
        assert each.chosen.gain.mean == pytest.approx(each.network.test.mean - chosen.test.mean)


def test_exits_score_as_in_the_run(compared: Alternatives, lab: Path):
    (task,) = compared.tasks.values()
    rows = json.loads((lab / "run" / "results.json").read_text())["tasks"]["los"]["exits"]
    for network, row in zip(task.exits, rows, strict=True):
        assert network.test.mean == pytest.approx(row["test"]["per_seed"][0])
        assert network.val == pytest.approx(row["val"]["per_seed"][0])


def test_what_people_see(compared: Alternatives, lab: Path):
    (task,) = compared.tasks.values()
    assert re.match(r"los: against exit stage1\.0 \([\d.]+ ms measured, one window\): int8 [+-]", task.sentence)
    lines = markdown(task).splitlines()
    assert len(lines) == 2 + len(EXITS) + len(task.alternatives)
    assert len({line.count("|") for line in lines}) == 1
    picture = (lab / "run" / "alternatives.svg").read_text()
    assert all(word in picture for word in ("fixed exits", "exit + int8", "distilled", "tuned", "los"))
    assert re.search(r"<svg[^>]*xmlns=", picture)


def test_a_regression_quantised(lab: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(comparison, "SECONDS", 0.0)
    found = compare_alternatives(load_suite(lab / "suite.yaml"), lab / "run", ["angle"], ["int8"])
    task = found.tasks["angle"]
    assert (task.metric, task.higher_is_better) == ("mean_error", False)
    for each in task.alternatives:
        for matched in each.matched:
            if matched.gain is not None:
                plain = next(n for n in task.exits if n.exit == matched.exit)
                assert matched.gain.mean == pytest.approx(plain.test.mean - each.network.test.mean)


def test_verdicts_are_corrected_over_all_comparisons(compared: Alternatives):
    (task,) = compared.tasks.values()
    first = task.alternatives[0]

    def with_gain(low: float, high: float, p_value: float, unit: str = "group") -> Any:
        gain = first.chosen.gain.model_copy(
            update={"mean": (low + high) / 2, "ci95": (low, high), "p_value": p_value, "unit": unit}
        )
        return first.model_copy(update={"chosen": first.chosen.model_copy(update={"gain": gain}), "matched": []})

    given = {
        "clear": with_gain(0.01, 0.02, 0.0005),
        "weak": with_gain(0.001, 0.02, 0.02),
        "even": with_gain(-0.01, 0.01, 0.5),
        "lost": with_gain(-0.03, -0.01, 1.0),
        "windows": with_gain(0.01, 0.02, 0.0005, unit="window"),
    }
    tasks = {name: task.model_copy(update={"alternatives": [each]}) for name, each in given.items()}
    found = {n: t.alternatives[0].chosen.verdict for n, t in with_verdicts(tasks).items()}
    assert found == {"clear": "better", "weak": "even", "even": "even", "lost": "worse", "windows": "even"}
    alone = with_verdicts({"weak": tasks["weak"]})
    assert alone["weak"].alternatives[0].chosen.verdict == "better"


def test_pick_is_made_on_validation_in_the_time_of_the_chosen_exit(compared: Alternatives):
    (task,) = compared.tasks.values()
    first, chosen = task.alternatives[0], task.exits[2]

    def sized(name: str, share: float, val_gain: float, test: float) -> Any:
        score = first.network.test.model_copy(update={"mean": test})
        timing = chosen.timings[0].model_copy(update={"relative": share * chosen.timings[0].relative})
        network = first.network.model_copy(update={"name": name, "test": score, "timings": [timing]})
        ahead = first.chosen.model_copy(update={"val_gain": val_gain})
        return first.model_copy(update={"network": network, "chosen": ahead})

    slow = sized("slow", 1.5, 0.9, 0.9)
    assert pick([slow, sized("a", 0.9, 0.1, 0.2), sized("b", 0.5, 0.2, 0.1), sized("c", 0.4, -0.3, 0.9)], chosen) == [
        "b"
    ]
    assert pick([slow, sized("slower", 1.6, 1.0, 1.0)], chosen) == ["slow"]


def test_refusals(lab: Path):
    loaded = load_suite(lab / "suite.yaml")
    run = lab / "run"
    with pytest.raises(SuiteError, match="unknown task 'x': the suite has los, angle"):
        compare_alternatives(loaded, run, ["x"])
    with pytest.raises(SuiteError, match="unknown method 'int4': choose of int8, pruned, distilled"):
        compare_alternatives(loaded, run, methods=["int4"])
    with pytest.raises(SuiteError, match="0 epochs: give at least 1"):
        compare_alternatives(loaded, run, epochs=0)
    with pytest.raises(OfframpError, match=r"no .*results\.json|results\.json"):
        compare_alternatives(loaded, lab / "nowhere")
    (lab / "other.yaml").write_text(yaml.safe_dump(suite(lab, seeds=[0])))
    with pytest.raises(OfframpError, match="holds the run of another suite"):
        compare_alternatives(load_suite(lab / "other.yaml"), run)


def test_changed_data_is_refused(lab: Path, tmp_path: Path):
    windows, labels = tones(360, seed=5)
    city = np.array([f"city_{number:02}" for number in np.arange(360) % 24])
    write_hdf5(tmp_path / "data.h5", sample=windows, los=labels, city=city, angle=labels * 10.0 + 5)
    (tmp_path / "encoder").symlink_to(lab / "encoder")
    (tmp_path / "suite.yaml").write_text((lab / "suite.yaml").read_text())
    with pytest.raises(OfframpError, match="has changed since the run: run the suite again"):
        compare_alternatives(load_suite(tmp_path / "suite.yaml"), lab / "run", ["los"], ["int8"])


def test_an_unknown_method_is_refused(lab: Path):
    with pytest.raises(SuiteError, match="unknown method 'fp16': choose of int8"):
        alternatives(lab / "suite.yaml", lab / "run", method=["fp16"])
