"""The command that answers for continuous I/Q: parse, call, say how it goes."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.streams import say
from offramp.errors import one_line

if TYPE_CHECKING:
    from offramp.serving.stream import StopFlag, StreamStatus

KEYS = {"allow_outside": "--allow-outside"}
"""Keys of ``data:`` that a message may name."""
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class To(StrEnum):
    """Outputs of stream."""

    jsonl = "jsonl"
    sigmf = "sigmf"
    zmq = "zmq"


class Behind(StrEnum):
    """What to do when samples come faster than answers."""

    block = "block"
    drop_oldest = "drop-oldest"
    drop_newest = "drop-newest"


class CounterOption(StrEnum):
    """What the first 8 bytes of a datagram count."""

    none = "none"
    samples = "samples"
    datagrams = "datagrams"


class StreamBackend(StrEnum):
    """What runs the encoder."""

    torch = "torch"
    torch_compiled = "torch-compiled"
    onnxruntime = "onnxruntime"


def stream(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, or a folder of segments, which need no torch.")],
    source: Annotated[
        str,
        typer.Option(
            "--from", help="stdin, udp://HOST:PORT, zmq://HOST:PORT, a recording FILE.sigmf-meta, or e3:FILE for slots."
        ),
    ],
    to: Annotated[To, typer.Option(help="JSON lines, SigMF annotations, or JSON by a ZeroMQ PUB socket.")] = To.jsonl,
    out: Annotated[
        str | None,
        typer.Option(help="Output file; zmq://HOST:PORT to bind to for zmq; else standard output."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Task; may be repeated, and left out for all of the bundle.")
    ] = None,
    hop: Annotated[
        int | None, typer.Option(min=1, help="Samples from one window to the next; else as in the training data.")
    ] = None,
    datatype: Annotated[
        str | None, typer.Option(help="Of raw samples, as SigMF calls it: cf32_le, ci16_le, cu8 ...")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="Antennas whose samples are interleaved; else those of the task.")
    ] = None,
    sample_rate: Annotated[float | None, typer.Option(help="In Hz; compared with that of the task.")] = None,
    frequency: Annotated[float | None, typer.Option(help="In Hz; the answers say it.")] = None,
    exit: Annotated[str | None, typer.Option(help="Where windows leave; else each task's own exit.")] = None,
    policy: Annotated[str | None, typer.Option(help="Policy that says where windows leave.")] = None,
    when_behind: Annotated[
        Behind | None,
        typer.Option(help="When samples come faster than answers; drop-oldest for udp and zmq, else block."),
    ] = None,
    buffer: Annotated[int | None, typer.Option(min=1, help="Samples that may wait.")] = None,
    counter: Annotated[
        CounterOption, typer.Option(help="UDP: what the first 8 bytes of each datagram count.")
    ] = CounterOption.none,
    tags: Annotated[bool, typer.Option("--tags", help="ZeroMQ: the sink of GNU Radio passes tags.")] = False,
    pace: Annotated[bool, typer.Option("--pace", help="Replay a file as fast as it was recorded.")] = False,
    numerology: Annotated[
        int | None, typer.Option(min=0, max=4, help="e3: a slot takes 1 / 2^N ms; 1 if left out.")
    ] = None,
    stop_after: Annotated[int | None, typer.Option(min=1, help="End after so many windows.")] = None,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Read also what metadata names outside of its folder.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where the encoder runs, e.g. cpu or cuda.")] = "cpu",
    backend: Annotated[
        StreamBackend | None, typer.Option(help="What runs the encoder; else what the folder is made for.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that it computes with; else its own choice.")
    ] = None,
) -> None:
    """Answer for continuous I/Q, window by window.

    Lost and dropped samples are counted; no window reaches over them. Ctrl-C ends it: what came in by then is answered first.

    Example: offramp stream segments --from zmq://127.0.0.1:5555 --datatype cf32_le --sample-rate 1e6
    """
    from offramp.cli.advice import said_as_options
    from offramp.runtime.files import Running
    from offramp.serving.stream import Asking, Receiving, StopFlag
    from offramp.serving.stream import stream as start

    asking = Asking(
        tasks=tuple(task or ()),
        hop=hop,
        exit=exit,
        policy=policy,
        when_behind=when_behind.value if when_behind else None,
        buffer=buffer,
        stop_after=stop_after,
    )
    receiving = Receiving(
        datatype, channels, sample_rate, frequency, counter.value, tags, pace, numerology, allow_outside
    )
    running = Running(device, backend.value if backend else None, threads)
    stop, shown = StopFlag(), _LiveLine()
    with _ended_by_signals(stop) as ended, shown, said_as_options(KEYS):
        report = start(bundle, source, to.value, out, asking, receiving, running, stop, shown.status, shown.note)
    say(f"stream: {report.sentence}")
    if report.cut_off and ended:
        say(f"offramp: {source} was not read to its end")
        raise typer.Exit(128 + ended[0])


@contextmanager
def _ended_by_signals(stop: StopFlag) -> Iterator[list[int]]:
    """The first signal lets what came in be answered; a second one acts as anywhere else."""
    got: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield got
        return

    def end(number: int, frame: FrameType | None) -> None:
        got.append(number)
        stop.asked = True
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in ENDINGS if signal.getsignal(number) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield got
    finally:
        restore()


class _LiveLine:
    """One line on a terminal that is written over and over; in a log nothing but notes."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last: tuple[float, int, int] = (time.monotonic(), 0, 0)

    def __enter__(self) -> _LiveLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def status(self, now: StreamStatus) -> None:
        """Show how the stream is doing."""
        if not self._live:
            return
        at = time.monotonic()
        before, samples, windows = self._last
        took = max(at - before, 1e-6)
        self._last = at, now.samples, now.windows
        text = (
            f"{now.seconds:,.0f} s  {(now.samples - samples) / took / 1e6:.3f} MS/s  "
            f"{(now.windows - windows) / took:,.0f} windows/s  behind {now.waiting:,} samples  dropped {now.dropped:,}"
        )
        self._write(f"\r\x1b[2K{text}")

    def note(self, text: str) -> None:
        """A line of its own."""
        self._clear()
        say(one_line(text))

    def _clear(self) -> None:
        if self._live:
            self._write("\r\x1b[2K")

    @staticmethod
    def _write(text: str) -> None:
        with suppress(OSError, ValueError):  # nobody has to look
            print(text, end="", file=sys.stderr, flush=True)
