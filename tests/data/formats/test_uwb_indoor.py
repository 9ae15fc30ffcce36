from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.containers import json_members
from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
TAPS = 5
PLACES = ("1.20_3.40_0.95", "-2.00_0.00_1.50")
ANCHORS = ("A10", "A2", "A1")
"""Not in the order of their numbers."""


def response() -> np.ndarray:
    return RNG.integers(-99, 99, (TAPS, 2)) @ [1, 1j]


def measurement(place: str, taps: np.ndarray, **changes: Any) -> dict[str, Any]:
    x, y, z = (float(coordinate) for coordinate in place.split("_"))
    told = {"cir": [str(tap) for tap in taps], "x_tag": x, "y_tag": y, "z_tag": z, "rss": -80.5, "note": 'a "}" [x'}
    return {key: value for key, value in (told | changes).items() if value is not None}


def write(path: Path, measurements: Any, **others: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"anchors": {"A1": [0, 1, 2]}, "measurements": measurements, "name": "x", **others}))
    return path


@pytest.fixture
def stored() -> dict[tuple[str, str, str], list[np.ndarray]]:
    """Responses by place, anchor and channel: two or three each, but one channel misses an anchor at one place."""
    return {
        (place, anchor, channel): [response() for _ in range(3 if anchor == "A2" else 2)]
        for place in PLACES
        for anchor in ANCHORS
        for channel in ("ch7", "ch2")
        if (place, anchor, channel) != (PLACES[1], "A10", "ch2")
    }


def nested(stored: dict[tuple[str, str, str], list[np.ndarray]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (place, anchor, channel), responses in stored.items():
        of_anchor = tree.setdefault(place, {}).setdefault(anchor, {})
        of_anchor[channel] = [measurement(place, taps) for taps in responses]
    return tree


@pytest.mark.parametrize("block", [7, 2**20])
def test_windows_and_columns(stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(json_members, "BLOCK", block)
    path = write(tmp_path / "environment0" / "data.json", nested(stored))
    table = opened(path, "uwb-indoor", tmp_path)
    assert table.windows.shape == (2, 3, TAPS)
    expected = [
        (place, channel, number)
        for place, channel in ((PLACES[0], "ch7"), (PLACES[0], "ch2"), (PLACES[1], "ch7"))
        for number in range(2)
    ]
    windows = table.windows.read(np.arange(6))
    for window, (place, channel, number) in zip(windows, expected, strict=True):
        for row, anchor in enumerate(("A1", "A2", "A10")):
            np.testing.assert_array_equal(window[0, row] + 1j * window[1, row], stored[place, anchor, channel][number])
    assert table.columns["channel"].tolist() == [7, 7, 2, 2, 7, 7]
    assert table.columns["place"].tolist() == [place for place, *_ in expected]
    np.testing.assert_array_equal(table.columns["location"], [[1.2, 3.4, 0.95]] * 4 + [[-2, 0, 1.5]] * 2)
    assert set(table.columns["environment"].tolist()) == {"environment0"}


def test_position_is_the_target_and_places_are_groups(stored: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "environment0" / "data.json", nested(stored)).parent
    data = load_dataset(DataSpec(path=path, target="location"), "regression")
    np.testing.assert_allclose(data.targets[[0, 5]], [[1.2, 3.4, 0.95], [-2, 0, 1.5]])
    assert data.group_names == tuple(sorted(PLACES))


def test_several_environments(stored: Any, tmp_path: Path) -> None:
    write(tmp_path / "uwb" / "lab" / "data.json", nested(stored))
    write(tmp_path / "uwb" / "hall" / "data.json", nested(stored))
    table = opened(tmp_path / "uwb", "uwb-indoor", tmp_path)
    assert table.columns["environment"].tolist() == ["hall"] * 6 + ["lab"] * 6
    assert table.columns["place"].tolist()[5:7] == [f"hall/{PLACES[1]}", f"lab/{PLACES[0]}"]
    longer = {PLACES[0]: {"A1": {"ch1": [measurement(PLACES[0], np.ones(TAPS + 1))]}}}
    write(tmp_path / "uwb" / "lab" / "data.json", longer)
    check_refused(tmp_path / "uwb", "lab", "1 anchors and 6 taps", "3 and 5")


def test_a_json_file_of_another_name(stored: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "flat.json", nested(stored))
    assert open_table(DataSpec(path=path)).windows.count == 6


def test_bad_files(stored: Any, tmp_path: Path) -> None:
    path = tmp_path / "environment0" / "data.json"
    place = PLACES[0]

    def check(*words: str, **changes: Any) -> None:
        entries = [measurement(place, response()), measurement(place, response(), **changes)]
        write(path, {place: {"A1": {"ch1": entries}}})
        check_refused(path, "data.json", *words)

    check("ch1/1 at byte", "'cir'", cir=None)
    check("ch1/1 at byte", "'cir'", cir=[])
    check("ch1/1 at byte", "6 taps", "5", cir=["1"] * 6)
    check("ch1/1 at byte", "[1.2, 9.0, 0.95]", "correct x_tag", y_tag=9.0)
    check("correct x_tag", y_tag="left")
    check("no complex numbers", cir=["1+1j", "x", "1", "1", "1"])
    check("no complex numbers", cir=[None] * 5)
    check("window 1 holds NaN", cir=["nan"] * 5)
    for tree, word in (
        ({"here": {"A1": {"ch1": [measurement(place, response())]}}}, "'here' is no location"),
        ({place: {"A1": {"main": [measurement(place, response())]}}}, "channel 'main' has no number"),
        ({place: {"A1": {"ch1": measurement(place, response())}}}, "no measurement"),
        ({place: {"A1": [measurement(place, response())]}}, "no measurement"),
        ({place: {"A1": {"ch1": ["x"]}}}, "no measurement"),
        (7, "no measurement"),
        ({}, "has no measurements"),
        (
            {place: {"A1": {"ch1": [measurement(place, response())]}, "A2": {"ch2": [measurement(place, response())]}}},
            "all of A1, A2",
        ),
    ):
        write(path, tree)
        check_refused(path, "environment0", word)
    write(path, nested(stored))
    path.write_bytes(path.read_bytes()[:1500])
    check_refused(path, "data.json is no JSON, or ends too early, at byte")
    (tmp_path / "nothing").mkdir()
    check_refused(tmp_path / "nothing", "no data.json", format="uwb-indoor")
