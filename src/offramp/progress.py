"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""
OnStep = Callable[[str, int, int], None]
"""The same behind what is being done."""
OnNote = Callable[[str], None]
"""Called with each sentence that must be said."""


def silent(*_: object) -> None:
    """Say nothing."""


def of_step(on_step: OnStep, what: str) -> OnProgress:
    """Progress of one step by its name."""
    return lambda done, total: on_step(what, done, total)
