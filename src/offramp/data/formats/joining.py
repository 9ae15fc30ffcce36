"""Several files of one layout as one: their windows and columns one behind the other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.arrays import with_defaults
from offramp.data.places import name_of
from offramp.data.table import Positions, Table, WindowSource
from offramp.errors import DataError

FILE = "file"
"""Column that names the file of each window."""


def join(places: Sequence[Path], tables: Sequence[Table]) -> Table:
    """One table of all windows, in the order of the files, with the column ``file`` beside those that all have.

    Classes are told by name where the files name them, and else by number. Equal values of a group are one group, whatever file
    they are in.

    Raises:
        DataError: A file has other windows, columns or types than the first; it is named.
    """
    first = tables[0]
    for place, table in zip(places[1:], tables[1:], strict=True):
        _check_alike(place, table, places[0], first)
    columns: dict[str, NDArray[np.generic]] = {}
    label_names: dict[str, tuple[str, ...]] = {}
    large: dict[str, WindowSource] = {}
    for name in (*first.columns, *first.large):
        if any(name in table.large for table in tables):
            large[name] = _joined([_source(table, name) for table in tables], name, "")
        else:
            columns[name], listed = _column(tables, name)
            label_names |= {name: listed} if listed else {}
    counts = [table.windows.count for table in tables]
    if FILE not in columns and FILE not in large:
        columns[FILE] = np.repeat(np.arange(len(places)), counts)
        label_names[FILE] = tuple(_distinct(places))
    prints = [table.windows.fingerprint for table in tables]
    windows = _joined(
        [table.windows for table in tables],
        name_of(places),
        hashlib.sha256("\n".join(prints).encode()).hexdigest() if all(prints) else "",
    )
    notes = tuple(f"{place}: {note}" for place, table in zip(places, tables, strict=True) for note in table.notes)
    silent = tuple(name for table in tables for name in table.silent)
    joined = Table(
        windows,
        columns,
        label_names,
        positions=_positions(places, tables),
        column_shapes=first.column_shapes,
        large=large,
        silent=silent,
        notes=notes,
    )
    return with_defaults(
        joined,
        _shared([table.default_target for table in tables]),
        _shared([table.default_group for table in tables]),
    )


def _check_alike(place: Path, table: Table, first_place: Path, first: Table) -> None:
    if table.windows.shape != first.windows.shape:
        raise DataError(
            f"{place} holds windows of shape {table.windows.shape} and {first_place} of {first.windows.shape}: they cannot be one set"
        )
    own, others = ({*found.columns, *found.large} for found in (table, first))
    for name in sorted(own ^ others):
        has, lacks = (place, first_place) if name in own else (first_place, place)
        raise DataError(f"{lacks} has no column {name!r}, which {has} has: they cannot be one set")
    for name in sorted(own):
        shapes = [found.large[name].shape if name in found.large else _row(found, name) for found in (table, first)]
        if shapes[0] != shapes[1]:
            raise DataError(f"{place}: {name!r} has {shapes[0]} values per window and in {first_place} {shapes[1]}")
        kinds = ["text" if _is_text(found, name) else "numbers" for found in (table, first)]
        if kinds[0] != kinds[1]:
            raise DataError(f"{place}: {name!r} is {kinds[0]} and in {first_place} {kinds[1]}: they cannot be one set")
        if (name in table.label_names) != (name in first.label_names):
            without = first_place if name in table.label_names else place
            raise DataError(
                f"{without} does not name the classes of {name!r}, as other files do: they cannot be one set"
            )


def _row(table: Table, name: str) -> tuple[int, ...]:
    return table.column_shapes.get(name, table.columns[name].shape[1:])


def _is_text(table: Table, name: str) -> bool:
    return name in table.columns and table.columns[name].dtype.kind == "U"


def _column(tables: Sequence[Table], name: str) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """The values one behind the other, classes numbered anew where files name others, and the names of the classes."""
    of_files = [table.label_names.get(name, ()) for table in tables]
    values = [table.columns[name] for table in tables]
    if len(set(of_files)) == 1:
        return np.concatenate(values), of_files[0]
    together = tuple(dict.fromkeys(label for listed in of_files for label in listed))
    renamed = []
    for table, listed, own in zip(tables, of_files, values, strict=True):
        numbers = own.astype(np.int64)
        if own.ndim != 1 or np.any(numbers != own) or np.any((numbers < 0) | (numbers >= len(listed))):
            raise DataError(f"{table.windows.name}: {name!r} holds values that are no class of the {len(listed)} named")
        renamed.append(np.array([together.index(label) for label in listed])[numbers])
    return np.concatenate(renamed), together


def _source(table: Table, name: str) -> WindowSource:
    """A column as a source of rows in their own shape."""
    if name in table.large:
        return table.large[name]
    values, shape = table.columns[name], _row(table, name)
    return WindowSource(table.windows.name, len(values), shape, "", lambda rows: values[rows].reshape(-1, *shape))


def _joined(sources: Sequence[WindowSource], name: str, fingerprint: str) -> WindowSource:
    ends = np.cumsum([source.count for source in sources])

    def fetch(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = np.empty((len(indices), *sources[0].shape), dtype=np.float32)
        number = np.searchsorted(ends, indices, side="right")
        for file in np.unique(number):
            own = number == file
            source = sources[file]
            rows[own] = source.read(indices[own] - (ends[file] - source.count))
        return rows

    return WindowSource(name, int(ends[-1]), sources[0].shape, fingerprint, fetch)


def _positions(places: Sequence[Path], tables: Sequence[Table]) -> Positions | None:
    """Those of all, if all have them; with the path of the file before a name that several have."""
    of_files = [table.positions for table in tables if table.positions is not None]
    if len(of_files) < len(tables):
        return None
    taken = Counter(name for own in of_files for name in np.unique(own.names).tolist())
    names = [
        np.array([str(name) if taken[str(name)] == 1 else f"{place}: {name}" for name in own.names])
        for place, own in zip(places, of_files, strict=True)
    ]
    starts, stops, times = (np.concatenate([own[part] for own in of_files]) for part in (1, 2, 3))
    return Positions(np.concatenate(names), starts, stops, times)


def _shared(values: Sequence[str | None]) -> str | None:
    return values[0] if len(set(values)) == 1 else None


def _distinct(places: Sequence[Path]) -> list[str]:
    """Names of the files, with their folders where two files have one name."""
    names = [place.name for place in places]
    return names if len(set(names)) == len(names) else [str(place) for place in places]
