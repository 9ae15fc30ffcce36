"""Formats of data files: one registry, one function that opens any of them.

A module in ``datasets`` or ``generic`` that has the functions ``recognise``, ``read`` and ``summarise`` is a format, and its name is the
format's. An installed package adds its own by an entry point of the group ``offramp.formats`` that leads to such a module or object.

A format recognises its files by what is in them, since many share a suffix. The first that recognises a path reads it: those of other
packages, then those of single data sets, then the general ones that they are built on.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Protocol

from offramp.data.formats import datasets, generic
from offramp.data.summary import FileSummary
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

GROUP = "offramp.formats"


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
        DataError: The path does not exist, the format is unknown, or no format recognises the path.
    """
    path = spec.path
    if path is None:
        raise DataError("simulated windows have no file")
    if not path.exists():
        raise DataError(f"{path} does not exist: correct data.path")
    if spec.format is not None:
        format_named(spec.format)
        return spec.format
    for name, layout in known_formats().items():
        if layout.recognise(path):
            return name
    raise DataError(
        f"{path} is of no known layout (.h5, .npz, .sigmf-meta ...): set data.format to one of {', '.join(known_formats())}"
    )


def open_table(spec: DataSpec) -> Table:
    """Open the windows that ``spec`` names, with their columns. Windows are read later, by index.

    Raises:
        DataError: The file is missing, of no known format, or cannot be used; the message names file and mend.
    """
    if spec.synthetic is not None:
        # torch takes seconds to import and only simulated windows need it
        from offramp.data.simulated import read_synthetic

        return read_synthetic(spec.synthetic)
    return format_named(format_of(spec)).read(spec)
