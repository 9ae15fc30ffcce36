"""Slots of a base station, from a replay trace of an E3 agent.

The layout is that of the traces (magic ``E3RT``, version 1.1.0) that NVIDIA's stand-alone E3 agent plays back into its shared memory
``/e3_ran_buffers``; a row of that memory, which OpenAirInterface's E3 agent shares, holds one slot. See docs/stream.md, field by field.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from offramp.errors import DataError
from offramp.files import atomic_path
from offramp.opening import open_file
from offramp.serving.stream.chunks import SampleChunk, StopFlag, StreamGap
from offramp.serving.stream.sources.pacing import Pace

MAGIC = b"E3RT"
VERSION = 0x010100
"""Of the trace, and of the shared memory."""
PUSCH = 1
"""Tag of the records that have the I/Q of a slot; others are passed over."""
FILE = struct.Struct("<4sIII")
RECORD = struct.Struct("<HHI")
SLOT = struct.Struct("<QQHHHHHHBBH")
LENGTH = struct.Struct("<I")
USER_BYTES = 73
"""What a record says of one scheduled user."""
ANTENNAS, SYMBOLS, SUBCARRIERS = 4, 14, 273 * 12
"""Of a row."""
SLOT_SAMPLES = SYMBOLS * SUBCARRIERS
ROW_BYTES = ANTENNAS * SLOT_SAMPLES * 4
MOST_BYTES = 2**24
"""Of a record."""
LONGEST_PAUSE_S = 1.0
"""A longer one between two slots is shortened."""


@dataclass(frozen=True, eq=False)
class Slot:
    """One slot.

    Attributes:
        frame: System frame number, 0 to 1023.
        slot: Within the frame.
        cell: Its identity.
        time_ns: By the agent's own clock, nanoseconds since 1970; 0 where it is not known.
        tai_ns: When it was on the air, nanoseconds of International Atomic Time.
        grid: The resource grid behind the FFT, float16 ``(antennas, 14, 3276, 2)``: symbols, subcarriers from the lowest frequency,
            I and Q.
    """

    frame: int
    slot: int
    cell: int
    time_ns: int
    tai_ns: int
    grid: NDArray[np.float16]


def read_slots(path: Path) -> Iterator[Slot]:
    """The slots of a trace that have I/Q, in the order of the file.

    Raises:
        DataError: It is no such trace, of another version, or damaged; the message names the record.
    """
    with open_file(path, DataError) as file:
        header = file.read(FILE.size)
        if len(header) < FILE.size or header[:4] != MAGIC:
            raise DataError(
                f"{path} is no trace of an E3 agent, which begins with {MAGIC.decode()}: give one that its generator wrote"
            )
        _, version, layout, _ = FILE.unpack(header)
        if (version, layout) != (VERSION, VERSION):
            raise DataError(
                f"{path} is a trace of version {version:#08x} with a shared memory of version {layout:#08x}, and {VERSION:#08x} of both is "
                "read: generate it again"
            )
        number = 0
        while head := file.read(RECORD.size):
            slot = _slot(path, number, head, file)
            number += 1
            if slot is not None:
                yield slot


def write_slots(path: Path, slots: Iterable[Slot]) -> None:
    """Write a trace of slots without users, for tests and for grids from elsewhere; antennas that a grid lacks are zero.

    Raises:
        DataError: A grid has another shape.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(FILE.pack(MAGIC, VERSION, VERSION, 0))
        for slot in slots:
            antennas = len(slot.grid)
            if not 0 < antennas <= ANTENNAS or slot.grid.shape[1:] != (SYMBOLS, SUBCARRIERS, 2):
                raise DataError(
                    f"a grid of shape {slot.grid.shape}: give (antennas, {SYMBOLS}, {SUBCARRIERS}, 2) with at most {ANTENNAS} antennas"
                )
            row = np.zeros((ANTENNAS, SYMBOLS, SUBCARRIERS, 2), "<f2")
            row[:antennas] = slot.grid
            said = (slot.time_ns, slot.tai_ns, slot.frame, slot.slot, slot.cell, antennas, antennas, 1, antennas, 0, 0)
            body = SLOT.pack(*said) + LENGTH.pack(ROW_BYTES) + row.tobytes() + LENGTH.pack(0)
            file.write(RECORD.pack(PUSCH, 0, len(body)) + body)


class SlotSource:
    """Slots one by one, each a stretch of its own: 14 x 3,276 samples per antenna, the subcarriers of one symbol after those of another."""

    live = False
    sample_rate = None
    datatype = "cf16"

    def __init__(self, path: Path, numerology: int, pace: bool = False) -> None:
        """Open a trace.

        Args:
            path: Of the trace.
            numerology: 0 to 4: a slot takes 1 / 2^numerology ms (TS 38.211, 4.3.2).
            pace: Give slots as fast as they were on the air.

        Raises:
            DataError: It is no trace with I/Q.
        """
        self.name, self._path, self._pace = str(path), path, pace
        self.slot_seconds: float | None = 1e-3 / 2**numerology
        first = next(read_slots(path), None)
        if first is None:
            raise DataError(f"{path} has no slots with I/Q: let its generator include the stream fh")
        self.channels = len(first.grid)

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        pace, due, before, first = Pace(), 0.0, None, 0
        for slot in read_slots(self._path):
            if len(slot.grid) != self.channels:
                raise DataError(
                    f"{self.name}: slot {slot.slot} of frame {slot.frame} has {len(slot.grid)} antennas, and the first {self.channels}"
                )
            if self._pace:
                due += min(max(0, slot.tai_ns - (before or slot.tai_ns)) * 1e-9, LONGEST_PAUSE_S)
                before = slot.tai_ns
                pace.wait(due, stop)
            if stop.asked:
                return
            samples = slot.grid.astype(np.float32).reshape(self.channels, -1, 2).transpose(2, 0, 1)
            yield SampleChunk(
                samples=samples,
                first=first,
                arrived=time.monotonic(),
                gaps=(StreamGap("slot"),),
                about={"time": _iso(slot.time_ns), "frame": slot.frame, "slot": slot.slot, "cell": slot.cell},
            )
            first += samples.shape[-1]


def _iso(time_ns: int) -> str | None:
    return f"{np.datetime64(time_ns, 'ns')}Z" if time_ns else None


def _slot(path: Path, number: int, head: bytes, file: BinaryIO) -> Slot | None:
    """What a record holds; None for one without I/Q."""
    damaged = f"{path}: record {number} is cut off or damaged: generate the trace again"
    if len(head) < RECORD.size:
        raise DataError(damaged)
    tag, _, length = RECORD.unpack(head)
    if length > MOST_BYTES:
        raise DataError(damaged)
    body = file.read(length)
    if len(body) < length:
        raise DataError(damaged)
    if tag != PUSCH:
        return None
    try:
        time_ns, tai_ns, frame, slot, cell, antennas, _, _, _, _, users = SLOT.unpack_from(body)
        at = SLOT.size + users * USER_BYTES
        (size,) = LENGTH.unpack_from(body, at)
    except struct.error:
        raise DataError(damaged) from None
    if size == 0:
        return None
    row = body[at + LENGTH.size : at + LENGTH.size + size]
    if size != ROW_BYTES or len(row) != size or time_ns >= 2**63:
        raise DataError(
            f"{path}: record {number} has a row of {size:,} bytes, and one of {ANTENNAS} antennas, {SYMBOLS} symbols and {SUBCARRIERS} "
            f"subcarriers has {ROW_BYTES:,}: generate the trace again"
        )
    grid = np.frombuffer(row, "<f2").reshape(ANTENNAS, SYMBOLS, SUBCARRIERS, 2)
    return Slot(frame, slot, cell, time_ns, tai_ns, grid[: antennas or ANTENNAS])
