"""Five times as many requests as can be done, for a minute: who is refused, who is moved to a shallower exit, and whether the others are in time.

python benchmarks/engine_overload.py [--seconds 60] [--times 5]

Prints one JSON line: per slice p50 and p99 of what was accepted against its budget, shares refused and moved, the plan's prediction beside it, how long a refusal takes,
and memory before and after.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving.made import SHAPES, make

from offramp import load
from offramp.errors import DeadlinePassed, Overloaded
from offramp.runtime.engine import Engine, ServiceLevel
from offramp.runtime.engine.plan import plan, poisson


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(SHAPES), default="lwm")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=5.0, help="the capacity")
    arguments = parser.parse_args()
    slices = {
        "urllc": ServiceLevel(budget_ms=100, priority=0, under_load="shallower"),
        "embb": ServiceLevel(budget_ms=300, priority=1, under_load="shallower"),
        "mmtc": ServiceLevel(budget_ms=1000, priority=2),
    }
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place), arguments.encoder)
        predictor = load(made.segments)
        tasks = list(predictor.bundle.tasks)
        with Engine(predictor, slices) as engine:
            capacity = _capacity(engine, made.windows, tasks)
            arrivals = poisson(arguments.times * capacity, arguments.seconds, list(slices), tasks)
            before = _memory()
            observed = _drive(engine, arrivals, made.windows)
            after = _memory()
            counts = engine.counts
        predicted = plan(predictor, slices, arrivals)
    report: dict[str, Any] = {
        "encoder": arguments.encoder,
        "capacity_per_second": round(capacity),
        "times": arguments.times,
    }
    for name, level in slices.items():
        seen, planned = observed[name], predicted.slices[name]
        took = 1e3 * np.array(seen["took"]) if seen["took"] else np.array([np.nan])
        asked = max(1, seen["asked"])
        report[name] = {
            "budget_ms": level.budget_ms,
            "p50_ms": round(float(np.quantile(took, 0.5)), 1),
            "p99_ms": round(float(np.quantile(took, 0.99)), 1),
            "planned_p99_ms": None if planned.p99_ms is None else round(planned.p99_ms, 1),
            "refused": round(seen["refused"] / asked, 3),
            "planned_refused": round(planned.refused, 3),
            "expired": round(seen["expired"] / asked, 3),
            "shallower": round(seen["moved"] / max(1, len(seen["took"])), 3),
            "refusal_ms_p99": round(1e3 * float(np.quantile(seen["refusals"], 0.99)), 3) if seen["refusals"] else None,
        }
    report |= {
        "degrades_first_planned": predicted.degrades_first,
        "computed_in_vain": counts.in_vain,
        "computed": counts.computed,
    }
    print(json.dumps(report | {"memory_mb": {"before": before, "after": after}}))


def _capacity(engine: Engine, windows: np.ndarray, tasks: list[str], seconds: float = 5.0) -> float:
    """Requests a second that are done when 64 are always outstanding."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        requests = [engine.submit(windows[n : n + 1], [tasks[n % len(tasks)]]) for n in range(64)]
        for request in requests:
            request.result()
        done += len(requests)
    return done / (time.perf_counter() - started)


def _drive(engine: Engine, arrivals: list[Any], windows: np.ndarray) -> dict[str, dict[str, Any]]:
    """Submit every request at its time."""
    seen = {
        name: {"took": [], "refused": 0, "expired": 0, "moved": 0, "asked": 0, "refusals": []} for name in engine.slices
    }
    waiting = []
    started = time.perf_counter()
    for number, each in enumerate(arrivals):
        wait = each.seconds - (time.perf_counter() - started)
        if wait > 0:
            time.sleep(wait)
        of_slice = seen[each.slice]
        of_slice["asked"] += 1
        asked = time.perf_counter()
        try:
            waiting.append(
                (each.slice, engine.submit(windows[number % 256 : number % 256 + 1], each.tasks, each.slice))
            )
        except Overloaded:
            of_slice["refused"] += 1
            of_slice["refusals"].append(time.perf_counter() - asked)
    for name, request in waiting:
        try:
            for answer in request.result().values():
                seen[name]["took"].append(answer.milliseconds / 1e3)
                seen[name]["moved"] += answer.why == "load"
        except DeadlinePassed:
            seen[name]["expired"] += 1
    return seen


def _memory() -> float:
    """Resident megabytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1e6, 1)


if __name__ == "__main__":
    main()
