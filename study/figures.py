"""The pictures of the study, as SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from plan import PRETRAINED, RANDOM, SCRATCH_EXITS, SCRATCH_SHOTS, SHOTS, TASKS, StudyTask
from summary import Study

from offramp.files import atomic_path

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#767676"
TITLES = {"id": "ID", "domain": "OOD: domain", "label": "OOD: label", "both": "OOD: both"}


def save(
    path: Path, size: tuple[float, float], panels: tuple[int, int], paint: Callable[[Any], None], **axes: object
) -> None:
    """Draw a grid of panels and write it; the same numbers give the same file."""
    with matplotlib.rc_context({"svg.hashsalt": "offramp", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.subplots(*panels, squeeze=False, **axes))
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def scores_against_macs(study: Study, shots: int, path: Path) -> None:
    """A panel per task: accuracy of every exit against its MACs."""

    def paint(panels: Any) -> None:
        for panel, task in zip(panels.flat, TASKS, strict=True):
            _scores_of_task(study, task, shots, panel)
        handles = panels[0, 0].get_legend_handles_labels()
        panels[0, 0].figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)

    save(path, (11, 6.6), (2, 3), paint)


def _scores_of_task(study: Study, task: StudyTask, shots: int, panel: Axes) -> None:
    macs = study.macs(task)
    for names, colour, label in ((PRETRAINED, BLUE, "pretrained, 3 runs"), (RANDOM, ORANGE, "random, 3 draws")):
        curves = 100 * np.stack([study.by_exit(name, task.name, shots) for name in names])
        panel.plot(macs, curves.mean(0), "o-", color=colour, markersize=3, label=label)
        panel.fill_between(macs, curves.min(0), curves.max(0), color=colour, alpha=0.2, linewidth=0)
    if shots in SCRATCH_SHOTS:
        exits = study.scores(PRETRAINED[0], task.name).exits
        scratch = 100 * study.scratch(task.name)[:, SCRATCH_SHOTS.index(shots)]
        at = [macs[exits.index(name)] for name in SCRATCH_EXITS]
        panel.plot(at, scratch, "s", color=GREEN, markersize=5, label="from scratch, cut there")
    by_hand = 100 * study.by_exit(PRETRAINED[0], task.name, shots)[0]
    panel.axhline(by_hand, color=GREY, linestyle=":", label="features by hand")
    panel.set_xscale("log")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set(title=f"{task.name} ({TITLES[task.shift]})", xlabel="MACs of a window", ylabel="accuracy, %")
    panel.grid(alpha=0.25)


def over_random_against_labels(study: Study, path: Path) -> None:
    """Pretrained minus random, best exit of each, and chosen minus full, against labels per class."""

    def paint(panels: Any) -> None:
        colours = matplotlib.colormaps["tab10"]
        for panel, title, of in (
            (panels[0, 0], "pretrained minus random, chosen exit of each", study.over_random),
            (panels[0, 1], "chosen exit minus full encoder, pretrained", study.over_full),
        ):
            for number, task in enumerate(TASKS):
                estimates = [of(task.name, shots) for shots in SHOTS]
                middle = np.array([100 * one.mean for one in estimates])
                low, high = (np.array([100 * getattr(one, end) for one in estimates]) for end in ("low", "high"))
                at = np.array(SHOTS) * 1.05 ** (number - 2.5)
                panel.errorbar(
                    at,
                    middle,
                    (middle - low, high - middle),
                    color=colours(number),
                    marker="o",
                    markersize=3,
                    label=task.name,
                )
            panel.axhline(0, color=GREY, linewidth=1)
            panel.set_xscale("log")
            panel.set(title=title, xlabel="labels per class", ylabel="points of accuracy")
            panel.grid(alpha=0.25)
        panels[0, 0].legend(frameon=False, fontsize=8)

    save(path, (11, 4), (1, 2), paint)


def layers_over_steps(described: list[dict[str, Any]], path: Path) -> None:
    """A panel per measure: its value at every exit, one line per step count from light (untrained) to dark."""
    titles = {
        "effective_rank": "effective rank",
        "intraclass_correlation": "invariance (intraclass correlation)",
        "retrieval": "partner found among 1,000",
    }

    def paint(panels: Any) -> None:
        colours = matplotlib.colormaps["viridis_r"]
        shown = [described[0], *described[-6:]]
        for panel, (key, title) in zip(panels.flat, titles.items(), strict=True):
            for number, one in enumerate(shown):
                colour = ORANGE if number == 0 else colours(0.15 + 0.85 * number / (len(shown) - 1))
                panel.plot(one["exits"], one[key], "o-", markersize=3, color=colour, label=f"{one['step']:,} steps")
            panel.set_title(title)
            panel.tick_params(axis="x", rotation=60)
            panel.grid(alpha=0.25)
        panels[0, 0].legend(frameon=False, fontsize=8)

    save(path, (11, 3.8), (1, 3), paint)


def similarity(described: list[dict[str, Any]], path: Path) -> None:
    """CKA between all exits, before pretraining, half-way and after it."""

    def paint(panels: Any) -> None:
        for panel, one in zip(panels.flat, (described[0], described[-3], described[-1]), strict=True):
            image = panel.imshow(one["cka"], vmin=0, vmax=1, cmap="viridis")
            panel.set_title(f"CKA, {one['step']:,} steps")
            panel.set_xticks(range(len(one["exits"])), one["exits"], rotation=60)
            panel.set_yticks(range(len(one["exits"])), one["exits"])
        panels[0, 2].figure.colorbar(image, ax=panels[0, :], shrink=0.8)

    save(path, (11, 3.8), (1, 3), paint)
