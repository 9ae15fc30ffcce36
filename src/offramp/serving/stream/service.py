"""A stream from beginning to end: what the command does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offramp.errors import DataError
from offramp.progress import OnNote, silent
from offramp.runtime import load
from offramp.runtime.engine import Engine
from offramp.runtime.files import Running
from offramp.serving.stream.chunks import StopFlag
from offramp.serving.stream.outputs import OutputKind, open_output
from offramp.serving.stream.plan import plan_stream
from offramp.serving.stream.report import StreamReport, StreamStatus
from offramp.serving.stream.ring import WhenBehind
from offramp.serving.stream.run import run_stream
from offramp.serving.stream.sources.opening import Receiving, open_source, source_file, source_kind
from offramp.serving.stream.sources.slots import SLOT_SAMPLES


@dataclass(frozen=True)
class Asking:
    """What is asked of each window.

    Attributes:
        tasks: Names; all of the bundle if there are none.
        hop: Samples between the starts of windows; of the training data if None, and of slots one window each.
        exit: Where windows leave instead of each task's own exit.
        policy: By which they leave.
        when_behind: What to do when samples come faster than answers; None to drop the oldest of a radio that does not wait, and to let
            others wait.
        buffer: Samples that may wait.
        stop_after: End after so many windows.
    """

    tasks: Sequence[str] = ()
    hop: int | None = None
    exit: str | None = None
    policy: str | None = None
    when_behind: WhenBehind | None = None
    buffer: int | None = None
    stop_after: int | None = None


NOTHING_SAID, AS_IT_IS = Receiving(), Running()


def stream(
    bundle: Path,
    place: str,
    output: OutputKind = "jsonl",
    out: str | None = None,
    asking: Asking = Asking(),
    receiving: Receiving = NOTHING_SAID,
    running: Running = AS_IT_IS,
    stop: StopFlag | None = None,
    on_status: Callable[[StreamStatus], object] = silent,
    on_note: OnNote = silent,
) -> StreamReport:
    """Answer for the windows of continuous I/Q, until it ends or ``stop`` is asked for.

    Args:
        bundle: Bundle, or segments, which are run without torch.
        place: ``stdin``, ``udp://HOST:PORT``, ``zmq://HOST:PORT``, a recording, or ``e3:FILE``.
        output: What to write.
        out: Where to; standard output if None.
        asking: What is asked of each window.
        receiving: What is known of the source.
        running: What runs the encoder.
        stop: May be asked from elsewhere, such as a signal handler.
        on_status: Called about twice a second.
        on_note: Called with sentences that must be said.

    Raises:
        OfframpError: Bundle, source, output or options cannot be used, or a file gives no window; the message says which and what to do.
    """
    kind = source_kind(place)
    predictor = load(bundle, running.device, running.backend, running.threads)
    plan = plan_stream(
        predictor.bundle,
        asking.tasks,
        SLOT_SAMPLES if kind == "e3" and asking.hop is None else asking.hop,
        asking.when_behind or ("drop-oldest" if kind in ("udp", "zmq") else "block"),
        asking.buffer,
        asking.exit,
        asking.policy,
        asking.stop_after,
    )
    source = open_source(place, plan, receiving, on_note)
    file = source_file(place)
    inputs = [bundle] if file is None else [bundle, file]
    with open_output(output, out, source, plan.window, inputs) as written, Engine(predictor) as engine:
        # what cannot be asked is told now, and the first window of the stream is not the one that waits for memory
        noise = np.random.default_rng(0).standard_normal((1, 2, plan.channels, plan.window)).astype(np.float32)
        engine.submit(noise, plan.names, exit=plan.exit, policy=plan.policy).result()
        report = run_stream(source, engine, plan, written, stop or StopFlag(), on_status)
        if not source.live and not report.windows and not report.unusable and not report.cut_off:
            raise DataError(
                f"{source.name} gives no windows of {plan.window:,} samples, as task {plan.names[0]!r} takes: give more samples"
            )
    return report
