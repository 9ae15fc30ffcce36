"""Answers for continuous I/Q, from a radio, a pipe, a recording or a base station: ``stream(BUNDLE, "zmq://127.0.0.1:5555")``."""

from offramp.serving.stream.chunks import SampleChunk, SampleSource, StopFlag, StreamGap
from offramp.serving.stream.plan import StreamPlan, plan_stream
from offramp.serving.stream.report import StreamReport, StreamStatus
from offramp.serving.stream.run import StreamOutput, run_stream
from offramp.serving.stream.service import Asking, stream
from offramp.serving.stream.sources.opening import Receiving, open_source
from offramp.serving.stream.sources.slots import Slot, read_slots, write_slots

__all__ = [
    "Asking",
    "Receiving",
    "SampleChunk",
    "SampleSource",
    "Slot",
    "StopFlag",
    "StreamGap",
    "StreamOutput",
    "StreamPlan",
    "StreamReport",
    "StreamStatus",
    "open_source",
    "plan_stream",
    "read_slots",
    "run_stream",
    "stream",
    "write_slots",
]
