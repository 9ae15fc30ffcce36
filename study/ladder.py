"""Does a head gain by the taps of all exits up to its own, which the pass computes anyway? Validation scores of the embedded suite, exit by exit.

python study/ladder.py [--tasks NAME ...] [--seeds 2] [--out FOLDER]

One tap: the suite's own heads, statistics of one stage and features by hand. Ladder: the statistics of every stage up to the exit and the
same features. Prints one Markdown table; no test score is looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pretraining_objectives import HEAD, asked_suite

from offramp.experiment.features import remove_banks
from offramp.experiment.prepare import Context, features_of, fit_rows, load, prepare
from offramp.heads.rows import FeatureRows
from offramp.progress import silent
from offramp.schema.suite import load_suite
from offramp.schema.tasks import TaskSpec
from offramp.scoring.metrics import METRICS
from offramp.scoring.resampling import per_seed_scores

OUT = Path(__file__).resolve().parent.parent / "runs" / "ladder"


class Ladder:
    """Features of several exits side by side, ``(N, widths together)`` float32."""

    def __init__(self, parts: Sequence[FeatureRows]) -> None:
        self._parts = parts
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.concatenate([part[indices] for part in self._parts], axis=1)


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="*", help="those of the suite; all if left out")
    parser.add_argument("--seeds", type=int, default=2, help="draws of training and validation windows")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = asked_suite(load_suite(), arguments.seeds, HEAD, arguments.tasks)
    context = Context(load(loaded, "cpu"), loaded, arguments.out, "cpu", silent)
    print(
        "| task | metric | best exit, one tap | best exit, ladder | ladder minus one tap, every exit behind the first stage |"
    )
    print("|---|---|---:|---:|---|")
    for task in loaded.tasks:
        one, many = both_ways(context, task)
        best = max if METRICS[task.metric_name].sign > 0 else min
        gains = ", ".join(f"{gain:+.3f}" for gain in np.array(many) - one)
        print(f"| {task.name} | {task.metric_name} | {best(one):.3f} | {best(many):.3f} | {gains} |", flush=True)
        remove_banks(context.features)


def both_ways(context: Context, task: TaskSpec) -> tuple[list[float], list[float]]:
    """Validation scores of every exit behind the first stage, on its own tap and on all up to it."""
    prepared = prepare(task, context.loaded, context.encoder)
    features = features_of(context, prepared, context.encoder, "encoder")
    stages = features.bank.names
    own = {name: features.taps(name) for name in stages[1:]}
    ladders = {
        name: Ladder([features.taps(stages[number]), *[features.bank.taps(before) for before in stages[:number]]])
        for number, name in enumerate(stages)
        if number
    }
    scores = []
    for rows in (own, ladders):
        fitted = fit_rows(context, prepared, list(rows), lambda name, of=rows: of[name], "heads")
        scores.append([float(per_seed_scores(exit.val_sums, prepared.problem.metric).mean()) for exit in fitted])
    return scores[0], scores[1]


if __name__ == "__main__":
    main()
