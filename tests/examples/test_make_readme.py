"""README's table from a small run: its numbers are the run's, what stands around it stays, and a second time changes nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import make_readme
import pytest
from tiny import tiny_encoder

from offramp import costs
from offramp.encoders.storage import save_encoder
from offramp.errors import OfframpError
from offramp.experiment import pipeline
from offramp.report.numbers import format_gain, format_score
from offramp.report.policies.text import Tally, VerdictCounts
from offramp.schema.results import Results
from offramp.schema.suite import load_suite

BEGIN, END = f"<!-- {make_readme.PART} -->", f"<!-- /{make_readme.PART} -->"

SUITE = """
encoder: encoder
tasks:
  - name: sector
    shift: id
    data: {synthetic: {scenario: directions, windows: 240, antennas: 1, samples: 64}, target: sector}
  - name: angle
    kind: regression
    shift: domain
    data: {synthetic: {scenario: directions, windows: 240, antennas: 1, samples: 64, seed: 3}, target: angle}
  - name: easy
    shift: both
    no_claim: a sieve solves it
    data: {synthetic: {scenario: directions, windows: 240, antennas: 1, samples: 64, seed: 4}, target: sector}
selection: {tolerance: "30%"}
controls: [constant, random_encoder, handmade]
seeds: [0, 1]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("readme")
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    (folder / "suite.yaml").write_text(SUITE)
    latency = {row.name: costs.Latency(p50=1.0, p95=1.0, p99=1.0) for row in tiny_encoder(repeats=1).exits}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
        patch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))
        return folder / "run", pipeline.run_suite(load_suite(folder / "suite.yaml"), folder / "run")


def test_the_numbers_are_the_runs(run: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results = run
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold 94.0\n{END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["make_readme.py", str(folder), "--readme", str(readme)])
    make_readme.main()
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old 94.0" not in text
    for name, task in results.tasks.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
        assert f"| {task.chosen.exit} |" in row
        assert (
            f"| {format_score(task.chosen.test.mean, task.metric)} | {format_score(task.full.test.mean, task.metric)} |"
            in row
        )
        if task.chosen.exit != task.full.exit:
            assert format_gain(task.gain_over_full, task.metric) in row
            assert ("| confirmed |" if task.saving_confirmed else "| not confirmed |") in row
    assert "tolerance, 30% of the full encoder's score" in text
    assert "2 seeds, 60 test windows" in text
    assert f"of {2} tasks" in text.split("Pretrained weights lead random ones on")[1]
    assert "§ easy counts for no claim and no summary: a sieve solves it." in text
    make_readme.main()
    assert readme.read_text() == text


def test_a_page_without_the_marks(run: tuple[Path, Results], tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(END + BEGIN)
    with pytest.raises(OfframpError, match="put both around the table"):
        make_readme.write_readme(run[1], tmp_path / "page.md")


def test_the_readme_of_the_project_has_the_marks() -> None:
    text = (make_readme.ROOT / "README.md").read_text(encoding="utf-8")
    for part in (make_readme.PART, "policies"):
        assert text.index(f"<!-- {part} -->") < text.index(f"<!-- /{part} -->")


def test_the_table_of_policies(tmp_path: Path) -> None:
    """That of README is what its counts give, and its counts are those of the page."""
    page = tmp_path / "README.md"
    page.write_text("<!-- policies -->\n<!-- /policies -->\n")
    counted = (make_readme.ROOT / "docs" / "policy_results.md").read_text(encoding="utf-8").split("**")[1]
    numbers = [int(number) for number in re.findall(r"\d+", counted)]
    tallies = [Tally(*numbers[start + 1 : start + 4]) for start in (0, 4, 8)]
    assert [tally.total for tally in tallies] == [numbers[start] for start in (0, 4, 8)]
    make_readme.write_policies(VerdictCounts(*tallies), page)
    table = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    readme = (make_readme.ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 4
    assert all(line in readme for line in table)
