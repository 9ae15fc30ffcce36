"""Linear probing as WavesFM's fine-tuning script does it, one exit, against ours, all exits: time to result, and how optimistic the result is.

Practice (the script's defaults): the encoder runs anew over all windows in every epoch; AdamW, batch 64, 50 epochs, learning rate
1e-3 x 64 / 256 with five epochs of warm-up and a cosine, weight decay 0.05; a fifth of the windows is scored after every epoch, and
the best of those 50 scores is the result. `frozen` trains the head alone, without gradients in the encoder; `strict_probe` is the
script's own option of that name, which trains the CLS token too and so differentiates the whole encoder. Ours: every window is
encoded once, heads of all exits x 5 seeds x 6 strengths are fitted together, strength and exit are chosen on validation windows out of
the rest, and the same fifth is scored once.

Same encoder, windows, labels and fifth. Times are CPU time of one thread, epochs of theirs and whole runs of ours in turn; of the 50
epochs, which are alike, `--measured-epochs` are timed. Kept features give the very heads of `frozen`, so that many draws of the windows
show its optimism: the result minus the score of the same heads on thousands of windows that nobody has seen. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from offramp.data.dataset import Dataset, load_dataset
from offramp.data.splits import Draw, Split
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder, packaged_weights
from offramp.encoders.taps import freeze
from offramp.experiment.features import FeatureBank, fill_bank
from offramp.heads.fit import STRENGTHS, FittedExit, Problem, fit_exit, head_statistics
from offramp.policies.selection import non_inferior
from offramp.schema.tasks import TaskSpec
from offramp.scoring.resampling import Resamples, per_seed_scores, resampling_units
from offramp.transforms import Transform

SHIPPED = "wavesfm-micro-iq"
WINDOWS, REPORTED, POOL = 2000, 400, 8000
"""Labelled windows, those of them whose score is the result, and all there are: what is left is untouched."""
BATCH, EPOCHS, WARM_UP, PEAK, FLOOR, DECAY, LAYER_DECAY = 64, 50, 5, 1e-3 * 64 / 256, 1e-6, 0.05, 0.75
SEEDS, VALIDATION, TOLERANCE = 5, 0.25, 0.01

Indices = NDArray[np.int64]
Features = Callable[[Indices], Tensor]


def windows_and_labels() -> tuple[TaskSpec, Dataset]:
    data = {"synthetic": {"scenario": "signals", "windows": POOL, "antennas": 4, "samples": 256, "seed": 7}}
    task = TaskSpec.model_validate(
        {"name": "modulation", "data": data | {"target": "modulation"}, "metric": "balanced_accuracy"}
    )
    return task, load_dataset(task.data, task.kind)


def first_windows(dataset: Dataset, count: int) -> Dataset:
    windows = replace(dataset.windows, count=count, fingerprint=f"{dataset.windows.fingerprint}, first {count}")
    return replace(dataset, windows=windows, targets=dataset.targets[:count], groups=dataset.groups[:count])


def problem_of(task: TaskSpec, dataset: Dataset, rest: Indices, reported: Indices) -> Problem:
    """Ours: train and validation are drawn anew out of the rest for every seed."""
    draws = []
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(rest)
        held = int(VALIDATION * len(rest))
        train = np.sort(order[held:])
        draws.append(Draw(seed, ((train, np.sort(order[:held])),), train, False))
    units = [resampling_units(dataset.groups, dataset.grouped, indices) for indices in (rest, reported)]
    return Problem(task, dataset, Split(reported, tuple(draws), ""), *units)


def chosen_exit(problem: Problem, bank: FeatureBank) -> FittedExit:
    """Heads for all exits, seeds and strengths, and the exit that the default rule picks on validation."""
    fitted = [fit_exit(problem, name, bank.taps(name)) for name in bank.names]
    resamples = Resamples.draw(problem.val_units.count, SEEDS, 0)
    return fitted[non_inferior([exit.val_sums for exit in fitted], problem.metric, resamples, TOLERANCE).chosen]


def learning_rate(step: int, steps_per_epoch: int) -> float:
    warm_up, steps = WARM_UP * steps_per_epoch, EPOCHS * steps_per_epoch
    if step < warm_up:
        return PEAK * step / warm_up
    return FLOOR + (PEAK - FLOOR) * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2


def epochs_of_practice(
    features: Features,
    problem: Problem,
    rest: Indices,
    reported: Indices,
    seed: int = 0,
    token: Tensor | None = None,
    token_scale: float = 1.0,
) -> Iterator[tuple[nn.Linear, float]]:
    """The head after every epoch, and its score on the reported windows.

    A ``token`` of the encoder learns as well, at ``token_scale`` times the head's rate.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.from_numpy(problem.dataset.targets)
    head = nn.Linear(features(rest[:1]).shape[1], problem.outputs)
    nn.init.trunc_normal_(head.weight, std=2e-5, generator=generator)
    nn.init.zeros_(head.bias)
    groups = [
        {"params": [head.weight], "weight_decay": DECAY, "scale": 1.0},
        {"params": [head.bias], "weight_decay": 0.0, "scale": 1.0},
    ]
    if token is not None:
        groups.append({"params": [token], "weight_decay": DECAY, "scale": token_scale})
    optimiser = torch.optim.AdamW(groups, lr=PEAK)
    steps = len(rest) // BATCH
    for epoch in range(EPOCHS):
        order = rest[torch.randperm(len(rest), generator=generator).numpy()]
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            for group in optimiser.param_groups:
                group["lr"] = group["scale"] * learning_rate(epoch * steps + step, steps)
            loss = nn.functional.cross_entropy(head(features(rows)), labels[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        yield head, score(head, features, problem, reported)


def score(head: nn.Linear, features: Features, problem: Problem, indices: Indices) -> float:
    blocks = (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))
    with torch.inference_mode():
        outputs = np.concatenate([head(features(block)).numpy() for block in blocks])
    return float(problem.metric.score(problem.metric.statistics(outputs, problem.dataset.targets[indices]).sum(0)))


def time_to_result(
    encoder: StagedEncoder, task: TaskSpec, dataset: Dataset, epochs: int, runs: int
) -> dict[str, object]:
    """Epochs of theirs with runs of ours between them; and whether kept features, too, lead to the heads of ``frozen``."""
    rest, reported, last = np.arange(REPORTED, WINDOWS), np.arange(REPORTED), encoder.exits[-1].name
    problem = problem_of(task, dataset, rest, reported)
    windows = torch.from_numpy(dataset.windows.read(np.arange(WINDOWS)))
    trained = copy.deepcopy(encoder)
    token = trained.get_parameter("cls_token")
    token.requires_grad_()

    def encode(rows: Indices) -> Tensor:
        with torch.no_grad():
            return encoder.taps(windows[rows], [last])[last]

    def encode_and_differentiate(rows: Indices) -> Tensor:
        return trained.taps(windows[rows], [last])[last]

    def run_ours(root: Path) -> None:
        bank = fill_bank(encoder, dataset.windows, Transform(), root)
        encoded.append(time.process_time())
        chosen_exit(problem, bank)

    kept = torch.cat([encode(block) for block in np.split(np.arange(WINDOWS), WINDOWS // REPORTED)])  # warms up, too
    from_kept = epochs_of_practice(lambda rows: kept[rows], problem, rest, reported)
    scale = LAYER_DECAY ** (len(encoder.exits) + 1)
    practices = {
        "frozen": epochs_of_practice(encode, problem, rest, reported),
        "strict_probe": epochs_of_practice(
            encode_and_differentiate, problem, rest, reported, token=token, token_scale=scale
        ),
    }
    theirs: dict[str, list[float]] = {name: [] for name in practices}
    ours: list[float] = []
    encoded: list[float] = []
    turns = {int(epoch) for epoch in np.linspace(0, epochs - 1, min(runs, epochs))}
    difference = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(epochs):
            for name, practice in practices.items():
                started = time.process_time()
                head, _ = next(practice)
                theirs[name].append(time.process_time() - started)
                if name == "frozen":
                    difference = max(difference, float((head.weight - next(from_kept)[0].weight).detach().abs().max()))
            if epoch in turns:
                started = time.process_time()
                run_ours(Path(folder) / str(epoch))
                ours.append(time.process_time() - started)
                encoded[-1] -= started
    seconds = {name: mean(of_epoch) * EPOCHS for name, of_epoch in theirs.items()}
    return {
        "speedup": {name: round(total / mean(ours), 1) for name, total in seconds.items()},
        "seconds_practice": {name: round(total, 1) for name, total in seconds.items()},
        "seconds_ours": round(mean(ours), 2),
        "of_which_encoding": round(mean(encoded), 2),
        "epochs": EPOCHS,
        "measured_epochs": epochs,
        "measured_runs_of_ours": len(ours),
        "largest_weight_difference_with_kept_features": float(f"{difference:.1g}"),
    }


def optimism(encoder: StagedEncoder, task: TaskSpec, dataset: Dataset, draws: int) -> dict[str, object]:
    """Result minus score on untouched windows, in points, over divisions of the same windows: theirs and ours."""
    results: dict[str, list[tuple[float, float]]] = {"practice": [], "practice_last_epoch": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        bank = fill_bank(encoder, dataset.windows, Transform(), Path(folder))
        kept = torch.from_numpy(bank.taps(bank.names[-1])[np.arange(POOL)])
        for seed in range(draws):
            order = np.random.default_rng(seed).permutation(POOL)
            rest, reported, untouched = (np.sort(p) for p in np.split(order, [WINDOWS - REPORTED, WINDOWS]))
            problem = problem_of(task, dataset, rest, reported)

            def features(rows: Indices) -> Tensor:
                return kept[rows]

            best = (-1.0, 0.0)
            for head, on_reported in epochs_of_practice(features, problem, rest, reported, seed):
                if on_reported > best[0]:
                    best = (on_reported, score(head, features, problem, untouched))
            results["practice"].append(best)
            results["practice_last_epoch"].append((on_reported, score(head, features, problem, untouched)))

            exit = chosen_exit(problem, bank)
            on_untouched = head_statistics(problem, exit.heads, bank.taps(exit.name), untouched)
            scores = [float(problem.metric.score(of_seed.sum(0))) for of_seed in on_untouched]
            results["ours"].append((float(per_seed_scores(exit.test_sums, problem.metric).mean()), mean(scores)))
    return {"draws": draws, "untouched_windows": POOL - WINDOWS} | {
        name: in_points(np.array(pairs)) for name, pairs in results.items()
    }


def in_points(pairs: NDArray[np.float64]) -> dict[str, object]:
    """Means of (reported, untouched) pairs and of their difference, with the interval of the mean over the draws."""
    reported, untouched = 100 * pairs.mean(0)
    difference = 100 * (pairs[:, 0] - pairs[:, 1])
    half = 1.96 * difference.std(ddof=1) / math.sqrt(len(pairs))
    return {
        "reported": round(reported, 2),
        "untouched": round(untouched, 2),
        "optimism_points": round(difference.mean(), 2),
        "ci95": [round(difference.mean() - half, 2), round(difference.mean() + half, 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--measured-epochs", type=int, default=3, help=f"epochs of theirs that are timed, up to {EPOCHS}"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of ours that are timed")
    parser.add_argument("--draws", type=int, default=50, help="divisions of the windows for the optimism")
    given = parser.parse_args()
    torch.set_num_threads(1)
    name = SHIPPED if packaged_weights(SHIPPED) else "wavesfm"
    weights = "pretrained" if name == SHIPPED else "random"
    encoder = freeze(load_encoder(name, weights=weights, seed=0))
    task, pool = windows_and_labels()
    with threadpool_limits(1):
        timing = time_to_result(encoder, task, first_windows(pool, WINDOWS), given.measured_epochs, given.runs)
        optimistic = optimism(encoder, task, pool, given.draws)
    result = {
        "benchmark": "probing_practice",
        "target_speedup": 20,
        **timing,
        "clock": "CPU seconds of one thread",
        "optimism": optimistic,
        "encoder": f"{name}, {weights} weights",
        "exits": len(encoder.exits),
        "seeds": SEEDS,
        "strengths": len(STRENGTHS["logistic"]),
        "windows": WINDOWS,
        "reported_windows": REPORTED,
        "classes": len(pool.label_names),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
