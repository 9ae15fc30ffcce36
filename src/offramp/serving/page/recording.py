"""SigMF recordings dropped on the page: read from memory as ``offramp predict`` reads files, never written, and no file is opened for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.data.containers.rates import same_rate
from offramp.data.containers.recordings import Recording, describe, signal_in_memory
from offramp.data.formats.windows import spread
from offramp.data.table import Positions, Table
from offramp.errors import DataError
from offramp.runtime.files import open_recording
from offramp.runtime.outputs import rows
from offramp.runtime.predictor import Prediction
from offramp.serving.page.spectrogram import spectrogram

NAME = Path("the recording")
"""What messages call it."""
MOST_STRETCHES = 2**20
"""Most captures times annotations: each annotation is cut at the captures in it."""
MOST_WINDOWS = 2048
"""Most windows that are asked; of more, so many are, evenly spread."""


@dataclass(frozen=True, eq=False)
class DroppedRecording:
    """A recording in memory, and the windows that a task cuts from it.

    Attributes:
        about: Its metadata.
        signal: A ``sigmf.SigMFFile`` that holds the samples.
        table: All windows, and where they are.
        asked: Which of them are asked, int64 ``(N,)``, ascending.
        frequency_hz: The centre frequency of its first capture; None where that is not known.
    """

    about: Recording
    signal: Any
    table: Table
    asked: NDArray[np.int64]
    frequency_hz: float | None

    @property
    def positions(self) -> Positions:
        """Of the windows that are asked."""
        assert self.table.positions is not None
        names, starts, stops, times = self.table.positions
        return Positions(names[self.asked], starts[self.asked], stops[self.asked], times[self.asked])

    def windows(self, first: int, stop: int) -> NDArray[np.float32]:
        """Some of the windows that are asked, float32 ``(stop - first, *window_shape)``.

        Raises:
            DataError: A window holds NaN or infinity.
        """
        return self.table.windows.read(self.asked[first:stop])

    def read(self, start: int, count: int) -> NDArray[np.inexact]:
        """Samples from ``start`` on, complex64 or float32 ``(count, channels)``, fixed-point ones scaled to [-1, 1)."""
        samples: NDArray[np.inexact] = self.signal.read_samples(start, count)
        return samples.reshape(count, -1)


def read_dropped(
    task: BundleTask, metadata: bytes | None, content: bytes, most: int = MOST_WINDOWS
) -> DroppedRecording:
    """Open a recording from memory and cut it into a task's windows, as :func:`offramp.runtime.files.open_windows` cuts that of a file.

    Args:
        task: Whose windows they are.
        metadata: Of the ``.sigmf-meta``; None if ``content`` is a ``.sigmf`` archive.
        content: Of the ``.sigmf-data`` or the archive.
        most: How many windows are asked at most.

    Raises:
        DataError: Metadata or archive are broken; the recording is truncated, or too short for a window; it has another number of
            channels or sample rate than the task was fitted on; or the task takes no recordings.
    """
    if len(task.window_shape) != 3 or task.window_shape[0] != 2:
        raise DataError(f"task {task.name!r} takes windows of shape {task.window_shape}, not I/Q: choose another task")
    signal = signal_in_memory(NAME, metadata, content)
    about = describe(signal, NAME, NAME.name)
    captures, annotations = len(signal.get_captures()), len(about.annotations)
    if captures * annotations > MOST_STRETCHES:
        raise DataError(f"{NAME} has {captures:,} captures and {annotations:,} annotations: drop a part of it")
    known = task.data.get("sample_rate")
    if (
        known
        and not task.data.get("resample")
        and not math.isnan(about.sample_rate)
        and not same_rate(known, about.sample_rate)
    ):
        raise DataError(
            f"{NAME} has {about.sample_rate:.10g} samples per second, and task {task.name!r} was fitted at {known:.10g}: "
            "bring the recording to that rate first"
        )
    table = open_recording(task, signal, NAME)
    frequency = next((capture.get("core:frequency") for capture in signal.get_captures()), None)
    is_number = isinstance(frequency, int | float) and not isinstance(frequency, bool)
    return DroppedRecording(
        about, signal, table, spread(table.windows.count, most), float(frequency) if is_number and frequency else None
    )


def recording_document(dropped: DroppedRecording, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What the page draws of a recording, as JSON has it.

    Args:
        dropped: The recording.
        predictions: Of one task, batch by batch, of all windows that are asked.

    Returns:
        ``recording`` (datatype, channels, samples, sample rate and centre frequency, each None where it is not known), ``spectrogram``
        (see :meth:`~offramp.serving.page.spectrogram.RecordingPicture.document`), ``windows`` (one list each of: first sample, end,
        time, prediction, confidence, exit, in the form of :func:`offramp.runtime.outputs.rows`), ``cut`` (how many windows the recording
        has), ``labels``, and ``notes`` (sentences).
    """
    about, positions = dropped.about, dropped.positions
    answers = list(rows(predictions, positions=positions))
    columns = {key: [row[key] for row in answers] for key in ("time", "prediction", "confidence", "exit")}
    return {
        "recording": {
            "datatype": about.datatype,
            "channels": about.channels,
            "samples": about.samples,
            "sample_rate": None if math.isnan(about.sample_rate) else about.sample_rate,
            "frequency_hz": dropped.frequency_hz,
        },
        "spectrogram": spectrogram(dropped.read, about.samples).document(),
        "windows": {"start": positions.starts.tolist(), "stop": positions.stops.tolist(), **columns},
        "cut": dropped.table.windows.count,
        "labels": list(predictions[0].label_names) if predictions else [],
        "notes": list(dropped.table.notes),
    }
