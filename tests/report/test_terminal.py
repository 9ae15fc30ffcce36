from __future__ import annotations

import io

import numpy as np
import pytest
from report_samples import gain, judged, results, score, task
from rich.console import Console

from offramp.report.summary import run_summary, summary_sentence
from offramp.report.terminal import markdown_table, results_table
from offramp.schema.results import FeatureRow, Results, RunSummary


def printed(run: Results, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    console.print(results_table(run))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table_fits_and_has_the_numbers(demo: Results) -> None:
    text = printed(demo)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for part in (
        "modulation",
        "stage3.1",
        "10.2M",
        "69%",
        "60%",
        "84.0%",
        "83.0%",
        "+1.1",
        "[0.4, 1.8]*",
        "61.0%",
        "70.0%",
    ):
        assert part in text
    assert "[-0.2, 1.0]†" in text
    assert "This data is simulated: modulation, angle_degrees." in text


def test_long_names_and_markup_do_no_harm() -> None:
    text = printed(results({"[bold]a-task-with-a-name-far-too-long-for-its-column": task()}))
    assert max(map(len, text.splitlines())) <= 100
    assert "[bold]" in text


def test_markdown_table(demo: Results) -> None:
    lines = markdown_table(demo).splitlines()
    assert lines[2] == (
        "| modulation | id | accuracy | stage3.1 | 10.2M | 69% |  | 60% | 84.0% | 83.0% | +1.1 [0.4, 1.8]\\* |  | 61.0% | 70.0% (handmade) |"
    )
    assert {line.count("|") for line in lines[: 2 + len(demo.tasks)]} == {15}
    assert "| \\|x\\| |" in markdown_table(results({"|x|": task()}))


def beside() -> Results:
    """A task whose chosen exit is not the best on validation, and one that counts for no claim."""
    one = task(gain_over_full=gain(0.004, -0.003, 0.011, within=0.0095))
    easy = task(no_claim="random weights solve it")
    return results(
        {
            "modulation": judged(one, 9, gain(0.012, 0.002, 0.022), True, 0.01),
            "interference": judged(easy, 6, easy.gain_over_full, False, 0.01),
        }
    )


def test_the_best_exit_on_validation_stands_below_the_chosen_one() -> None:
    run = beside()
    best = run.tasks["modulation"].best
    assert best is not None
    lines = markdown_table(run).splitlines()
    assert "| 69% | confirmed | 60% |" in lines[2]
    assert "| +0.4 [-0.3, 1.1] | 0.9 points |" in lines[2] or "| +0.4 [-0.3, 1.1] | 1.0 points |" in lines[2]
    assert lines[3].startswith(f"| best on validation |  |  | {best.exit} |")
    assert "| +1.2 [0.2, 2.2] |" in lines[3]
    text = printed(run)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for part in ("confirmed", "not confirmed", "best on validation", best.exit, "[0.2, 2.2]"):
        assert part in text
    assert text.count("best on validation") == 1, "interference: the chosen exit is the best"


def test_a_task_for_no_claim_is_marked_and_left_out_of_the_summary() -> None:
    run = beside()
    assert run_summary(run.tasks) == RunSummary(
        tasks=1,
        left_out=["interference"],
        mean_macs_saved_fraction=run.tasks["modulation"].chosen.macs_saved_fraction,
        leave_early=1,
        confirmed=1,
        ood_tasks=1,
        ood_beats_full=0,
    )
    for text in (printed(run), markdown_table(run)):
        assert "The task leaves before the end, which saves 69% of the MACs" in text
        assert "interference§" in text
        assert "§ interference counts for no claim and no summary: random weights solve it." in text


def test_an_exit_of_no_use_saves_nothing(demo: Results) -> None:
    useless = demo.tasks["modulation"].model_copy(
        update={"controls": {"constant": FeatureRow(test=score(0.9), gain=gain(-0.06, -0.07, -0.05))}}
    )
    found = run_summary({"a": useless, "b": demo.tasks["modulation"]})
    assert (found.tasks, found.leave_early) == (2, 1)
    assert found.mean_macs_saved_fraction == pytest.approx(demo.tasks["modulation"].chosen.macs_saved_fraction / 2)


def test_a_run_in_one_sentence(demo: Results) -> None:
    """Of the five tasks devices runs to the end; modulation alone beats full depth, and is no OOD task."""
    assert summary_sentence(demo) == (
        f"4 of 5 tasks leave before the end, which saves {mean_saved(demo):.0%} of the MACs on average over all 5. "
        "The chosen exit beats full depth on 0 of 4 OOD tasks after Holm's correction."
    )
    sure = demo.tasks["los"].model_copy(update={"gain_over_full": gain(0.02, 0.01, 0.03, significant=True)})
    assert "beats full depth on 1 of 1 OOD task after" in summary_sentence(
        demo.model_copy(update={"tasks": {"los": sure}})
    )
    nothing = demo.model_copy(update={"tasks": {"a": demo.tasks["los"].model_copy(update={"no_claim": "a reason"})}})
    assert summary_sentence(nothing) == "No task of this run counts for a claim."


def mean_saved(run: Results) -> float:
    return float(np.mean([one.chosen.macs_saved_fraction for one in run.tasks.values()]))
