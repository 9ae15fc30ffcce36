"""The summary table in the terminal and in Markdown."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from offramp.report.policies.text import policy_line, verdict_counts, verdict_sentence
from offramp.report.summary import simulated_tasks, summary_notes, summary_rows
from offramp.schema.results import Results

_MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "*": "\\*", "`": "\\`", "<": "&lt;"})


def results_table(results: Results) -> RenderableType:
    """The summary table, one task per row; fits in 100 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True, show_edge=False)
    table.add_column("task\nshift", overflow="fold", max_width=20)
    table.add_column("leave at", overflow="fold", max_width=14, style="bold")
    for header in ("MACs\nsaved", "time\nsaved", "score\nfull", "gain\n[95%]", "random\nweights"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("best simple\ncontrol", justify="right", overflow="fold", max_width=14)
    for row in summary_rows(results):
        table.add_row(
            f"{escape(row.task)}\n[dim]{escape(row.shift)}, {escape(row.metric)}[/]",
            escape(row.exit),
            f"{row.macs}\n[dim]{row.macs_saved}[/]",
            row.time_saved,
            f"{row.chosen}\n[dim]{row.full}[/]",
            f"{row.gain}\n[dim]{escape(row.gain_interval)}[/]",
            row.random,
            f"{row.simple}\n[dim]{escape(row.simple_name)}[/]",
        )
    return Group(table, *(Text(note, style="dim") for note in _notes(results)))


def markdown_table(results: Results) -> str:
    """The summary table as GitHub Markdown, with its notes."""
    header = (
        "task", "shift", "metric", "leave at", "MACs", "MACs saved", "time saved",
        "score", "full", "gain [95%]", "random weights", "best simple control",
    )  # fmt: skip
    lines = [_markdown_row(header), "|---|---|---|---|" + "---:|" * 8]
    for row in summary_rows(results):
        costs = (row.exit, row.macs, row.macs_saved, row.time_saved)
        scores = (row.chosen, row.full, f"{row.gain} {row.gain_interval}", row.random)
        simple = f"{row.simple} ({row.simple_name})" if row.simple_name else row.simple
        lines.append(_markdown_row((row.task, row.shift, row.metric, *costs, *scores, simple)))
    return "\n".join(lines + [f"\n{_escape_markdown(note)}" for note in _notes(results)]) + "\n"


def _notes(results: Results) -> list[str]:
    simulated = simulated_tasks(results)
    notes = summary_notes(results) + ([f"This data is simulated: {', '.join(simulated)}."] if simulated else [])
    notes += [f"{name}: {note}." for name, task in results.tasks.items() for note in task.notes]
    lines = [f"{name}: {line}." for name, task in results.tasks.items() if (line := policy_line(task))]
    verdicts = verdict_sentence(verdict_counts([results])) if len(lines) > 1 else ""
    return [*notes, *lines, *([verdicts] if verdicts else [])]


def _markdown_row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(_escape_markdown, cells)) + " |"


def _escape_markdown(text: str) -> str:
    return " ".join(text.translate(_MARKDOWN).split())
