"""False alarms of the drift monitors on recordings without a change, beside the stated rate, and how late they see changes.

A bundle is fitted to simulated radios (32 windows of a session share radio, receiver, channel and SNR). Then, with references drawn from other
sessions and with the bundle's own, streams of sessions without a change count false alarms, and begin anew behind each; intervals are a bootstrap
over references. Delays are the sessions from a change to the alarm, behind 64 usual ones. Detectors that see windows get the confidence of the same
streams, and of the same windows in random order: what is left there is not due to recordings. Real recordings, where
``--data`` is there, are few: half of those held out are the reference, the others the stream. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drifting.recordings import Fitted, Recordings, recorded, simulated
from drifting.window_detectors import adwin, against_reference, kswin, page_hinkley
from numpy.typing import NDArray

from offramp.bundle import TaskReference
from offramp.serving.watching.drift import DriftMonitor

POLICY = "routed"
DATA = Path(__file__).parents[2] / "shared" / "data" / "rtl433-sigmf"
RATES = (1.0, 10.0)
STREAM, BEFORE, AFTER = 1000, 64, 200
SIZES = (16, 64)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0, help="about what may be taken")
    parser.add_argument("--usual", type=int, default=2048, help="sessions without a change")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of rtl_433 recordings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        fitted = simulated(Path(name), arguments.usual, 320, POLICY)
        made, share = time.monotonic() - began, max(20.0, arguments.seconds - (time.monotonic() - began)) / 4
        found: dict[str, Any] = {
            "benchmark": "drift",
            "seconds_to_make": round(made, 1),
            "own_reference": _false_alarms(fitted, None, 10.0, share / 2),
            "false_alarms": {
                f"{size} recordings, {rate:g} per 1000 stated": _false_alarms(fitted, size, rate, share / 2)
                for size in SIZES
                for rate in RATES
            },
            "delays": {f"{size} recordings": _delays(fitted, size, share / 2) for size in SIZES},
            "window_detectors": _window_detectors(fitted.usual),
        }
        if arguments.data.is_dir():
            real = Path(name) / "real"
            real.mkdir()
            found["rtl433"] = _real(recorded(real, arguments.data, POLICY), share / 2)
    print(json.dumps(found | {"seconds": round(time.monotonic() - began, 1)}))


def _false_alarms(fitted: Fitted, size: int | None, rate: float, seconds: float) -> dict[str, Any]:
    """Per 1,000 recordings; with the bundle's own reference if ``size`` is None."""
    counts, names, cost, began = [], set[str](), 0.0, time.monotonic()
    for draw in range(200):
        if time.monotonic() - began > seconds and draw >= 4:
            break
        rng = np.random.default_rng([draw, size or 0])
        reference, order = _drawn(fitted, size, rng)
        start = time.perf_counter()
        alarms = _alarms(DriftMonitor({"radio": reference}, rate), fitted.usual.chosen(order[:STREAM]))
        cost += time.perf_counter() - start
        counts.append(len(alarms))
        names |= {name for _, told in alarms for name in told}
    per_reference = 1000 * np.asarray(counts) / STREAM
    draws = np.random.default_rng(0).choice(per_reference, (2000, len(counts))).mean(axis=1)
    return {
        "stated_at_most": rate,
        "measured": round(float(per_reference.mean()), 3),
        "ci95": [round(float(end), 3) for end in np.quantile(draws, [0.025, 0.975])],
        "average_run_length": None if not sum(counts) else round(len(counts) * STREAM / sum(counts)),
        "recordings": len(counts) * STREAM,
        "references": len(counts),
        "monitors": sorted(names),
        "ms_per_recording": round(1000 * cost / (len(counts) * STREAM), 3),
    }


def _delays(fitted: Fitted, size: int, seconds: float) -> dict[str, Any]:
    """Recordings to the alarm: median and 90th percentile, and how often there was none within 200; at one false alarm in 1,000."""
    found: dict[str, list[float]] = {}
    first: dict[str, dict[str, int]] = {}
    began = time.monotonic()
    for draw in range(60):
        if time.monotonic() - began > seconds and draw >= 4:
            break
        rng = np.random.default_rng([draw, size, 1])
        reference, order = _drawn(fitted, size, rng)
        for change, others in _changes(fitted, order[BEFORE:], rng):
            monitor = DriftMonitor({"radio": reference})
            if _alarms(monitor, fitted.usual.chosen(order[:BEFORE])):
                continue  # it is false, and would be counted as no delay
            alarm = next(iter(_alarms(monitor, others, first_only=True)), None)
            found.setdefault(change, []).append(np.inf if alarm is None else alarm[0] + 1.0)
            for name in () if alarm is None else alarm[1]:
                first.setdefault(change, {}).setdefault(name, 0)
                first[change][name] += 1
    return {
        change: {
            "recordings": _finite(np.quantile(delays, 0.5, method="higher")),
            "windows": _finite(32 * np.quantile(delays, 0.5, method="higher")),
            "p90_recordings": _finite(np.quantile(delays, 0.9, method="higher")),
            "missed": round(float(np.isinf(delays).mean()), 3),
            "streams": len(delays),
            "first": first.get(change, {}),
        }
        for change, delays in found.items()
    }


def _changes(fitted: Fitted, usual: NDArray[np.int64], rng: np.random.Generator) -> Iterable[tuple[str, Recordings]]:
    for name, recordings in fitted.changed.items():
        yield name, recordings.chosen(rng.permutation(len(recordings.features))[:AFTER])
    new = fitted.changed["a new radio"]
    mixed = [
        new.chosen([rng.integers(len(new.features))]) if rng.random() < 1 / 8 else fitted.usual.chosen([each])
        for each in usual[:AFTER]
    ]
    yield (
        "a new radio, one of eight recordings",
        Recordings(tuple(each.predictions[0] for each in mixed), tuple(each.features[0] for each in mixed)),
    )


def _drawn(fitted: Fitted, size: int | None, rng: np.random.Generator) -> tuple[TaskReference, NDArray[np.int64]]:
    """A reference, and the other recordings in random order."""
    order = rng.permutation(len(fitted.usual.features))
    if size is None:
        return fitted.own, order
    return fitted.usual.chosen(order[:size]).reference(fitted.own, POLICY), order[size:]


def _alarms(monitor: DriftMonitor, recordings: Recordings, first_only: bool = False) -> list[tuple[int, list[str]]]:
    """At which recordings it alarmed, and what; it begins anew behind each."""
    found = []
    for number, (prediction, features) in enumerate(zip(recordings.predictions, recordings.features, strict=True)):
        monitor.observe(f"recording {number}", prediction, features, at=float(number))
        status = monitor.alarmed
        if status:
            found.append((number, status["radio"]))
            if first_only:
                break
            monitor.reset()
    return found


def _window_detectors(usual: Recordings) -> dict[str, Any]:
    """Alarms per 1,000 recordings without a change, in streams of recordings, and of the same windows in random order."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(usual.features))
    reference = usual.chosen(order[:64]).confidence()
    stream = usual.chosen(order[64 : 64 + STREAM]).confidence()
    detectors: dict[str, Callable[[NDArray[np.float64]], list[int]]] = {
        "ADWIN, delta 0.002": adwin,
        "Page-Hinkley, delta 0.005, threshold 50": page_hinkley,
        "KSWIN, alpha 0.005, 30 of 100 windows": kswin,
        "ks_2samp of 512 windows, alpha 0.001": against_reference(reference),
    }
    recordings = len(stream) / 32 / 1000
    return {
        name: {
            "recordings": round(len(detect(stream)) / recordings, 1),
            "windows_in_random_order": round(len(detect(rng.permutation(stream))) / recordings, 1),
        }
        for name, detect in detectors.items()
    }


def _real(fitted: Fitted, seconds: float) -> dict[str, Any]:
    """Half of the held-out recordings are the reference, the others come once each, in random order."""
    began, rate, number = time.monotonic(), 10.0, len(fitted.usual.features)
    counts: dict[str, list[int]] = {"measured": [], "adwin": [], "kswin": []}
    for draw in range(200):
        if time.monotonic() - began > seconds and draw >= 4:
            break
        order = np.random.default_rng(draw).permutation(number)
        reference = fitted.usual.chosen(order[: number // 2]).reference(fitted.own, POLICY)
        stream = fitted.usual.chosen(order[number // 2 :])
        counts["measured"].append(len(_alarms(DriftMonitor({"radio": reference}, rate), stream)))
        if draw < 20:
            counts["adwin"].append(len(adwin(stream.confidence())))
            counts["kswin"].append(len(kswin(stream.confidence())))
    return {
        "stated_at_most": rate,
        **{name: round(1000 * float(np.mean(found)) / (number - number // 2), 2) for name, found in counts.items()},
        "references": len(counts["measured"]),
        "reference_recordings": number // 2,
        "stream_recordings": number - number // 2,
    }


def _finite(value: np.floating[Any] | float) -> float | None:
    return float(value) if np.isfinite(value) else None


if __name__ == "__main__":
    main()
