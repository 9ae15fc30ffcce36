"""ICARUS: LTE downlink with and without a spread-spectrum signal hidden under it, one file of samples per frame.

Data: Roy, Chaudhury, Tassie, Spooner, Chowdhury, "ICARUS: Learning on IQ and Cycle Frequencies for Detecting Anomalous RF Underlay
Signals" (IEEE INFOCOM 2023). There is no official description; this layout is what public code reads (``preprocess_icarus.py`` of
github.com/AhmedTarek62/wavesfm), and is checked at the door::

    FOLDER/batch1_10MHz/Metadata/NAME.csv    a header and one row: Sampling_Rate, Signal_Type, DSSS_Mod, and
                                             No_of_Samples or Frameduration (seconds)
    FOLDER/batch1_10MHz/IQ/NAME[.bin]        little-endian I, Q, I, Q, ...: float32, int16 or int8

The name of a batch says its bandwidth. The type of the samples is said nowhere: it is the one of 8, 4 or 2 bytes per complex sample by which
the file has as many samples as its row says, give or take two. Integers are scaled to [-1, 1).

A window is float32 ``(2, 1, window)`` (axis 0 = I, Q) from the middle of a frame, 4,096 samples if ``data.window`` is not set. Windows are read
on demand. Columns: ``label`` (0 for ``LTE``, else log2 of ``DSSS_Mod``, the order of the hidden modulation), ``band`` (MHz), ``sample_rate``,
``batch``, ``recording`` (``BATCH/NAME``; the group if none is named), and every other field that all rows have, in lower case. Frames of a batch share
place and time: name ``batch`` as the group where there are enough of them.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.windows import digest, file_bytes, metadata_columns, one_by_one, read_interleaved
from offramp.data.summary import FileSummary, summarise_column
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.opening import read_text
from offramp.schema.tasks import DataSpec

WINDOW = 4096
BAND = re.compile(r"(\d+)[ _-]?mhz", re.IGNORECASE)
DTYPES = (np.dtype("<f4"), np.dtype("<i2"), np.dtype("i1"))
TOLERANCE = 2
"""Samples by which a file and its row may differ."""
USED = ("Sampling_Rate", "Signal_Type", "DSSS_Mod", "No_of_Samples", "Frameduration")
Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Frame:
    """One file of samples and its row."""

    batch: str
    name: str
    row: Path
    data: Path
    samples: int
    dtype: np.dtype[Any]
    band: int
    sample_rate: float
    label: int
    described: dict[str, object]


def recognise(path: Path) -> bool:
    """A folder of batches with ``Metadata`` and ``IQ``."""
    return path.is_dir() and any((row.parents[1] / "IQ").is_dir() for row in path.glob("*/Metadata/*.csv"))


def read(spec: DataSpec) -> Table:
    """Open frames; a window is the middle of each.

    Raises:
        DataError: A batch names no bandwidth; a row lacks a field or holds an unusable one; samples are missing, cut off, or fewer
            than a window.
    """
    assert isinstance(spec.path, Path)
    frames = _frames(spec.path)
    window = spec.window or WINDOW
    for frame in frames:
        if frame.samples < window:
            raise DataError(
                f"{frame.data} has {frame.samples} samples: set data.window to at most so many, instead of {window}"
            )
    shape = (2, 1, window)
    columns, label_names = _columns(frames)
    files = [file for frame in frames for file in (frame.row, frame.data)]
    return Table(
        windows=WindowSource(
            name=str(spec.path),
            count=len(frames),
            shape=shape,
            fingerprint=digest([window, [f"{frame.batch}/{frame.name}" for frame in frames]], files),
            fetch=one_by_one(lambda index: _middle(frames[index], window), shape),
        ),
        columns=columns,
        label_names=label_names,
        default_target="label",
        default_group="recording",
    )


def summarise(path: Path) -> FileSummary:
    """Frames with their columns; a window is the middle of each."""
    frames = _frames(path)
    columns, names = _columns(frames)
    columns["samples"] = np.array([frame.samples for frame in frames])
    summaries = tuple(summarise_column(name, "window", values, names.get(name)) for name, values in columns.items())
    return FileSummary(str(path), "icarus", len(frames), "window", None, summaries, target="label", group="recording")


def _columns(frames: list[Frame]) -> tuple[Columns, dict[str, tuple[str, ...]]]:
    columns: Columns = {
        "label": np.array([frame.label for frame in frames]),
        "band": np.array([frame.band for frame in frames]),
        "sample_rate": np.array([frame.sample_rate for frame in frames]),
        "batch": np.array([frame.batch for frame in frames]),
        "recording": np.array([f"{frame.batch}/{frame.name}" for frame in frames]),
    }
    orders = range(1, max(frame.label for frame in frames) + 1)
    names = ("LTE", *(f"LTE+DSSS order {2**order}" for order in orders))
    return metadata_columns([frame.described for frame in frames]) | columns, {"label": names}


def _frames(path: Path) -> list[Frame]:
    frames = [
        _frame(batch, row)
        for batch in sorted(path.iterdir() if path.is_dir() else [])
        if (batch / "Metadata").is_dir() and (batch / "IQ").is_dir()
        for row in sorted((batch / "Metadata").glob("*.csv"))
    ]
    if not frames:
        raise DataError(
            f"{path} holds no ICARUS frames: give the folder with batches, each with Metadata/*.csv and IQ/*"
        )
    return frames


def _frame(batch: Path, path: Path) -> Frame:
    band = BAND.search(batch.name)
    if band is None:
        raise DataError(f"{batch} names no bandwidth: rename it with one, e.g. {batch.name}_10MHz")
    row = _row(path)
    data = batch / "IQ" / path.stem
    data = data if data.is_file() else data.with_name(data.name + ".bin")
    if not data.is_file():
        raise DataError(f"{path} has no samples: put {batch.name}/IQ/{path.stem} back or remove the row")
    sample_rate = _field(path, row, "Sampling_Rate")
    expected = (
        _field(path, row, "No_of_Samples")
        if row.get("No_of_Samples")
        else sample_rate * _field(path, row, "Frameduration")
    )
    samples, dtype = _type(data, round(expected))
    return Frame(
        batch=batch.name,
        name=path.stem,
        row=path,
        data=data,
        samples=samples,
        dtype=dtype,
        band=int(band[1]),
        sample_rate=sample_rate,
        label=_label(path, row),
        described={name.lower(): value for name, value in row.items() if name not in USED},
    )


def _row(path: Path) -> dict[str, str]:
    text = read_text(path, DataError, "it is no CSV, copy it again")
    try:
        row = next(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True), None)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: copy it again") from error
    if row is None:
        raise DataError(f"{path} has no row below its header: copy it again or remove it")
    # DictReader puts what is missing as None, and what is too much under None
    return {name.strip(): value.strip() for name, value in row.items() if name and isinstance(value, str)}


def _field(path: Path, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} has no number in {name}: correct its row, or copy it again") from error
    if not (math.isfinite(value) and value > 0):
        raise DataError(f"{path} has {value} in {name}: it must be above 0, correct its row")
    return value


def _type(path: Path, expected: int) -> tuple[int, np.dtype[Any]]:
    size = file_bytes(path)
    for dtype in DTYPES:
        samples = size // (2 * dtype.itemsize)
        if abs(samples - expected) <= TOLERANCE:
            return min(samples, expected), dtype
    raise DataError(
        f"{path} has {size} bytes, which is not 8, 4 or 2 for each of the {expected} samples in its row: "
        "copy it again or correct the row"
    )


def _label(path: Path, row: dict[str, str]) -> int:
    if row.get("Signal_Type", "").lower() == "lte":
        return 0
    order = math.log2(_field(path, row, "DSSS_Mod"))
    if order < 1 or order != round(order):
        raise DataError(f"{path} has {row['DSSS_Mod']} in DSSS_Mod: the order of a modulation is 2, 4, 8, ...")
    return round(order)


def _middle(frame: Frame, window: int) -> NDArray[np.floating]:
    start = frame.samples // 2 - window // 2
    values = read_interleaved(frame.data, start, window, frame.dtype)[:, None].astype(np.float32)
    return values if frame.dtype.kind == "f" else values / (np.iinfo(frame.dtype).max + 1)
