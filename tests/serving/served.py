"""A bundle, its segments, and `offramp serve` as another process, for the tests of serving."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bundles import IQ_SHAPE, STANDARDIZE, small_shufflenet, task, write

from offramp.export.segments import export_segments
from offramp.policies import Policy

WINDOWS = np.random.default_rng(3).standard_normal((5, *IQ_SHAPE)).astype(np.float32)
EXITS = ("stem", "stage2.1", "conv5")


@dataclass(frozen=True)
class Made:
    """A bundle and the segments that were cut from it."""

    bundle: Path
    segments: Path


@dataclass(frozen=True)
class Served:
    """A server that is ready."""

    http: int
    rpc: int
    process: subprocess.Popen[str]
    log: Path

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, content (of JSON where it is that) and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=30)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, content, dict(headers or {}))
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        kind = answer.getheader("content-type", "")
        return answer.status, json.loads(raw) if kind == "application/json" else raw, dict(answer.getheaders())


def make(folder: Path) -> Made:
    """Three tasks that share a pass or not: ``plain`` with a policy, ``deep``, and ``angle``, a regression behind a transform."""
    encoder = small_shufflenet()
    policy = Policy("classification", "confidence", EXITS, (0.6, 0.6), (1.0,) * 3, (1.0,) * 3)
    bundle = write(
        folder / "bundle",
        encoder,
        replace(task(encoder, "plain", "stage2.1", IQ_SHAPE, ("x", "y")), policies={"p": policy.to_dict()}),
        task(encoder, "angle", "conv5", IQ_SHAPE, transform=STANDARDIZE, hidden=(7,)),
        task(encoder, "deep", "conv5", IQ_SHAPE, ("x", "y", "z")),
    )
    export_segments(bundle, folder / "segments", [])
    return Made(bundle, folder / "segments")


@contextmanager
def serving(bundle: Path, folder: Path, *options: str) -> Iterator[Served]:
    """``offramp serve`` until the end of the block."""
    words = [sys.executable, "-m", "offramp", "serve", str(bundle), "--port", "0", "--grpc-port", "0", *options]
    log = folder / f"log-{len(list(folder.glob('log-*')))}"
    with log.open("w") as stream:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=stream, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"://[\d.:\[\]]+:(\d+) \((?:gRPC|grpcs) [\d.:]+:(\d+)\)", line)
        assert found, line + log.read_text()
        yield Served(int(found[1]), int(found[2]), process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
