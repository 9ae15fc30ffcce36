"""Standard output as a terminal: what a file holds is shown and not obeyed."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


class PlainConsole(Console):
    """A console on which escapes that stand in names are marks of one column instead of commands to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _shown(text), style, control)


def console() -> Console:
    """The terminal; or 120 columns, so that tables stay whole in a file or a pipe."""
    found = PlainConsole()
    return found if found.is_terminal or "COLUMNS" in os.environ else PlainConsole(width=120)


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)
