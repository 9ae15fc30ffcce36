"""The most requests a second that are answered within a budget at p99, mixed over eight tasks: `offramp serve` beside other servers.

python benchmarks/serving_beside.py [--encoder lwm] [--exits EXIT ...] [--budget-ms 10] [--seconds 3] [--rounds 1] [--only NAME ...]

A request is one window and one of eight tasks. Ours answers each at its chosen exit. The others run the encoder at full depth with the heads of all tasks behind it in one graph,
so that a batch mixes tasks; those called ``truncated`` run a graph per task, cut at the task's exit: what these gain over full depth is what exits give, and what ours gains over them
is what the engine and its server give. All use ONNX Runtime on one thread. `benchmarks/beside_servers/` has a script for each: LitServe 0.2.19, FastAPI 0.165.0 without batches, KServe's
ModelServer 0.21.0 (no batches of its own), MLServer 1.7.1, mosec 0.9.8 and Ray Serve 2.55.1; those that batch do so with at most 64 windows and 2 ms. Bodies are raw float32 (LitServe,
FastAPI, mosec, Ray Serve), binary tensors of the Open Inference Protocol (ours, KServe), or base64 in its JSON (MLServer, whose HTTP knows no binary tensors).

The load is open: arrivals are random (Poisson) and do not wait for answers; a request that is refused or fails counts as late. The rate is raised by half until it does not hold
twice in a row, then halved in steps of about 5%. A server, with all its processes, has one core, the client another. Servers run one after the other, in each of `--rounds`; the medians
stand in the one JSON line that is printed, with `ours_over`, our rate over theirs. Beside these stand what 64 outstanding requests get done, whatever the time they take (`most_per_second`), and the processor's
time for each of those (`cpu_ms`), which other programs on the machine change least.

A budget is within reach where one window at full depth takes well below it. Eight tasks of `examples/lwm-deepmimo.yaml` chose, in docs/results.md, layer1 layer11 embedding embedding layer1 embedding layer1 layer7.

Each has an environment of its own in `runs/`, which sees the packages of this one. With these, pip finds what each needs: FastAPI, LitServe and Ray Serve take what is here; MLServer, which wants fastapi < 0.116, gets
0.115.14 with starlette 0.46.2; KServe gets a newer grpcio (>= 1.73) and older pandas, psutil and python-dateutil; mosec goes in with the packages that it imports and no others, as in `engine_beside_mosec.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from serving.http_load import Outcome, alone_on, closed_loop, open_loop, poisson_times
from serving.made import MIXED, Made, make
from serving.processes import processor_seconds
from serving.rivals import CLIENT_CORE, RIVALS, Rival, Running, largest_error, served, write_graphs

LEAST_RATE = 4.0
STEPS = 3
"""Halvings of the last interval: 1.5 ** (1 / 8) is 5%."""
PER_WAY = 256
"""Different requests."""


def main() -> None:
    """Measure and print."""
    names = [rival.name for rival in RIVALS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(MIXED), default="lwm")
    parser.add_argument("--exits", nargs=8, metavar="EXIT", help="of the eight tasks; mixed depths if left out")
    parser.add_argument("--budget-ms", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=3.0, help="per rate")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--logs", type=Path, help="folder for what servers say")
    arguments = parser.parse_args()
    rivals = [rival for rival in RIVALS if rival.name in arguments.only]
    found: dict[str, list[dict[str, Any]]] = {rival.name: [] for rival in rivals}
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder, arguments.exits and tuple(arguments.exits))
        graphs = write_graphs(made, Path(place) / "graphs")
        alone_on(CLIENT_CORE)
        for _ in range(arguments.rounds):
            for rival in rivals:
                log = arguments.logs / f"{rival.name}.log" if arguments.logs else None
                with served(rival, graphs, made, log=log) as running:
                    error = largest_error(running.port, rival, graphs, made)
                    requests = requests_of(rival, made)
                    found_here = most_in_time(running.port, requests, arguments.budget_ms, arguments.seconds)
                    most = saturated(running, requests, arguments.seconds)
                found[rival.name].append(
                    found_here | most | {"ready_s": round(running.ready_s, 1), "largest_error": error}
                )
    servers = {rival.name: _median(found[rival.name]) | {"body": rival.body, "cut": rival.cut} for rival in rivals}
    ours = servers.get("offramp", {}).get("requests_per_second")
    for each in servers.values():
        each["ours_over"] = (
            round(ours / each["requests_per_second"], 2) if ours and each["requests_per_second"] else None
        )
    print(
        json.dumps(
            {
                "benchmark": "serving_beside",
                "encoder": arguments.encoder,
                "exits": made.exits,
                "budget_ms": arguments.budget_ms,
                "cores": os.cpu_count(),
                "rounds": arguments.rounds,
                "servers": servers,
            }
        )
    )


def requests_of(rival: Rival, made: Made) -> list[bytes]:
    """Of random tasks, the same for every server."""
    tasks = np.random.default_rng(0).integers(0, len(made.exits), PER_WAY)
    return [rival.request(int(task), made.windows[number]) for number, task in enumerate(tasks)]


def saturated(running: Running, requests: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """What many outstanding requests get done."""
    before = processor_seconds(running.process.pid)
    outcome = closed_loop(running.port, lambda number: requests[number % len(requests)], 64, seconds)
    took, good = processor_seconds(running.process.pid) - before, max(1, int(outcome.good.sum()))
    return {"most_per_second": round(good / seconds, 1), "cpu_ms": round(1e3 * took / good, 3)}


def most_in_time(port: int, requests: Sequence[bytes], budget_ms: float, seconds: float) -> dict[str, Any]:
    """The highest rate at which p99 is within the budget."""
    warm = closed_loop(port, lambda number: requests[number % len(requests)], 4, 1.0)
    rate, best, limit = max(LEAST_RATE, 0.5 * float(warm.good.sum())), None, None
    best_rate = 0.0
    while limit is None or limit > 1.1 * best_rate:
        outcome = _held(port, requests, rate, budget_ms, seconds)
        if outcome is not None:
            best, best_rate = outcome, rate
            rate = 1.5 * rate if limit is None else float(np.sqrt(rate * limit))
        else:
            limit = rate
            rate = float(np.sqrt(best_rate * limit)) if best_rate else rate / 2
        if rate < LEAST_RATE:
            break
    if best is None:
        return {"requests_per_second": 0.0, "p50_ms": None, "p99_ms": None, "client_late_ms_p99": None}
    return {
        "requests_per_second": round(float(best.good.sum()) / seconds, 1),
        "p50_ms": round(best.quantile_ms(0.5), 2),
        "p99_ms": round(best.quantile_ms(0.99), 2),
        "client_late_ms_p99": round(1e3 * float(np.quantile(best.late_sent, 0.99)), 2),
    }


def _held(port: int, requests: Sequence[bytes], rate: float, budget_ms: float, seconds: float) -> Outcome | None:
    """What became of requests at a rate, if 99% were answered in time, in one of two tries."""
    for seed in range(2):
        due = poisson_times(rate, seconds, seed)
        gc.collect()
        gc.disable()
        outcome = open_loop(port, lambda number: requests[number % len(requests)], due, patience_s=0.5)
        gc.enable()
        if outcome.quantile_ms(0.99) <= budget_ms:
            return outcome
        _settle(port, requests[0], budget_ms)
    return None


def _settle(port: int, request: bytes, budget_ms: float) -> None:
    """Wait until a single request is quick again: the server may still be at what nobody waits for."""
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if closed_loop(port, lambda _: request, 1, 0.2).quantile_ms(0.5) <= budget_ms:
            return


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of every number over rounds, and all rates if there are several."""
    several = {key: [each[key] for each in rounds if each[key] is not None] for key in rounds[0]}
    medians = {key: statistics.median(values) if values else None for key, values in several.items()}
    return medians | ({"rates": several["requests_per_second"]} if len(rounds) > 1 else {})


if __name__ == "__main__":
    main()
