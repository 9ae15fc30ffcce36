"""``offramp data convert``: any file that can be read becomes one cache of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from offramp.data.cache import CACHE, write_cache
from offramp.data.formats import open_table
from offramp.data.places import find_places
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.files import check_output
from offramp.progress import OnNote, OnProgress, silent
from offramp.schema.tasks import DataSpec


def convert(
    spec: DataSpec,
    out: Path,
    on_progress: OnProgress = silent,
    on_note: OnNote = silent,
) -> None:
    """Write the windows and columns that ``spec`` names as an HDF5 cache, block by block.

    The cache remembers target, group and class names, whether the files or ``spec`` name them.

    Args:
        spec: A file, a folder or several, of any layout of :func:`offramp.data.formats.known_formats`.
        out: The cache; replaced only when it is complete.
        on_progress: Called with windows written and windows in all.
        on_note: Called with each sentence that must be said about the files.

    Raises:
        DataError: The file is of no known layout, damaged, or without a column that is named.
        OfframpError: The cache cannot be written, or would replace what is read or a file that is no cache of ours.
    """
    assert spec.path is not None
    check_output(out, CACHE, find_places(spec.path))
    table = open_table(spec)
    for note in table.notes:
        on_note(note)
    write_cache(_as_named(table, spec), out, on_progress)


def _as_named(table: Table, spec: DataSpec) -> Table:
    """The table with the target, group and class names of ``spec``."""
    for key, name in (("target", spec.target), ("group", spec.group), ("snr", spec.snr)):
        if name is not None and name not in {*table.columns, *table.large}:
            known = ", ".join([*table.columns, *table.large]) or "(it has no columns)"
            raise DataError(f"{table.windows.name} has no column {name!r}: set data.{key} to one of {known}")
    target = spec.target or table.default_target
    named = {target: spec.labels} if target and spec.labels else {}
    return replace(
        table,
        default_target=target,
        default_group=spec.group or table.default_group,
        label_names=table.label_names | named,
    )
