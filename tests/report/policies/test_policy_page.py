from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_samples import results, task
from rich.console import Console
from routed_samples import (
    SHARE,
    comparison,
    full_comparison,
    measured_policies,
    policy_row,
    reliability_row,
    routed_task,
    shift_row,
    told,
)

from offramp.report.card import model_card
from offramp.report.html import load_results, write_report
from offramp.report.policies.page import policy_view
from offramp.report.policies.plots import snr_labels
from offramp.report.terminal import markdown_table, results_table
from offramp.schema.results import Results, TaskResult


def written(run: Results, folder: Path, *more: Results) -> str:
    write_report([(f"run{index}", one) for index, one in enumerate((run, *more))], folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def pictures(one: TaskResult) -> dict[str, str]:
    view = policy_view("p", one)
    assert view is not None
    for plot in view.plots:
        ElementTree.fromstring(str(plot.svg))
    return {plot.title: str(plot.svg) for plot in view.plots}


@pytest.fixture(scope="module")
def routed() -> TaskResult:
    return routed_task(label_names=["am", "fm"])


@pytest.fixture(scope="module")
def page(routed: TaskResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(results({"routed": routed, "plain": task()}), tmp_path_factory.mktemp("policies"))


def test_everything_is_told(page: str, routed: TaskResult) -> None:
    text = html.unescape(page)
    policies, measured = routed.policies, routed.measured.policies
    assert policies is not None
    assert measured is not None
    assert policies.warnings
    for sentence in (policies.sentence, measured.sentence, *policies.warnings):
        assert text.count(sentence) == 1
    assert page.count("Exits that decide") == 1
    assert "5 warnings" in text
    for part in (
        "80.5% [79.2, 81.8]", "+0.3 points [-1.0, 1.7]", "8.20M", "76.5%", "92.4%", "91% fewer",  # matched cost
        "learned halting", "entropy with a threshold per exit", "random exits", "oracle",
        "All 6 budgets", "fixed exit", "+1.3 points [0.2, 2.4]",
        "0.091 → 0.023", "0.781 → 0.792", "0.142 → 0.080", "0.031", "1.42", "2.13",  # reliability
        "noise added", "8.3%", "+0.210", "0.212", "unseen class 16qam",  # shift
        "Certified: with a probability of at least 90%", "Shift voids the guarantee;",
        "200 times", "int8 stage3.0", "At the time of stage3.0: 0.121 ms a window", "95%",
    ):  # fmt: skip
        assert part in text, part
    assert "On 1 task, at the MACs of each one's budget, the fixed exit wins on 0, routing on 0, neither on 1" in text


def test_page_stays_whole(page: str) -> None:
    assert "http" not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_routed_policy_stands_behind_the_fixed_exit(routed: TaskResult) -> None:
    view = policy_view("p", routed)
    assert view is not None
    assert [row.name for row in view.chosen.rows[:2]] == ["fixed exit", "confidence"]
    assert [row.name for row in view.chosen.rows[-2:]] == ["random exits", "oracle"]
    assert [row.strong for row in view.chosen.rows].index(True) == 1
    assert view.chosen.rows[0].cells[-1] == "100%"
    assert view.chosen.rows[1].cells[-1] == "80%"
    for table in (view.chosen, *view.tables):
        assert {len(row.cells) + 1 for row in table.rows} == {len(table.header)}


def test_nothing_changes_without_policies(tmp_path: Path) -> None:
    run = results({"plain": task()})
    page = written(run, tmp_path)
    body = page[page.index("<body>") :]
    for word in ("policies", "verdicts", "warnings", "routing", "oracle"):
        assert word not in body
    assert "routing" not in model_card(run) + markdown_table(run)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_least_that_can_be_there(tmp_path: Path, higher_is_better: bool) -> None:
    kind: dict[str, Any] = {"start": 28.0, "peak": 4.2, "end": 5.0, "kind": "regression", "metric": "mean_error"}
    one = task(**({} if higher_is_better else kind), higher_is_better=higher_is_better)
    least = comparison(one, full_cost=None)
    bare = [
        budget.model_copy(
            update={
                "policies": [],
                "routed": "",
                "fixed": policy_row("fixed", budget.budget, 0.8, exit_share={}, exits=["conv5"], thresholds=[]),
            }
        )
        for budget in least.budgets
    ]
    empty = told(
        one,
        least.model_copy(update={"budgets": bare}),
        measured_policies(rows=[], at_matched_time=None, executed=[], arrivals=[]),
    )
    page = written(results({"least": told(one, least), "empty": empty}), tmp_path)
    assert page.count("Exits that decide") == 2
    assert "no policy keeps to it" in page
    assert 'class="warnings"' not in page
    assert list(pictures(empty)) == [f"{'Accuracy' if higher_is_better else 'Mean error'} against mean MACs"]


def test_rows_without_values(tmp_path: Path) -> None:
    one = task()
    row = shift_row(
        score=None, full_score=None, premature=None, overconfidence=None, confidence=None, risk=None, exit_share={}
    )
    nothing = reliability_row(
        failure_auroc_before=None, failure_auroc_after=None, survivors_ece_before=None, survivors_ece_after=None,
        survivors_ece_own=None, survivors_failure_auroc=None, survivors_temperature=None,
    )  # fmt: skip
    one = told(one, comparison(one, shifts=[row], reliability=[nothing], rejection=[(0.0, 0.8)], by_snr=[SHARE]))
    assert "Failures under shift" not in pictures(one)
    assert "SNR bin 1 of 1" in pictures(one)["Where windows leave"]
    assert "n/a → n/a" in written(results({"a": one}), tmp_path)


def test_pictures_show_what_was_measured(routed: TaskResult) -> None:
    drawn = pictures(routed)
    assert list(drawn) == [
        "Accuracy against mean MACs",
        "Where windows leave",
        "Accuracy against time",
        "Latency when windows arrive in bursts",
        "Failures under shift",
        "Accuracy when the uncertain are rejected",
    ]
    assert all(
        f">{word}<" in drawn["Accuracy against mean MACs"] for word in ("fixed exits", "routed policy", "oracle ★")
    )
    assert all(f">{word}<" in drawn["Where windows leave"] for word in ("all", "am", "fm", "12 to 18 dB", "22%"))
    assert all(f">{word}<" in drawn["Accuracy against time"] for word in ("int8 stage3.0", "time of stage3.0"))
    assert all(f">{word}<" in drawn["Latency when windows arrive in bursts"] for word in ("93% busy", "31.0", "p99"))
    assert all(f">{word}<" in drawn["Failures under shift"] for word in ("noise added", "8.3%", "62%", "n/a"))
    assert drawn == pictures(routed)


def test_bins_of_snr_are_named_by_their_edges() -> None:
    assert snr_labels([-6.1, -0.4, 4.0], 2) == ["-6 to 0 dB", "0 to 4 dB"]
    assert snr_labels([-6.1, -0.4], 2) == snr_labels(None, 2) == ["SNR bin 1 of 2", "SNR bin 2 of 2"]


def test_time_without_scores_is_no_picture() -> None:
    one = task()
    rows = [row.model_copy(update={"score": None}) for row in measured_policies().rows]
    one = told(one, comparison(one), measured_policies(rows=rows, at_matched_time=None, executed=[]))
    assert "Accuracy against time" not in pictures(one)


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    one = task()
    policies = full_comparison(one, by_class={evil: SHARE}, shifts=[shift_row(evil, premature=0.2, risk=0.9)])
    budgets = [
        budget.model_copy(
            update={
                "exit": evil,
                "routed": evil,
                "policies": [policy_row(evil, 900, 0.7, exits=[evil], exit_share={evil: 1})],
            }
        )
        for budget in policies.budgets
    ]
    rows = [row.model_copy(update={"name": evil}) for row in measured_policies().rows]
    policies = policies.model_copy(update={"budgets": budgets})
    page = written(results({evil: told(one, policies, measured_policies(rows=rows))}), tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_several_runs_are_counted_together(tmp_path: Path, routed: TaskResult) -> None:
    page = html.unescape(written(results({"a": routed}), tmp_path, results({"b": routed})))
    counted = page[page.index('id="comparison"') : page.index('id="r0"')]
    assert (
        "On 2 tasks, at the MACs of each one's budget, the fixed exit wins on 0, routing on 0, neither on 2" in counted
    )


def test_results_come_back_from_their_file(tmp_path: Path, routed: TaskResult) -> None:
    run = results({"a": routed})
    (tmp_path / "results.json").write_text(run.model_dump_json(by_alias=True), encoding="utf-8")
    assert load_results(tmp_path) == run


def test_terminal_markdown_and_card_name_the_routed_policy(routed: TaskResult) -> None:
    run = results({"[bold]one": routed, "plain": task(), "two": routed})
    console = Console(file=io.StringIO(), width=100, no_color=True)
    console.print(results_table(run))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert (
        "[bold]one: at the cost of stage3.0 routing by confidence: +0.3 points [-1.0, 1.7] against the fixed exit"
        in words
    )
    assert "plain: at the cost" not in words
    assert "On 2 tasks" in words
    assert "two: at the cost of stage3.0 routing by confidence" in markdown_table(run)
    assert routed.policies is not None
    for sentence in (routed.policies.sentence, *routed.policies.warnings):
        assert model_card(run).count(f"  - {sentence}\n") == 2
