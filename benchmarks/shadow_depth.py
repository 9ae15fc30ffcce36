"""What shadow depth costs real requests, and how soon live agreement decides about a certificate.

python benchmarks/shadow_depth.py [--seconds 60] [--share 0.02]

An engine on segments of iq-resnet-small gets single windows at random times, half as many as it can answer, with and without shadow depth in turn, and every answer is
offered to it. Says p50 and p99 with it over without, microseconds of ``consider``, and windows finished to full depth a second. Then, simulated: blocks until a
certificate at 5% is renewed or withdrawn, by the true disagreement, and how often a decision is wrong; and the width of the bounds over that of Hoeffding's for all
moments. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving.made import MIXED, make

from offramp import load, load_encoder
from offramp.policies.purpose import StoredGuarantee
from offramp.runtime.engine import Answer, Engine
from offramp.scoring.sequences import ConfidenceSequence
from offramp.serving.watching.agreement import AgreementWatch
from offramp.serving.watching.shadow import ShadowDepth

ENCODER, TASK, ROUND_S, UTILISATION = "iq-resnet-small", "task2", 2.0, 0.5
LEVEL, DELTA, MOST_BLOCKS, RUNS = 0.05, 0.1, 3000, 40


def latencies(engine: Engine, task: Any, windows: np.ndarray, rate: float, shadow: ShadowDepth | None) -> list[float]:
    """Milliseconds of the answers of one round."""
    rng, found = np.random.default_rng(0), []
    began = due = time.perf_counter()
    number = 0
    while due - began < ROUND_S:
        due += rng.exponential(1 / rate)
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        window = windows[number % len(windows)][None]
        number += 1

        def done(future: Any, window: np.ndarray = window, number: int = number) -> None:
            answer: Answer = future.result()
            found.append(answer.milliseconds)
            if shadow is not None:
                shadow.consider(window, task, answer.prediction, f"recording {number // 10}")

        engine.submit(window, [TASK]).answers[TASK].add_done_callback(done)
    while engine.counts.submitted > engine.counts.answered + engine.counts.failed:
        time.sleep(0.01)
    return found


def decisions(disagreement: float) -> dict[str, Any]:
    """How soon blocks with this mean loss renew or withdraw."""
    promise = StoredGuarantee("disagreement", LEVEL, DELTA, "learn_then_test", None, (math.inf, 0.9), 100, 0.02, 0.04)
    states, blocks = [], []
    for seed in range(RUNS):
        watch, rng = AgreementWatch("t", "p", "e", "classification", promise, 1.0), np.random.default_rng(seed)
        for number in range(MOST_BLOCKS):
            watch.add(str(number), float((rng.random(4) < disagreement).sum()), 4, 10.0 * number)
            if watch.status.certificate != "holds":
                break
        states.append(watch.status.certificate)
        blocks.append(number + 1)
    return {
        "median_blocks": int(np.median(blocks)),
        **{state: states.count(state) / RUNS for state in sorted(set(states))},
    }


def widths() -> dict[str, float]:
    """Of the bounds over Hoeffding's with ``alpha / (t (t + 1))``, after 1,000 losses."""
    found = {}
    for mean in (0.01, 0.05, 0.5):
        sequence, rng, low, high = ConfidenceSequence(DELTA), np.random.default_rng(1), 0.0, 1.0
        for t in range(1, 1001):
            sequence.add(float(rng.random() < mean))
            half = math.sqrt(math.log(2 * t * (t + 1) / DELTA) / (2 * t))
            low, high = max(low, sequence.mean - half), min(high, sequence.mean + half)
        found[str(mean)] = round((sequence.upper - sequence.lower) / (high - low), 3)
    return found


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of requests")
    parser.add_argument("--share", type=float, default=0.02)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        last = load_encoder(ENCODER).exits[-1].name
        made = make(Path(place), ENCODER, (*MIXED[ENCODER][:-1], last))
        predictor = load(made.segments)
        task = predictor.bundle.tasks[TASK]
        with Engine(predictor) as engine:
            began = time.perf_counter()
            for _ in range(300):
                engine.predict(made.windows[:1], [TASK])
            rate = UTILISATION * 300 / (time.perf_counter() - began)
            spent: dict[str, list[list[float]]] = {"off": [], "on": []}
            computed = sampled = dropped = 0
            with ShadowDepth(engine, share=1e-9) as shadow:
                answer = engine.predict(made.windows[:1], [TASK])[TASK].prediction
                began = time.perf_counter()
                for _ in range(100_000):
                    shadow.consider(made.windows[:1], task, answer)
                passed_over = 10 * (time.perf_counter() - began)
            for _ in range(max(1, int(arguments.seconds / (2 * ROUND_S)))):
                spent["off"].append(latencies(engine, task, made.windows, rate, None))
                with ShadowDepth(engine, share=arguments.share) as shadow:
                    spent["on"].append(latencies(engine, task, made.windows, rate, shadow))
                    status = shadow.status
                    assert not status.unwatched, status.unwatched
                computed, sampled, dropped = (
                    computed + status.computed,
                    sampled + status.sampled,
                    dropped + status.dropped,
                )
    ratios = {
        name: [
            float(np.percentile(on, level) / np.percentile(off, level))
            for on, off in zip(spent["on"], spent["off"], strict=True)
        ]
        for name, level in (("p50", 50), ("p99", 99))
    }
    report = {
        "benchmark": "shadow_depth",
        "share": arguments.share,
        "requests_per_second": round(rate),
        "p50_ms": round(float(np.median(np.concatenate(spent["off"]))), 3),
        **{f"{name}_with_over_without": round(float(np.median(each)), 3) for name, each in ratios.items()},
        "consider_us": round(passed_over, 2),
        "sampled": sampled,
        "dropped": dropped,
        "computed_per_second": round(computed / (ROUND_S * len(spent["on"])), 1),
        "decisions_at_level_0.05": {str(share): decisions(share) for share in (0.0, 0.01, 0.025, 0.05, 0.1, 0.2)},
        "width_over_hoeffding": widths(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
