"""Ten thousand malformed and hostile requests to `offramp serve`: no 5xx but 503 and 504, no hang, no connection left open, no leak.

python benchmarks/serving_hostile.py [--count 10000] [--seed 0] [--segments DIR] [--encoder iq-resnet-small] [--quick]

What is sent: requests that schemathesis makes of the server's OpenAPI document, fitting and unfitting; inference requests with the binary
tensor extension (hypothesis), changed, misframed, compressed, bombs among them; calls over gRPC of random and changed messages, cut streams,
calls given up; all other places with names, headers and bodies that cannot be, SigMF recordings and slices among them; raw connections to
both ports that say half of something, or let the server wait. A flood of further connections at once, three tenths as many, is not counted. A
fifth as many come before, for warming up. One JSON line: how often each status was given, `faults` (a 5xx other than 503 and 504, INTERNAL or
UNKNOWN over gRPC, half an answer, none within 30 s, a connection that the server did not close within 100 s), `logged` (tracebacks and errors
in the server's log), memory, open files and threads of the server before and after, and whether plain requests are still answered. Requests
that show a fault go to standard error. The server's allocator is told to give freed memory back at once, for otherwise what it keeps of large
bodies varies by 80 MB and hides what leaks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hostile import calls, documents, places, sockets, tensors
from hostile.target import Target, is_answered, look
from hostile.trials import Trials
from serving.processes import Footprint, footprint

MOST_SECONDS = 5.0
"""That the server may take over a request."""
SETTLES_S = 60.0
"""In which the server must be as it was."""
WARM = 0.2
ALLOCATOR = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Variables of glibc."""


def main() -> int:
    """Attack and print; 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--segments", type=Path, help="what is served; a bundle of eight tasks is made if left out")
    parser.add_argument("--encoder", default="iq-resnet-small", help="of the bundle that is made")
    parser.add_argument("--quick", action="store_true", help="no connections that the server is to close by itself")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        segments = arguments.segments
        if segments is None:
            from serving.made import make

            segments = make(Path(place) / "made", arguments.encoder).segments
        with _served(segments, Path(place) / "log") as (process, target):
            _attack(target, max(1, int(WARM * arguments.count)), arguments.seed + 1, Trials(), arguments.quick)
            before = _settled(process.pid, None)
            began, trials = time.monotonic(), Trials()
            _attack(target, arguments.count, arguments.seed, trials, arguments.quick)
            took = time.monotonic() - began
            after = _settled(process.pid, before)
            answered = is_answered(target)
        log = (Path(place) / "log").read_text(errors="replace")
    logged = re.findall(r"^\S+ error .*|^Traceback .*(?:\n .*)*\n.*", log, re.MULTILINE)
    print(*trials.faults, *logged, sep="\n", file=sys.stderr)
    report = {
        "benchmark": "serving_hostile",
        "count": trials.count,
        "seed": arguments.seed,
        "seconds": round(took),
        "faults": len(trials.faults),
        "logged": len(logged),
        "slowest_s": round(trials.slowest, 2),
        "memory_mb": {"before": before.memory_mb, "after": after.memory_mb},
        "files": {"before": before.files, "after": after.files},
        "threads": {"before": before.threads, "after": after.threads},
        "still_answers": answered,
        "statuses": trials.summary(),
    }
    print(json.dumps(report))
    return 1 if trials.faults or logged or not answered else 0


def _attack(target: Target, count: int, number: int, trials: Trials, quick: bool) -> None:
    """All kinds; what the OpenAPI document has too few different requests for is made up for by the last kind."""
    documents.attack(target, count // 4, number, trials)
    places.restore(target)
    calls.attack(target, count // 5, number, trials)
    sockets.attack(target, count // 10, number, trials, quick)
    sockets.flood(target, count * 3 // 10, trials)
    places.attack(target, count * 3 // 20, number, trials)
    places.restore(target)
    tensors.attack(target, count - trials.count, number, trials)


@contextmanager
def _served(segments: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], Target]]:
    """`offramp serve` until the end of the block."""
    options = ["--port", "0", "--grpc-port", "0", "--most-seconds", str(MOST_SECONDS)]
    command = [sys.executable, "-m", "offramp", "serve", str(segments), *options]
    with log.open("w") as said:
        environment = os.environ | ALLOCATOR
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"://[\d.]+:(\d+) \(gRPC [\d.]+:(\d+)\)", line)
        if found is None:
            raise SystemExit(f"the server did not start: {log.read_text()}")
        yield process, look(int(found[1]), int(found[2]), MOST_SECONDS)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SystemExit("the server did not end within 30 s of SIGTERM") from None


def _settled(process: int, before: Footprint | None) -> Footprint:
    """What the server takes when nothing is asked any more: as soon as it has no more open files than before, or they stay the same."""
    ends, found = time.monotonic() + SETTLES_S, footprint(process)
    while time.monotonic() < ends:
        time.sleep(2.0)
        last, found = found, footprint(process)
        if found.files == last.files and (before is None or found.files <= before.files):
            break
    return found


if __name__ == "__main__":
    sys.exit(main())
