"""``offramp inspect FILE``: what a data file holds, whatever its format."""

from __future__ import annotations

from pathlib import Path

from offramp.data.formats import format_named, format_of
from offramp.data.summary import FileSummary
from offramp.schema.tasks import DataSpec


def inspect_file(path: Path, format_name: str | None = None) -> FileSummary:
    """Summary of a file without any further word from the user but its format, where the file does not tell it.

    HDF5 and npz: all arrays, and the columns if the windows are called ``sample``. SigMF: the recordings and their annotations,
    not yet cut into windows.

    Raises:
        DataError: The file is missing, of no known format or cannot be read.
    """
    return format_named(format_of(DataSpec(path=path, format=format_name))).summarise(path)
