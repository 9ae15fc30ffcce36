"""Predictions as CSV, JSON lines and SigMF annotations. All take batches one after the other, so that a file may be larger
than memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.recordings import META, find_recordings, open_signal, read_recording
from offramp.errors import DataError
from offramp.files import write_text
from offramp.runtime.predictor import Prediction

COLUMNS = ("index", "task", "prediction", "confidence", "exit")


def rows(predictions: Iterable[Prediction], start: int = 0) -> Iterator[dict[str, Any]]:
    """One row per window with the keys of :data:`COLUMNS`.

    Args:
        predictions: Of one task, batch by batch.
        start: Index of the first window.

    Yields:
        ``index`` int; ``prediction`` a label, or a number or list of numbers for regression, None where a policy rejects the
        window; ``confidence`` a float, or None for regression; ``exit`` where the window left.
    """
    index = start
    for prediction in predictions:
        windows = zip(_answers(prediction), prediction.exits, prediction.rejected, strict=True)
        for (answer, confidence), exit, rejected in windows:
            cells = (index, prediction.task, None if rejected else answer, confidence, exit)
            yield dict(zip(COLUMNS, cells, strict=True))
            index += 1


def write_csv(table: Iterable[dict[str, Any]], stream: IO[str]) -> None:
    """Rows as CSV with a header. Several values are joined by spaces; a missing prediction or confidence is empty."""
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table:
        prediction = row["prediction"]
        writer.writerow(
            {**row, "prediction": " ".join(map(str, prediction)) if isinstance(prediction, list) else prediction}
        )


def write_jsonl(table: Iterable[dict[str, Any]], stream: IO[str]) -> None:
    """Rows as JSON, one per line."""
    for row in table:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_sigmf(
    predictions: Iterable[Prediction],
    positions: tuple[NDArray[np.str_], NDArray[np.int64]],
    window: int,
    source: Path,
    folder: Path,
) -> list[Path]:
    """Write one ``.sigmf-meta`` per recording: its own global part and captures, and an annotation per window, without a
    label where a policy rejects the window.

    Args:
        predictions: Of one task, batch by batch, in the order of ``positions``.
        positions: Name of the recording and first sample of every window, as :class:`offramp.data.table.Table` has them.
        window: Samples per window. A window around a shorter annotation, or cut short by the end, is marked as such.
        source: Folder of the recordings, or one recording.
        folder: Where to write; it may not be the folder of the recordings.

    Returns:
        The files written.

    Raises:
        DataError: A recording cannot be read, or predictions and positions differ in number.
    """
    if folder.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise DataError(f"{folder} holds the recordings themselves: choose another folder for the annotations")
    names, starts = positions
    answers: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    count = 0
    for count, row in enumerate(rows(predictions), start=1):
        if count <= len(names):
            answers.setdefault(str(names[row["index"]]), []).append((int(starts[row["index"]]), row))
    if count != len(names):
        raise DataError(f"{count} predictions for the {len(names)} windows of {source}")
    paths = dict(find_recordings(source))
    return [_write_meta(name, paths[name], found, window, folder) for name, found in answers.items()]


def _answers(prediction: Prediction) -> Iterator[tuple[str | float | list[float], float | None]]:
    if prediction.kind == "classification":
        yield from zip(prediction.labels, map(_shorten, prediction.confidence), strict=True)
    else:
        for values in prediction.outputs:
            yield [_shorten(value) for value in values] if len(values) > 1 else _shorten(values[0]), None


def _shorten(value: np.float32) -> float:
    """A float32 without the digits that it does not hold."""
    return float(str(value))


def _write_meta(name: str, path: Path, answers: list[tuple[int, dict[str, Any]]], window: int, folder: Path) -> Path:
    signal, recording = open_signal(path), read_recording(path, name)
    offset = int(signal.get_global_info().get("core:offset", 0))
    shortest: dict[int, int] = {}
    for own in recording.annotations:
        shortest[own.start] = min(own.stop - own.start, shortest.get(own.start, window))
    annotations = [
        {
            "core:sample_start": start + offset,
            "core:sample_count": min(shortest.get(start, window), recording.samples - start),
            **({} if row["prediction"] is None else {"core:label": str(row["prediction"])}),
            "core:comment": _comment(row),
            "core:generator": "offramp",
        }
        for start, row in sorted(answers, key=lambda answer: answer[0])
    ]
    meta = {"global": signal.get_global_info(), "captures": signal.get_captures(), "annotations": annotations}
    written = folder / f"{name}{META}"
    write_text(written, json.dumps(meta, indent=2) + "\n")
    return written


def _comment(row: dict[str, Any]) -> str:
    confidence = "" if row["confidence"] is None else f"confidence {row['confidence']:.3f}, "
    rejected = "rejected, " if row["prediction"] is None else ""
    return f"{row['task']}: {rejected}{confidence}exit {row['exit']}"
