"""SigMF recordings: a folder (searched to the bottom), one ``.sigmf-meta``, ``.sigmf-data`` or ``.sigmf`` archive, or several of these.

Windows are float32 ``(2, antennas, window)``: axis 0 = I, Q (Q is 0 for real samples), channels are antennas, fixed-point samples are scaled to
[-1, 1) by the ``sigmf`` library. Nothing but the windows asked for is ever in memory. ``cut`` says where windows come from:

- ``annotations``: inside each annotation, every ``hop`` samples from its start. What is left over at its end is dropped. An annotation shorter
  than a window gives one window with the annotation in its middle and zeros around it, even where the recording goes on: the window shows
  the annotated signal alone.
- ``unannotated``: the stretches that no annotation covers, less a guard of one window on the side of each annotation. A control: what
  can be told from these windows is told from noise, receiver and session.
- ``all``: the whole recording.
- ``auto``: each recording from its annotations; from start to end if these give no window. With ``label`` this is what ``annotations`` means.

No window holds samples from before the first capture, or of two captures between which the receiver was set anew (another ``core:frequency``, or
whatever else a capture says of it) or lost samples (``core:global_index``).

All recordings have one sample rate, or are brought to one with ``resample``: each window then begins on a sample of the recording, and ``window``
and ``hop`` count samples at the new rate.

Columns: ``label`` (``core:label`` of the annotation; for the other cuts, and where it is missing, the recording's most frequent label, else its
collection, else ``none``; with ``label`` what the folder or file is called), ``recording`` (path below the folder without suffix), ``collection``
(``core:collection``, else the recording). A window's position is the first sample in it that belongs to the recording. Indices follow SigMF 1.2: they
count from ``core:offset``, and an annotation without a count reaches to the end of its capture.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.rates import rate_change, read_at_rate, same_rate
from offramp.data.containers.recordings import (
    MetadataOnlyError,
    Recording,
    describe,
    find_recordings,
    open_signal,
    read_recording,
)
from offramp.data.formats.windows import digest, spread
from offramp.data.places import find_places, listing, name_of, open_each, silent_note
from offramp.data.summary import FileSummary, summarise_column
from offramp.data.table import NoWindowsError, Positions, SampleRatesError, Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec, LabelSpec

TAKES = ("paths", "label", "resample")
"""What this layout knows of ``data:`` that others do not: several paths as one set, and these keys."""
MAX_WINDOWS = 2**22
"""Most windows of one recording."""
OPEN_RECORDINGS = 16
"""Recordings that are kept open at a time."""

Interval = tuple[int, int, str]
"""First sample, end, label."""


@dataclass(frozen=True)
class _Source:
    """A recording, its samples at the set's rate per sample of its own, and what opens its signal."""

    recording: Recording
    change: Fraction
    opened: Callable[[], Any]

    def length(self, samples: int) -> int:
        """Samples at the set's rate."""
        return samples * self.change.numerator // self.change.denominator

    def origin(self, sample: int) -> int:
        """The recording's own sample at or before one at the set's rate."""
        return sample * self.change.denominator // self.change.numerator

    def extent(self, samples: int) -> int:
        """The recording's own samples that so many at the set's rate need."""
        return -(-samples * self.change.denominator // self.change.numerator)


def recognise(path: Path) -> bool:
    """By suffix; a folder of no other layout is taken to hold SigMF recordings."""
    return path.is_dir() or path.suffix.lower() in (".sigmf-meta", ".sigmf-data", ".sigmf")


def read(spec: DataSpec) -> Table:
    """Open recordings and cut them into windows.

    Raises:
        NoWindowsError: Nothing is as long as a window, or nothing is annotated.
        DataError: ``data.window`` is missing; a recording is broken, ends before its annotations, has another number of
            channels or another sample rate than the first, or a name that ``data.label`` cannot read.
    """
    assert spec.path is not None
    places = find_places(spec.path)
    where = name_of(places)
    if spec.window is None:
        raise DataError(f"{where} holds recordings: set data.window to the samples per window")
    sources, notes = _open_all(places, spec)
    _check_alike([source.recording for source in sources], spec)
    return _table(where, sources, spec, spec.window, notes)


def read_signal(signal: Any, path: Path, spec: DataSpec, window: int) -> Table:
    """Cut one recording that is open already, and may be in memory, into windows; messages call it ``path``. Raises as :func:`read`."""
    recording = describe(signal, path, path.stem)
    source = _Source(recording, _change(recording, spec.resample), lambda: signal)
    return _table(str(path), [source], spec, window, ())


def _table(where: str, sources: list[_Source], spec: DataSpec, window: int, notes: tuple[str, ...]) -> Table:
    recordings = [source.recording for source in sources]
    cut = "auto" if spec.cut == "annotations" and spec.label is not None else spec.cut
    of_sources = [_cut(source, window, spec.hop or window, cut) for source in sources]
    cuts = [
        (number, *found[place])
        for number, found in enumerate(of_sources)
        for place in spread(len(found), spec.windows_per_recording)
    ]
    if not cuts:
        raise NoWindowsError(_without_windows(where, recordings, window, cut))
    origin = np.array([number for number, *_ in cuts], dtype=np.int64)
    names = np.array([recording.name for recording in recordings])
    spans = np.array([(start, stop) for _, start, stop, _ in cuts], dtype=np.int64)
    silent = tuple(source.recording.name for source, found in zip(sources, of_sources, strict=True) if not found)
    shape = (2, recordings[0].channels, window)
    return Table(
        windows=WindowSource(
            name=where,
            count=len(cuts),
            shape=shape,
            fingerprint=_fingerprint(recordings, spec, cut),
            fetch=_WindowReader(sources, origin, spans, shape),
        ),
        columns={
            "label": np.array([label for *_, label in cuts]),
            "recording": names[origin],
            "collection": np.array([recording.collection for recording in recordings])[origin],
        },
        default_target="label",
        default_group="recording",
        positions=Positions(names[origin], spans[:, 0], spans[:, 1], _times(recordings, origin, spans[:, 0])),
        sample_rate=_rate(recordings, spec),
        silent=silent,
        notes=(*notes, *_notes(sources, silent, origin, spans, window)),
    )


def summarise(path: Path) -> FileSummary:
    """Recordings and annotations, before any window is cut."""
    sources, notes = _open_all([path], DataSpec(path=path))
    recordings = [source.recording for source in sources]
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
        "annotated_samples": np.array(
            [annotation.stop - annotation.start for recording in recordings for annotation in recording.annotations],
            dtype=np.int64,
        ),
    }
    columns = [summarise_column(name, "recording", values) for name, values in of_recordings.items()]
    columns += [summarise_column(name, "annotation", values) for name, values in of_annotations.items()]
    return FileSummary(str(path), "sigmf", len(recordings), "recording", None, tuple(columns), note="; ".join(notes))


def _open_all(places: list[Path], spec: DataSpec) -> tuple[list[_Source], tuple[str, ...]]:
    """All recordings that can be used, and what is to be said about the others."""

    def open_one(name: str, path: Path) -> _Source | str:
        try:
            recording = read_recording(path, name, spec.allow_outside)
        except MetadataOnlyError:
            return name
        if spec.label is not None:
            recording = _labelled(recording, spec.label)
        change = _change(recording, spec.resample)
        return _Source(recording, change, partial(open_signal, recording.path, spec.allow_outside))

    found = find_recordings(places)
    opened, notes = open_each(found, open_one, spec.skip_bad, "recordings")
    sources = [source for source in opened if isinstance(source, _Source)]
    empty = [name for name in opened if isinstance(name, str)]
    if not sources:
        raise DataError(
            f"{name_of(places)} holds no samples by design (core:metadata_only): put the .sigmf-data files beside the metadata"
        )
    if empty:
        notes += (
            f"{len(empty)} of {len(found)} recordings hold no samples by design (core:metadata_only): {listing(empty)}",
        )
    return sources, notes


def _labelled(recording: Recording, spec: LabelSpec) -> Recording:
    name = recording.path.resolve().parent.name if spec.from_ == "folder" else recording.path.stem
    label = name
    if spec.pattern is not None:
        found = re.search(spec.pattern, name)
        if found is None or not found[1]:
            raise DataError(f"{recording.path}: data.label.pattern {spec.pattern!r} finds no label in {name!r}")
        label = found[1]
    return replace(
        recording,
        label=label,
        annotations=tuple(replace(annotation, label=label) for annotation in recording.annotations),
    )


def _change(recording: Recording, rate: float | None) -> Fraction:
    if rate is None:
        return Fraction(1)
    if math.isnan(recording.sample_rate):
        raise DataError(f"{recording.path} has no core:sample_rate, which data.resample needs: add it")
    try:
        return rate_change(recording.sample_rate, rate)
    except DataError as error:
        raise DataError(f"{recording.path}: {error}: choose another data.resample") from None


def _check_alike(recordings: Sequence[Recording], spec: DataSpec) -> None:
    known = [recording for recording in recordings if not math.isnan(recording.sample_rate)]
    for recording in recordings:
        if recording.channels != recordings[0].channels:
            raise DataError(
                f"{recording.path} has {recording.channels} channels and {recordings[0].path} has {recordings[0].channels}; "
                "put them into separate folders"
            )
    for recording in known if spec.resample is None else []:
        if not same_rate(recording.sample_rate, known[0].sample_rate):
            lower = min(recording.sample_rate, known[0].sample_rate)
            raise SampleRatesError(
                f"sample rates differ: {recording.path} has {recording.sample_rate:.10g} Hz and {known[0].path} has "
                f"{known[0].sample_rate:.10g} Hz: bring them to one with data.resample: {lower:.10g}"
            )


def _rate(recordings: Sequence[Recording], spec: DataSpec) -> float | None:
    """The rate of all windows, Hz."""
    if spec.resample is not None:
        return spec.resample
    unknown = any(math.isnan(recording.sample_rate) for recording in recordings)
    return None if unknown else recordings[0].sample_rate


def _without_windows(where: str, recordings: Sequence[Recording], window: int, cut: str) -> str:
    if cut == "annotations" and not any(recording.annotations for recording in recordings):
        return f"{where} gives no windows of {window} samples: nothing is annotated; annotate it or set data.cut: all"
    return (
        f"{where} gives no windows of {window} samples from {cut!r}: choose a shorter data.window or another data.cut"
    )


def _notes(
    sources: Sequence[_Source],
    silent: tuple[str, ...],
    origin: NDArray[np.int64],
    spans: NDArray[np.int64],
    window: int,
) -> tuple[str, ...]:
    """Recordings that give nothing, and windows that are filled up."""
    notes = [*silent_note(silent, len(sources))]
    up = np.array([source.change.numerator for source in sources])[origin]
    down = np.array([source.change.denominator for source in sources])[origin]
    shown = (spans[:, 1] - spans[:, 0]) * up // down
    if padded := int(np.sum(shown < window)):
        mostly = int(np.sum(2 * shown < window))
        notes.append(
            f"{padded:,} of {len(shown):,} windows are padded with zeros, {mostly:,} of them by more than half: "
            f"their annotations are shorter than {window:,} samples"
        )
    return tuple(notes)


def _times(
    recordings: Sequence[Recording], origin: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.datetime64]:
    bounds = np.searchsorted(origin, np.arange(1, len(recordings)))
    of_each = np.split(starts, bounds)
    return np.concatenate([recording.times(own) for recording, own in zip(recordings, of_each, strict=True)])


def _cut(source: _Source, window: int, hop: int, cut: str) -> list[Interval]:
    """The recording's own samples that each window shows; fewer than a window's where it is to be padded."""
    recording = source.recording
    if cut in ("annotations", "auto"):
        annotated = [(annotation.start, annotation.stop, annotation.label) for annotation in recording.annotations]
        found = _windows_in(source, annotated, window, hop, pad=True)
        if found or cut == "annotations":
            return found
    free = _gaps(recording, source.extent(window)) if cut == "unannotated" else [(0, recording.samples)]
    return _windows_in(source, [(start, stop, recording.label) for start, stop in free], window, hop, pad=False)


def _windows_in(source: _Source, stretches: list[Interval], window: int, hop: int, pad: bool) -> list[Interval]:
    """Windows inside the parts of stretches over which nothing changes; parts that are shorter are kept whole if ``pad``."""
    parts = [
        (first, end, label)
        for start, stop, label in stretches
        for first, end in source.recording.unchanged(start, stop)
    ]
    count = sum(max(0, source.length(stop - start) - window) // hop for start, stop, _ in parts)
    if count > MAX_WINDOWS:
        raise DataError(f"{source.recording.path} gives more than {MAX_WINDOWS:,} windows: choose a longer data.hop")
    extent = source.extent(window)
    whole = [
        (begin, begin + extent, label)
        for start, stop, label in parts
        for sample in range(0, source.length(stop - start) - window + 1, hop)
        for begin in (start + source.origin(sample),)
    ]
    short = [part for part in parts if pad and 0 < source.length(part[1] - part[0]) < window]
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
        self,
        sources: list[_Source],
        origin: NDArray[np.int64],
        spans: NDArray[np.int64],
        shape: tuple[int, ...],
    ) -> None:
        self._sources = sources
        self._origin = origin
        self._spans = spans
        self._shape = shape
        self._signal = lru_cache(OPEN_RECORDINGS)(lambda number: sources[number].opened())

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.zeros((len(indices), *self._shape), dtype=np.float32)
        for row, index in zip(out, indices, strict=True):
            samples = self._samples(int(self._origin[index]), *self._spans[index].tolist()).T
            begin = self._shape[-1] // 2 - samples.shape[-1] // 2
            row[0, :, begin : begin + samples.shape[-1]] = samples.real
            row[1, :, begin : begin + samples.shape[-1]] = samples.imag
        return out

    def _samples(self, number: int, start: int, stop: int) -> NDArray[np.inexact]:
        """``(samples, channels)`` at the set's rate, no more than a window."""
        source = self._sources[number]
        count = min(source.length(stop - start), self._shape[-1])
        try:
            if source.change == 1:
                return self._read(number, start, count)
            within = next(part for part in source.recording.steady if part[0] <= start < part[1])
            return read_at_rate(
                lambda first, several: self._read(number, first, several), within, start, count, source.change
            )
        except OSError as error:
            raise DataError(f"{source.recording.path}: samples {start} to {stop} cannot be read: {error}") from error

    def _read(self, number: int, start: int, count: int) -> NDArray[np.inexact]:
        samples: NDArray[np.inexact] = self._signal(number).read_samples(start, count)
        return samples.reshape(count, -1)


def _fingerprint(recordings: Sequence[Recording], spec: DataSpec, cut: str) -> str:
    how: list[object] = [spec.window, spec.hop or spec.window, cut, spec.windows_per_recording]
    how += [] if spec.resample is None else [spec.resample]
    names = [recording.name for recording in recordings]
    about: list[object] = [how, names]
    if any(recording.steady != ((0, recording.samples),) for recording in recordings):
        about.append([recording.steady for recording in recordings])
    return digest(about, [file for recording in recordings for file in recording.files])
