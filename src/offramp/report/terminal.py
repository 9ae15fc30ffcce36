"""The summary table in the terminal and in Markdown."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from offramp.report.policies.text import policy_line, verdict_counts, verdict_sentence
from offramp.report.summary import BEST, ExitCells, simulated_tasks, summary_notes, summary_rows, summary_sentence
from offramp.schema.results import Results

_MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "*": "\\*", "`": "\\`", "<": "&lt;"})


def results_table(results: Results) -> RenderableType:
    """The summary in a sentence, and its table, one task per row, below it the best exit on validation; fits in 100 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True, show_edge=False)
    table.add_column("task\nshift", overflow="fold", max_width=20)
    table.add_column("leave at\nsaving", overflow="fold", max_width=14, style="bold")
    for header in ("MACs\nsaved", "time\nsaved", "score\nfull", "gain\n[95%]", "random\nweights"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("best simple\ncontrol", justify="right", overflow="fold", max_width=14)
    for row in summary_rows(results):
        chosen = row.chosen
        table.add_row(
            f"{escape(row.task)}\n[dim]{escape(row.shift)}, {escape(row.metric)}[/]",
            f"{escape(chosen.exit)}\n[dim]{row.saving}[/]",
            f"{chosen.macs}\n[dim]{chosen.macs_saved}[/]",
            chosen.time_saved,
            f"{chosen.score}\n[dim]{row.full}[/]",
            f"{chosen.gain}\n[dim]{escape(chosen.gain_interval)}[/]",
            row.random,
            f"{row.simple}\n[dim]{escape(row.simple_name)}[/]",
        )
        if row.best is not None:
            best = row.best
            table.add_row(
                f"[dim]{BEST}[/]",
                f"[dim]{escape(best.exit)}[/]",
                f"[dim]{best.macs_saved}[/]",
                f"[dim]{best.time_saved}[/]",
                f"[dim]{best.score}[/]",
                f"[dim]{best.gain}\n{escape(best.gain_interval)}[/]",
                "",
                "",
            )
    return Group(Text(summary_sentence(results)), table, *(Text(note, style="dim") for note in _notes(results)))


def markdown_table(results: Results) -> str:
    """The summary table as GitHub Markdown, with its notes."""
    header = (
        "task", "shift", "metric", "leave at", "MACs", "MACs saved", "saving", "time saved",
        "score", "full", "gain [95%]", "equal within", "random weights", "best simple control",
    )  # fmt: skip
    lines = [_markdown_row(header), "|---|---|---|---|---:|---:|---|" + "---:|" * 7]
    for row in summary_rows(results):
        simple = f"{row.simple} ({row.simple_name})" if row.simple_name else row.simple
        exits = _markdown_exit(row.chosen, row.saving, row.full)
        lines.append(_markdown_row((row.task, row.shift, row.metric, *exits, row.random, simple)))
        if row.best is not None:
            lines.append(_markdown_row((BEST, "", "", *_markdown_exit(row.best, "", row.full), "", "")))
    notes = [summary_sentence(results), *_notes(results)]
    return "\n".join(lines + [f"\n{_escape_markdown(note)}" for note in notes]) + "\n"


def _markdown_exit(cells: ExitCells, saving: str, full: str) -> tuple[str, ...]:
    gain = f"{cells.gain} {cells.gain_interval}"
    return (cells.exit, cells.macs, cells.macs_saved, saving, cells.time_saved, cells.score, full, gain, cells.within)


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
