"""From a matplotlib figure to SVG that may stand beside others in one HTML page, in its light or dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1b2330", "#5d6879", "#e1e6ee", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE, SKY, GOLD = "#0072b2", "#c2510a", "#00805c", "#a8477f", "#2f93c8", "#a87400"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    PURPLE: "--purple",
    SKY: "--sky",
    GOLD: "--gold",
}
"""Colours after Okabe and Ito, darkened until thin lines and text read well on white; the page redefines them in the dark."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "offramp",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


@dataclass(frozen=True)
class Plot:
    """A picture with its title and caption."""

    title: str
    svg: Markup
    caption: str


def draw(size: tuple[float, float], name: str, label: str, paint: Callable[[Axes], None]) -> str:
    """Paint one pair of axes and return it as inline SVG.

    Args:
        size: Width and height in inches.
        name: Put before every id, so that figures with different names do not clash in one page.
        label: What the picture shows, for those who do not see it.
        paint: Draws on the axes; called in the house style.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), name, label)


def _inline(svg: str, name: str, label: str) -> str:
    """Strip what only a file needs, make ids unique, colours variable and fonts the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<[^<>]*?) id="([^"]*)"', rf'\1 id="{name}-\2"', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{name}-', svg)
    svg = re.sub(r'(<text style="[^"]*?)font: ([\d.]+px)[^;"]*', r"\1font-size: \2", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    width = float(box[1].split()[2])
    head = f'<svg viewBox="{box[1]}" style="max-width: {width:.0f}pt" role="img" aria-label="{_attribute(label)}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
