"""The pictures of a report, as inline SVG: score against MACs, latency, confusion, score by SNR, runs side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from offramp.report.numbers import format_count, format_number, format_score, is_bounded, metric_label
from offramp.report.svg import BLUE, GOLD, GREEN, GRID, INK, MUTED, ORANGE, PAPER, PURPLE, SKY, draw
from offramp.schema.results import ExitControl, ExitRow, FeatureRow, Score, SnrScores, TaskResult

SIZE = (6.4, 4.4)
RUN_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GOLD, SKY)
_CONTROL_STYLES = {"random_encoder": ("random weights", ORANGE, "-"), "equal_width": ("equal width", GREEN, "--")}
_LABEL_GAP = 0.047
"""Least distance of two labels at the right of the axes, as a fraction of the axes' height."""


def score_plot(task: TaskResult, name: str) -> str:
    """Score of every exit against its MACs, for the encoder and for every control; chosen and full exit marked."""

    def paint(axes: Axes) -> None:
        labels = [("encoder", task.exits[-1].test.mean, BLUE)]
        curve(axes, task.exits, BLUE, "-", band=True)
        for control_name, control in task.controls.items():
            if isinstance(control, ExitControl):
                label, colour, line = _CONTROL_STYLES.get(control_name, (control_name, PURPLE, ":"))
                curve(axes, control.exits, colour, line, band=control_name == "random_encoder")
                labels.append((label, control.exits[-1].test.mean, colour))
        _limit_scores(axes, task)
        for control_name, control in task.controls.items():
            if isinstance(control, FeatureRow):
                axes.axhline(control.test.mean, color=MUTED, linewidth=1, linestyle=(0, (1.5, 2)), zorder=1)
                low, high = axes.get_ylim()
                beyond = " ↑" if control.test.mean > high else " ↓" if control.test.mean < low else ""
                text = f"{shorten(control_name)} {format_score(control.test.mean, task.metric)}{beyond}"
                labels.append((text, control.test.mean, MUTED))
        _mark_exits(axes, task)
        score_axis(axes, task)
        macs_axis(axes)
        right_labels(axes, labels)

    return draw(SIZE, name, f"{metric_label(task.metric)} against MACs", paint)


def latency_plot(task: TaskResult, name: str) -> str:
    """Median latency of every measured exit, with a whisker to the 95th percentile."""
    exits = [row.exit for row in task.exits if row.exit in task.measured.latency_ms]

    def paint(axes: Axes) -> None:
        latency = [task.measured.latency_ms[exit_] for exit_ in exits]
        places = np.arange(len(exits))
        p50 = np.array([one.p50 for one in latency])
        p95 = np.array([one.p95 for one in latency])
        colours = [{task.full.exit: INK, task.chosen.exit: BLUE}.get(exit_, SKY) for exit_ in exits]
        bars = axes.barh(places, p50, height=0.68, color=colours)
        for bar, exit_ in zip(bars, exits, strict=True):
            bar.set_alpha(1.0 if exit_ in (task.chosen.exit, task.full.exit) else 0.45)
        axes.hlines(places, p50, np.maximum(p95, p50), color=MUTED, linewidth=1.2)
        axes.plot(np.maximum(p95, p50), places, "|", color=MUTED, markersize=6)
        for place, one in zip(places, latency, strict=True):
            end = (max(one.p95, one.p50), place)
            axes.annotate(
                format_number(one.p50), end, (5, 0), textcoords="offset points", va="center", size=8.5, color=MUTED
            )
        axes.set_yticks(places, [shorten(exit_) for exit_ in exits])
        for tick, exit_ in zip(axes.get_yticklabels(), exits, strict=True):
            if exit_ == task.chosen.exit:
                tick.set(color=BLUE, fontweight="bold")
        axes.set_ylim(len(exits) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * max(p95.max(), p50.max()))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("milliseconds per batch")

    return draw((SIZE[0], max(2.4, 0.7 + 0.21 * len(exits), SIZE[1])), name, "latency per exit", paint)


def confusion_plot(confusion: Sequence[Sequence[int]], label_names: Sequence[str], name: str) -> str:
    """Confusion matrix in fractions of each true class; counts in the cells where there are at most twelve classes."""
    counts = np.array(confusion, dtype=float)
    classes = len(counts)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    named = (
        [shorten(label, 26) for label in label_names] if len(label_names) == classes else list(map(str, range(classes)))
    )
    side = min(1.9 + 0.21 * classes, 6.5)

    def paint(axes: Axes) -> None:
        axes.add_patch(Rectangle((-0.5, -0.5), classes, classes, color=GRID, alpha=0.3, lw=0))
        for row, column in np.argwhere(counts > 0):
            share, colour = shares[row, column], BLUE if row == column else ORANGE
            cell = Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=colour, alpha=0.95 * share**0.7, lw=0)
            axes.add_patch(cell)
            if classes <= 12:
                ink = PAPER if share > 0.55 else INK
                text = f"{counts[row, column]:,.0f}" + (f"\n{100 * share:.0f}%" if classes <= 5 else "")
                axes.text(column, row, text, ha="center", va="center", color=ink, size=8)
        step = math.ceil(classes / 40)
        ticks, size = range(0, classes, step), 9 if classes <= 12 else 7
        axes.set_xticks(ticks, named[::step], rotation=90 if classes > 3 else 0, size=size)
        axes.set_yticks(ticks, named[::step], size=size)
        axes.set(
            xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal", xlabel="predicted", ylabel="true"
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return draw((side + 1, side + 0.6), name, "confusion matrix of the chosen exit", paint)


def snr_plot(task: TaskResult, scores: SnrScores, name: str) -> str:
    """Score of the chosen and of the full exit in equal-count bins of SNR."""

    def paint(axes: Axes) -> None:
        centres = [(low + high) / 2 for low, high in pairwise(scores.edges_db)]
        lines = [(f"full ({shorten(task.full.exit)})", scores.full, INK, "--")]
        if task.chosen.exit != task.full.exit:
            lines.append((f"chosen ({shorten(task.chosen.exit)})", scores.chosen, BLUE, "-"))
        labels = []
        for label, values, colour, line in lines:
            axes.plot(centres, values, line, marker="o", color=colour)
            labels.append((label, values[-1], colour))
        for edge in scores.edges_db:
            axes.axvline(edge, color=MUTED, linewidth=0.6, alpha=0.25, zorder=0)
        axes.margins(y=0.12)
        axes.set_xlabel("SNR in dB (bins of equal count)")
        score_axis(axes, task)
        right_labels(axes, labels)

    return draw(SIZE, name, f"{metric_label(task.metric)} by SNR", paint)


def comparison_plot(runs: Sequence[tuple[str, TaskResult]], name: str) -> str:
    """Score against MACs of one task in several runs, each run's chosen exit ringed; all in the first run's metric."""
    first = runs[0][1]
    comparable = [(run, task) for run, task in runs if task.metric == first.metric]

    def paint(axes: Axes) -> None:
        labels = []
        for index, (run, task) in enumerate(comparable):
            colour = RUN_COLOURS[index % len(RUN_COLOURS)]
            curve(axes, task.exits, colour, "-", band=True)
            _ring(axes, task.chosen, colour)
            labels.append((shorten(run), task.exits[-1].test.mean, colour))
        axes.margins(y=0.1)
        score_axis(axes, first)
        macs_axis(axes)
        right_labels(axes, labels)

    return draw(SIZE, name, f"{metric_label(first.metric)} against MACs, by run", paint)


def curve(axes: Axes, exits: Sequence[ExitRow], colour: str, line: str, *, band: bool) -> None:
    """Score against MACs, with the 95% interval as a band where asked."""
    macs = [max(row.macs, 1) for row in exits]
    axes.plot(macs, [row.test.mean for row in exits], line, marker="o", color=colour, markeredgewidth=0)
    if band:
        low, high = zip(*(_spread(row.test) for row in exits), strict=True)
        axes.fill_between(macs, low, high, color=colour, alpha=0.14, linewidth=0)


def _spread(score: Score) -> tuple[float, float]:
    """The 95% interval; one standard deviation over seeds to both sides where there is none."""
    return score.ci95 or (score.mean - score.std, score.mean + score.std)


def _limit_scores(axes: Axes, task: TaskResult) -> None:
    """Show the encoder's exits well: what lies far away is labelled at the rim."""
    inner = [bound for row in task.exits for bound in _spread(row.test)]
    low, high = min(inner), max(inner)
    reach = 1.5 * max(high - low, 1e-9)
    everything = [control.test.mean for control in task.controls.values() if isinstance(control, FeatureRow)]
    for control in task.controls.values():
        if isinstance(control, ExitControl):
            everything += [bound for row in control.exits for bound in _spread(row.test)]
    near = [value for value in everything if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.06 * max(high - low, 1e-9)
    axes.set_ylim(low - margin, high + margin)


def _ring(axes: Axes, row: ExitRow, colour: str) -> None:
    axes.plot([max(row.macs, 1)], [row.test.mean], "o", markersize=12, mfc="none", mec=colour, mew=2, zorder=5)


def _mark_exits(axes: Axes, task: TaskResult) -> None:
    """Drop a line from the chosen and the full exit, named above the axes, where no data is."""
    same = task.chosen.exit == task.full.exit
    _ring(axes, task.chosen, INK)
    marks = [("chosen: full depth" if same else f"chosen: {shorten(task.chosen.exit)}", task.chosen, "right")]
    if not same:
        marks.append(("full", task.full, "center"))
    for text, row, side in marks:
        axes.axvline(max(row.macs, 1), color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        axes.text(max(row.macs, 1), 1.02, text, transform=axes.get_xaxis_transform(), ha=side, weight="bold", size=9)


def macs_axis(axes: Axes) -> None:
    """A logarithmic axis of MACs, after everything is drawn."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    if decades >= 1:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
    else:
        axes.xaxis.set_major_locator(FixedLocator(MaxNLocator(5).tick_values(low, high)[1:-1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_macs_tick))
    axes.set_xlabel("MACs per window, encoder and head")


def _macs_tick(macs: float, _: int) -> str:
    """``2.00M`` is ``2M`` on an axis."""
    return re.sub(r"\.?0+(?=[A-Z])", "", text) if "." in (text := format_count(macs)) else text


def score_axis(axes: Axes, task: TaskResult) -> None:
    """The vertical axis in the metric's unit."""
    direction = "" if task.higher_is_better else " (lower is better)"
    if is_bounded(task.metric):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    elif task.metric.endswith("_db"):
        direction = f" in dB{direction}"
    axes.set_ylabel(metric_label(task.metric) + direction)
    axes.grid(axis="y")


def right_labels(axes: Axes, labels: Sequence[tuple[str, float, str]]) -> None:
    """Name lines right of the axes, moved apart where they would overlap; ``labels`` are text, height and colour."""
    low, high = axes.get_ylim()
    labels = [label for label in labels if math.isfinite(label[1])]
    wanted = [min(max((value - low) / (high - low), 0.0), 1.0) for _, value, _ in labels]
    for index, place in _spaced(wanted):
        text, _, colour = labels[index]
        transform = axes.transAxes
        axes.plot([1.0, 1.025], [wanted[index], place], color=colour, lw=0.8, transform=transform, clip_on=False)
        axes.text(1.035, place, text, color=colour, va="center", transform=transform, size=9)


def _spaced(wanted: Sequence[float]) -> list[tuple[int, float]]:
    """Index and place of every label, ascending: close to where it is wanted, at least a gap apart, ending below 1."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    places: list[float] = []
    for index in order:
        places.append(max(wanted[index], places[-1] + _LABEL_GAP if places else 0.0))
    ceiling = 1.0
    for position in reversed(range(len(places))):
        places[position] = min(places[position], ceiling)
        ceiling = places[position] - _LABEL_GAP
    return list(zip(order, places, strict=True))


def shorten(text: str, length: int = 20) -> str:
    """Cut out the middle of a long name: what tells names apart stands at their ends."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"
