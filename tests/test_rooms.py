"""The house plan, as far as import-linter does not see it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import offramp
from offramp.policies.criteria import CRITERIA
from offramp.schema.metrics import METRIC_INFO
from offramp.schema.policies import CRITERION_KINDS
from offramp.scoring.metrics import METRICS

PACKAGE = Path(offramp.__file__).parent


@pytest.mark.parametrize(
    "room", ["schema", "files", "bundle", "transforms", "scoring", "policies", "data", "report", "serving"]
)
def test_a_room_opens_without_torch(room: str) -> None:
    """Whole rooms, file by file; :mod:`offramp.data.simulated` alone draws with torch."""
    place = PACKAGE / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [PACKAGE / f"{room}.py"]
    names = [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files]
    names = [name.removesuffix(".__init__") for name in names if name != "offramp.data.simulated"]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_two_classes_have_one_name() -> None:
    found = Counter(
        node.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in found.items() if count > 1} == set()


def test_what_a_suite_may_name_is_what_there_is() -> None:
    assert {name: criterion.kinds for name, criterion in CRITERIA.items()} == CRITERION_KINDS
    assert {name: (m.kind, m.sign, m.bounded) for name, m in METRICS.items()} == {
        name: (info.kind, info.sign, info.bounded) for name, info in METRIC_INFO.items()
    }
