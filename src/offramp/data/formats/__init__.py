"""Formats of data files: one registry, one function that opens any of them.

A module in ``datasets`` or ``generic`` that has the functions ``recognise``, ``read`` and ``summarise`` is a format, and its name is the
format's. An installed package adds its own by an entry point of the group ``offramp.formats`` that leads to such a module or object.

Several paths are one set: their tables are joined, unless a format's ``TAKES`` holds ``paths``. It reads them itself then. ``TAKES`` also
names the keys of ``data:`` that a format knows and others do not: ``label`` and ``resample``.

A format recognises its files by what is in them, since many share a suffix. The first that recognises a path reads it: those of other
packages, then those of single data sets, then the general ones that they are built on.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol

from offramp.data.containers.companions import check_place
from offramp.data.formats import datasets, generic
from offramp.data.formats.joining import join
from offramp.data.places import find_places, name_of, open_each
from offramp.data.summary import FileSummary
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

GROUP = "offramp.formats"
OWN_KEYS = ("label", "resample")
"""Keys of ``data:`` that a format must say it takes."""


def __getattr__(name: str) -> Any:
    """A format's module by the module's name, e.g. ``from offramp.data.formats import sigmf``."""
    found = known_formats().get(name.replace("_", "-")) if not name.startswith("_") else None
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


class DataFormat(Protocol):
    """A way to lay out windows in files."""

    def recognise(self, path: Path) -> bool:
        """Whether a file or folder that exists is of this layout; never raises, and reads no more than a header."""

    def read(self, spec: DataSpec) -> Table:
        """Open what a suite's ``data:`` names."""

    def summarise(self, path: Path) -> FileSummary:
        """What a file holds, without knowing what to make of it."""


@cache
def known_formats() -> dict[str, DataFormat]:
    """All formats by name, in the order in which they are asked.

    Raises:
        DataError: A format of an installed package cannot be imported.
    """
    return _installed() | _ours(datasets.__path__, datasets.__name__) | _ours(generic.__path__, generic.__name__)


def _ours(path: list[str], package: str) -> dict[str, DataFormat]:
    modules = {name: import_module(f"{package}.{name}") for _, name, _ in iter_modules(path)}
    return {name.replace("_", "-"): module for name, module in sorted(modules.items()) if hasattr(module, "recognise")}


def _installed() -> dict[str, DataFormat]:
    found: dict[str, DataFormat] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            found[point.name] = point.load()
        except Exception as error:
            raise DataError(
                f"format {point.name!r} ({point.value}) cannot be imported: {error}; correct or uninstall its package"
            ) from error
    return found


def format_named(name: str) -> DataFormat:
    """A format by name; raises :class:`DataError` that lists them if there is none."""
    formats = known_formats()
    if name not in formats:
        close = difflib.get_close_matches(name, formats, n=1)
        known = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(formats)}"
        raise DataError(f"unknown format {name!r}: {known}")
    return formats[name]


def format_of(spec: DataSpec) -> str:
    """Name of the format of ``spec.path``: ``spec.format``, or else the first that recognises it.

    Raises:
        DataError: A path does not exist, the format is unknown, no format recognises a path, or several paths are of several
            formats.
    """
    return _of_one_format(spec)[0]


def open_table(spec: DataSpec) -> Table:
    """Open the windows that ``spec`` names, with their columns. Windows are read later, by index.

    Raises:
        DataError: A file is missing, of no known format, or cannot be used; the message names the file and how to correct it.
    """
    if spec.synthetic is not None:
        # torch takes seconds to import and only simulated windows need it
        from offramp.data.simulated import read_synthetic

        return read_synthetic(spec.synthetic)
    name, places, notes = _of_one_format(spec)
    layout = format_named(name)
    takes = getattr(layout, "TAKES", ())
    for key in OWN_KEYS:
        if getattr(spec, key) is not None and key not in takes:
            raise DataError(f"{name_of(places)} is of the layout {name}, which has no data.{key}: leave it out")
    if "paths" in takes:
        table = layout.read(spec.model_copy(update={"path": tuple(places)}))
    else:
        table, more = _read_each(layout, places, spec)
        notes += more
    return replace(table, notes=(*notes, *table.notes))


def _read_each(layout: DataFormat, places: Sequence[Path], spec: DataSpec) -> tuple[Table, tuple[str, ...]]:
    def read(_: str, place: Path) -> tuple[Path, Table]:
        return place, layout.read(spec.model_copy(update={"path": place}))

    opened, notes = open_each(_named(places), read, spec.skip_bad, "files")
    if len(places) == 1:
        return opened[0][1], notes
    return join([place for place, _ in opened], [table for _, table in opened]), notes


def _of_one_format(spec: DataSpec) -> tuple[str, list[Path], tuple[str, ...]]:
    """The format that all paths have, the paths that can be used, and what is to be said of the others."""
    if spec.path is None:
        raise DataError("simulated windows have no file")
    places = find_places(spec.path)
    if spec.format is not None:
        format_named(spec.format)
        for place in places:
            check_place(place, spec.allow_outside)
        return spec.format, places, ()

    def recognised(_: str, place: Path) -> tuple[str, Path]:
        check_place(place, spec.allow_outside)
        return _recognised(place), place

    opened, notes = open_each(_named(places), recognised, spec.skip_bad, "files")
    for name, place in opened:
        if name != opened[0][0]:
            raise DataError(
                f"{place} is of the layout {name} and {opened[0][1]} of {opened[0][0]}: one set has one layout"
            )
    return opened[0][0], [place for _, place in opened], notes


def _recognised(place: Path) -> str:
    for name, layout in known_formats().items():
        if layout.recognise(place):
            return name
    raise DataError(
        f"{place} is of no known layout (.h5, .npz, .sigmf-meta ...): set data.format to one of {', '.join(known_formats())}"
    )


def _named(places: Sequence[Path]) -> list[tuple[str, Path]]:
    return [(place.name, place) for place in places]
