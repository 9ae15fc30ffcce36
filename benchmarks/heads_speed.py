"""Heads for all exits x 5 seeds x a grid of strengths, against scikit-learn exit by exit, seed by seed, strength by strength.

10,000 windows of 11 signal types, taps of `iq-shufflenet`. Both sides solve the same multinomial problems to the same gradient
norm on the same splits, choose the strength on validation, and use one thread; scikit-learn gets features that are already
standardised, ours does that within its time. Times are CPU time, exits of ours and of theirs in turn. Losses are computed apart
from both, in double precision. Prints one JSON line. Takes about a quarter of an hour; `--seeds 1` is quicker.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from offramp.encoders.registry import load_encoder
from offramp.encoders.taps import freeze
from offramp.heads.fit import STRENGTHS
from offramp.heads.logistic import fit_logistic
from offramp.heads.rows import Rows
from offramp.simulation.signal_types import SIGNAL_TYPES
from offramp.simulation.windows import synthetic_windows

WINDOWS, TOLERANCE = 10_000, 1e-4
TYPES = ("bpsk", "qpsk", "8psk", "16qam", "64qam", "ook", "2fsk", "gmsk", "ofdm", "lora", "am")
CLASSES = len(TYPES)
BLOCK = 1000


def taps_and_labels(weights: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    number = torch.full((len(SIGNAL_TYPES),), -1)
    number[[SIGNAL_TYPES.index(name) for name in TYPES]] = torch.arange(CLASSES)
    encoder = freeze(load_encoder("iq-shufflenet", weights=weights))
    parts: dict[str, list[np.ndarray]] = {exit.name: [] for exit in encoder.exits}
    labels: list[int] = []
    while len(labels) < WINDOWS:
        made = synthetic_windows(BLOCK, 4, 256, (-6.0, 18.0), seed=99, block=len(parts["stem"]))
        label = number[made.modulation]
        labels += label[label >= 0].tolist()
        with torch.inference_mode():
            for name, tap in encoder.taps(made.iq[label >= 0]).items():
                parts[name].append(tap.numpy())
    return {name: np.concatenate(blocks)[:WINDOWS] for name, blocks in parts.items()}, np.array(labels[:WINDOWS])


def loss_and_gradient(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, strength: float
) -> tuple[float, float]:
    """Loss, and largest absolute entry of its gradient, on standardised features."""
    log_probability = log_softmax(features @ weight.T + bias, axis=1)
    rows = np.arange(len(labels))
    loss = -log_probability[rows, labels].mean() + strength / 2 * np.square(weight).sum()
    residual = np.exp(log_probability)
    residual[rows, labels] -= 1
    return float(loss), float(np.abs(residual.T @ features / len(labels) + strength * weight).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--weights", choices=("pretrained", "random"), default="pretrained")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grid = STRENGTHS["logistic"]
    taps, labels = taps_and_labels(arguments.weights)
    orders = [np.random.default_rng(seed).permutation(WINDOWS) for seed in range(arguments.seeds)]
    splits = [(np.sort(o[2500:8125]), np.sort(o[8125:]), np.sort(o[:2500])) for o in orders]
    total = {"ours": 0.0, "scikit-learn": 0.0}
    scores: dict[str, list[float]] = {"ours": [], "scikit-learn": []}
    solved_to: dict[str, list[tuple[float, float]]] = {"ours": [], "scikit-learn": []}
    with threadpool_limits(1):
        for features in taps.values():
            started = time.process_time()
            union = np.unique(np.concatenate([train for train, _, _ in splits]))
            member = np.stack([np.isin(union, train) for train, _, _ in splits], axis=1).astype(np.float32)
            heads = fit_logistic(Rows(features, union), labels[union], CLASSES, grid, member, TOLERANCE)
            total["ours"] += time.process_time() - started
            for (train, val, test), of_seed in zip(splits, heads, strict=True):
                mean, spread = features[train].mean(0), np.maximum(features[train].std(0), 1e-12)
                standard = (features - mean) / spread
                solved = []
                started = time.process_time()
                for strength in grid:
                    model = LogisticRegression(C=1 / (strength * len(train)), tol=TOLERANCE, max_iter=20_000)
                    solved.append(model.fit(standard[train], labels[train]))
                total["scikit-learn"] += time.process_time() - started
                theirs = [(model.coef_, model.intercept_) for model in solved]
                ours = [(w * spread, b + w @ mean) for head in of_seed for w, b in head.layers]
                for name, candidates in (("ours", ours), ("scikit-learn", theirs)):
                    on_val = [((standard[val] @ w.T + b).argmax(1) == labels[val]).mean() for w, b in candidates]
                    weight, bias = candidates[int(np.argmax(on_val))]
                    scores[name].append(float(((standard[test] @ weight.T + bias).argmax(1) == labels[test]).mean()))
                    exact = standard[train].astype(np.float64)
                    solved_to[name] += [
                        loss_and_gradient(exact, labels[train], w.astype(np.float64), b.astype(np.float64), strength)
                        for (w, b), strength in zip(candidates, grid, strict=True)
                    ]
    found = {name: np.array(values) for name, values in solved_to.items()}
    print(
        json.dumps(
            {
                "benchmark": "heads_speed",
                "ratio": round(total["scikit-learn"] / total["ours"], 1),
                "seconds": {name: round(seconds, 2) for name, seconds in total.items()},
                "mean_test_score": {name: round(float(np.mean(values)), 4) for name, values in scores.items()},
                "largest_gradient": {name: float(f"{values[:, 1].max():.2g}") for name, values in found.items()},
                "mean_loss": {name: round(float(values[:, 0].mean()), 6) for name, values in found.items()},
                "largest_loss_difference": float(f"{np.abs(found['ours'] - found['scikit-learn'])[:, 0].max():.2g}"),
                "exits": len(taps),
                "seeds": arguments.seeds,
                "strengths": len(grid),
                "windows": WINDOWS,
                "classes": CLASSES,
                "threads": 1,
                "clock": "CPU seconds",
            }
        )
    )


if __name__ == "__main__":
    main()
