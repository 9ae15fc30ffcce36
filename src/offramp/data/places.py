"""Where data lies: the files and folders that paths and patterns name, and which of them can be used."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from offramp.errors import DataError

LISTED, LETTERS = 4, 120
"""Most names in a list, and most letters of it."""

T = TypeVar("T")
U = TypeVar("U")


def find_places(path: Path | Sequence[Path]) -> list[Path]:
    """Files and folders in the order given, those of a pattern in the order of their names, each once.

    A path that exists is taken as it is. Otherwise ``*``, ``?``, ``[...]`` and ``**`` make it a pattern.

    Raises:
        DataError: A path does not exist, or a pattern matches nothing.
    """
    found: dict[str, Path] = {}
    for place in [path] if isinstance(path, Path) else path:
        for match in [place] if os.path.exists(place) else _matches(place):
            found.setdefault(os.path.realpath(match), match)
    return list(found.values())


def name_of(places: Sequence[Path]) -> str:
    """What messages call them."""
    return str(places[0]) if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"


def listing(names: Sequence[str]) -> str:
    """The first few names, and how many there are besides."""
    shown: list[str] = []
    for name in names[:LISTED]:
        if shown and len(", ".join([*shown, name])) > LETTERS:
            break
        shown.append(shorten(name))
    more = [f"and {len(names) - len(shown)} more"] if len(shown) < len(names) else []
    return ", ".join([*shown, *more])


def shorten(text: str, letters: int = LETTERS) -> str:
    """A text without its middle where it is longer."""
    half = (letters - 3) // 2
    return text if len(text) <= letters else f"{text[:half]}...{text[-half:]}"


def silent_note(silent: Sequence[str], count: int) -> tuple[str, ...]:
    """What must be said of recordings that give no window, of so many in all."""
    return (f"{len(silent)} of {count} recordings give no windows: {listing(silent)}",) if silent else ()


def open_each(
    places: Sequence[tuple[str, T]], open_one: Callable[[str, T], U], skip_bad: bool, what: str
) -> tuple[list[U], tuple[str, ...]]:
    """Open every place, and say at once which cannot be used.

    Args:
        places: Name and place.
        open_one: Takes both; raises :class:`DataError` where a place cannot be used.
        skip_bad: Whether those are passed over. All of them never are.
        what: What they are, e.g. ``recordings``.

    Returns:
        What was opened, and what must be said about it.

    Raises:
        DataError: A place cannot be used: all such are named.
    """
    opened: list[U] = []
    bad: list[tuple[str, DataError]] = []
    for name, place in places:
        try:
            opened.append(open_one(name, place))
        except DataError as error:
            bad.append((name, error))
    if not bad:
        return opened, ()
    if len(places) == 1:
        raise bad[0][1]
    first = shorten(str(bad[0][1]), 180)
    count = f"{len(bad)} of {len(places)} {what}"
    names = listing([name for name, _ in bad])
    if skip_bad and opened:
        return opened, (f"{count} cannot be used and are passed over: {names}; the first: {first}",)
    advice = "correct them" if skip_bad else "correct them, or pass them over with data.skip_bad: true"
    raise DataError(f"{count} cannot be used: {names}; the first: {first}; {advice}")


def _matches(pattern: Path) -> list[Path]:
    if not glob.has_magic(str(pattern)):
        raise DataError(f"{pattern} does not exist: correct data.path")
    matches = [Path(match) for match in sorted(glob.glob(str(pattern), recursive=True))]
    matches = [match for match in matches if not match.name.startswith("._")]
    if not matches:
        raise DataError(f"{pattern} matches no file: correct data.path")
    return matches
