"""The comparison for people: a table, a picture and one sentence per task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich import box
from rich.markup import escape
from rich.table import Table

from alternatives.records import Against, Alternative, Alternatives, Network, TaskAlternatives
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
        caption="time of one call (against full depth); gains [95%]: positive is better. "
        "At matched time: over the best fixed exit that takes no more",
    )
    shown.add_column("network", overflow="fold", max_width=24)
    for header in headers(task)[1:]:
        shown.add_column(header.replace(", ", "\n"), justify="right")
    for network in task.exits:
        style = "bold" if network.exit == task.chosen else None
        shown.add_row(*_costs(network, task), *[""] * (1 + len(network.timings)), style=style)
    shown.add_section()
    for each in task.alternatives:
        shown.add_row(*_costs(each.network, task), *(_cell(one, task.metric) for one in (each.chosen, *each.matched)))
    return shown


def headers(task: TaskAlternatives) -> list[str]:
    """Of the table's columns."""
    batches = [timing.batch for timing in task.exits[0].timings]
    times = [f"ms, batch {batch}" for batch in batches]
    matched = [f"at matched time, batch {batch}" for batch in batches]
    return ["network", "MB", *times, "score", f"over exit, {task.chosen}", *matched]


def markdown(task: TaskAlternatives) -> str:
    """The table as GitHub Markdown."""
    lines = ["| " + " | ".join(headers(task)) + " |", "|---" + "|---:" * (len(headers(task)) - 1) + "|"]
    for network in task.exits:
        cells = _costs(network, task)
        cells[0] = f"**{cells[0]}**" if network.exit == task.chosen else cells[0]
        lines.append("| " + " | ".join([*cells, *[""] * (1 + len(network.timings))]) + " |")
    for each in task.alternatives:
        cells = [*_costs(each.network, task), *(_cell(one, task.metric) for one in (each.chosen, *each.matched))]
        lines.append("| " + " | ".join(cells).replace("\n", " ") + " |")
    return "\n".join(lines) + "\n"


def sentence(name: str, task: TaskAlternatives) -> str:
    """What the picked sizes do beside the chosen exit, one window at a time."""
    exit = next(network for network in task.exits if network.exit == task.chosen)
    picked = [each for each in task.alternatives if each.network.name in task.picked]
    if not picked:
        return f"{name}: nothing was compared."
    said = ", ".join(_said(each, exit, task.metric) for each in picked)
    where = "full depth" if task.chosen == task.full else f"exit {task.chosen}"
    return f"{name}: against {where} ({format_number(exit.timings[0].latency_ms.p50)} ms measured, one window): {said}."


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
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    axes.set_ylabel(metric_label(task.metric) + ("" if task.higher_is_better else " (lower is better)"))
    axes.grid(color=GRID)


def _points(networks: Sequence[Network]) -> tuple[list[float], list[float]]:
    return [network.timings[0].relative for network in networks], [network.test.mean for network in networks]


def _costs(network: Network, task: TaskAlternatives) -> list[str]:
    times = [f"{format_number(t.latency_ms.p50)} ({t.relative:.2f})" for t in network.timings]
    return [network.name, f"{network.bytes / 1e6:.2f}", *times, format_score(network.test.mean, task.metric)]


def _cell(against: Against, metric: str) -> str:
    if against.gain is None:
        return "faster than\nevery exit"
    notes = [against.exit or ""] if against.batch is not None else []
    notes += [against.verdict] if against.verdict in ("better", "worse") else []
    return format_gain(against.gain, metric).replace(" points", "") + ("\n" + ", ".join(notes) if notes else "")


def _said(each: Alternative, exit: Network, metric: str) -> str:
    """``pruned by 75% +0.4 points [-0.5, 1.2] in 0.80 of the time``."""
    assert each.chosen.gain is not None, "the chosen exit is always there"
    share = each.network.timings[0].relative / exit.timings[0].relative
    verdict = f" ({each.chosen.verdict})" if each.chosen.verdict in ("better", "worse") else ""
    return f"{each.network.name} {format_gain(each.chosen.gain, metric)}{verdict} in {share:.2f} of the time"
