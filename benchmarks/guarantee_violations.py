"""How often a certified threshold is riskier than its level, beside delta, and how much of the level is used.

Simulated calibration sets of which the true risk of every threshold is known: groups of 20 windows that share their luck more often than
not. The sequence's risk rises evenly (``rising``), or steps from nothing to a hundredth above the level (``jump``), where
certifying is as tempting as it gets. Rates under ``violation_rate`` hold if they are at most delta, but for the simulation's own error;
``conformal_risk_control`` promises a mean risk instead, and may violate often. ``mean_risk_over_level`` is one where nothing is
wasted; a calibration set that certifies nothing counts as no risk. ``windows_as_groups`` is what counting windows instead of groups
does, ``first_uncertified`` what returning the threshold at which the test stops does. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from offramp.policies.guarantees import (
    GUARANTEES,
    conformal_risk_control,
    fewest_groups,
    learn_then_test,
    upper_confidence_bound,
)

LEVEL, DELTA, WINDOWS, SHARED = 0.1, 0.1, 20, 0.7
GRIDS, GROUPS = (3, 5, 101), (50, 200)
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rising": lambda x: 3 * LEVEL * x,
    "jump": lambda x: np.where(x < 0.5, 0.0, 1.01 * LEVEL),
}


METHODS: dict[str, Callable[[np.ndarray], int | None]] = {
    "learn_then_test": lambda losses: learn_then_test(losses, LEVEL, DELTA),
    "conformal_risk_control": lambda losses: conformal_risk_control(losses, LEVEL),
    "upper_confidence_bound": lambda losses: upper_confidence_bound(losses, LEVEL, DELTA),
}


def calibration_set(rng: np.random.Generator, risks: np.ndarray, groups: int) -> np.ndarray:
    """Losses ``(T, groups, windows)`` of 0 and 1: a window has its group's luck or its own."""
    own = rng.random((groups, WINDOWS))
    luck = np.where(rng.random((groups, WINDOWS)) < SHARED, rng.random((groups, 1)), own)
    return (luck < risks[:, None, None]).astype(np.float64)


def rates(found: list[int | None], risks: np.ndarray) -> dict[str, float]:
    """Violations and the mean risk of the thresholds found."""
    reached = np.array([0.0 if index is None else risks[index] for index in found])
    return {
        "violation_rate": round(float((reached > LEVEL).mean()), 4),
        "mean_risk_over_level": round(float(reached.mean() / LEVEL), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calibrations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.process_time()
    rows, mistakes = [], []
    for curve, risk_at in CURVES.items():
        for length in GRIDS:
            risks = risk_at(np.linspace(0, 1, length))
            for groups in GROUPS:
                rng = np.random.default_rng([arguments.seed, length, groups])
                found: dict[str, list[int | None]] = {method: [] for method in METHODS}
                by_window: list[int | None] = []
                for _ in range(arguments.calibrations):
                    losses = calibration_set(rng, risks, groups)
                    for method, certified in METHODS.items():
                        found[method].append(certified(losses.mean(-1)))
                    by_window.append(learn_then_test(losses.reshape(length, -1), LEVEL, DELTA))
                case = {"curve": curve, "grid": length, "groups": groups}
                rows += [case | {"method": method} | rates(found[method], risks) for method in METHODS]
                stopped = [min(0 if index is None else index + 1, length - 1) for index in found["learn_then_test"]]
                mistakes += [
                    case | {"mistake": "windows_as_groups"} | rates(by_window, risks),
                    case | {"mistake": "first_uncertified"} | rates(stopped, risks),
                ]
    with_delta = [row["violation_rate"] for row in rows if row["method"] != "conformal_risk_control"]
    expected = [row["mean_risk_over_level"] for row in rows if row["method"] == "conformal_risk_control"]
    print(
        json.dumps(
            {
                "benchmark": "guarantee_violations",
                "level": LEVEL,
                "delta": DELTA,
                "standard_error": round((DELTA * (1 - DELTA) / arguments.calibrations) ** 0.5, 4),
                "largest_violation_rate": max(with_delta),
                "largest_mean_risk_over_level": max(expected),
                "rows": rows,
                "mistakes": mistakes,
                "fewest_groups": {method: fewest_groups(LEVEL, DELTA, method) for method in GUARANTEES},
                "calibrations": arguments.calibrations,
                "windows_per_group": WINDOWS,
                "cpu_seconds": round(time.process_time() - started, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
