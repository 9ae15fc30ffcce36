"""Accuracy-compute curves of text_exits.py: thresholds are chosen on validation, everything shown is on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from offramp.files import atomic_path
from offramp.policies.costs import CascadeCosts
from offramp.policies.search import Sweep, candidate, outcomes, shared_thresholds
from offramp.policies.simulation import certainties, leaving
from offramp.policies.windows import Windows
from offramp.scoring.metrics import METRICS
from offramp.scoring.resampling import Resamples, Units, paired_gain
from offramp.scoring.resampling import summarise as summarise_scores

ACCURACY = METRICS["accuracy"]
THRESHOLDS, BUDGETS = 200, 20
AFTERWARDS = {"deebert": "frozen", "berxit": "berxit-frozen", "joint": "joint-frozen", "layerskip": "layerskip-frozen"}
"""What a training is called once it has heads of :mod:`offramp.fitting`, fitted to the frozen encoder, in place of its own. That of
DeeBERT is an encoder that was trained plainly: its first stage asks the last exit alone, and its second leaves the encoder as it is."""
DRAWN = {
    "frozen": "trained plainly, heads afterwards",
    "joint": "joint training",
    "deebert": "DeeBERT",
    "berxit": "BERxiT",
    "layerskip": "LayerSkip",
}
TRAININGS = DRAWN | {
    "joint-frozen": "joint training, heads afterwards",
    "berxit-frozen": "BERxiT, heads afterwards",
    "layerskip-frozen": "LayerSkip, heads afterwards",
}
CURVES = {
    "frozen": ("frozen", "confidence"),
    "joint": ("joint", "confidence"),
    "deebert": ("deebert", "entropy"),
    "berxit": ("berxit", "hidden"),
    "berxit, on outputs": ("berxit", "learned_halting"),
    "berxit, confidence": ("berxit", "confidence"),
    "layerskip": ("layerskip", "confidence"),
    "joint-frozen": ("joint-frozen", "confidence"),
    "berxit-frozen": ("berxit-frozen", "hidden"),
    "layerskip-frozen": ("layerskip-frozen", "confidence"),
}
"""Training and criterion of every curve."""
CRITERIA = {"learned_halting": "learned on outputs", "hidden": "learned on hidden states"}
AT = {"50%": "layer3", "33%": "layer2"}
"""Budgets of the table: what the fixed exit there costs, with its head."""
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#767676"


@dataclass(frozen=True, eq=False)
class Rows:
    """One training of one seed: windows of validation and test, and what the hidden layer says of them ``(exits, N)``."""

    val: Windows
    test: Windows
    val_hidden: NDArray[np.float32]
    test_hidden: NDArray[np.float32]


def read(path: Path, exits: tuple[str, ...]) -> Rows:
    """Read what text_exits.py kept of a training."""
    with np.load(path) as stored:
        parts = [
            Windows(
                exits, dict(zip(exits, stored[f"{part}_outputs"], strict=True)), stored[f"{part}_targets"], ACCURACY
            )
            for part in ("val", "test")
        ]
        return Rows(*parts, stored["val_hidden"], stored["test_hidden"])


@dataclass(frozen=True, eq=False)
class Routing:
    """A criterion on one training of one seed, ready for any budget."""

    rows: Rows
    costs: CascadeCosts
    sweep: Sweep
    certain: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Rows, criterion: str, costs: CascadeCosts) -> Routing:
        """Fit the criterion, if it is learned, and try thresholds, both on validation."""
        exits = rows.val.exits
        name = "confidence" if criterion == "hidden" else criterion
        tried = candidate(rows.val, "classification", name, tuple(range(len(exits))), dict.fromkeys(exits, 1.0))
        certain_val, certain = tried.certain, certainties(tried.policy, rows.test.outputs)
        if criterion == "hidden":
            tried = type(tried)(tried.policy, tried.consulted, rows.val_hidden)
            certain_val, certain = rows.val_hidden, rows.test_hidden
        thresholds = shared_thresholds(certain_val[:-1], THRESHOLDS)
        scores, cost = outcomes(tried, np.repeat(thresholds[:, None], len(exits) - 1, axis=1), rows.val, costs)
        return cls(rows, costs, Sweep(thresholds, scores, cost), certain)

    def within(self, budget: float) -> tuple[NDArray[np.float64], float]:
        """Statistics ``(N, 2)`` and mean cost on test at the threshold that is best on validation within a budget."""
        place = self.sweep.within(budget)
        return self._at(-1 if place is None else place[2])

    def spending(self, budget: float) -> tuple[NDArray[np.float64], float]:
        """The same at the highest threshold within a budget on validation: where every text leaves as late as it may."""
        return self._at(int(np.argmax(self.sweep.costs <= budget * (1 + 1e-9))))

    def _at(self, number: int) -> tuple[NDArray[np.float64], float]:
        left = leaving(self.certain, np.full(len(self.certain) - 1, self.sweep.thresholds[number]))
        cost = self.costs.leaving(range(len(self.certain)))[left].mean()
        return self.rows.test.statistics[left, np.arange(self.rows.test.count)], float(cost)


def best_fixed(candidates: Sequence[Rows], costs: CascadeCosts, budget: float) -> NDArray[np.float64]:
    """Statistics ``(N, 2)`` on test of the fixed exit that is best on validation within a budget, of any of some trainings."""
    allowed = np.flatnonzero(costs.fixed() <= budget * (1 + 1e-9))
    scored = [(ACCURACY.score(rows.val.statistics[exit].sum(0)), rows, exit) for rows in candidates for exit in allowed]
    _, rows, exit = max(scored, key=lambda one: float(one[0]))
    return rows.test.statistics[exit]


def summarise(
    runs: Path, seeds: int, exits: tuple[str, ...], reach: Sequence[int], consult: Sequence[int], width: int
) -> dict[str, Any]:
    """All numbers of the page, JSON types only; accuracies with 95% intervals over test texts, crossed with seeds.

    Args:
        runs: What text_exits.py kept.
        seeds: How many.
        exits: In order of depth.
        reach: MACs of the encoder up to each exit.
        consult: MACs of each head.
        width: MACs of the layer that learns to exit from the hidden state, at each exit.
    """
    kept = {name: [read(runs / f"{name}-{seed}.npz", exits) for seed in range(seeds)] for name in TRAININGS}
    costs = CascadeCosts(tuple(map(float, reach)), tuple(map(float, consult)), "MACs")
    beside = CascadeCosts(costs.reach, tuple(cost + width for cost in costs.consult), "MACs")
    fixed, full = costs.fixed(), float(costs.fixed()[-1])
    count = kept["joint"][0].test.count
    units, resamples = Units(np.arange(count), count, "group"), Resamples.draw(count, seeds, 0)

    def score(sums: NDArray[np.float64]) -> dict[str, Any]:
        return summarise_scores(sums, ACCURACY, resamples).model_dump()

    def gain(better: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, Any]:
        return paired_gain(better, reference, ACCURACY, resamples, units).model_dump()

    summary: dict[str, Any] = {"seeds": seeds, "full_macs": int(full), "fixed": {}, "curves": {}}
    summary["shares"] = {name: float(fixed[exits.index(exit)] / full) for name, exit in AT.items()}
    for name, of_seeds in kept.items():
        points = [score(np.stack([rows.test.statistics[exit] for rows in of_seeds])) for exit in range(len(exits))]
        summary["fixed"][name] = {"macs": [float(cost / full) for cost in fixed], "scores": points}
    for name, (training, criterion) in CURVES.items():
        of_seeds = kept[training]
        routings = [Routing.of(rows, criterion, beside if criterion == "hidden" else costs) for rows in of_seeds]
        curve: dict[str, Any] = {"training": training, "criterion": criterion, "macs": [], "scores": [], "at": {}}
        for budget in np.geomspace(*routings[0].costs.leaving(range(len(exits)))[[0, -1]], BUDGETS):
            found = [routing.spending(budget) for routing in routings]
            curve["macs"].append(float(np.mean([cost for _, cost in found]) / full))
            curve["scores"].append(score(np.stack([sums for sums, _ in found])))
        for label, exit in AT.items():
            budget = float(fixed[exits.index(exit)])
            found = [routing.within(budget) for routing in routings]
            routed = np.stack([sums for sums, _ in found])
            own = np.stack([best_fixed([rows], costs, budget) for rows in of_seeds])
            every = np.stack(
                [best_fixed([kept[each][seed] for each in TRAININGS], costs, budget) for seed in range(seeds)]
            )
            curve["at"][label] = {
                "macs": float(np.mean([cost for _, cost in found]) / full),
                "routed": score(routed),
                "fixed": score(own),
                "best_of_all": score(every),
                "over_fixed": gain(routed, own),
                "over_best_of_all": gain(routed, every),
            }
        summary["curves"][name] = curve
    return summary


def table(summary: dict[str, Any]) -> str:
    """The table of docs/text.md, in Markdown."""
    lines = [
        "| training, exits by | full depth | " + " | ".join(f"at {label} | fixed there | gain" for label in AT) + " |",
        "|---|---|" + "---|---|---|" * len(AT),
    ]
    for curve in summary["curves"].values():
        full = summary["fixed"][curve["training"]]["scores"][-1]
        cells = [
            f"{TRAININGS[curve['training']]}, {CRITERIA.get(curve['criterion'], curve['criterion'])}",
            _percent(full),
        ]
        for at in curve["at"].values():
            low, high = at["over_fixed"]["ci95"]
            cells += [_percent(at["routed"]), _percent(at["fixed"])]
            cells.append(f"{100 * at['over_fixed']['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        lines.append("| " + " | ".join(cells) + " |")
    at = next(iter(summary["curves"].values()))["at"]
    best = ", ".join(f"{_percent(one['best_of_all'])} at {label}" for label, one in at.items())
    lines += ["", f"Best fixed exit of all trainings: {best}."]
    for name, curve in summary["curves"].items():
        for label, one in curve["at"].items():
            low, high = one["over_best_of_all"]["ci95"]
            lines.append(
                f"{name} at {label}: {100 * one['over_best_of_all']['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] over it, "
                f"{100 * one['macs']:.1f}% of the MACs"
            )
    return "\n".join(lines)


def _percent(score: dict[str, Any]) -> str:
    return f"{100 * score['mean']:.1f}%"


def draw(summary: dict[str, Any], path: Path) -> None:
    """A panel per training, routing as lines and its fixed exits as points; the last panel has all lines."""
    colours = dict(zip(DRAWN, (GREY, BLUE, GREEN, PURPLE, ORANGE), strict=True))
    with matplotlib.rc_context({"svg.hashsalt": "offramp", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, 6.6), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True, sharey=True)
        for panel, (training, title) in zip(panels.flat, DRAWN.items(), strict=False):
            _fixed(panel, summary["fixed"][training])
            styles = iter(("-", "--", ":"))
            for curve in summary["curves"].values():
                if curve["training"] == training:
                    style, label = next(styles), CRITERIA.get(curve["criterion"], curve["criterion"])
                    _line(panel, curve, colours[training], label, style, band=style == "-")
            panel.set_title(title)
            panel.legend(frameon=False, fontsize=8, loc="best")
        for name, curve in summary["curves"].items():
            if name in DRAWN:
                _line(panels[1, 2], curve, colours[name], DRAWN[name], "-", band=False)
        panels[1, 2].set_title("all together, exits per text")
        panels[1, 2].legend(frameon=False, fontsize=8, loc="best")
        for panel in panels.flat:
            panel.grid(alpha=0.25)
        figure.supxlabel("mean MACs of a text, % of full depth")
        figure.supylabel("accuracy on test texts, %")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def _fixed(panel: Axes, points: dict[str, Any]) -> None:
    middle = 100 * np.array([score["mean"] for score in points["scores"]])
    ends = 100 * np.array([score["ci95"] for score in points["scores"]]).T
    panel.errorbar(
        100 * np.array(points["macs"]),
        middle,
        np.abs(ends - middle),
        fmt="o",
        color="black",
        markersize=4,
        linewidth=1,
        label="fixed exit",
    )


def _line(panel: Axes, curve: dict[str, Any], colour: str, label: str, style: str, band: bool) -> None:
    macs = 100 * np.array(curve["macs"])
    panel.plot(macs, [100 * score["mean"] for score in curve["scores"]], style, color=colour, label=label)
    if band:
        low, high = (100 * np.array([score["ci95"][end] for score in curve["scores"]]) for end in (0, 1))
        panel.fill_between(macs, low, high, color=colour, alpha=0.15, linewidth=0)
