"""How often 95% intervals of a gain hold the truth where seeds share a pool of windows, by several ways to count the seeds in.

Seeds redraw train and validation from one pool, so that their heads are more alike than heads of new pools would be. Nadeau and Bengio
("Inference for the generalization error", Machine Learning 2003) widen the variance S² over J resampled splits from S²/J to
S² (1/J + n_test/n_train), where each split has a test set of its own. Here the test set is fixed and it is the training windows that are
drawn from a finite pool: to first order a score is a mean over training windows, and the same argument with the parts changed gives
S² (1/J + n_train/n_left). But S² also holds what chance among test windows adds, which the resampled windows count already.

* ``crossed``: windows and seeds drawn with replacement, independently (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007).
* ``n_test/n_train``, ``n_train/n_left``: the same, with the seeds' part stretched to either variance.
* ``apart``: what offramp does: S² less the chance among windows, times (1/J + n_train/n_left), beside the resampled windows.
* ``apart, t``: the same with a t distribution of J - 1 degrees of freedom instead of a normal one.

python study/seed_coverage.py [--trials 1000]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.scoring.resampling import Resamples, interval

Floats = NDArray[np.float64]
SEEDS, CLASSES, SHALLOW, DEEP = 5, 4, 12, 32
RIDGE = 1e-2
RESAMPLES = 1000


@dataclass(frozen=True)
class Setting:
    """One kind of data: windows outside the test set, of them trained on in each draw, test windows, windows per group."""

    name: str
    pool: int
    train: int
    test: int
    group: int = 1


SETTINGS = (
    Setting("few windows: 225 of 300 trained on", 300, 225, 500),
    Setting("many windows: 2,250 of 3,000 trained on", 3000, 2250, 1000),
    Setting("few labels: 100 of 3,000 trained on", 3000, 100, 500),
    Setting("few windows, large test set: 75 of 100 trained on", 100, 75, 4000),
    Setting("groups: 30 of 40 groups of 20 trained on, 20 test groups", 800, 600, 400, 20),
)
METHODS = ("crossed", "n_test/n_train", "n_train/n_left", "apart", "apart, t")


def draws(right: Floats, setting: Setting, rng: np.random.Generator) -> dict[str, Floats]:
    """Draws of the mean gain ``(B,)`` by every method, from the gains of each seed in each unit ``(S, U)``."""
    units = right.shape[1]
    left = setting.train / (setting.pool - setting.train)
    drawn = Resamples.draw(units, SEEDS, int(rng.integers(2**31)), RESAMPLES, left)
    per_seed, measured = drawn.units @ right.T, right.mean(1)
    crossed = rng.multinomial(SEEDS, np.full(SEEDS, 1 / SEEDS), size=RESAMPLES) / SEEDS

    def stretched(ratio: float) -> Floats:
        factor = np.sqrt((1 / SEEDS + ratio) * SEEDS**2 / (SEEDS - 1))
        return np.asarray(((1 / SEEDS + factor * (crossed - 1 / SEEDS)) * per_seed).sum(1))

    apart, over_units = drawn.combine(per_seed, measured), per_seed.mean(1)
    heavier = np.sqrt((SEEDS - 1) / rng.chisquare(SEEDS - 1, RESAMPLES))
    found = (
        (crossed * per_seed).sum(1),
        stretched(setting.test / setting.train),
        stretched(left),
        apart,
        over_units + heavier * (apart - over_units),
    )
    return dict(zip(METHODS, found, strict=True))


def trial(setting: Setting, rng: np.random.Generator) -> tuple[float, dict[str, tuple[float, float]]]:
    """The measured gain of a shallow over a deep exit, and its interval by every method."""
    means = np.random.default_rng(0).normal(0, 0.55, (CLASSES, DEEP))
    labels, features = _draw(setting, means, setting.pool, rng)
    test_labels, test_features = _draw(setting, means, setting.test, rng)
    groups = np.arange(setting.pool) // setting.group
    right = np.zeros((2, SEEDS, setting.test))
    for seed in range(SEEDS):
        taken = rng.permutation(setting.pool // setting.group)[: setting.train // setting.group]
        rows = np.isin(groups, taken)
        for number, width in enumerate((SHALLOW, DEEP)):
            weights = _ridge(features[rows, :width], labels[rows])
            right[number, seed] = (_with_bias(test_features[:, :width]) @ weights).argmax(1) == test_labels
    gains = (right[0] - right[1]).reshape(SEEDS, -1, setting.group).mean(2)
    return float(gains.mean()), {name: interval(found) for name, found in draws(gains, setting, rng).items()}


def coverage(setting: Setting, trials: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Per method the share of intervals that hold the mean gain over all trials, and their mean width."""
    rng = np.random.default_rng(seed)
    measured, found = zip(*(trial(setting, rng) for _ in range(trials)), strict=True)
    truth = float(np.mean(measured))
    result = {}
    for name in METHODS:
        ends = np.array([of_trial[name] for of_trial in found])
        holds = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        result[name] = float(holds.mean()), float((ends[:, 1] - ends[:, 0]).mean())
    return result


def _draw(setting: Setting, means: Floats, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Labels and features of new windows; windows of a group share an offset."""
    labels = rng.integers(CLASSES, size=count)
    features = means[labels] + rng.normal(0, 1.5, (count, DEEP))
    if setting.group > 1:
        features += np.repeat(rng.normal(0, 0.5, (count // setting.group, DEEP)), setting.group, axis=0)
    return labels, features


def _with_bias(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _ridge(features: Floats, labels: NDArray[np.int64]) -> Floats:
    """Weights ``(width + 1, classes)`` of a least-squares classifier."""
    rows = _with_bias(features)
    gram = rows.T @ rows + RIDGE * len(rows) * np.eye(rows.shape[1])
    return np.asarray(np.linalg.solve(gram, rows.T @ np.eye(CLASSES)[labels]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    arguments = parser.parse_args()
    print("| data | " + " | ".join(METHODS) + " |")
    print("|---|" + "---|" * len(METHODS))
    for setting in SETTINGS:
        found = coverage(setting, arguments.trials)
        cells = [f"{share:.1%}, width {100 * width:.1f}" for share, width in found.values()]
        print(f"| {setting.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
