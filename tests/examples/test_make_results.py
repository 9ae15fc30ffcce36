"""The page of results: what it said before stands beside what it says now, and its suites are suites."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import make_results
import pytest

from offramp.schema.suite import load_suite


def test_earlier_numbers_stand_beside_the_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = SimpleNamespace(exit="stage2.0", macs_saved_fraction=0.54, test=SimpleNamespace(mean=0.489))
    found = SimpleNamespace(tasks={"rml2016": SimpleNamespace(chosen=chosen, metric="accuracy"), "new": None})
    before = {"mine": {"rml2016": {"leave_at": "stage3.1", "macs_saved": "0%", "score": "47.0%"}}}
    monkeypatch.setattr(make_results, "EARLIER", tmp_path / "earlier.json")
    make_results.EARLIER.write_text(json.dumps(before))
    assert "| rml2016 | stage3.1, 0% | 47.0% | stage2.0, 54% | 48.9% |" in make_results.earlier_table("mine", found)
    assert make_results.earlier_table("another", found) == ""


def test_every_suite_on_the_page_is_one() -> None:
    for name in make_results.READING:
        suite = None if name == "default" else Path(make_results.__file__).parent / f"{name}.yaml"
        assert load_suite(suite).tasks


def test_sections_of_suites_that_are_not_run_stay_as_they_are() -> None:
    page = "# Results\n\nWritten.\n\n## One\n\nA table.\n\n### Below\n\nMore.\n\n## Two\n\nThe end.\n"
    assert make_results.sections(page) == {
        "One": "## One\n\nA table.\n\n### Below\n\nMore.\n",
        "Two": "## Two\n\nThe end.\n",
    }
