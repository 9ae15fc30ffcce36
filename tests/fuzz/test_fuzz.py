"""A few hundred broken and hostile inputs through the command line; ``make fuzz`` tries ten thousand.

Whatever a file or an option holds, a command ends with 0 or with 2 and one line, in time, within its memory, and leaves its inputs alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutate
import pytest
import yaml
from driver import Attempt, Fuzzer, run_apart
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

COUNT = 172
SEED = 1
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
SUITES = st.fixed_dictionaries(
    {
        "encoder": st.just("encoder") | TREES,
        "tasks": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.just("los") | PLAIN,
                    "data": st.just({"path": "data.h5", "target": "los", "group": "city"}) | TREES,
                },
                optional=dict.fromkeys(("kind", "shift", "split", "transform", "shots", "metric", "head", "x"), TREES),
            ),
            max_size=2,
        )
        | TREES,
    },
    optional=dict.fromkeys(("selection", "controls", "seeds", "policies", "y"), TREES),
)
FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    return Fuzzer(tmp_path_factory.mktemp("fuzz"), SEED)


@pytest.fixture(scope="module")
def attempts(fuzzer: Fuzzer) -> list[Attempt]:
    return [fuzzer.try_one(number) for number in range(COUNT)]


def test_broken_inputs_are_answered_or_refused_in_one_line(attempts: list[Attempt]) -> None:
    faults = [
        f"{each.number} {each.kind} {each.command}: {each.fault}\n{each.stderr}" for each in attempts if each.fault
    ]
    assert not faults, "\n".join(faults)


def test_inputs_are_broken_and_not_only_broken(attempts: list[Attempt]) -> None:
    """Changes that the first check always finds would never reach what lies behind it."""
    codes = [attempt.code for attempt in attempts]
    assert codes.count(2) > COUNT / 4
    assert codes.count(0) > COUNT / 20


@pytest.fixture(scope="module")
def place(fuzzer: Fuzzer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A copy of the folder of a kind of input."""

    def copy(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind) / "input"
        shutil.copytree(fuzzer.seed_of(kind).folder, folder, symlinks=True)
        return folder

    return copy


def test_suites_of_any_content(fuzzer: Fuzzer, place: Callable[[str], Path]) -> None:
    folder = place("suite")

    @FEW
    @given(SUITES)
    def check(content: Any) -> None:
        (folder / "suite.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        attempt = fuzzer.check(folder, ("run", "{}/suite.yaml", "--dry-run"))
        assert not attempt.fault, (content, attempt)

    check()


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("bundle-config", "bundle/config.json", ("inspect", "{}/bundle")),
        ("encoder-shufflenet", "encoder/config.json", ("inspect", "{}/encoder")),
        ("results", "run/results.json", ("report", "{}/run", "--out", "{}/out/report.html")),
        ("sigmf", "a.sigmf-meta", ("inspect", "{}/a.sigmf-meta")),
    ],
)
def test_json_with_parts_of_any_content(
    fuzzer: Fuzzer, place: Callable[[str], Path], kind: str, name: str, command: tuple[str, ...]
) -> None:
    folder = place(kind)
    valid = json.loads((folder / name).read_text())

    @FEW
    @given(st.sampled_from(sorted(valid)), TREES)
    def check(key: str, value: Any) -> None:
        (folder / name).write_text(json.dumps(valid | {key: value}), encoding="utf-8")
        attempt = fuzzer.check(folder, command)
        assert not attempt.fault, (key, value, attempt)

    check()


@pytest.mark.parametrize("kind", ["npz", "suite", "hdf5", "checkpoint-safetensors", "bundle-config"])
def test_a_number_makes_the_same_input_again(place: Callable[[str], Path], fuzzer: Fuzzer, kind: str) -> None:
    made = []
    for _ in range(2):
        folder = place(kind)
        path = fuzzer.seed_of(kind).targets(folder)[0]
        valid = path.read_bytes()
        mutate.mutate(path, random.Random(5))
        made.append(path.read_bytes())
    assert made[0] == made[1]
    assert made[0] != valid


def _grow() -> int:
    held = []
    while True:
        held.append(bytearray(1 << 26))
        time.sleep(0.01)


def _crash() -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def _spin() -> int:
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "code", "stopped"), [(lambda: 2, 2, ""), (_crash, -signal.SIGSEGV, ""), (_grow, None, "over 2 GB")]
)
def test_a_child_that_crashes_or_grows_is_noticed(
    tmp_path: Path, work: Callable[[], int], code: int | None, stopped: str
) -> None:
    ended = run_apart(work, tmp_path, tmp_path)
    assert (ended.code, ended.stopped) == (code, stopped)


@pytest.mark.parametrize(("limit", "work"), [("SECONDS", _spin), ("WAITING", signal.pause)])
def test_a_child_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, work: Callable[[], int]
) -> None:
    monkeypatch.setattr(f"driver.{limit}", 0.2)
    assert run_apart(work, tmp_path, tmp_path).code is None
