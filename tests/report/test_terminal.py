from __future__ import annotations

import io

from report_samples import results, task
from rich.console import Console

from offramp.report.terminal import markdown_table, results_table
from offramp.schema.results import Results


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
        "| modulation | id | accuracy | stage3.1 | 10.2M | 69% | 60% | 84.0% | 83.0% | +1.1 [0.4, 1.8]\\* | 61.0% | 70.0% (handmade) |"
    )
    assert {line.count("|") for line in lines[: 2 + len(demo.tasks)]} == {13}
    assert "| \\|x\\| |" in markdown_table(results({"|x|": task()}))
