"""In what order datagrams belong, and what is missing between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from offramp.serving.stream.chunks import GapReason, Gaps, StreamGap, joined

Counter = Literal["none", "samples", "datagrams"]
HEADER_BYTES = 8
"""Of a counter: an unsigned integer, little-endian."""
LATE = 2**10
"""A counter that goes back by fewer datagrams belongs to one that was overtaken; by more, to a sender that began anew."""


@dataclass(frozen=True)
class Placed:
    """A datagram that is taken.

    Attributes:
        first: Number of its first sample since the stream began, lost ones counted.
        content: Its samples, as bytes.
        gaps: Before it.
    """

    first: int
    content: memoryview
    gaps: Gaps


class DatagramOrder:
    """Places one datagram after the other.

    Without a counter every datagram follows the one before it, unless the system says that it had to drop some in between. With one, lost
    datagrams are counted, and one that was overtaken by a later one, or came twice, is passed over.
    """

    def __init__(self, counter: Counter, sample_bytes: int) -> None:
        self._counter, self._sample_bytes = counter, sample_bytes
        self._first = 0
        """Of the next datagram, if nothing is missing before it."""
        self._due: int | None = None
        """What its counter is then."""
        self._length = 0
        """Samples of the last one."""
        self._pending: Gaps = ()
        self._sender: object = None
        self._overflowed = 0
        self.late = 0
        """Datagrams passed over because they came late or twice."""
        self.malformed = 0
        """Datagrams that are no whole number of samples."""

    def place(self, datagram: memoryview, sender: object, overflowed: int = 0) -> Placed | None:
        """Where a datagram belongs; None if it is passed over.

        Args:
            datagram: Counter, if there is one, and samples. One without samples says that its sender ended.
            sender: Whose it is.
            overflowed: Datagrams that the system dropped since the socket was opened, 32 bits.
        """
        if sender != self._sender:
            self._begin_anew("sender" if self._sender is not None else None)
            self._sender = sender
        dropped, self._overflowed = (overflowed - self._overflowed) % 2**32, overflowed
        header = 0 if self._counter == "none" else HEADER_BYTES
        content = datagram[header:]
        if not content or len(content) % self._sample_bytes:
            self.malformed += bool(datagram)
            self._begin_anew("malformed" if datagram else "sender")
            return None
        samples = len(content) // self._sample_bytes
        if self._counter == "none":
            if dropped:
                self._break(StreamGap("overflow", dropped * samples))
        elif not self._counted(int.from_bytes(datagram[:header], "little"), samples, bool(dropped)):
            self.late += 1
            return None
        placed = Placed(self._first, content, self._pending)
        self._pending = ()
        self._first += samples
        self._length = samples
        return placed

    def _counted(self, count: int, samples: int, overflowed: bool) -> bool:
        """Make good for what the counter says is missing; False if the datagram is too late."""
        unit = samples if self._counter == "datagrams" else 1
        if self._due is not None and count != self._due:
            missing = count - self._due
            if missing > 0:
                # lost datagrams are taken to have been as long as the one before them
                lost = missing * (self._length if self._counter == "datagrams" else 1)
                self._break(StreamGap("overflow" if overflowed else "lost", lost))
            elif -missing * unit <= LATE * samples:
                return False
            else:
                self._break(StreamGap("restarted", None))
        self._due = count + (1 if self._counter == "datagrams" else samples)
        return True

    def _begin_anew(self, reason: GapReason | None) -> None:
        """What comes next has nothing to do with what was before."""
        self._due = None
        if reason is not None and self._first > 0:
            self._break(StreamGap(reason, None))

    def _break(self, gap: StreamGap) -> None:
        self._pending = joined(self._pending, (gap,))
        self._first += gap.lost or 0
