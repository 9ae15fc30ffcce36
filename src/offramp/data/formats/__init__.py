"""Formats of data files: one registry, one function that opens any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offramp.data.formats import hdf5, npz, sigmf
from offramp.data.summary import FileSummary
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.tasks import DataSpec


@dataclass(frozen=True)
class Format:
    """A way to lay out windows in files.

    Attributes:
        suffixes: Endings of file names, in lower case.
        read: Open what a suite's ``data:`` names.
        summarise: What a file holds, without knowing what to make of it.
    """

    suffixes: tuple[str, ...]
    read: Callable[[DataSpec], Table]
    summarise: Callable[[Path], FileSummary]


FORMATS: dict[str, Format] = {
    "hdf5": Format((".h5", ".hdf5"), hdf5.read, hdf5.summarise),
    "npz": Format((".npz",), npz.read, npz.summarise),
    "sigmf": Format((".sigmf-meta", ".sigmf-data", ".sigmf"), sigmf.read, sigmf.summarise),
}


def format_of(spec: DataSpec) -> str:
    """Name of the format of ``spec.path``: ``spec.format``, or else by suffix; a folder holds SigMF recordings.

    Raises:
        DataError: The path does not exist, or its suffix is unknown.
    """
    path = spec.path
    if path is None:
        raise DataError("simulated windows have no file")
    if not path.exists():
        raise DataError(f"{path} does not exist: correct data.path")
    if spec.format is not None:
        return spec.format
    if path.is_dir():
        return "sigmf"
    for name, layout in FORMATS.items():
        if path.suffix.lower() in layout.suffixes:
            return name
    known = ", ".join(suffix for layout in FORMATS.values() for suffix in layout.suffixes)
    raise DataError(
        f"{path} has none of the known suffixes {known}: rename it or set data.format to {' or '.join(FORMATS)}"
    )


def open_table(spec: DataSpec) -> Table:
    """Open the windows that ``spec`` names, with their columns. Windows are read later, by index.

    Raises:
        DataError: The file is missing, of no known format, or cannot be used; the message names file and mend.
    """
    if spec.synthetic is not None:
        # torch takes seconds to import and only simulated windows need it
        from offramp.data.synthesis.source import read_synthetic

        return read_synthetic(spec.synthetic)
    return FORMATS[format_of(spec)].read(spec)
