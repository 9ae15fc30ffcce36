"""What the tests of streams share: a small bundle, sources and outputs in memory, and streams that run beside a test."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bundles import small_shufflenet, task, write
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.serving.stream import SampleChunk, StopFlag

WINDOW = 64
RATE = 1e6


def radio_bundle(folder: Path, channels: int = 1) -> Path:
    """Two tasks on windows of 64 samples, fitted at 1 MHz as far as they know."""
    encoder, shape = small_shufflenet(), (2, channels, WINDOW)
    rated = [
        task(encoder, "modulation", "stage2.1", shape, ("bpsk", "qpsk", "noise")),
        task(encoder, "angle", "stage3.0", shape),
    ]
    return write(folder, encoder, *(at_rate(each, RATE) for each in rated))


def at_rate(each: BundleTask, rate: float) -> BundleTask:
    each.data["sample_rate"] = rate
    return each


def noise(count: int, channels: int = 1, seed: int = 0) -> NDArray[np.complex64]:
    """Samples ``(count, channels)``."""
    parts = np.random.default_rng(seed).standard_normal((count, channels, 2)).astype(np.float32)
    return parts[..., 0] + 1j * parts[..., 1]


def iq(samples: NDArray[np.complex64]) -> NDArray[np.float32]:
    """``(count, channels)`` as ``(2, channels, count)``."""
    return np.stack([samples.real.T, samples.imag.T]).astype(np.float32)


def record(path: Path, samples: NDArray[Any], captures: Sequence[dict[str, Any]] = ({},), **about: Any) -> Path:
    """A SigMF recording beside ``path``; samples as they are stored, and what ``core:`` says of all of them."""
    samples.tofile(path.with_suffix(".sigmf-data"))
    said = {"datatype": "cf32_le", "version": "1.2.0", "sample_rate": RATE} | about
    meta = {
        "global": {f"core:{key}": value for key, value in said.items() if value is not None},
        "captures": [{"core:sample_start": 0} | capture for capture in captures],
        "annotations": [],
    }
    meta_path = path.with_suffix(".sigmf-meta")
    meta_path.write_text(json.dumps(meta))
    return meta_path


class Given:
    """A source that gives chunks it was given."""

    name, datatype, slot_seconds = "given", "cf32_le", None

    def __init__(self, chunks: Sequence[SampleChunk], rate: float | None = None, live: bool = False) -> None:
        self._chunks, self.sample_rate, self.live = chunks, rate, live
        self.channels = chunks[0].samples.shape[1]

    def chunks(self, stop: StopFlag) -> Iterator[SampleChunk]:
        for chunk in self._chunks:
            if stop.asked:
                return
            yield chunk


class Kept(list[dict[str, Any]]):
    """An output that keeps the records."""

    def write(self, records: Sequence[Any]) -> None:
        self.extend(records)


class Listening:
    """The chunks of a source, taken in by a thread as they come."""

    def __init__(self, source: Any) -> None:
        self.chunks: list[SampleChunk] = []
        self.error: BaseException | None = None
        self._source, self._stop = source, StopFlag()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            for chunk in self._source.chunks(self._stop):
                self.chunks.append(chunk)
        except Exception as error:
            self.error = error

    def __enter__(self) -> Listening:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.asked = True
        self._thread.join(10)
        assert not self._thread.is_alive()

    @property
    def count(self) -> int:
        """Samples that came."""
        return sum(chunk.count for chunk in list(self.chunks))

    def wait_for(self, samples: int) -> None:
        """Until so many came."""
        wait_until(lambda: self.count >= samples or self.error is not None)


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port of this machine that nobody uses."""
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def free_tcp_port() -> int:
    return free_port(socket.SOCK_STREAM)


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Until something is so; a test fails that waits for too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.01)
