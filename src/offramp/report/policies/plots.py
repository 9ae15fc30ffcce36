"""The pictures of policies beside fixed exits: score against cost and time, where windows leave, shift, rejection, arrivals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from offramp.report.exits.plots import SIZE, curve, macs_axis, right_labels, score_axis, shorten
from offramp.report.numbers import format_number, format_percent, metric_heading, metric_label
from offramp.report.policies.text import routed_row, time_of
from offramp.report.policies.warnings import OVERCONFIDENCE, cost_of, premature_level
from offramp.report.svg import BLUE, GOLD, GREEN, GRID, INK, MUTED, ORANGE, PAPER, PURPLE, SKY, Plot, draw
from offramp.schema.results import (
    Arrivals,
    BudgetRow,
    MeasuredPolicies,
    MeasuredRow,
    PolicyComparison,
    PolicyRow,
    Rejection,
    ShiftRow,
    TaskResult,
)

_STAR = 13
_SHARES_SHOWN = 12
"""Most columns of the exit distribution that have room for a number in every cell."""


def policy_figures(anchor: str, task: TaskResult, comparison: PolicyComparison) -> list[Plot]:
    """All pictures for which there are numbers, with captions; ``anchor`` is put before every id."""
    title, measured = metric_heading(task.metric), task.measured.policies
    plots = [
        Plot(
            f"{title} against mean MACs",
            Markup(tradeoff_plot(task, comparison, f"{anchor}-tradeoff")),
            "Test score. The ring is the routed policy at the chosen budget; diamonds are what is routed at the others, small dots "
            "all other policies, crosses windows dealt to exits at random, the star an oracle that leaves as soon as the answer is right (for regression: no worse than that of full depth).",
        )
    ]
    shares = _shares(task, comparison)
    if shares:
        exits = _columns(task, shares)
        plots.append(
            Plot(
                "Where windows leave",
                Markup(distribution_plot(shares, exits, f"{anchor}-exits")),
                "Share of test windows that the routed policy of the chosen budget lets leave at each exit. The first row is the mean over seeds; "
                "classes and SNR are of the first seed.",
            )
        )
    if measured and (measured.at_matched_time or any(row.score is not None for row in measured.rows)):
        threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
        plots.append(
            Plot(
                f"{title} against time",
                Markup(time_plot(task, measured, f"{anchor}-time")),
                f"Measured, batch {measured.batch:,}, {threads}. The dashed line is the time to match; the ring is the routed policy as executed, "
                "whose time may differ from the one that it was chosen by. Executed: first seed; others: mean over seeds.",
            )
        )
    if measured and measured.arrivals:
        plots.append(
            Plot(
                "Latency when windows arrive in bursts",
                Markup(arrivals_plot(measured.arrivals, f"{anchor}-arrivals")),
                "From arrival to answer, waiting included: median, 95th and 99th percentile.",
            )
        )
    if any(row.premature is not None or row.overconfidence is not None for row in comparison.shifts):
        plots.append(
            Plot(
                "Failures under shift",
                Markup(shift_plot(comparison.shifts, task.metric, f"{anchor}-shift")),
                "Premature: left early and wrong where full depth is right (for regression: with a larger error than at full depth), of all windows. "
                f"Overconfident: confidence minus share right, of those that left early. Dotted lines: the levels past which the report warns, {format_percent(premature_level(task.metric))} and {format_percent(OVERCONFIDENCE)}.",
            )
        )
    if comparison.rejection:
        plots.append(
            Plot(
                f"{title} when the uncertain are rejected",
                Markup(rejection_plot(task, comparison.rejection, f"{anchor}-rejection")),
                "Score of the windows that are answered, against the share that is not: of those that reach the last exit consulted, the least certain."
                + _rejecting(comparison.rejecting),
            )
        )
    return plots


def tradeoff_plot(task: TaskResult, comparison: PolicyComparison, name: str) -> str:
    """Score against mean MACs: fixed exits, the routed policy and all others at every budget, random exits, the oracle."""

    def paint(axes: Axes) -> None:
        curve(axes, task.exits, BLUE, "-", band=True)
        labels = [("fixed exits", task.exits[-1].test.mean, BLUE)]
        labels += _policies(axes, comparison.budgets)
        oracle = comparison.oracle
        axes.plot([max(oracle.cost, 1)], [oracle.test.mean], "*", color=GOLD, markersize=_STAR, zorder=6, mew=0)
        labels.append(("oracle ★", oracle.test.mean, GOLD))
        _ring(axes, comparison.budgets[comparison.chosen])
        axes.margins(y=0.08)
        score_axis(axes, task)
        macs_axis(axes)
        axes.set_xlabel("mean MACs per window, all heads consulted")
        right_labels(axes, labels)

    return draw(SIZE, name, f"{metric_label(task.metric)} against mean MACs, policies and fixed exits", paint)


def time_plot(task: TaskResult, measured: MeasuredPolicies, name: str) -> str:
    """Score against measured time per window: all that was executed and scored, and the policies at matched time."""
    budget = measured.at_matched_time
    rows = [row for row in measured.rows if row.score is not None]
    executed = [row for row in measured.executed[1:] if row.score is not None]

    def paint(axes: Axes) -> None:
        labels: list[tuple[str, float, str]] = []
        fixed = sorted(filter(_is_fixed, rows), key=lambda row: row.milliseconds)
        if fixed:
            axes.plot([row.milliseconds for row in fixed], list(map(_score, fixed)), "-o", color=BLUE, mew=0)
            labels.append(("fixed exits", _score(fixed[-1]), BLUE))
        for row in rows:
            if not _is_fixed(row):
                axes.plot([row.milliseconds], [_score(row)], "D", color=GREEN, markersize=5.5, mew=0)
                labels.append((shorten(row.name, 24), _score(row), GREEN))
        for row in executed:
            axes.plot([row.milliseconds], [_score(row)], "o", markersize=11, mfc="none", mec=INK, mew=1.6, zorder=5)
        if budget is not None:
            labels += _policies(axes, [budget])
            axes.plot([budget.fixed.cost], [budget.fixed.test.mean], "o", color=BLUE, markersize=7, mew=0)
            if not fixed:
                labels.append(("fixed exit", budget.fixed.test.mean, BLUE))
            axes.axvline(budget.budget, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            axes.text(
                budget.budget, 1.02, time_of(shorten(budget.exit)), transform=axes.get_xaxis_transform(),
                ha="center", weight="bold", size=9,
            )  # fmt: skip
        axes.margins(y=0.1)
        score_axis(axes, task)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"milliseconds per window, batch {measured.batch:,}, measured")
        right_labels(axes, labels)

    return draw(SIZE, name, f"{metric_label(task.metric)} against measured time", paint)


def distribution_plot(
    shares: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, float]]]]], exits: Sequence[str], name: str
) -> str:
    """Where windows leave: a row per population, a column per exit, darker where more leave.

    Args:
        shares: Blocks with their title, each of rows with their label and the share that leaves at every exit.
        exits: Names of the columns, in order of depth.
        name: Put before every id.
    """
    rows = sum(len(block) for _, block in shares)
    gap = 0.9
    height = rows + gap * (len(shares) - 1)

    def paint(axes: Axes) -> None:
        place, ticks, labels = 0.0, [], []
        for title, block in shares:
            for label, share in block:
                axes.add_patch(Rectangle((-0.5, place - 0.46), len(exits), 0.92, color=GRID, alpha=0.3, lw=0))
                for column, exit_ in enumerate(exits):
                    _share_cell(axes, column, place, share.get(exit_, 0.0), len(exits) <= _SHARES_SHOWN)
                ticks.append(place)
                labels.append(shorten(label, 26))
                place += 1
            axes.text(
                len(exits) - 0.35,
                place - 1 - (len(block) - 1) / 2,
                title,
                rotation=90,
                va="center",
                size=8.5,
                color=MUTED,
            )
            place += gap
        size = 9 if rows <= 16 else 7
        axes.set_yticks(ticks, labels, size=size)
        rotation = 90 if len(exits) > 6 or max(map(len, exits)) > 10 else 0
        axes.set_xticks(range(len(exits)), [shorten(exit_, 16) for exit_ in exits], rotation=rotation, size=9)
        axes.set(xlim=(-0.5, len(exits)), ylim=(height - 0.5, -0.5))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return draw((SIZE[0], 0.9 + 0.25 * height), name, "share of windows that leave at every exit", paint)


def rejection_plot(task: TaskResult, rejection: Sequence[tuple[float, float]], name: str) -> str:
    """Score of the windows that are answered against the share that is rejected."""

    def paint(axes: Axes) -> None:
        rejected, scores = zip(*sorted(rejection), strict=True)
        axes.plot(rejected, scores, "-o", color=BLUE, markersize=3.5, mew=0)
        axes.margins(y=0.1)
        axes.set_xlim(0, max(*rejected, 0.01) * 1.03)
        score_axis(axes, task)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent_tick))
        axes.set_xlabel("share of windows rejected")

    return draw(SIZE, name, f"{metric_label(task.metric)} against share rejected", paint)


def shift_plot(shifts: Sequence[ShiftRow], metric: str, name: str) -> str:
    """Premature exits and shallow overconfidence of every population, with the levels past which the report warns."""
    series = [
        ("premature", [row.premature for row in shifts], ORANGE, premature_level(metric)),
        ("overconfident", [row.overconfidence for row in shifts], PURPLE, OVERCONFIDENCE),
    ]

    def paint(axes: Axes) -> None:
        places = np.arange(len(shifts))
        for offset, (label, values, colour, level) in zip((-0.19, 0.19), series, strict=True):
            axes.barh(places + offset, [value or 0.0 for value in values], 0.36, color=colour, label=label)
            for place, value in zip(places, values, strict=True):
                text = "n/a" if value is None else _percent_tick(round(value, 3), 0)
                end = (max(value or 0.0, 0.0), place + offset)
                axes.annotate(text, end, (4, 0), textcoords="offset points", va="center", size=8, color=MUTED)
            axes.axvline(level, color=colour, linewidth=1, linestyle=(0, (1.5, 2)), zorder=0)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_yticks(places, [shorten(row.name, 26) for row in shifts])
        axes.set_ylim(len(shifts) - 0.4, -0.6)
        low, high = axes.get_xlim()
        axes.set_xlim(low, max(high, 1.3 * OVERCONFIDENCE) * 1.08)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent_tick))
        _bar_legend(axes)

    return draw((SIZE[0], max(2.4, 1.1 + 0.42 * len(shifts))), name, "failures of the policy by population", paint)


def arrivals_plot(arrivals: Sequence[Arrivals], name: str) -> str:
    """Latency under a bursty trace of arrivals: median, 95th and 99th percentile of everything that served it."""
    series = [
        ("p50", [one.p50_ms for one in arrivals], SKY),
        ("p95", [one.p95_ms for one in arrivals], BLUE),
        ("p99", [one.p99_ms for one in arrivals], INK),
    ]

    def paint(axes: Axes) -> None:
        places = np.arange(len(arrivals))
        for offset, (label, values, colour) in zip((-0.26, 0.0, 0.26), series, strict=True):
            axes.barh(places + offset, values, 0.24, color=colour, label=label)
            for place, value in zip(places, values, strict=True):
                axes.annotate(
                    format_number(value), (value, place + offset), (4, 0), textcoords="offset points", va="center", size=8, color=MUTED
                )  # fmt: skip
        axes.set_yticks(places, [f"{shorten(one.name, 24)}\n{100 * one.utilisation:.0f}% busy" for one in arrivals])
        axes.set_ylim(len(arrivals) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * max(max(values) for _, values, _ in series))
        axes.set_xlabel("milliseconds from arrival to answer")
        _bar_legend(axes)

    return draw((SIZE[0], max(2.4, 1.2 + 0.55 * len(arrivals))), name, "latency under bursty arrivals", paint)


def snr_labels(edges_db: Sequence[float] | None, bins: int) -> list[str]:
    """Names of bins of SNR, from their edges where these fit."""
    if edges_db is None or len(edges_db) != bins + 1:
        return [f"SNR bin {index + 1} of {bins}" for index in range(bins)]
    return [f"{round(low)} to {round(high)} dB" for low, high in pairwise(edges_db)]


def _rejecting(found: Rejection | None) -> str:
    if found is None:
        return ""
    wrong = "" if found.test_error is None else f" and {100 * found.test_error:.1f}% on test"
    return (
        f" The rejecting policy leaves {100 * found.validation_error:.1f}% wrong answers on validation{wrong}, where it rejects "
        f"{100 * found.test_share:.1f}% of the windows."
    )


def _shares(task: TaskResult, comparison: PolicyComparison) -> list[tuple[str, list[tuple[str, Mapping[str, float]]]]]:
    routed = routed_row(comparison.budgets[comparison.chosen])
    bins = snr_labels(task.by_snr.edges_db if task.by_snr else None, len(comparison.by_snr))
    blocks: list[tuple[str, list[tuple[str, Mapping[str, float]]]]] = [
        ("", [("all", routed.exit_share)] if routed and routed.exit_share else []),
        ("class", list(comparison.by_class.items())),
        ("SNR", list(zip(bins, comparison.by_snr, strict=True))),
    ]
    return [(title, rows) for title, rows in blocks if rows]


def _columns(task: TaskResult, shares: list[tuple[str, list[tuple[str, Mapping[str, float]]]]]) -> list[str]:
    """Exits where any window leaves, in order of depth, the last one always."""
    used = {exit_ for _, rows in shares for _, row in rows for exit_, share in row.items() if share > 0}
    return [row.exit for row in task.exits if row.exit in used or row.exit == task.exits[-1].exit]


def _policies(axes: Axes, budgets: Sequence[BudgetRow]) -> list[tuple[str, float, str]]:
    """The routed policies, all others and random exits; their labels."""
    others = [row for budget in budgets for row in budget.policies if row.name != budget.routed]
    axes.plot(*_points(others), "o", color=MUTED, markersize=3.5, alpha=0.55, mew=0, zorder=2)
    random = [budget.random for budget in budgets]
    axes.plot(*_points(random), "x", color=PURPLE, markersize=6, mew=1.6, zorder=3)
    labels = [("random exits ×", random[-1].test.mean, PURPLE)]
    routed = [row for budget in budgets if (row := routed_row(budget)) is not None]
    if routed:
        axes.plot(*_points(routed), "--D", color=ORANGE, markersize=5.5, linewidth=1.2, mew=0, zorder=4)
        labels.append(("routed policy", max(routed, key=lambda row: row.cost).test.mean, ORANGE))
    if others:
        labels.append(("other policies ·", others[-1].test.mean, MUTED))
    return labels


def _points(rows: Sequence[PolicyRow]) -> tuple[list[float], list[float]]:
    ordered = sorted(rows, key=lambda row: row.cost)
    return [max(row.cost, 1e-9) for row in ordered], [row.test.mean for row in ordered]


def _ring(axes: Axes, budget: BudgetRow) -> None:
    """Mark the chosen budget: a line at its cost, a ring around its routed policy."""
    routed = routed_row(budget)
    if routed is not None:
        axes.plot([max(routed.cost, 1)], [routed.test.mean], "o", markersize=12, mfc="none", mec=INK, mew=2, zorder=5)
    axes.axvline(max(budget.budget, 1), color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.text(
        max(budget.budget, 1), 1.02, cost_of(shorten(budget.exit)).removeprefix("the "), transform=axes.get_xaxis_transform(),
        ha="center", weight="bold", size=9,
    )  # fmt: skip


def _share_cell(axes: Axes, column: int, row: float, share: float, told: bool) -> None:
    if not (math.isfinite(share) and share > 0):
        return
    cell = Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, color=BLUE, alpha=min(0.95 * share**0.7, 1.0), lw=0)
    axes.add_patch(cell)
    if told and share >= 0.005:
        ink = PAPER if share > 0.55 else INK
        axes.text(column, row, f"{100 * share:.0f}%", ha="center", va="center", color=ink, size=8)


def _bar_legend(axes: Axes) -> None:
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=9, borderaxespad=0.2)


def _is_fixed(row: MeasuredRow) -> bool:
    return row.name == "full depth" or row.name.startswith("fixed ")


def _score(row: MeasuredRow) -> float:
    return math.nan if row.score is None else row.score


def _percent_tick(value: float, _: float) -> str:
    return f"{100 * value:.3g}%"
