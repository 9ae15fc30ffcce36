"""Our own cache of windows: an HDF5 file with ``sample (N, ...)`` and one array per column, as the HDF5 reader takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from offramp.data.table import Table
from offramp.errors import OfframpError
from offramp.files import atomic_path

BLOCK = 1024


def write_cache(table: Table, path: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Write a table's windows as float32 and its columns, block by block. Class names become JSON attributes.

    Raises:
        OfframpError: The file cannot be written.
    """
    count = table.windows.count
    with atomic_path(path) as temporary:
        with _storing(path):
            file = h5py.File(temporary, "w")
        try:
            with _storing(path):
                samples = file.create_dataset("sample", (count, *table.windows.shape), dtype="float32")
            for start in range(0, count, BLOCK):
                block = np.arange(start, min(start + BLOCK, count))
                windows = table.windows.read(block)
                with _storing(path):
                    samples[start : start + BLOCK] = windows
                on_progress(start + len(block), count)
            with _storing(path):
                for name, values in table.columns.items():
                    text = values.dtype.kind == "U"
                    file.create_dataset(name, data=np.char.encode(values.astype(str), "utf-8") if text else values)
                for name, labels in table.label_names.items():
                    file.attrs["labels" + ("" if name == "label" else f"_{name.removeprefix('label_')}")] = json.dumps(
                        labels
                    )
                file.flush()
        finally:
            with _storing(path):
                file.close()


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """HDF5 reports a full disk as OSError when it writes and as RuntimeError when it closes a file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else " ".join(str(error).split())
        raise OfframpError(f"cannot write {path}: {reason}; free some space or choose another place") from error
