"""Measured times beside segments: used on the machine that they are of, measured anew elsewhere, refused where damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bundles import IQ_SHAPE, STANDARDIZE, small_shufflenet, task, write

from offramp.errors import BundleError
from offramp.export.segments import export_segments
from offramp.runtime import load
from offramp.runtime.engine import Engine, tables
from offramp.runtime.engine.tables import TABLE, MeasuredPass


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, encoder = tmp_path_factory.mktemp("timing"), small_shufflenet()
    near = task(encoder, "near", "stem", IQ_SHAPE, ("x", "y"))
    far = task(encoder, "far", "conv5", IQ_SHAPE, transform=STANDARDIZE, hidden=(7,))
    export_segments(write(folder / "bundle", encoder, near, far), folder / "segments", ["stage2.0"])
    return folder / "segments"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "segments")


def refuse(*_: object) -> None:
    raise AssertionError("measured")


def test_every_unit_and_head_has_a_time(exported: Path) -> None:
    table = json.loads((exported / TABLE).read_text())
    manifest = json.loads((exported / "segments.json").read_text())
    assert [each["tasks"] for each in table["passes"]] == [["near"], ["far"]]
    for measured, shared in zip(table["passes"], manifest["passes"], strict=True):
        cuts = [segment["to"] for segment in shared["segments"]]
        assert len(measured["seconds"]) == 2 * len(cuts)
        for exits in measured["heads"].values():
            assert set(exits) == set(cuts)
        rows = [*measured["seconds"], *(row for exits in measured["heads"].values() for row in exits.values())]
        assert all(0 < seconds < 10 for row in rows for seconds in row)


def test_an_engine_on_this_machine_does_not_measure(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "measure", refuse)
    predictor = load(exported)
    stored = json.loads((exported / TABLE).read_text())["passes"][0]["seconds"]
    with Engine(predictor) as engine:
        lane = engine._tasks["near"].lane
    assert [list(row) for row in lane.queue.timing.seconds] == stored


@pytest.mark.parametrize("change", [{"machine": "another"}, {"threads": 3}, {"schema": 2}])
def test_times_of_another_machine_are_not_used(copied: Path, monkeypatch: pytest.MonkeyPatch, change: dict) -> None:
    path = copied / TABLE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(tables, "measure", refuse)
    with pytest.raises(AssertionError, match="measured"):
        Engine(load(copied))


def test_without_a_table_times_are_measured(copied: Path) -> None:
    (copied / TABLE).unlink()
    with Engine(load(copied)) as engine:
        assert engine._tasks["far"].lane.measured.heads["far"]["conv5"][0] > 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("{}", "is damaged"),
        ('{"schema": 1, "machine": "m", "threads": 1, "passes": [{"tasks": []}]}', "is damaged"),
    ],
)
def test_a_damaged_table(copied: Path, content: str, words: str) -> None:
    (copied / TABLE).write_text(content)
    with pytest.raises(BundleError, match=words) as refusal:
        Engine(load(copied))
    assert "\n" not in str(refusal.value)


def test_times_that_cannot_be(copied: Path) -> None:
    table = json.loads((copied / TABLE).read_text())
    table["passes"][0]["seconds"][0][0] = -1.0
    (copied / TABLE).write_text(json.dumps(table))
    with pytest.raises(BundleError, match="a time above zero for every batch"):
        Engine(load(copied))


def test_a_table_that_lacks_heads_is_not_used(copied: Path) -> None:
    table = json.loads((copied / TABLE).read_text())
    for measured in table["passes"]:
        measured["heads"] = {}
    (copied / TABLE).write_text(json.dumps(table))
    with Engine(load(copied)) as engine:
        assert engine._tasks["far"].lane.measured.heads["far"]["conv5"][0] > 0


def test_batches_have_bounds(copied: Path) -> None:
    table = json.loads((copied / TABLE).read_text())
    table["passes"][0]["batches"][-1] = 10**13
    (copied / TABLE).write_text(json.dumps(table))
    with pytest.raises(BundleError, match=r"passes\.0\.batches"):
        Engine(load(copied))


def test_heads_between_and_beyond_what_was_measured() -> None:
    found = MeasuredPass(tasks=["a"], batches=[1, 3], seconds=[[1.0, 2.0], [1.0, 2.0]], heads={"a": {"x": [1.0, 3.0]}})
    assert [found.head("a", "x", windows) for windows in (1, 2, 3, 6)] == [1, 2, 3, 6]
