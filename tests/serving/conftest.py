"""A server that several tests ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Made, Served, make, serving

SLICES = """slices:
  urllc: {budget_ms: 30000, priority: 0, under_load: shallower}
  early: {exit: stem}
  picky: {policy: p}
"""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """To ask, not to change."""
    folder: Path = tmp_path_factory.mktemp("server")
    (folder / "slices.yaml").write_text(SLICES)
    with serving(made.segments, folder, "--slices", str(folder / "slices.yaml")) as running:
        yield running
