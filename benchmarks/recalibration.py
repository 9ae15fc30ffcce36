"""What labels of shifted traffic are worth: confidence, cost and certificate of a bundle before and after ``offramp recalibrate``.

python benchmarks/recalibration.py [--labels 100 300 1000] [--drop 6]

A bundle of iq-resnet-small for simulated signals, with policies and a certificate, and traffic at an SNR that is some dB lower. For each number of labelled
windows it is recalibrated, and judged on 2,000 fresh windows of the same traffic: negative log-likelihood and calibration error at its fixed exit; accuracy,
and cost over budget, of the routed policy; and of the certified one the disagreement with full depth. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

import offramp
from offramp.data.simulated import read_synthetic
from offramp.experiment.pipeline import run_suite
from offramp.runtime import Predictor
from offramp.runtime.recalibration import recalibrate
from offramp.schema.suite import load_suite
from offramp.schema.tasks import SyntheticSpec
from offramp.scoring.calibration import expected_calibration_error

TASK, LEVEL, DELTA, FRESH = "modulation", 0.1, 0.1, 2000
SNR_DB = (0.0, 18.0)


def signals(count: int, drop: float, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Windows, classes and their names, at an SNR that is ``drop`` dB lower."""
    low, high = SNR_DB
    table = read_synthetic(SyntheticSpec(windows=count, antennas=1, snr_db=(low - drop, high - drop), seed=seed))
    return table.windows.read(np.arange(count)), table.columns[TASK], list(table.label_names[TASK])


def write(path: Path, count: int, drop: float, seed: int) -> Path:
    windows, classes, names = signals(count, drop, seed)
    with h5py.File(path, "w") as file:
        file["sample"], file[TASK] = windows, np.array(names, dtype="S")[classes]
    return path


def fitted(folder: Path, windows: int) -> Path:
    """The bundle of a run."""
    write(folder / "training.h5", windows, 0.0, 1)
    task = {"name": TASK, "data": {"path": "training.h5", "target": TASK}, "split": {"calibration": 0.2}}
    policies = {"criteria": ["confidence"], "guarantee": {"risk": "disagreement", "level": LEVEL, "delta": DELTA}}
    suite = {
        "encoder": "iq-resnet-small",
        "tasks": [task],
        "seeds": [0],
        "controls": ["constant"],
        "policies": policies,
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    run_suite(load_suite(folder / "suite.yaml"), folder / "run")
    return folder / "run" / "bundle"


def judged(predictor: Predictor, windows: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Figures on fresh traffic."""
    task = predictor.bundle.tasks[TASK]
    fixed = predictor.predict(windows, [TASK])[TASK]
    right = fixed.classes == classes
    of_label = fixed.outputs[np.arange(len(classes)), classes].astype(np.float64)
    figures: dict[str, Any] = {
        "fixed_accuracy": float(right.mean()),
        "fixed_nll": float(-np.log(np.maximum(of_label, 1e-12)).mean()),
        "fixed_ece": expected_calibration_error(fixed.confidence, right),
    }
    routed, policy = predictor.predict(windows, [TASK], policy="routed")[TASK], predictor.policy(TASK, "routed")
    if policy.aim is not None:
        cost = float(np.asarray(policy.aim.leaving)[routed.left].mean())
        figures |= {
            "routed_cost_over_budget": cost / policy.aim.budget,
            "routed_accuracy": float((routed.classes == classes).mean()),
        }
    if "certified" in task.policies:
        certified = predictor.predict(windows, [TASK], policy="certified")[TASK]
        full = np.concatenate([full_depth(predictor, windows[at : at + 500]) for at in range(0, len(windows), 500)])
        figures["certified_disagreement"] = float((certified.classes != full).mean())
        figures["certified_left_early"] = float((certified.left < len(certified.consulted) - 1).mean())
    return {name: round(value, 4) for name, value in figures.items()}


def full_depth(predictor: Predictor, windows: np.ndarray) -> np.ndarray:
    bundle = predictor.bundle
    task = bundle.tasks[TASK]
    deep = replace(bundle, tasks={TASK: replace(task, exit=list(task.heads)[-1], policies={})})
    return Predictor(deep, predictor.backend).predict(windows, [TASK])[TASK].classes


def main() -> None:
    """Fit, recalibrate, judge and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--drop", type=float, default=6.0, help="dB")
    parser.add_argument("--windows", type=int, default=3000, help="of the run that fits the bundle")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundle = fitted(folder, arguments.windows)
        windows, fresh, names = signals(FRESH, arguments.drop, 99)
        known = list(offramp.load(bundle).bundle.tasks[TASK].label_names)
        classes = np.array([known.index(names[number]) for number in fresh])
        at_fit, of_fit, _ = signals(FRESH, 0.0, 98)
        report: dict[str, Any] = {
            "benchmark": "recalibration",
            "snr_drop_db": arguments.drop,
            "level": LEVEL,
            "delta": DELTA,
            "unshifted": judged(offramp.load(bundle), at_fit, np.array([known.index(names[n]) for n in of_fit])),
            "shifted": judged(offramp.load(bundle), windows, classes),
        }
        for count in arguments.labels:
            file, out = write(folder / f"{count}.h5", count, arguments.drop, 7), folder / f"new-{count}"
            started = time.perf_counter()
            result = recalibrate(bundle, file, out)
            seconds = time.perf_counter() - started
            certificate = next((change.outcome for change in result.policies if change.name == "certified"), "none")
            outcomes = {"certificate": certificate, "seconds": round(seconds, 1)}
            report[f"labels_{count}"] = judged(offramp.load(out), windows, classes) | outcomes
    print(json.dumps(report))


if __name__ == "__main__":
    main()
