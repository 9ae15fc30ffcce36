"""Predictions as CSV, JSON lines and SigMF annotations. All take batches one after the other, so that a file may be larger
than memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from offramp.data.containers.recordings import find_recordings, open_signal
from offramp.data.containers.sigmf_files import META
from offramp.data.places import find_places
from offramp.data.table import Positions
from offramp.errors import DataError
from offramp.files import Kind, check_output, write_text
from offramp.runtime.predictor import Prediction

COLUMNS = ("index", "task", "prediction", "confidence", "exit")
PLACE_COLUMNS = ("recording", "sample", "time")
"""Behind the others, where windows come from recordings."""
ROWS = Kind(
    "predictions",
    (".csv", ".jsonl"),
    (f"{COLUMNS[0]},{COLUMNS[1]},".encode(), f'{{"{COLUMNS[0]}"'.encode()),
)
ANNOTATIONS = Kind("annotations of ours", mark=b'"core:generator": "offramp"')


def rows(
    predictions: Iterable[Prediction], start: int = 0, positions: Positions | None = None
) -> Iterator[dict[str, Any]]:
    """One row per window with the keys of :data:`COLUMNS`, and of :data:`PLACE_COLUMNS` where positions are given.

    Args:
        predictions: Of one task, batch by batch.
        start: Index of the first window.
        positions: Where windows were cut from recordings.

    Yields:
        ``index`` int; ``prediction`` a label, or a number or list of numbers for regression, None where a policy rejects the
        window; ``confidence`` a float, or None for regression; ``exit`` where the window left; ``recording`` its name;
        ``sample`` the first of the window, counted from the first in the file; ``time`` of that sample, ISO 8601 in UTC, or None.
    """
    index = start
    for prediction in predictions:
        windows = zip(_answers(prediction), prediction.exits, prediction.rejected, strict=True)
        for (answer, confidence), exit, rejected in windows:
            cells = (index, prediction.task, None if rejected else answer, confidence, exit)
            yield dict(zip(COLUMNS, cells, strict=True)) | _place(positions, index)
            index += 1


def complete(table: Iterable[dict[str, Any]], count: int, what: object) -> Iterator[dict[str, Any]]:
    """The rows as they come.

    Raises:
        DataError: There are more or fewer than ``count``, at the end.
    """
    done = 0
    for row in table:
        done += 1
        yield row
    if done != count:
        raise DataError(f"{done} predictions for the {count} windows of {what}")


def write_csv(table: Iterable[dict[str, Any]], stream: IO[str], columns: Sequence[str] = COLUMNS) -> None:
    """Rows as CSV with a header. Several values are joined by spaces; a missing prediction, confidence or time is empty."""
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
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
    positions: Positions,
    source: Path | Sequence[Path],
    folder: Path,
    allow_outside: bool = False,
) -> list[Path]:
    """Write one ``.sigmf-meta`` per recording: its own global part and captures, and an annotation per window, without a
    label where a policy rejects the window. A window around a shorter annotation is marked as such.

    Args:
        predictions: Of one task, batch by batch, in the order of ``positions``.
        positions: Where the windows come from.
        source: Paths and patterns of the recordings.
        folder: Where to write; it may not be the folder of the recordings.
        allow_outside: Whether samples may lie outside of the folder of their recording.

    Returns:
        The files written.

    Raises:
        DataError: A recording cannot be read, or predictions and positions differ in number.
    """
    places = find_places(source)
    paths = dict(find_recordings(places))
    targets = {name: folder / f"{name}{META}" for name in np.unique(positions.names).tolist()}
    sources = {path.resolve() for path in paths.values()}
    folders = {(place if place.is_dir() else place.parent).resolve() for place in places}
    if folder.resolve() in folders or any(target.resolve() in sources for target in targets.values()):
        raise DataError(f"{folder} holds the recordings themselves: choose another folder for the annotations")
    for target in targets.values():
        check_output(target, ANNOTATIONS, paths.values())
    answers: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    count = len(positions.names)
    for row in complete(rows(predictions), count, places[0]):
        if row["index"] < count:
            name, start, stop, _ = (values[row["index"]] for values in positions)
            answers.setdefault(str(name), []).append((int(start), int(stop), row))
    return [_write_meta(targets[name], paths[name], found, allow_outside) for name, found in answers.items()]


def annotation(row: Mapping[str, Any], start: int, count: int) -> dict[str, Any]:
    """An answer, with the keys of :data:`COLUMNS`, as SigMF annotates so many samples from ``start`` on; without a label where a policy
    rejects the window."""
    return {
        "core:sample_start": start,
        "core:sample_count": count,
        **({} if row["prediction"] is None else {"core:label": str(row["prediction"])}),
        "core:comment": _comment(row),
        "core:generator": "offramp",
    }


def _place(positions: Positions | None, index: int) -> dict[str, Any]:
    if positions is None:
        return {}
    if index >= len(positions.names):
        raise DataError(f"more predictions than the {len(positions.names)} windows")
    name, start, _, time = (values[index] for values in positions)
    at = None if np.isnat(time) else f"{np.datetime_as_string(time)}Z"
    return dict(zip(PLACE_COLUMNS, (str(name), int(start), at), strict=True))


def _answers(prediction: Prediction) -> Iterator[tuple[str | float | list[float], float | None]]:
    if prediction.kind == "classification":
        yield from zip(prediction.labels, map(_shorten, prediction.confidence), strict=True)
    else:
        for values in prediction.outputs:
            yield [_shorten(value) for value in values] if len(values) > 1 else _shorten(values[0]), None


def _shorten(value: np.float32) -> float:
    """A float32 without the digits that it does not hold."""
    return float(str(value))


def _write_meta(target: Path, path: Path, answers: list[tuple[int, int, dict[str, Any]]], allow_outside: bool) -> Path:
    signal = open_signal(path, allow_outside)
    offset = int(signal.get_global_info().get("core:offset", 0))
    annotations = [
        annotation(row, start + offset, stop - start)
        for start, stop, row in sorted(answers, key=lambda answer: answer[0])
    ]
    meta = {"global": signal.get_global_info(), "captures": signal.get_captures(), "annotations": annotations}
    write_text(target, json.dumps(meta, indent=2) + "\n")
    return target


def _comment(row: Mapping[str, Any]) -> str:
    confidence = "" if row["confidence"] is None else f"confidence {row['confidence']:.3f}, "
    rejected = "rejected, " if row["prediction"] is None else ""
    return f"{row['task']}: {rejected}{confidence}exit {row['exit']}"
