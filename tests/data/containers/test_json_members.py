from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.data.containers import json_members
from offramp.data.containers.json_members import members, read_member
from offramp.errors import DataError

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text('aé{["\\,:]}\n', max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text('ab{:"', max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


def walk(value: Any, depth: int, keys: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    if depth == 0 or not isinstance(value, dict | list):
        return [(keys, value)]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return [found for key, inner in pairs for found in walk(inner, depth - 1, (*keys, key))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=VALUES, depth=st.integers(0, 4), block=st.integers(1, 40), indent=st.sampled_from([None, 1]))
def test_as_json_decodes_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, depth: int, block: int, indent: int | None
) -> None:
    """However little is read at a time; every member is found again by its place."""
    monkeypatch.setattr(json_members, "BLOCK", block)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    found = list(members(path, depth))
    assert [(member.keys, member.value) for member in found] == walk(value, depth)
    assert all(read_member(path, member.start, member.stop) == member.value for member in found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_file_that_is_cut_off_anywhere(tmp_path: Path, data: st.DataObject) -> None:
    content = json.dumps({"a": [{"b": ["(1+2j)", 3.5]}, {"b": []}], "c": {"d": {"e": 1}}}).encode()
    path = tmp_path / "a.json"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DataError, match=r"a\.json is no JSON, or ends too early, at byte \d+: copy it again"):
        list(members(path, data.draw(st.integers(0, 4))))


@pytest.mark.parametrize("content", ["", "x", "{1: 2}", '{"a" 1}', '{"a": 1 "b": 2}', "[1 2]", "[1,", "[" * 100_000])
def test_what_is_no_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json is no JSON"):
        list(members(tmp_path / "a.json", 2))


def test_utf8_stays_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": "Žižka", "y": ["ü", 1]}', encoding="utf-8")
    found = list(members(path, 1))
    assert [read_member(path, member.start, member.stop) for member in found] == ["Žižka", ["ü", 1]]


def test_a_file_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"x": [1, 2]}')
    (member,) = members(path, 1)
    path.write_text('{"x": "longer"}')
    with pytest.raises(DataError, match="has changed"):
        read_member(path, member.start, member.stop)
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_member(path, member.start, member.stop)
    with pytest.raises(DataError, match="No such file"):
        list(members(path, 1))
