"""How many samples a second a stream takes on one core, at full depth and at a chosen exit, and how long answers take at 80% of that.

python benchmarks/stream_speed.py [--encoder iq-resnet-small] [--exit stage1.1] [--seconds 10]

For each depth two runs with segments on one thread, of 16-bit I/Q of as many antennas as the encoder takes:

- ``capacity``: raw samples from memory, as fast as they are taken, nothing dropped. ``per_core`` is per second of this process's processor
  time, all threads together, and ``seconds`` by the clock.
- ``at_80_percent``: another process sends datagrams with a sample counter over loopback at 80% of the lesser of both rates. Delays are from
  the arrival of a window's last sample to its answer, written to a file; ``lost`` are samples that did not come through.

Prints one JSON line. Samples are of one antenna.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from serving.made import SHAPES, make

from offramp import Predictor, load
from offramp.runtime.engine import Engine
from offramp.serving.stream import Receiving, SampleChunk, StopFlag, open_source, plan_stream, run_stream
from offramp.serving.stream.formats import SampleFormat
from offramp.serving.stream.outputs import JsonLines

CHOSEN = {"iq-resnet-small": "stage1.1", "iq-resnet": "stage1.1", "wavesfm-micro-iq": "block2"}
LAST = {"iq-resnet-small": "stage3.1", "iq-resnet": "stage3.1", "wavesfm-micro-iq": "block4"}
SHARE = 0.8
BURST_S = 0.001
DATAGRAM = 8192
"""Most bytes of a datagram."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(CHOSEN), default="iq-resnet-small")
    parser.add_argument("--exit", help="where the other task leaves")
    parser.add_argument("--seconds", type=float, default=10.0, help="per run, of which there are four")
    parser.add_argument(
        "--send", nargs=5, metavar=("PORT", "RATE", "SAMPLE_BYTES", "SECONDS", "SEED"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.send:
        send(*map(float, arguments.send))
        return
    with tempfile.TemporaryDirectory() as place:
        exit = arguments.exit or CHOSEN[arguments.encoder]
        last = LAST[arguments.encoder]
        made = make(Path(place), arguments.encoder, exits=(exit, last))
        report: dict[str, Any] = {
            "encoder": arguments.encoder, "antennas": SHAPES[arguments.encoder][1], "window": SHAPES[arguments.encoder][2],
            "cores": os.cpu_count(), "seconds": arguments.seconds,
        }  # fmt: skip
        predictor = load(made.segments, threads=1)
        for name, task in (("full_depth", "task1"), ("chosen_exit", "task0")):
            with Engine(predictor) as engine:
                found = capacity(engine, predictor, task, arguments.seconds)
                rate = SHARE * min(found["samples_per_second"], found["samples_per_core_second"])
                delays = at_rate(engine, predictor, task, rate, arguments.seconds, Path(place) / "answers.jsonl")
            report[name] = {"exit": predictor.bundle.task(task).exit, "capacity": found, "at_80_percent": delays}
    print(json.dumps(report))


def capacity(engine: Engine, predictor: Predictor, task: str, seconds: float) -> dict[str, float]:
    """As fast as it can be."""
    plan = plan_stream(predictor.bundle, [task])
    with open(os.devnull, "w") as nowhere:
        run_stream(FromMemory(plan.channels, 0.5), engine, plan, JsonLines(nowhere), StopFlag())
        began, used = time.perf_counter(), time.process_time()
        found = run_stream(FromMemory(plan.channels, seconds), engine, plan, JsonLines(nowhere), StopFlag())
        took, used = time.perf_counter() - began, time.process_time() - used
    assert found.lost == 0
    return {
        "samples_per_second": round(found.samples / took),
        "samples_per_core_second": round(found.samples / used),
        "windows_per_core_second": round(found.windows / used),
        "cores_used": round(used / took, 3),
    }


def at_rate(
    engine: Engine, predictor: Predictor, task: str, rate: float, seconds: float, out: Path
) -> dict[str, float]:
    """What another process sends at a rate."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = plan_stream(predictor.bundle, [task], when_behind="drop-oldest")
    sample_bytes = SampleFormat("ci16_le", plan.channels).sample_bytes
    sender: list[subprocess.Popen[bytes]] = []
    stop = StopFlag()

    def begin(_: str) -> None:
        told = [str(each) for each in (port, rate, sample_bytes, seconds, 0)]
        sender.append(subprocess.Popen([sys.executable, __file__, "--send", *told]))

    def look(_: object) -> None:
        stop.asked = bool(sender) and sender[0].poll() is not None

    receiving = Receiving(datatype="ci16_le", sample_rate=rate, counter="samples")
    source = open_source(f"udp://127.0.0.1:{port}", plan, receiving, begin)
    with out.open("w") as stream:
        found = run_stream(source, engine, plan, JsonLines(stream), stop, look)
    assert found.delay_ms is not None
    p50, p99 = found.delay_ms
    sent = int(rate * seconds)
    return {
        "samples_per_second": round(rate), "came_share": round(found.samples / sent, 4), "lost": found.lost,
        "delay_p50_ms": round(p50, 3), "delay_p99_ms": round(p99, 3),
        "window_ms": round(1e3 * plan.window / rate, 3),
    }  # fmt: skip


class FromMemory:
    """The same noise again and again, as bytes that have to be decoded."""

    name, datatype, sample_rate, live, slot_seconds = "memory", "ci16_le", None, False, None

    def __init__(self, channels: int, seconds: float) -> None:
        self.channels, self._seconds = channels, seconds

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        form = SampleFormat(self.datatype, self.channels)
        noise = np.random.default_rng(0).integers(-(2**14), 2**14, 2**14 * 2 * self.channels, dtype="<i2").tobytes()
        end, first = time.monotonic() + self._seconds, 0
        while not stop.asked and time.monotonic() < end:
            chunk = SampleChunk(form.decode(noise), first, time.monotonic())
            first += chunk.count
            yield chunk


def send(port: float, rate: float, sample_bytes: float, seconds: float, seed: float) -> None:
    """Datagrams with a sample counter at a rate, in bursts of a millisecond."""
    each = max(1, int(min(DATAGRAM // sample_bytes, rate * BURST_S)))
    noise = (
        np.random.default_rng(int(seed)).integers(-(2**14), 2**14, each * int(sample_bytes) // 2, dtype="<i2").tobytes()
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while sent < passed * rate:
                out.sendto(sent.to_bytes(8, "little") + noise, ("127.0.0.1", int(port)))
                sent += each
            time.sleep(BURST_S)


if __name__ == "__main__":
    main()
