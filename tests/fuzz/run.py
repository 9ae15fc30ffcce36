"""Thousands of changed inputs: ``python tests/fuzz/run.py --count 10000 --seed 0 --keep runs/fuzz``.

Leaves with 1 if one of them fails; what failed is kept with the number that makes it again (``--first NUMBER --count 1``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from driver import Attempt, Fuzzer


def main() -> int:
    """Try the inputs, say what came of them."""
    options = _options()
    numbers = range(options.first, options.first + options.count)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        fuzzer = Fuzzer(Path(root), options.seed, options.keep, options.only)
        attempts = list(_shown(_tried(fuzzer, numbers, options.jobs), len(numbers)))
    faults = [attempt for attempt in attempts if attempt.fault]
    for attempt in faults:
        print(f"{attempt.number} {attempt.kind}: {attempt.fault}", file=sys.stderr)
    summary = {
        "count": len(attempts),
        "seconds": round(time.monotonic() - start),
        "kinds": dict(sorted(Counter(attempt.kind for attempt in attempts).items())),
        "codes": dict(Counter(str(attempt.code) for attempt in attempts)),
        "slowest": round(max((attempt.seconds for attempt in attempts), default=0), 1),
        "largest_mb": max((attempt.peak for attempt in attempts), default=0) >> 20,
        "failures": dict(Counter(f"{attempt.kind}: {attempt.fault}" for attempt in faults).most_common()),
    }
    print(json.dumps(summary))
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", default="", help="kinds of inputs whose names hold this")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="folder for inputs that fail")
    return parser.parse_args()


def _tried(fuzzer: Fuzzer, numbers: Iterable[int], jobs: int) -> Iterator[Attempt]:
    if jobs == 1:
        yield from map(fuzzer.try_one, numbers)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(fuzzer.try_one, numbers)


def _shown(attempts: Iterable[Attempt], total: int) -> Iterator[Attempt]:
    done = faults = 0
    for attempt in attempts:
        done, faults = done + 1, faults + bool(attempt.fault)
        if done % 500 == 0:
            print(f"{done} of {total}, {faults} failed", file=sys.stderr, flush=True)
        yield attempt


if __name__ == "__main__":
    sys.exit(main())
