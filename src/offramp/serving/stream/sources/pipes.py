"""Samples from standard input."""

from __future__ import annotations

import io
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from offramp.errors import SuiteError
from offramp.progress import OnNote, silent
from offramp.serving.stream.chunks import SampleChunk, StopFlag
from offramp.serving.stream.formats import SampleFormat

READ_BYTES = 2**18
"""Most bytes of a chunk."""


class PipeSource:
    """Raw samples from an open file, until its end."""

    live = True
    slot_seconds = None

    def __init__(
        self,
        descriptor: int,
        form: SampleFormat,
        sample_rate: float | None,
        about: Mapping[str, Any] = MappingProxyType({}),
        on_note: OnNote = silent,
        name: str = "stdin",
    ) -> None:
        """Take the number of the open file, the form of its samples, their rate in Hz if it is known, what to say of all of them, and whom
        to tell of a sample that is cut off at the end."""
        self.name, self.sample_rate, self._form, self._descriptor = name, sample_rate, form, descriptor
        self.channels, self.datatype, self._about, self._on_note = form.channels, form.datatype, about, on_note

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        rest, first = b"", 0
        while not stop.asked:
            if not select.select([self._descriptor], [], [], 0.1)[0]:
                continue
            content = os.read(self._descriptor, READ_BYTES)
            if not content:
                break
            held = rest + content if rest else content
            whole = len(held) - len(held) % self._form.sample_bytes
            rest = held[whole:]
            if whole:
                samples = self._form.decode(memoryview(held)[:whole])
                chunk = SampleChunk(samples, first, time.monotonic(), about=self._about)
                first += chunk.count
                yield chunk
        if rest and not stop.asked:
            self._on_note(
                f"{self.name} ends with {len(rest)} bytes that are no whole sample: is it {self._form.datatype} of {self.channels} "
                f"channel{'s' if self.channels > 1 else ''}?"
            )


def standard_input() -> int:
    """The number of the file that is piped in.

    Raises:
        SuiteError: Standard input is a terminal or has no number.
    """
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError, io.UnsupportedOperation):
        raise SuiteError("--from stdin: standard input cannot be read") from None
    if os.isatty(descriptor):
        raise SuiteError("--from stdin: standard input is a terminal: pipe raw samples into the command")
    return descriptor
