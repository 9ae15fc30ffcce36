"""Progress on stderr: a live bar on a terminal, one line per finished step in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from offramp.cli.streams import say
from offramp.errors import one_line


class Steps:
    """Shows named steps; call it with what is being done, how much is done and how much there is."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),  # names of tasks may hold brackets
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._known: dict[str, tuple[TaskID, float]] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show a step's progress."""
        if what not in self._known:
            self._known[what] = (self._bars.add_task(one_line(what), total=total), time.monotonic())
        bar, started = self._known[what]
        if self._live:
            self._bars.update(bar, completed=done, visible=done < total)
        elif done >= total:
            seconds = time.monotonic() - started
            if seconds > 0.5:
                say(f"{one_line(what)}: {total} in {seconds:.1f} s")

    def note(self, text: str) -> None:
        """Print a line beside the bars."""
        text = one_line(text)
        if self._live:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            say(text)
