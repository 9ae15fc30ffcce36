"""Ten times as many requests as can be done, for a minute, from a client in another process: who is answered in time, how soon the others know, what comes back afterwards.

python benchmarks/serving_overload.py [--encoder lwm] [--seconds 60] [--times 10] [--ramp-seconds 10]

Three slices, a third of the requests each. First the rate rises from half of what can be done to so many times it: that shows whether a slice is moved to shallower exits before it is refused anything
(`first_shallower_s`, `first_refused_s`). Then it stays. The capacity is what 64 outstanding requests get done. One JSON line: per slice p50 and p99 of what was answered against its budget, the shares that were
refused (429), late (504) and moved to shallower exits, and the p99 of the time until a request that was not answered knew it; memory before, at the end, and after a rest; seconds until the server answers again
after SIGKILL and a restart. Times are from when a request was due, so that they include what the client was late (`client_late_ms_p99`). Server and client have a core each.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from serving.http_load import Outcome, alone_on, closed_loop, open_loop, poisson_times
from serving.made import MIXED, Made, make
from serving.processes import footprint
from serving.rivals import CLIENT_CORE, OURS, protocol_request, served

SLICES = {
    "urllc": {"budget_ms": 50, "priority": 0, "under_load": "shallower"},
    "embb": {"budget_ms": 200, "priority": 1, "under_load": "shallower"},
    "mmtc": {"budget_ms": 1000, "priority": 2},
}
CONNECTIONS = 512
REST_S = 10.0
REFUSED, LATE = 429, 504


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(MIXED), default="lwm")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=10.0, help="the capacity")
    parser.add_argument("--ramp-seconds", type=float, default=10.0)
    parser.add_argument("--log", type=Path, help="file for what the server says")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "serving_overload", "encoder": arguments.encoder, "times": arguments.times}
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder)
        slices = Path(place) / "slices.yaml"
        slices.write_text(json.dumps({"slices": SLICES}))  # JSON is YAML
        requests = _requests(made)
        server = replace(OURS, words=(*OURS.words, "--slices", str(slices)))
        alone_on(CLIENT_CORE)
        with served(server, {}, made, log=arguments.log) as running:
            warm = closed_loop(running.port, lambda number: requests[number % len(requests)], 64, 5.0)
            capacity = float(warm.good.sum()) / 5.0
            report |= {"capacity_per_second": round(capacity, 1), "ready_s": round(running.ready_s, 2)}
            before = footprint(running.process.pid)
            ramp, moved = _driven(running.port, requests, _rising(capacity, arguments.times, arguments.ramp_seconds))
            report["ramp"] = _firsts(ramp, moved)
            due = poisson_times(arguments.times * capacity, arguments.seconds)
            outcome, moved = _driven(running.port, requests, due)
            at_end = footprint(running.process.pid)
            time.sleep(REST_S)
            after = footprint(running.process.pid)
            report["slices"] = {name: _of_slice(outcome, moved, place) for place, name in enumerate(SLICES)}
            report |= {
                "offered_per_second": round(len(due) / arguments.seconds),
                "answered_per_second": round(float(outcome.good.sum()) / arguments.seconds, 1),
                "unanswered": int((outcome.status == 0).sum()),
                "client_late_ms_p99": round(
                    1e3 * float(np.quantile(outcome.late_sent[np.isfinite(outcome.late_sent)], 0.99)), 2
                ),
                "memory_mb": {"before": before.memory_mb, "at_end": at_end.memory_mb, "after": after.memory_mb},
                "files": {"before": before.files, "after": after.files},
            }
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
        with served(server, {}, made, log=arguments.log) as running:
            report["ready_after_kill_s"] = round(running.ready_s, 2)
    print(json.dumps(report))


def _requests(made: Made) -> list[bytes]:
    """Of random tasks; request N is of slice N mod 3."""
    tasks = np.random.default_rng(0).integers(0, len(made.exits), 255)
    names = list(SLICES)
    return [
        protocol_request(int(task), made.windows[number], parameters={"slice": names[number % len(names)]})
        for number, task in enumerate(tasks)
    ]


def _rising(capacity: float, times: float, seconds: float) -> np.ndarray[Any, Any]:
    """Arrivals whose rate rises evenly from half the capacity to so many times it."""
    kept = poisson_times(times * capacity, seconds)
    share = (0.5 + (times - 0.5) * kept / seconds) / times
    return kept[np.random.default_rng(1).random(len(kept)) < share]


def _driven(port: int, requests: list[bytes], due: np.ndarray[Any, Any]) -> tuple[Outcome, np.ndarray[Any, Any]]:
    """What became of requests, and which were moved to a shallower exit."""
    moved = np.zeros(len(due), bool)

    def seen(number: int, body: bytes) -> None:
        moved[number] = b'"load"' in body or b"load" in body[-16:]

    gc.collect()
    gc.disable()
    outcome = open_loop(port, lambda number: requests[number % len(requests)], due, CONNECTIONS, 5.0, seen)
    gc.enable()
    return outcome, moved & outcome.good


def _firsts(outcome: Outcome, moved: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Per slice, when the first request was moved and when the first was refused, in seconds of the ramp."""
    numbers = np.arange(len(outcome.due))
    refused = (outcome.status == REFUSED) | (outcome.status == LATE)
    found = {}
    for place, name in enumerate(SLICES):
        own = numbers % len(SLICES) == place
        found[name] = {
            "first_shallower_s": _first(outcome.due[own & moved]),
            "first_refused_s": _first(outcome.due[own & refused]),
        }
    return found


def _first(times: np.ndarray[Any, Any]) -> float | None:
    return round(float(times.min()), 2) if len(times) else None


def _of_slice(outcome: Outcome, moved: np.ndarray[Any, Any], place: int) -> dict[str, Any]:
    own = np.arange(len(outcome.due)) % len(SLICES) == place
    level, asked = list(SLICES.values())[place], max(1, int(own.sum()))
    good, others = own & outcome.good, own & ~outcome.good & (outcome.status > 0)
    share: Callable[[np.ndarray[Any, Any]], float] = lambda which: round(float((own & which).sum()) / asked, 3)  # noqa: E731
    return {
        "budget_ms": level["budget_ms"],
        "p50_ms": _quantile(outcome.seconds[good], 0.5),
        "p99_ms": _quantile(outcome.seconds[good], 0.99),
        "answered": share(outcome.good),
        "refused": share(outcome.status == REFUSED),
        "late": share(outcome.status == LATE),
        "shallower_of_answered": round(float(moved[good].mean()), 3) if good.any() else None,
        "unanswered_knew_ms_p99": _quantile(outcome.seconds[others], 0.99),
    }


def _quantile(seconds: np.ndarray[Any, Any], share: float) -> float | None:
    return round(1e3 * float(np.quantile(seconds, share)), 2) if len(seconds) else None


if __name__ == "__main__":
    main()
