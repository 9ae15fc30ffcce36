"""UT-HAR: amplitudes of Wi-Fi channels while people act, as packaged by SenseFi.

Data: Yousefi, Narui, Dayal, Ermon, Valaee, "A Survey on Behavior Recognition Using WiFi Channel State Information" (IEEE Communications
Magazine, 2017). Layout: SenseFi (Yang et al., "SenseFi: A Library and Benchmark on Deep-Learning-Empowered WiFi Human Sensing", Patterns
2023; README and ``dataset.py`` of github.com/xyanchen/WiFi-CSI-Sensing-Benchmark)::

    FOLDER/data/X_train.csv   X_val.csv   X_test.csv     real (N, 250, 90), or any shape with 22,500 numbers a row
    FOLDER/label/y_train.csv  y_val.csv   y_test.csv     (N,) whole numbers

In spite of their suffix the files are written by ``numpy.save``; Python objects in them are never unpickled.

A window is float32 ``(1, 250, 90)``: time by 3 receive antennas x 30 subcarriers of an Intel 5300, not scaled (SenseFi maps each file to [0, 1] by its
own extremes). Windows are read on demand. Columns: ``label`` (0 to 6; the files name no classes, set ``data.labels``), ``part`` (``train``, ``val``,
``test``, as packaged). The package says neither person nor recording, and its parts were drawn from the same recordings: any
split of it, its own too, flatters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.npy_headers import read_header
from offramp.data.formats.windows import digest, file_bytes, one_by_one
from offramp.data.summary import ArraySummary, FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.opening import open_file, regular_file
from offramp.schema.tasks import DataSpec

PARTS = ("train", "val", "test")
SHAPE = (1, 250, 90)
ROW = 250 * 90


@dataclass(frozen=True)
class Stored:
    """One array in a file: where its numbers start, and what they are."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    def numbers(self, first: int, count: int) -> NDArray[Any]:
        """``count`` numbers from ``first`` on."""
        regular_file(self.path, DataError)
        try:
            values: NDArray[Any] = np.fromfile(
                self.path, self.dtype, count, offset=self.offset + first * self.dtype.itemsize
            )
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}; copy it again") from error
        if len(values) < count:
            raise DataError(f"{self.path} is truncated: copy it again")
        return values


def recognise(path: Path) -> bool:
    """A folder with ``data/X_train.csv``, or another part, and ``label``."""
    return (path / "label").is_dir() and any((path / "data" / f"X_{part}.csv").is_file() for part in PARTS)


def read(spec: DataSpec) -> Table:
    """Open all parts that are there.

    Raises:
        DataError: A file is missing, truncated or not written by numpy.save, or has another shape.
    """
    assert isinstance(spec.path, Path)
    return _table(*_parts(spec.path), spec.path)


def summarise(path: Path) -> FileSummary:
    """All parts with their columns."""
    windows, labels = _parts(path)
    arrays = tuple(
        ArraySummary(array.path.relative_to(path).as_posix(), array.shape, str(array.dtype))
        for arrays in (windows, labels)
        for array in arrays.values()
    )
    return summarise_table(_table(windows, labels, path, hashed=False), str(path), "ut-har", arrays)


def _table(windows: dict[str, Stored], labels: dict[str, Stored], path: Path, hashed: bool = True) -> Table:
    stored = list(windows.values())
    counts = [array.shape[0] for array in stored]
    part = np.repeat(np.arange(len(counts)), counts)
    row = np.concatenate([np.arange(count) for count in counts])

    def load(index: int) -> NDArray[Any]:
        array: Stored = stored[part[index]]
        return array.numbers(int(row[index]) * ROW, ROW).reshape(SHAPE)

    files = [array.path for arrays in (windows, labels) for array in arrays.values()]
    return Table(
        windows=WindowSource(
            name=str(path),
            count=len(row),
            shape=SHAPE,
            fingerprint=digest([file.name for file in files], files) if hashed else "",
            fetch=one_by_one(load, SHAPE),
        ),
        columns={
            "label": np.concatenate([_labels(array) for array in labels.values()]),
            "part": np.array(list(windows))[part],
        },
        default_target="label",
    )


def _parts(path: Path) -> tuple[dict[str, Stored], dict[str, Stored]]:
    windows = {
        part: _stored(path / "data" / f"X_{part}.csv") for part in PARTS if (path / "data" / f"X_{part}.csv").is_file()
    }
    if not windows:
        raise DataError(f"{path} is no UT-HAR: give the folder with data/X_train.csv and label/y_train.csv")
    labels = {part: _stored(path / "label" / f"y_{part}.csv") for part in windows}
    for part, stored in windows.items():
        if len(stored.shape) < 2 or math.prod(stored.shape[1:]) != ROW or stored.shape[0] < 1:
            raise DataError(f"{stored.path} is {stored.shape}: windows are (N, 250, 90), save them so")
        if labels[part].shape != stored.shape[:1]:
            raise DataError(
                f"{labels[part].path} is {labels[part].shape} and {stored.path.name} has {stored.shape[0]} windows: "
                "copy both again"
            )
    return windows, labels


def _stored(path: Path) -> Stored:
    """Header of one file, checked against its size."""
    size = file_bytes(path)
    try:
        with open_file(path, DataError) as file:
            shape, by_columns, dtype = header = read_header(file)
            offset = file.tell()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no array written by numpy.save, which UT-HAR has in spite of its suffix") from error
    if dtype.hasobject:
        raise DataError(f"{path} holds pickled Python objects, which are never loaded: save plain numbers")
    if dtype.kind not in "iuf" or by_columns:
        raise DataError(f"{path} is {dtype}{' by columns' if by_columns else ''}: save real numbers row by row")
    if size < offset + header.bytes:
        raise DataError(f"{path} is truncated: copy it again")
    return Stored(path, shape, dtype, offset)


def _labels(stored: Stored) -> NDArray[np.int64]:
    values = stored.numbers(0, stored.shape[0])
    if (values != np.round(values)).any() or (values < 0).any():
        raise DataError(f"{stored.path} holds labels that are not 0, 1, 2, ...: save class numbers")
    return values.astype(np.int64)
