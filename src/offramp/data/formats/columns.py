"""What stands beside windows in a file of arrays: columns with a value or a vector per window, and names of classes.

A column may be ``(N,)``, or ``(N, 1)`` or ``(1, N)`` as MATLAB writes vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.stored import StoredArray
from offramp.errors import DataError
from offramp.opening import parse_json

BYTE_ORDER_MARK = "\ufeff"


def has_rows(array: StoredArray, count: int) -> bool:
    """Whether an array has a row for each of ``count`` windows, one column laid along another axis included."""
    return array.shape[:1] == (count,) or _lies_along(array.shape, count)


def row_shape(array: StoredArray, count: int) -> tuple[int, ...] | None:
    """Shape of one row as a column, ``()`` for one value, ``(2, ...)`` for complex ones; None for what cannot be one."""
    if not has_rows(array, count):
        return None
    row = array.shape[1:]
    one = _lies_along(array.shape, count) or math.prod(row) == 1
    if array.is_text:
        return () if one else None
    if not array.is_numeric or 0 in row:
        return None
    if array.dtype.kind == "c":
        return (2,) if one else (2, *row)
    return () if one else row


def column_values(array: StoredArray, row: tuple[int, ...]) -> NDArray[np.generic]:
    """All values ``(N,)``, or ``(N, dimensions)`` flattened in C order where a row has several."""
    if array.is_text:
        return text(array.values().reshape(-1))
    values = np.asarray(array.values())
    if not row:
        return real_of(values.reshape(-1))
    if row == (2,) and values.dtype.kind == "c":
        values = values.reshape(-1)
    values = real_of(values)
    return values.reshape(len(values), -1).astype(values.dtype if values.dtype.kind == "f" else np.float64, copy=False)


def real_of(values: NDArray[Any]) -> NDArray[Any]:
    """Truth values as 0 and 1; complex numbers as an axis 1 of real and imaginary part."""
    if values.dtype.kind == "b":
        return values.astype(np.int8)
    return np.stack((values.real, values.imag), axis=1) if values.dtype.kind == "c" else values


def text(values: NDArray[Any]) -> NDArray[np.str_]:
    """Text from UTF-8 bytes, Python objects or text, ``(n,)``; a byte order mark in front is no part of it."""
    return np.array([_without_mark(v) for v in values], dtype=np.str_)


def names_of_classes(path: Path, stored: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Class names by column from entries ``labels``, ``labels_x`` and ``label_pairs``, each a list in JSON or an array of text.

    Raises:
        DataError: An entry is neither.
    """
    names: dict[str, tuple[str, ...]] = {}
    for key, value in stored.items():
        if key not in ("labels", "label_pairs") and not key.startswith("labels_"):
            continue
        try:
            listed = np.asarray(value)
            if listed.ndim == 0:
                listed = np.asarray(parse_json(_without_mark(listed.item())))
            if listed.shape[:1] == (1,) and key != "label_pairs":
                listed = listed.reshape(-1)
            rows = listed.reshape(len(listed), -1) if len(listed) else listed
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {key!r} must list the names of classes as JSON or as an array of text") from error
        listing = tuple(" / ".join(text(row)) for row in rows)
        if key == "label_pairs":
            names.setdefault("label", listing)
            continue
        names["label" + key.removeprefix("labels")] = listing
        if key != "labels":
            names.setdefault(key.removeprefix("labels_"), listing)
    return names


def names_in_arrays(path: Path, arrays: Mapping[str, StoredArray], count: int | None) -> dict[str, tuple[str, ...]]:
    """Class names from arrays of text that are no columns: those with another length than there are windows, if that is known.

    Raises:
        DataError: See :func:`names_of_classes`.
    """
    listed = {
        name: array.values()
        for name, array in arrays.items()
        if array.is_text and (count is None or not has_rows(array, count))
    }
    return names_of_classes(path, listed)


def _lies_along(shape: tuple[int, ...], count: int) -> bool:
    """Whether the values of ``count`` windows lie along an axis that is not the first, all others being of size 1."""
    return shape[:1] == (1,) and count > 1 and max(shape) == count == math.prod(shape)


def _without_mark(value: Any) -> str:
    decoded = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return decoded.removeprefix(BYTE_ORDER_MARK)
