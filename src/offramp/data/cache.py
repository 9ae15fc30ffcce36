"""Our own cache of windows: an HDF5 file with ``sample (N, ...)`` and one array per column, as the HDF5 reader takes it.

Attributes of the file name classes (``labels``, ``labels_x``), the target and the group that are meant if a user names none.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offramp.data.table import Table
from offramp.errors import DataError, OfframpError
from offramp.files import Kind, atomic_path, check_output, free_bytes
from offramp.progress import OnProgress, silent

BLOCK = 1024
"""Most windows that are in memory at a time."""
BLOCK_BYTES = 32 * 2**20
"""Most bytes of them, unless one window is larger."""
WRITTEN_BY = "written_by"
CACHE = Kind("a data file that Offramp wrote", mark=WRITTEN_BY.encode() + b"\0")
"""Other HDF5 files may be recordings, and are never replaced: the name of our attribute stands at the start of the file."""


def write_cache(table: Table, path: Path, on_progress: OnProgress = silent) -> None:
    """Write a table's windows as float32 and its columns in their own shapes, block by block, and what is to be known of them.

    Raises:
        DataError: The table cannot be read to its end, or has a column ``sample``, which is what a cache calls its windows.
        OfframpError: The file cannot be written.
    """
    windows = table.windows
    if "sample" in {*table.columns, *table.large}:
        raise DataError(f"{windows.name} has a column 'sample', which is what a cache calls its windows: rename it")
    columns = {
        name: _stored(values.reshape(len(values), *table.column_shapes.get(name, values.shape[1:])))
        for name, values in table.columns.items()
    }
    row_bytes = 4 * sum(math.prod(source.shape) for source in (windows, *table.large.values()))
    size = max(1, min(BLOCK, BLOCK_BYTES // row_bytes))

    def blocks() -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, windows.count, size):
            rows = np.arange(start, min(start + size, windows.count))
            yield {
                "sample": windows.read(rows),
                **{name: values[rows[0] : rows[-1] + 1] for name, values in columns.items()},
                **{name: source.read(rows) for name, source in table.large.items()},
            }

    defaults = {"default_target": table.default_target, "default_group": table.default_group}
    named = {key: name for key, name in defaults.items() if name is not None}
    write_blocks(path, windows.count, blocks(), table.label_names, on_progress, named)


def write_blocks(
    path: Path,
    count: int,
    blocks: Iterable[Mapping[str, NDArray[Any]]],
    label_names: Mapping[str, tuple[str, ...]],
    on_progress: OnProgress = silent,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write windows that are made as they are written, so that no more than a block is in memory.

    Args:
        path: The HDF5 file.
        count: Windows in all.
        blocks: Arrays by name, ``(n, ...)`` with one row per window, the same names and types in every block.
        label_names: Names of the classes 0, 1, ... by column; they become JSON attributes.
        on_progress: Called with windows written and windows in all.
        attributes: Further attributes of the file: ``default_target`` and ``default_group`` name columns.

    Raises:
        OfframpError: The file cannot be written.
    """
    check_output(path, CACHE)
    with atomic_path(path) as temporary:
        with _storing(path):
            file = h5py.File(temporary, "w")
            file.attrs[WRITTEN_BY] = np.bytes_("offramp")
        try:
            done = 0
            for block in blocks:
                rows = len(next(iter(block.values())))
                if not done:
                    _check_space(path, temporary.parent, count * sum(values[0].nbytes for values in block.values()))
                with _storing(path):
                    for name, values in block.items():
                        if name not in file:
                            file.create_dataset(name, (count, *values.shape[1:]), values.dtype)
                        file[name][done : done + rows] = values
                done += rows
                on_progress(done, count)
            with _storing(path):
                for name, labels in label_names.items():
                    file.attrs["labels" + ("" if name == "label" else f"_{name.removeprefix('label_')}")] = json.dumps(
                        labels
                    )
                file.attrs.update(attributes or {})
                file.flush()
        finally:
            with _storing(path):
                file.close()


def _stored(values: NDArray[np.generic]) -> NDArray[Any]:
    """As HDF5 takes it: text becomes bytes of one width."""
    return np.char.encode(values.astype(str), "utf-8") if values.dtype.kind == "U" else values


def _check_space(path: Path, folder: Path, needed: int) -> None:
    """A full disk is told before hours of writing, and better than HDF5 does: it cannot close a file that it cannot write."""
    if needed > free_bytes(folder):
        raise OfframpError(
            f"cannot write {path}: {os.strerror(errno.ENOSPC)} ({needed / 1e6:,.1f} MB are needed); free some space or choose "
            f"another place"
        )


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """HDF5 reports a full disk as OSError when it writes and as RuntimeError when it closes a file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else " ".join(str(error).split())
        raise OfframpError(f"cannot write {path}: {reason}; free some space or choose another place") from error
