"""What is no results.json of a run is refused in one line, whatever is wrong with it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offramp.errors import OfframpError
from offramp.report.loading import load_results, results_file
from offramp.schema.results import ExitControl, Results


def refused(path: Path, *words: str) -> None:
    with pytest.raises(OfframpError) as caught:
        load_results(path)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.isprintable()
    assert len(message) < 500


def changed(demo: Results, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A results.json in whose task ``los`` something has been changed."""
    content = json.loads(demo.model_dump_json(by_alias=True))
    change(content["tasks"]["los"])
    (tmp_path / "results.json").write_text(json.dumps(content))
    return tmp_path / "results.json"


def test_a_folder_or_its_file(tmp_path: Path) -> None:
    assert results_file(tmp_path) == tmp_path / "results.json"
    assert results_file(tmp_path / "mine.json") == tmp_path / "mine.json"
    assert results_file(Path("x" * 5000)) == Path("x" * 5000)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e101, 10**400, -(10**400)])
@pytest.mark.parametrize("key", ["n_test", "higher_is_better", "sentence"])
def test_numbers_that_are_none(demo: Results, tmp_path: Path, key: str, value: float) -> None:
    refused(changed(demo, tmp_path, lambda task: task.update({key: value})), "results.json", "make it again")


def test_numbers_beyond_a_float_and_beyond_an_int(tmp_path: Path) -> None:
    for number in ("1e999", "9" * 5000):
        (tmp_path / "results.json").write_text(f'{{"schema": 1, "suite": [{number}]}}')
        refused(tmp_path, "is not JSON")


def test_a_threshold_that_no_window_passes(demo: Results, tmp_path: Path) -> None:
    path = changed(demo, tmp_path, lambda task: task["gain_over_full"].update(mean=-sys.float_info.max))
    assert load_results(path).tasks["los"].gain_over_full.mean == -sys.float_info.max


@pytest.mark.parametrize("key", ["kind", "exits", "chosen", "gain_over_full", "measured", "controls", "input_shape"])
@pytest.mark.parametrize("value", [None, 3, "x", {}, [[]], True])
def test_other_types(demo: Results, tmp_path: Path, key: str, value: object) -> None:
    if (key, value) != ("controls", {}):  # there may be none
        refused(changed(demo, tmp_path, lambda task: task.update({key: value})), f"bad field tasks.los.{key}")
    refused(changed(demo, tmp_path, lambda task: task.pop(key)), f"bad field tasks.los.{key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exits", []),
        ("by_snr", {"edges_db": [0, 1], "chosen": [1, 1], "full": [1]}),
        ("by_snr", {"edges_db": [], "chosen": [], "full": []}),
        ("confusion", [[1, 2], [3]]),
        ("confusion", [[1, 2]]),
        ("confusion", [[1, -2], [3, 4]]),
    ],
)
def test_parts_that_do_not_fit_each_other(demo: Results, tmp_path: Path, key: str, value: object) -> None:
    refused(changed(demo, tmp_path, lambda task: task.update({key: value})), f"bad field tasks.los.{key}")


def test_exits_that_cannot_be(demo: Results, tmp_path: Path) -> None:
    control = next(name for name, control in demo.tasks["los"].controls.items() if isinstance(control, ExitControl))
    refused(changed(demo, tmp_path, lambda task: task.update(exits=[])), "bad field tasks.los.exits")
    empty = changed(demo, tmp_path, lambda task: task["controls"][control].update(exits=[]))
    refused(empty, f"bad field tasks.los.controls.{control}")
    refused(changed(demo, tmp_path, lambda task: task["chosen"].update(macs=-1)), "bad field tasks.los.chosen.macs")


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": 1, "suite": "\\ud800"}', b'"\xff"', b"", b"\x89HDF\r\n"],
)
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    refused(tmp_path, "results.json")


def test_names_that_command_a_terminal(demo: Results, tmp_path: Path) -> None:
    content = json.loads(demo.model_dump_json(by_alias=True))
    content["tasks"] = {"x\x1b[31m\n" + "y" * 5000: {}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    refused(tmp_path, "x\\x1b[31m", "make it again")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/stdin")):
        refused(path, "not a regular file")
    refused(Path("x" * 5000), "does not exist")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(2**30)
    refused(tmp_path / "large.json", "has more than 16,777,216 bytes")
