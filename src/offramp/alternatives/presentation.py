"""The comparison for people: a table, a picture and one sentence per task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.markup import escape
from rich.table import Table

from offramp.alternatives.records import Alternative, Alternatives, Matched, Network, TaskAlternatives
from offramp.files import atomic_path
from offramp.report.numbers import format_gain, format_number, format_score, metric_label
from offramp.report.svg import BLUE, GOLD, GREEN, GRID, INK, ORANGE, PURPLE

_STYLES = {"int8": ("s", ORANGE), "pruned": ("^", GREEN), "distilled": ("D", PURPLE), "tuned": ("*", GOLD)}


def table(name: str, task: TaskAlternatives) -> Table:
    """A row per fixed exit and per alternative; fits in 120 columns."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        show_edge=False,
        title=f"{escape(name)}, {metric_label(task.metric)}: measured, one thread",
        caption="time: of one call; against full depth in brackets. matched: gain over the best fixed exit at no more time",
    )
    shown.add_column("network", overflow="fold", max_width=28)
    shown.add_column("MB", justify="right")
    batches = [timing.batch for timing in task.exits[0].timings]
    for batch in batches:
        shown.add_column(f"ms\nbatch {batch}", justify="right", no_wrap=True)
    shown.add_column("score", justify="right")
    for batch in batches:
        shown.add_column(f"matched\nbatch {batch}", justify="right")
    for network in task.exits:
        shown.add_row(
            *_costs(network, task), *[""] * len(batches), style="bold" if network.exit == task.chosen else None
        )
    shown.add_section()
    for each in task.alternatives:
        shown.add_row(*_costs(each.network, task), *(_matched_cell(matched, task.metric) for matched in each.matched))
    return shown


def markdown(task: TaskAlternatives) -> str:
    """The table as GitHub Markdown."""
    batches = [timing.batch for timing in task.exits[0].timings]
    headers = ["network", "MB", *(f"ms, batch {batch}" for batch in batches), "score"]
    headers += [f"matched time, batch {batch}" for batch in batches]
    lines = ["| " + " | ".join(headers) + " |", "|---" + "|---:" * (len(headers) - 1) + "|"]
    for network in task.exits:
        cells = _costs(network, task)
        cells[0] = f"**{cells[0]}**" if network.exit == task.chosen else cells[0]
        lines.append("| " + " | ".join([*cells, *[""] * len(batches)]) + " |")
    for each in task.alternatives:
        cells = [*_costs(each.network, task), *(_matched_cell(matched, task.metric) for matched in each.matched)]
        lines.append("| " + " | ".join(cells).replace("\n", " ") + " |")
    return "\n".join(lines) + "\n"


def sentence(name: str, task: TaskAlternatives) -> str:
    """What the picked sizes do at matched time, one window at a time."""
    picked = [each for each in task.alternatives if each.network.name in task.picked]
    alone = [each for each in picked if each.network.exit == task.full and each.network.method != "tuned"]
    combined = [each for each in picked if each not in alone]
    parts = []
    if alone:
        said = ", ".join(_said(each, task) for each in alone)
        parts.append(f"against the best fixed exit at no more time (batch 1), {said}")
    if combined:
        said = ", ".join(_said(each, task) for each in combined)
        parts.append(f"{'and ' if alone else ''}on top of an exit, {said}")
    return f"{name}: {'; '.join(parts)}." if parts else f"{name}: nothing was compared."


def draw_alternatives(alternatives: Alternatives, path: Path) -> None:
    """Write an SVG: per task the score against the time relative to full depth, one window at a time."""
    style: dict[Any, Any] = {
        "svg.hashsalt": "offramp",
        "svg.fonttype": "none",
        "font.size": 9.5,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2 * len(alternatives.tasks) + 2.2, 4.2), layout="constrained")
        panels = figure.subplots(1, len(alternatives.tasks), squeeze=False)[0]
        for axes, (name, task) in zip(panels, alternatives.tasks.items(), strict=True):
            _paint(axes, name, task)
        labels = {
            text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(labels.values()), list(labels), loc="outside right center", frameon=False, fontsize=8.5)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _paint(axes: Axes, name: str, task: TaskAlternatives) -> None:
    """Filled: full depth with the method alone; hollow: on top of the chosen exit."""
    axes.plot(*_points(task.exits), "o-", color=BLUE, label="fixed exits", markersize=4)
    chosen = [network for network in task.exits if network.exit == task.chosen]
    axes.plot(*_points(chosen), "o", markersize=12, mfc="none", mec=INK, mew=1.6, label="chosen exit")
    for method, (marker, colour) in _STYLES.items():
        networks = [each.network for each in task.alternatives if each.network.method == method]
        for hollow in (False, True):
            group = [n for n in networks if (n.exit != task.full or method == "tuned") is hollow]
            if group:
                label = f"exit + {method}" if hollow else method
                fill = "none" if hollow else colour
                axes.plot(*_points(group), marker, color=colour, mfc=fill, label=label, markersize=7)
    axes.set(title=name, xscale="log", xlabel="measured time of one window, full depth = 1")
    axes.set_ylabel(metric_label(task.metric) + ("" if task.higher_is_better else " (lower is better)"))
    axes.grid(color=GRID)


def _points(networks: Sequence[Network]) -> tuple[list[float], list[float]]:
    return [network.timings[0].relative for network in networks], [network.test.mean for network in networks]


def _costs(network: Network, task: TaskAlternatives) -> list[str]:
    times = [f"{format_number(t.latency_ms.p50)} ({t.relative:.2f})" for t in network.timings]
    return [network.name, f"{network.bytes / 1e6:.2f}", *times, format_score(network.test.mean, task.metric)]


def _matched_cell(matched: Matched, metric: str) -> str:
    if matched.gain is None:
        return "faster than every exit"
    said = {"better": "better", "worse": "worse"}.get(matched.verdict, "")
    return f"{format_gain(matched.gain, metric)}\n{matched.exit}{', ' if said else ''}{said}"


def _said(each: Alternative, task: TaskAlternatives) -> str:
    matched = each.matched[0]
    if matched.gain is None:
        return f"{each.network.name} is faster than every exit ({format_gain(each.gain_over_chosen, task.metric)})"
    return f"{each.network.name} {format_gain(matched.gain, task.metric)} ({matched.exit})"
