from __future__ import annotations

from pathlib import Path

import pytest
from energy import joules_per_call, package_counters


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    folder = tmp_path / "intel-rapl:0"
    folder.mkdir()
    (folder / "max_energy_range_uj").write_text("1000000\n")
    (folder / "energy_uj").write_text("999000\n")
    return folder / "energy_uj"


def test_energy_per_call_over_a_counter_that_wraps(counter: Path, tmp_path: Path):
    def call() -> None:
        counter.write_text(str((int(counter.read_text()) + 500) % 1_000_000))

    assert joules_per_call(call, tmp_path, seconds=0.05) == pytest.approx(500e-6, rel=1e-6)


def test_without_a_counter_there_is_no_figure(tmp_path: Path):
    assert package_counters(tmp_path) == []
    assert joules_per_call(lambda: None, tmp_path) is None
