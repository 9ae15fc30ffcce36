"""A SigMF recording as a stream, from its first capture to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from offramp.data.containers.recordings import Recording, open_signal, read_recording
from offramp.errors import DataError
from offramp.serving.stream.chunks import SampleChunk, StopFlag, StreamGap
from offramp.serving.stream.clock import UNKNOWN
from offramp.serving.stream.formats import SampleFormat, iq_of_interleaved
from offramp.serving.stream.sources.pacing import Pace

CHUNK = 2**16
"""Samples of a chunk."""
PACED_S = 0.005
"""Length of a chunk that is replayed at the pace of the recording."""


class RecordingSource:
    """The samples of one recording, as :mod:`offramp.data.formats.generic.sigmf` reads them. Samples count from the first in the file, and
    nothing reaches over a change of the receiver's settings."""

    live = False
    slot_seconds = None

    def __init__(self, path: Path, pace: bool = False, allow_outside: bool = False) -> None:
        """Open a recording.

        Args:
            path: ``.sigmf-meta``, ``.sigmf-data`` or a ``.sigmf`` archive.
            pace: Give samples as fast as they were recorded, not as fast as they can be read.
            allow_outside: Whether samples may lie outside of the folder of the recording.

        Raises:
            DataError: It is broken, its samples are real, or its rate is not known and the pace is to be kept.
        """
        if path.suffix == ".sigmf-data":
            path = path.with_suffix(".sigmf-meta")
        self.recording: Recording = read_recording(path, path.stem, allow_outside)
        SampleFormat(self.recording.datatype, self.recording.channels)  # refuses real samples
        self.name, self.channels, self.datatype = str(path), self.recording.channels, self.recording.datatype
        self.sample_rate = None if math.isnan(self.recording.sample_rate) else self.recording.sample_rate
        self.metadata = open_signal(path, allow_outside)
        if pace and self.sample_rate is None:
            raise DataError(f"{path} has no core:sample_rate, which --pace needs: add it")
        self._pace = pace

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        pace, length = Pace(), CHUNK
        if self._pace and self.sample_rate is not None:
            length = max(1, min(CHUNK, round(self.sample_rate * PACED_S)))
        began = {start for start, _ in self.recording.steady}
        for start, end, at in self._parts():
            for first in range(start, end, length):
                if stop.asked:
                    return
                count = min(length, end - first)
                if self._pace and self.sample_rate is not None:
                    pace.wait((first + count) / self.sample_rate, stop)
                yield SampleChunk(
                    samples=self._read(first, count),
                    first=first,
                    arrived=time.monotonic(),
                    gaps=(StreamGap("setting"),) if first in began else (),
                    time=at if first == start else None,
                )

    def _parts(self) -> Iterator[tuple[int, int, np.datetime64]]:
        """First sample, end and time of stretches without a new capture."""
        if not self.recording.captures:
            yield 0, self.recording.samples, UNKNOWN
        for capture in self.recording.captures:
            yield capture.start, capture.stop, capture.time

    def _read(self, first: int, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        try:
            samples = self.metadata.read_samples(first, count)
        except OSError as error:
            raise DataError(f"{self.name}: samples {first} to {first + count} cannot be read: {error}") from error
        if len(samples) < count:
            raise DataError(f"{self.name} ends before sample {first + count}: copy its samples again")
        return iq_of_interleaved(np.ascontiguousarray(samples, np.complex64).view(np.float32), self.channels)
