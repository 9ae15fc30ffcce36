"""What layouts of many files share: recordings cut into windows, windows read one by one, columns, a fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.opening import open_file, regular_file

Fetch = Callable[[NDArray[np.int64]], NDArray[np.generic]]


def one_by_one(load: Callable[[int], NDArray[np.generic]], shape: tuple[int, ...]) -> Fetch:
    """Windows of ``shape`` by their indices from a function that reads the window of one index."""

    def fetch(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        windows = np.empty((len(indices), *shape), dtype=np.float32)
        for window, index in zip(windows, indices, strict=True):
            window[...] = load(int(index))
        return windows

    return fetch


def cut(lengths: Sequence[int], window: int, hop: int, most: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where windows come from, each int64 ``(N,)``: number of the recording, number of its first sample.

    Args:
        lengths: Samples of each recording. What is left over at an end is dropped.
        window: Samples per window.
        hop: Samples between the starts of windows.
        most: At most so many windows of one recording, spread evenly; all if None.
    """
    starts = [
        hop * spread(max(0, (length - window) // hop + 1), most) if length >= window else np.empty(0, np.int64)
        for length in lengths
    ]
    origin = np.repeat(np.arange(len(lengths)), [len(of_one) for of_one in starts])
    return origin, np.concatenate(starts) if starts else np.empty(0, np.int64)


def spread(count: int, most: int | None) -> NDArray[np.int64]:
    """At most ``most`` of the numbers below ``count``, first and last among them, evenly spread."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def read_interleaved(path: Path, start: int, count: int, dtype: np.dtype[Any]) -> NDArray[np.generic]:
    """I and Q, ``(2, count)``, of the complex samples from ``start`` on in a file of I, Q, I, Q, ...

    Raises:
        DataError: The file cannot be read or ends before.
    """
    regular_file(path, DataError)
    try:
        values = np.fromfile(path, dtype, 2 * count, offset=2 * start * dtype.itemsize)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    if len(values) < 2 * count:
        raise DataError(f"{path} ends before sample {start + count}: copy it again")
    return values.reshape(count, 2).T


def file_bytes(path: Path) -> int:
    """Size of a file.

    Raises:
        DataError: It is not there, cannot be reached, or is no regular file.
    """
    return regular_file(path, DataError)


def name_below(path: Path, root: Path) -> str:
    """Path below ``root`` without suffix, with ``/``; the stem if ``root`` is the file itself or stands beside it."""
    below = path.relative_to(root) if root.is_dir() else Path(path.name)
    return below.with_suffix("").as_posix()


def numbered(values: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Text as class numbers in the order of the alphabet, and the names of the classes.

    Numbers take 8 bytes a window, text 4 bytes a letter.
    """
    names, numbers = np.unique(np.array(values, dtype=np.str_), return_inverse=True)
    return numbers.astype(np.int64), tuple(str(name) for name in names)


def metadata_columns(records: Sequence[Mapping[str, object]]) -> dict[str, NDArray[np.generic]]:
    """A column for everything that all records say: float64 where all values are numbers, else text."""
    shared = [key for key in records[0] if all(key in record for record in records)] if records else []
    columns: dict[str, NDArray[np.generic]] = {}
    for key in shared:
        values = [record[key] for record in records]
        numbers = [_number(value) for value in values]
        columns[key] = (
            np.array([str(value) for value in values])
            if any(math.isnan(number) for number in numbers)
            else np.array(numbers)
        )
    return columns


def digest(about: object, files: Iterable[Path]) -> str:
    """SHA-256 over ``about``, as JSON, and the content of the files.

    Raises:
        DataError: A file cannot be read.
    """
    total = hashlib.sha256(json.dumps(about).encode())
    for path in files:
        try:
            with open_file(path, DataError) as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    return total.hexdigest()


def _number(value: object) -> float:
    """NaN for what is not a finite number."""
    text = str(value)
    try:
        # Python takes 10_5 for a number
        number = math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
