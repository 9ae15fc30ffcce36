"""Samples from a PUB socket, such as GNU Radio's ZMQ PUB Sink."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from offramp.data.containers.rates import same_rate
from offramp.errors import DataError, OfframpError, SuiteError
from offramp.progress import OnNote, silent
from offramp.serving.stream.chunks import SampleChunk, StopFlag, taken_at
from offramp.serving.stream.formats import SampleFormat
from offramp.serving.stream.sources.addresses import tcp_address
from offramp.serving.stream.sources.publishers import MessageOrder, PlacedPart
from offramp.serving.stream.sources.tags import MAGIC

TOGETHER = 2**20
"""Bytes of messages that came meanwhile and make one chunk."""
RETRY_S = 0.2
"""Between two tries to connect."""
NEVER_MS = 2**31 - 1
NOTED_S = 2.0
"""After so long without a connection a note says so."""


class ZmqSource:
    """Items in the last frame of each message; a frame before it, the key of the sink, is passed over.

    ZeroMQ would reconnect by itself, and deliver what is left of the old connection and what comes by the new one in turns. So a connection
    is read to its end, and then another socket is opened: what comes by it lies behind a gap.
    """

    live = True
    slot_seconds = None

    def __init__(
        self,
        address: str,
        form: SampleFormat,
        sample_rate: float | None,
        tagged: bool = False,
        about: Mapping[str, Any] = MappingProxyType({}),
        on_rate: Callable[[float], object] = silent,
        on_note: OnNote = silent,
    ) -> None:
        """Subscribe to ``zmq://HOST:PORT``, when samples are asked for.

        Args:
            address: Where the publisher is bound.
            form: Of an item.
            sample_rate: Hz; ``rx_rate`` of tags if None.
            tagged: Whether the sink passes tags.
            about: What to say of all samples; ``rx_freq`` of tags replaces its ``frequency``.
            on_rate: Called with the ``rx_rate`` of tags; raises if it cannot be used.
            on_note: Told of publishers that are not there, and of messages that cannot be used.

        Raises:
            SuiteError: The address is none.
            OfframpError: pyzmq is not installed.
        """
        self.name, self.channels, self.datatype = address, form.channels, form.datatype
        self._zmq, self._address, self._form, self._on_note = zeromq(), tcp_address(address), form, on_note
        self._tagged, self._said, self._on_rate = tagged, sample_rate, on_rate
        self._order = MessageOrder(form, tagged, sample_rate, about, self._check_rate)
        self._usable = self._spoiled = False

    @property
    def sample_rate(self) -> float | None:
        """Hz, once it is known."""
        return self._order.sample_rate

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        context, began, told = self._zmq.Context(), time.monotonic(), False
        try:
            while not stop.asked:
                had = False
                with context.socket(self._zmq.SUB) as socket:
                    for chunk in self._connection(socket, stop):
                        had = True
                        yield chunk
                if stop.asked:
                    return
                if had:
                    self._order.reconnected()
                    self._on_note(f"{self.name}: the publisher went away: waiting for it")
                    told = True
                elif not told and time.monotonic() - began > NOTED_S:
                    self._on_note(f"{self.name}: nobody publishes there yet: waiting")
                    told = True
                time.sleep(RETRY_S)
        finally:
            context.destroy(0)

    def _connection(self, socket: Any, stop: StopFlag) -> Iterator[SampleChunk]:
        """What comes by one connection, to its end."""
        zmq = self._zmq
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
        monitor, poller, over = socket.get_monitor_socket(), zmq.Poller(), False
        ends = (
            zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        ) | (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        for each in (socket, monitor):
            poller.register(each, zmq.POLLIN)
        socket.connect(self._address)
        try:
            while not stop.asked:
                poller.poll(100)
                while monitor.poll(0):
                    over |= bool(zmq.utils.monitor.recv_monitor_message(monitor)["event"] & ends)
                came, parts = self._waiting(socket)
                yield from self._joined(parts)
                if over and not came:
                    return
        finally:
            socket.disable_monitor()

    def _waiting(self, socket: Any) -> tuple[bool, list[PlacedPart]]:
        """Whether messages are there, and their parts."""
        came, size, parts = False, 0, []
        while size < TOGETHER:
            try:
                frames = socket.recv_multipart(self._zmq.NOBLOCK, copy=False)
            except self._zmq.Again:
                break
            came, message = True, frames[-1].buffer
            size += len(message)
            try:
                parts += self._order.place(message)
                self._usable = True
            except DataError as error:
                self._refuse(message, error)
        return came, parts

    def _refuse(self, message: memoryview, error: DataError) -> None:
        """A publisher of another form is told at once; what goes wrong later is a gap."""
        if not self._usable:
            if self._tagged:
                hint = "set pass_tags of the sink, or leave out --tags"
            elif message[:2] == MAGIC:
                hint = "the sink passes tags, give --tags"
            else:
                hint = "look at --datatype and --channels"
            raise DataError(f"{self.name} gives {error}: {hint}") from None
        self._order.spoiled()
        if not self._spoiled:
            self._on_note(f"{self.name} gives {error}: such messages are passed over")
        self._spoiled = True

    def _joined(self, parts: Sequence[PlacedPart]) -> Iterator[SampleChunk]:
        """Parts that follow each other as one chunk."""
        begin = 0
        for at in range(1, len(parts) + 1):
            if at == len(parts) or parts[at].gaps or parts[at].time is not None:
                yield self._chunk(parts[begin:at])
                begin = at

    def _chunk(self, parts: Sequence[PlacedPart]) -> SampleChunk:
        head = parts[0]
        samples = self._form.decode(b"".join(part.content for part in parts))
        anew = head.first == 0 or any(gap.lost is None for gap in head.gaps)
        clock = taken_at(samples.shape[-1], self.sample_rate) if anew else None
        return SampleChunk(
            samples, head.first, time.monotonic(), head.gaps, clock if head.time is None else head.time, head.about
        )

    def _check_rate(self, rate: float) -> None:
        if self._said is not None and not same_rate(self._said, rate):
            raise SuiteError(
                f"--sample-rate {self._said:.10g}: {self.name} says in rx_rate that it is {rate:.10g}: leave it out"
            )
        self._on_rate(rate)


def zeromq() -> Any:
    """The module ``zmq``.

    Raises:
        OfframpError: It is not installed.
    """
    try:
        import zmq
        import zmq.utils.monitor
    except ImportError:
        raise OfframpError("zmq:// needs pyzmq: pip install 'offramp[serve]'") from None
    return zmq
