"""The picture of a pretraining run: every exit's ID probe against steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from offramp.files import atomic_path

TITLES = {
    "modulation": "signal type",
    "sector": "direction of arrival, sector",
    "best_beam": "best beam",
    "model": "channel model",
}


def draw_probe(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the lines of ``probe.jsonl`` as SVG: a panel per task, a line per exit from light (shallow) to dark (deep).

    Steps stand on a logarithmic axis, the untrained encoder (step 0) at its left end.
    """
    steps = [line["step"] for line in lines]
    first = min((step for step in steps if step), default=1)
    colours = matplotlib.colormaps["viridis_r"]
    with matplotlib.rc_context({"svg.hashsalt": "offramp", "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        tasks = list(lines[0]["scores"])
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        for panel, task in zip(panels, tasks, strict=True):
            exits = list(lines[0]["scores"][task])
            for number, name in enumerate(exits):
                scores = [line["scores"][task][name] for line in lines]
                share = number / max(1, len(exits) - 1)
                panel.plot(steps, scores, ".-", color=colours(0.1 + 0.9 * share), linewidth=1 + share, label=name)
            panel.set_xscale("symlog", linthresh=first)
            panel.set(title=TITLES[task], xlabel="steps", ylabel="accuracy of a ridge probe")
            panel.grid(alpha=0.3)
        figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
