"""`offramp serve` at 80% of what it can do, for half an hour: whether memory or open files grow, and whether every request is answered and counted.

python benchmarks/serving_soak.py [--encoder lwm] [--minutes 30] [--share 0.8]

Arrivals are random (Poisson), one window and one of eight tasks each, over HTTP with binary tensors, from a client on another core; the capacity is what 16 outstanding requests get done. Memory,
open files and threads of the server are looked at every two seconds. One JSON line: their values after the first tenth of the time and at the end, the slope of a line through the second half in MB an hour, and
the client's counts beside the server's from `/v2/models/stats` and `/metrics`. `lost` are requests without an answer; `counted_otherwise` is how far the two disagree.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from serving.http_load import alone_on, closed_loop, open_loop, poisson_times
from serving.made import MIXED, make
from serving.processes import Footprint, footprint
from serving.rivals import CLIENT_CORE, OURS, served
from serving_beside import requests_of

LOOK_S = 2.0
WARM_S = 5.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(MIXED), default="lwm")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity")
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder)
        requests = requests_of(OURS, made)
        alone_on(CLIENT_CORE)
        with served(OURS, {}, made) as running:
            warm = closed_loop(running.port, lambda number: requests[number % len(requests)], 16, WARM_S)
            capacity = float(warm.good.sum()) / WARM_S
            before = _counted(running.port)
            over = threading.Event()
            looks: list[tuple[float, Footprint]] = []
            looking = threading.Thread(target=_look, args=(running.process.pid, looks, over))
            looking.start()
            outcome = open_loop(
                running.port,
                lambda number: requests[number % len(requests)],
                poisson_times(arguments.share * capacity, seconds),
                patience_s=30.0,
            )
            over.set()
            looking.join()
            after = _counted(running.port)
    statuses, counts = np.unique(outcome.status, return_counts=True)
    served_counts = {name: after[name] - before[name] for name in after}
    good, answered = int(outcome.good.sum()), int((outcome.status > 0).sum())
    print(
        json.dumps(
            {
                "benchmark": "serving_soak",
                "encoder": arguments.encoder,
                "minutes": arguments.minutes,
                "capacity_per_second": round(capacity, 1),
                "requests": len(outcome.status),
                "by_status": {str(status): int(count) for status, count in zip(statuses, counts, strict=True)},
                "lost": len(outcome.status) - answered,
                "p50_ms": round(1e3 * float(np.quantile(outcome.seconds[outcome.good], 0.5)), 2),
                "p99_ms": round(1e3 * float(np.quantile(outcome.seconds[outcome.good], 0.99)), 2),
                "server": served_counts,
                "counted_otherwise": {name: served_counts[name] - good for name in served_counts},
                **_growth(looks),
            }
        )
    )


def _look(process: int, looks: list[tuple[float, Footprint]], over: threading.Event) -> None:
    while not over.wait(LOOK_S):
        looks.append((time.monotonic(), footprint(process)))


def _counted(port: int) -> dict[str, int]:
    """Requests that the server says it has answered."""
    address = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(f"{address}/v2/models/stats") as answer:
        stats = json.load(answer)["model_stats"]
    with urllib.request.urlopen(f"{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    answered = re.compile(r'offramp_requests_total\{.*(?:code|status|outcome)="(?:200|ok|answered)".*\} (\S+)')
    return {
        "stats": sum(int(each["execution_count"]) for each in stats),
        "metrics": round(sum(float(match[1]) for line in lines if (match := answered.match(line)))),
    }


def _growth(looks: list[tuple[float, Footprint]]) -> dict[str, Any]:
    """Of what was looked at, from the first tenth on."""
    early, late = looks[len(looks) // 10][1], looks[-1][1]
    half = looks[len(looks) // 2 :]
    hours = np.array([when for when, _ in half]) / 3600
    slope = np.polyfit(hours - hours[0], [each.memory_mb for _, each in half], 1)[0] if len(half) > 2 else 0.0
    return {
        "memory_mb": {
            "early": early.memory_mb,
            "end": late.memory_mb,
            "most": max(each.memory_mb for _, each in looks),
        },
        "memory_mb_per_hour": round(float(slope), 2),
        "files": {"early": early.files, "end": late.files},
        "threads": {"early": early.threads, "end": late.threads},
    }


if __name__ == "__main__":
    main()
