"""Samples in UDP datagrams."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from offramp.errors import DataError
from offramp.progress import OnNote, silent
from offramp.serving.stream.chunks import SampleChunk, StopFlag, taken_at
from offramp.serving.stream.formats import SampleFormat
from offramp.serving.stream.sources.addresses import host_and_port
from offramp.serving.stream.sources.datagrams import Counter, DatagramOrder, Placed

LARGEST = 2**16
"""Bytes of a datagram."""
TOGETHER = 2**18
"""Bytes of datagrams that came meanwhile and make one chunk."""
BUFFER = 2**24
"""Bytes that the system is asked to hold; it may grant less."""
OVERFLOWS = 40
"""Number of the option ``SO_RXQ_OVFL``, which Python does not name: with it, Linux says with each datagram how many it had to drop so far."""


class UdpSource:
    """Raw samples in datagrams, each a whole number of samples of all antennas, in front of them a counter if there is one."""

    live = True
    slot_seconds = None

    def __init__(
        self,
        address: str,
        form: SampleFormat,
        sample_rate: float | None,
        counter: Counter = "none",
        about: Mapping[str, Any] = MappingProxyType({}),
        on_note: OnNote = silent,
    ) -> None:
        """Listen at ``udp://HOST:PORT``, when samples are asked for.

        Args:
            address: Of this machine.
            form: Of the samples.
            sample_rate: Hz.
            counter: What the first 8 bytes of each datagram count, as an unsigned little-endian integer: ``samples``, the number of its
                first one; ``datagrams``, as the UDP Sink of GNU Radio does with its 64-bit sequence number; ``none``, they are samples.
            about: What to say of all samples.
            on_note: Told when it listens, and what the datagrams look like if they cannot be used.

        Raises:
            SuiteError: The address is none.
        """
        self.name, self.channels, self.datatype, self.sample_rate = address, form.channels, form.datatype, sample_rate
        self._form, self._order = form, DatagramOrder(counter, form.sample_bytes)
        self._about, self._on_note, self._at = about, on_note, host_and_port(address)
        self._overflowed = 0

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        with self._listening() as listener:
            self._on_note(f"listening at {self.name}")
            while not stop.asked:
                if select.select([listener], [], [], 0.1)[0]:
                    yield from self._waiting(listener)

    def _listening(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in self._at[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            if sys.platform == "linux":
                listener.setsockopt(socket.SOL_SOCKET, OVERFLOWS, 1)
            listener.bind(self._at)
        except OSError as error:
            listener.close()
            raise DataError(
                f"{self.name} cannot be listened at ({error.strerror or error}): choose another port, or an address of this machine"
            ) from None
        listener.setblocking(False)
        return listener

    def _waiting(self, listener: socket.socket) -> Iterator[SampleChunk]:
        """The datagrams that are there, those that follow each other as one chunk."""
        together: list[Placed] = []
        size = 0
        while size < TOGETHER:
            placed, more = self._next(listener)
            if not more:
                break
            if placed is None:
                continue
            if placed.gaps and together:
                yield self._joined(together)
                together = []
            together.append(placed)
            size += len(placed.content)
        if together:
            yield self._joined(together)

    def _next(self, listener: socket.socket) -> tuple[Placed | None, bool]:
        """The next datagram, if it is taken, and whether there was one."""
        try:
            content, ancillary, _, sender = listener.recvmsg(LARGEST, socket.CMSG_SPACE(4))
        except BlockingIOError:
            return None, False
        for level, kind, value in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, OVERFLOWS):
                self._overflowed = int.from_bytes(value[:4], sys.byteorder)
        unusable = self._order.malformed
        placed = self._order.place(memoryview(content), sender, self._overflowed)
        if self._order.malformed == 1 > unusable:
            self._on_note(
                f"{self.name}: a datagram of {len(content)} bytes is no whole number of samples of {self._form.sample_bytes} bytes: "
                "look at --datatype, --channels and --counter"
            )
        return placed, True

    def _joined(self, together: list[Placed]) -> SampleChunk:
        samples = self._form.decode(b"".join(each.content for each in together))
        head = together[0]
        anew = head.first == 0 or any(gap.lost is None for gap in head.gaps)
        return SampleChunk(
            samples=samples,
            first=head.first,
            arrived=time.monotonic(),
            gaps=head.gaps,
            time=taken_at(samples.shape[-1], self.sample_rate) if anew else None,
            about=self._about,
        )
