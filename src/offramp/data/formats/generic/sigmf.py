"""SigMF recordings: a folder (searched to the bottom), one ``.sigmf-meta``, ``.sigmf-data`` or ``.sigmf`` archive.

Windows are float32 ``(2, antennas, window)``: axis 0 = I, Q (Q is 0 for real samples), channels are antennas, fixed-point samples are scaled to
[-1, 1) by the ``sigmf`` library. Nothing but the windows asked for is ever in memory. ``cut`` says where windows come from:

- ``annotations``: inside each annotation, every ``hop`` samples from its start. What is left over at its end is dropped. An annotation shorter
  than a window gives one window with the annotation in its middle and zeros around it, even where the recording goes on: the window shows
  the annotated signal alone.
- ``unannotated``: the stretches that no annotation covers, less a guard of one window on the side of each annotation. A control: what
  can be told from these windows is told from noise, receiver and session.
- ``all``: the whole recording.

Columns: ``label`` (``core:label`` of the annotation; for the other cuts, and where it is missing, the recording's most frequent label, else its
collection, else ``none``), ``recording`` (path below the folder without suffix), ``collection`` (``core:collection``, else the recording). A
window's position is the first sample in it that belongs to the recording. Indices follow SigMF 1.2: they count from ``core:offset``, and an annotation
without a count reaches to the end of its capture.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.recordings import Recording, find_recordings, open_signal, read_recording
from offramp.data.formats.windows import digest, spread
from offramp.data.summary import FileSummary, summarise_column
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

OPEN_RECORDINGS = 16
"""Recordings that are kept open at a time."""

Interval = tuple[int, int, str]
"""First sample, end, label."""


def recognise(path: Path) -> bool:
    """By suffix; a folder of no other layout is taken to hold SigMF recordings."""
    return path.is_dir() or path.suffix.lower() in (".sigmf-meta", ".sigmf-data", ".sigmf")


def read(spec: DataSpec) -> Table:
    """Open recordings and cut them into windows.

    Raises:
        DataError: ``data.window`` is missing; a recording is broken, ends before its annotations or has another number of
            channels than the first; nothing is as long as a window.
    """
    assert spec.path is not None
    if spec.window is None:
        raise DataError(f"{spec.path} holds recordings: set data.window to the samples per window")
    window, hop = spec.window, spec.hop or spec.window
    recordings = [read_recording(path, name) for name, path in find_recordings(spec.path)]
    for recording in recordings:
        if recording.channels != recordings[0].channels:
            raise DataError(
                f"{recording.path} has {recording.channels} channels and {recordings[0].path} has {recordings[0].channels}; "
                "put them into separate folders"
            )
    of_recordings = [_cut(recording, window, hop, spec.cut) for recording in recordings]
    cuts = [
        (number, *found[place])
        for number, found in enumerate(of_recordings)
        for place in spread(len(found), spec.windows_per_recording)
    ]
    if not cuts:
        raise DataError(
            f"{spec.path} gives no windows of {window} samples from {spec.cut!r}: choose a shorter data.window"
        )
    origin = np.array([number for number, *_ in cuts], dtype=np.int64)
    names = np.array([recording.name for recording in recordings])
    shape = (2, recordings[0].channels, window)
    spans = np.array([(start, stop) for _, start, stop, _ in cuts], dtype=np.int64)
    return Table(
        windows=WindowSource(
            name=str(spec.path),
            count=len(cuts),
            shape=shape,
            fingerprint=_fingerprint(recordings, spec),
            fetch=_WindowReader(recordings, origin, spans, shape),
        ),
        columns={
            "label": np.array([label for *_, label in cuts]),
            "recording": names[origin],
            "collection": np.array([recording.collection for recording in recordings])[origin],
        },
        default_target="label",
        default_group="recording",
        positions=(names[origin], spans[:, 0]),
    )


def summarise(path: Path) -> FileSummary:
    """Recordings and annotations, before any window is cut."""
    recordings = [read_recording(place, name) for name, place in find_recordings(path)]
    of_recordings = {
        "datatype": np.array([recording.datatype for recording in recordings]),
        "channels": np.array([recording.channels for recording in recordings]),
        "sample_rate": np.array([recording.sample_rate for recording in recordings]),
        "seconds": np.array([recording.samples / recording.sample_rate for recording in recordings]),
        "recording": np.array([recording.name for recording in recordings]),
        "collection": np.array([recording.collection for recording in recordings]),
    }
    of_annotations = {
        "label": np.array(
            [annotation.label for recording in recordings for annotation in recording.annotations], dtype=np.str_
        ),
        "annotated_seconds": np.array(
            [
                (annotation.stop - annotation.start) / recording.sample_rate
                for recording in recordings
                for annotation in recording.annotations
            ]
        ),
    }
    columns = [summarise_column(name, "recording", values) for name, values in of_recordings.items()]
    columns += [summarise_column(name, "annotation", values) for name, values in of_annotations.items()]
    return FileSummary(str(path), "sigmf", len(recordings), "recording", None, tuple(columns))


def _cut(recording: Recording, window: int, hop: int, cut: str) -> list[Interval]:
    """The samples that each window shows; fewer than ``window`` where it is to be padded."""
    if cut == "annotations":
        stretches = [(annotation.start, annotation.stop, annotation.label) for annotation in recording.annotations]
        short = [stretch for stretch in stretches if 0 < stretch[1] - stretch[0] < window]
    else:
        label = recording.label
        stretches = [
            (start, stop, label)
            for start, stop in (_gaps(recording, window) if cut == "unannotated" else [(0, recording.samples)])
        ]
        short = []
    whole = [
        (start, start + window, label)
        for first, stop, label in stretches
        for start in range(first, stop - window + 1, hop)
    ]
    return sorted(whole + short)


def _gaps(recording: Recording, guard: int) -> list[tuple[int, int]]:
    """Stretches at least ``guard`` samples away from every annotation."""
    gaps, free_from = [], 0
    for annotation in sorted(recording.annotations, key=lambda annotation: annotation.start):
        gaps.append((free_from, annotation.start - guard))
        free_from = max(free_from, annotation.stop + guard)
    return [*gaps, (free_from, recording.samples)]


class _WindowReader:
    """Windows by index. A signal opens its file for every read, so that it survives a fork."""

    def __init__(
        self, recordings: list[Recording], origin: NDArray[np.int64], spans: NDArray[np.int64], shape: tuple[int, ...]
    ) -> None:
        self._recordings = recordings
        self._origin = origin
        self._spans = spans
        self._shape = shape
        self._signal = lru_cache(OPEN_RECORDINGS)(lambda number: open_signal(recordings[number].path))

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.zeros((len(indices), *self._shape), dtype=np.float32)
        for row, index in zip(out, indices, strict=True):
            start, stop = (int(edge) for edge in self._spans[index])
            number = int(self._origin[index])
            try:
                samples = self._signal(number).read_samples(start, stop - start)
            except OSError as error:
                raise DataError(
                    f"{self._recordings[number].path}: samples {start} to {stop} cannot be read: {error}"
                ) from error
            samples = samples.reshape(stop - start, -1).T
            begin = self._shape[-1] // 2 - (stop - start) // 2
            row[0, :, begin : begin + stop - start] = samples.real
            row[1, :, begin : begin + stop - start] = samples.imag
        return out


def _fingerprint(recordings: list[Recording], spec: DataSpec) -> str:
    cut = [spec.window, spec.hop or spec.window, spec.cut, spec.windows_per_recording]
    names = [recording.name for recording in recordings]
    return digest([cut, names], [file for recording in recordings for file in recording.files])
