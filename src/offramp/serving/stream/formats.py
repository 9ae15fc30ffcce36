"""From bytes to I/Q: the complex datatypes of SigMF 1.2, scaled as the ``sigmf`` library scales recordings, which is how tasks were trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.recordings import DATATYPE
from offramp.data.containers.sigmf_files import MAX_CHANNELS
from offramp.errors import DataError

EXAMPLES = "cf32_le, cf64_le, ci8, cu8, ci16_le, cu16_le, ci32_le, cu32_le, or _be for big-endian"


@dataclass(frozen=True)
class SampleFormat:
    """How samples lie in a stream of bytes: I and Q of the first antenna, of the second, and so on, then the next sample.

    Attributes:
        datatype: As SigMF calls it; in the byte order of this machine where it names none.
        channels: Antennas.

    Raises:
        DataError: The datatype is unknown or real, or the number of channels cannot be.
    """

    datatype: str
    channels: int = 1

    def __post_init__(self) -> None:
        if not DATATYPE.fullmatch(self.datatype):
            raise DataError(f"unknown datatype {self.datatype!r}: choose {EXAMPLES}")
        if self.datatype.startswith("r"):
            raise DataError(
                f"{self.datatype} samples are real: they hold no Q, and a mirrored spectrum; make them complex first "
                "(a Hilbert filter), and choose a datatype that begins with c"
            )
        if not 0 < self.channels <= MAX_CHANNELS:
            raise DataError(f"{self.channels} channels cannot be: give from 1 to {MAX_CHANNELS:,}")

    @property
    def component(self) -> np.dtype[np.generic]:
        """Of I and of Q."""
        name, _, order = self.datatype[1:].partition("_")
        kind, bits = name[0], int(name[1:])
        return np.dtype(f"{ {'le': '<', 'be': '>'}.get(order, '=') }{kind}{bits // 8}")

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample of all antennas."""
        return 2 * self.component.itemsize * self.channels

    def decode(self, content: bytes | bytearray | memoryview) -> NDArray[np.float32]:
        """Whole samples as float32 I/Q ``(2, channels, samples)``; integers are scaled to [-1, 1)."""
        component = self.component
        with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold is named with its window
            values = np.frombuffer(content, component).astype(np.float32)
            if component.kind in "iu":
                half = 2 ** (8 * component.itemsize - 1)
                if component.kind == "u":
                    values -= half
                values *= 1 / half
        return iq_of_interleaved(values, self.channels)


def iq_of_interleaved(values: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """I and Q of all channels, one sample after the other, as ``(2, channels, samples)``; a view."""
    return values.reshape(-1, channels, 2).transpose(2, 1, 0)
