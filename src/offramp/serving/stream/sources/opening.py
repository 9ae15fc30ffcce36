"""From what ``--from`` says to a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from offramp.errors import DataError, SuiteError
from offramp.progress import OnNote, silent
from offramp.serving.stream.chunks import SampleSource
from offramp.serving.stream.formats import EXAMPLES, SampleFormat
from offramp.serving.stream.plan import StreamPlan
from offramp.serving.stream.sources.datagrams import Counter
from offramp.serving.stream.sources.pipes import PipeSource, standard_input
from offramp.serving.stream.sources.recordings import RecordingSource
from offramp.serving.stream.sources.slots import SLOT_SAMPLES, SlotSource
from offramp.serving.stream.sources.udp import UdpSource
from offramp.serving.stream.sources.zeromq import ZmqSource

SourceKind = Literal["stdin", "udp", "zmq", "e3", "recording"]
UNFIT: dict[SourceKind, tuple[str, ...]] = {
    "stdin": ("--counter", "--tags", "--pace", "--numerology", "--allow-outside"),
    "udp": ("--tags", "--pace", "--numerology", "--allow-outside"),
    "zmq": ("--counter", "--pace", "--numerology", "--allow-outside"),
    "e3": ("--datatype", "--channels", "--sample-rate", "--frequency", "--counter", "--tags", "--allow-outside"),
    "recording": ("--datatype", "--channels", "--sample-rate", "--frequency", "--counter", "--tags", "--numerology"),
}
"""Options that say nothing of such a source, or what it says itself."""
NUMEROLOGY = 1
"""Slots of .5 ms, unless told."""


@dataclass(frozen=True)
class Receiving:
    """What is known of a source beside its place. Each option belongs to some kinds of sources only.

    Attributes:
        datatype: Of raw samples, as SigMF calls it.
        channels: Antennas whose samples are interleaved; those of the tasks if None.
        sample_rate: Hz.
        frequency: Hz; answers say it.
        counter: What the first 8 bytes of a datagram count.
        tags: Whether a ZMQ sink of GNU Radio passes tags.
        pace: Replay a file as fast as it was recorded.
        numerology: Of slots, 0 to 4; 1 if None.
        allow_outside: Whether the samples of a recording may lie outside of its folder.
    """

    datatype: str | None = None
    channels: int | None = None
    sample_rate: float | None = None
    frequency: float | None = None
    counter: Counter = "none"
    tags: bool = False
    pace: bool = False
    numerology: int | None = None
    allow_outside: bool = False

    @property
    def given(self) -> set[str]:
        """Options that say something."""
        said = {
            "--datatype": self.datatype is not None,
            "--channels": self.channels is not None,
            "--sample-rate": self.sample_rate is not None,
            "--frequency": self.frequency is not None,
            "--counter": self.counter != "none",
            "--tags": self.tags,
            "--pace": self.pace,
            "--numerology": self.numerology is not None,
            "--allow-outside": self.allow_outside,
        }
        return {option for option, given in said.items() if given}


def source_kind(place: str) -> SourceKind:
    """What ``stdin``, ``udp://...``, ``zmq://...``, ``e3:FILE`` or the path of a recording is.

    Raises:
        SuiteError: It is none of them.
    """
    if place in ("stdin", "-"):
        return "stdin"
    if place.startswith("udp://"):
        return "udp"
    if place.startswith("zmq://"):
        return "zmq"
    if place.startswith("e3:"):
        return "e3"
    if Path(place).suffix in (".sigmf-meta", ".sigmf-data", ".sigmf"):
        return "recording"
    raise SuiteError(
        f"--from {place}: give stdin, udp://HOST:PORT, zmq://HOST:PORT, a recording (FILE.sigmf-meta), or e3:FILE for slots"
    )


def source_file(place: str) -> Path | None:
    """The file that a source is read from, if it is one."""
    kind = source_kind(place)
    return Path(place.removeprefix("e3:")) if kind in ("e3", "recording") else None


def open_source(
    place: str, plan: StreamPlan, receiving: Receiving = Receiving(), on_note: OnNote = silent
) -> SampleSource:
    """Open what ``place`` names, see :func:`source_kind`, for the windows of a plan.

    Raises:
        SuiteError: An option makes no sense, or is missing.
        DataError: The source cannot be read, has other antennas or another sample rate than the tasks, or slots shorter than a window.
    """
    kind = source_kind(place)
    if unfit := [option for option in UNFIT[kind] if option in receiving.given]:
        raise SuiteError(f"{unfit[0]} says nothing of --from {place}: leave it out")
    source = _opened(kind, place, plan, receiving, on_note)
    if source.channels != plan.channels:
        raise DataError(
            f"{source.name} has {source.channels} channel{'s' if source.channels > 1 else ''}, and task {plan.names[0]!r} takes windows of "
            f"{plan.channels}: choose a task for as many antennas"
        )
    if source.sample_rate is not None:
        plan.check_rate(source.name, source.sample_rate)
    elif kind in ("stdin", "udp", "zmq") and not receiving.tags and (rates := plan.sample_rates):
        on_note(
            f"--sample-rate is not given, so that nobody can compare it with the {rates[0]:.10g} Hz of the training data"
        )
    if kind == "e3" and plan.window > SLOT_SAMPLES:
        raise DataError(
            f"task {plan.names[0]!r} takes windows of {plan.window:,} samples, and a slot has {SLOT_SAMPLES:,}: choose another --task"
        )
    return source


def _opened(kind: SourceKind, place: str, plan: StreamPlan, receiving: Receiving, on_note: OnNote) -> SampleSource:
    file = source_file(place)
    if file is not None and kind == "recording":
        return RecordingSource(file, receiving.pace, receiving.allow_outside)
    if file is not None:
        numerology = NUMEROLOGY if receiving.numerology is None else receiving.numerology
        if not 0 <= numerology <= 4:
            raise SuiteError(f"--numerology {numerology}: give 0 to 4, for slots of 1 to 1/16 ms")
        return SlotSource(file, numerology, receiving.pace)
    if receiving.datatype is None:
        raise SuiteError(f"--datatype: say what samples of --from {place} are: {EXAMPLES}")
    for option, value in (("--sample-rate", receiving.sample_rate), ("--frequency", receiving.frequency)):
        if value is not None and not 0 < value < float("inf"):
            raise SuiteError(f"{option} {value:g}: give Hz")
    form = SampleFormat(receiving.datatype, plan.channels if receiving.channels is None else receiving.channels)
    about = {} if receiving.frequency is None else {"frequency": receiving.frequency}
    rate = receiving.sample_rate
    if kind == "stdin":
        return PipeSource(standard_input(), form, rate, about, on_note)
    if kind == "udp":
        return UdpSource(place, form, rate, receiving.counter, about, on_note)
    return ZmqSource(place, form, rate, receiving.tags, about, lambda told: plan.check_rate(place, told), on_note)
