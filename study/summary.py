"""From stored scores to the numbers of the page. An exit is always chosen on the labels that were fitted on, never on the test set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist

import numpy as np
from intervals import Estimate, by_unit, crossed_bootstrap
from numpy.typing import NDArray
from plan import COUNTED, LABEL_SEEDS, PRETRAINED, RANDOM, SHOTS, TASKS, StudyTask

from offramp.schema.results import Gain
from offramp.scoring.resampling import holm

TOLERANCE = 0.01
"""An exit is non-inferior if it is at most one point of accuracy worse than the full encoder."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One encoder on one task.

    Attributes:
        exits: Names, shallow to deep.
        budgets: Labels per class that were tried.
        groups: int64 ``(M,)`` of the test windows.
        linear: bool ``(E, budgets, label seeds, M)``.
        other: Further probes at the largest budget, bool ``(E, label seeds, M)``.
        held_out: ``(E, budgets, label seeds)``, accuracy on labels that were held out.
        held_out_right: bool ``(E, label seeds, n)`` at the largest budget.
        held_out_groups: int64 ``(label seeds, n)``.
    """

    exits: tuple[str, ...]
    budgets: tuple[int, ...]
    groups: NDArray[np.int64]
    linear: Bools
    other: dict[str, Bools]
    held_out: Floats
    held_out_right: Bools
    held_out_groups: NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what ``probing.score`` wrote."""
        with np.load(path) as stored:
            return cls(
                tuple(stored["exits"].tolist()),
                tuple(stored["budgets"].tolist()),
                stored["groups"],
                stored["linear"],
                {name: stored[name] for name in ("neighbour", "equal_width") if name in stored},
                stored["held_out"],
                stored["held_out_right"],
                stored["held_out_groups"],
            )

    def chosen(self, budget: int) -> NDArray[np.int64]:
        """Index of the exit with the best held-out accuracy at a label budget, per label seed; the shallowest of equals.

        With one label per class nothing can be held out: what ten labels choose stands in.
        """
        return np.asarray(self.held_out[:, self.budgets.index(max(budget, 10))].argmax(0))

    def at(self, exits: NDArray[np.int64] | int, budget: int, probe: str = "linear") -> Bools:
        """Correctness ``(label seeds, M)`` at one exit per label seed."""
        right = self.linear[:, self.budgets.index(budget)] if probe == "linear" else self.other[probe]
        return np.asarray(right[exits, np.arange(LABEL_SEEDS)])

    def at_chosen(self, budget: int, probe: str = "linear") -> Bools:
        """At the chosen exits; other probes than the linear one have the largest budget alone."""
        return self.at(self.chosen(budget), budget, probe)

    def at_full(self, budget: int, probe: str = "linear") -> Bools:
        """At the last exit."""
        return self.at(-1, budget, probe)

    def non_inferior(self, in_order: bool = False) -> NDArray[np.int64]:
        """Shallowest exit per label seed that is non-inferior, at the largest budget and by held-out windows alone.

        An exit is if a lower confidence bound of its paired difference to the full encoder is above minus the tolerance: at 97.5% one-sided, Bonferroni-corrected
        for the number of exits; or, ``in_order``, from the last exit towards the input as long as it holds, which needs no
        correction (a fixed sequence of tests) but never gets past an exit that is worse.
        """
        quantile = NormalDist().inv_cdf(1 - 0.025 / (1 if in_order else len(self.exits) - 1))
        found = np.full(LABEL_SEEDS, len(self.exits) - 1)
        for seed in range(LABEL_SEEDS):
            full = self.held_out_right[-1, seed].astype(float)
            for exit_ in range(len(self.exits) - 2, -1, -1):
                sums, sizes = by_unit(self.held_out_right[exit_, seed] - full, self.held_out_groups[seed])
                mean = sums.sum() / sizes.sum()
                error = np.sqrt(np.square(sums - mean * sizes).sum()) / sizes.sum()
                if mean - quantile * error >= -TOLERANCE:
                    found[seed] = exit_
                elif in_order:
                    break
        return found


@dataclass(frozen=True)
class Saving:
    """What leaving at the non-inferior exits saves at 500 labels per class.

    Attributes:
        exits: Names that the pretraining runs and label seeds chose, most frequent first.
        macs: Mean share of MACs saved.
        macs_in_order: The same by the fixed sequence of tests.
        time: Mean share of measured time saved.
        difference: Test accuracy there minus that of the full encoder.
    """

    exits: tuple[str, ...]
    macs: float
    macs_in_order: float
    time: float
    difference: Estimate


class Study:
    """All stored numbers of a study folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._scores: dict[tuple[str, str], Scores] = {}

    def scores(self, name: str, task: str) -> Scores:
        """Of an encoder on a task."""
        key = name, task
        if key not in self._scores:
            self._scores[key] = Scores.load(self.runs / "scores" / f"{name}-{task}.npz")
        return self._scores[key]

    @cached_property
    def costs(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """MACs, milliseconds and joules by input shape and exit."""
        return dict(json.loads((self.runs / "costs.json").read_text()))

    def macs(self, task: StudyTask) -> Floats:
        """MACs of every exit."""
        return self._cost(task, "macs")

    def milliseconds(self, task: StudyTask) -> Floats:
        """Measured time of every exit."""
        return self._cost(task, "milliseconds")

    def _cost(self, task: StudyTask, what: str) -> Floats:
        exits = self.costs[f"2x{task.spec.antennas}x{task.spec.samples}"].values()
        return np.array([costs[what] for costs in exits], dtype=np.float64)

    def by_exit(self, name: str, task: str, budget: int) -> Floats:
        """Accuracy of every exit, mean over label seeds and test windows, ``(E,)``."""
        scores = self.scores(name, task)
        return np.asarray(scores.linear[:, scores.budgets.index(budget)].mean((1, 2)))

    def by_hand(self, task: str, budget: int) -> float:
        """Accuracy of the exit before the encoder, which is the same whatever the encoder."""
        return float(self.by_exit(PRETRAINED[0], task, budget)[0])

    def stack(self, names: tuple[str, ...], task: str, budget: int, full: bool = False, probe: str = "linear") -> Bools:
        """Correctness ``(encoders, label seeds, M)`` at each one's chosen exits, or at the last."""
        each = [self.scores(name, task) for name in names]
        return np.stack([one.at_full(budget, probe) if full else one.at_chosen(budget, probe) for one in each])

    def over_random(self, task: str, budget: int, probe: str = "linear") -> Estimate:
        """Pretrained minus random, each at the exits that it chose."""
        pretrained, random = (self.stack(names, task, budget, probe=probe) for names in (PRETRAINED, RANDOM))
        groups = self.scores(PRETRAINED[0], task).groups
        return crossed_bootstrap(pretrained.astype(float) - random, groups)

    def over_full(self, task: str, budget: int, probe: str = "linear", names: tuple[str, ...] = PRETRAINED) -> Estimate:
        """Chosen exits minus the last exit."""
        chosen = self.stack(names, task, budget, probe=probe).astype(float)
        return crossed_bootstrap(
            chosen - self.stack(names, task, budget, full=True, probe=probe), self.scores(names[0], task).groups
        )

    def gains_that_hold(self, budget: int) -> dict[str, bool]:
        """Tasks whose gain over the full encoder is above zero after Holm's correction over the tasks that count."""
        estimates = [self.over_full(task.name, budget) for task in COUNTED]
        gains = [Gain(mean=one.mean, ci95=(one.low, one.high), unit="group", p_value=one.p_value) for one in estimates]
        return {task.name: gain.significant for task, gain in zip(COUNTED, holm(gains), strict=True)}

    def depth(self, task: StudyTask, budget: int) -> float:
        """Mean share of the full encoder's MACs that the chosen exits need."""
        share = self.macs(task) / self.macs(task)[-1]
        return float(np.mean([share[self.scores(name, task.name).chosen(budget)] for name in PRETRAINED]))

    def exits_chosen(self, task: str, budget: int) -> tuple[str, ...]:
        """Names of the chosen exits over pretraining runs and label seeds, most frequent first."""
        each = [self.scores(name, task) for name in PRETRAINED]
        return _by_frequency([one.exits[index] for one in each for index in one.chosen(budget)])

    def saving(self, task: StudyTask) -> Saving:
        """At the shallowest non-inferior exits."""
        budget, each = SHOTS[-1], [self.scores(name, task.name) for name in PRETRAINED]
        picks, in_order = (np.stack([one.non_inferior(way) for one in each]) for way in (False, True))
        left = np.stack([one.at(pick, budget) for one, pick in zip(each, picks, strict=True)])
        full = np.stack([one.at_full(budget) for one in each])
        macs, time = self.macs(task), self.milliseconds(task)
        return Saving(
            _by_frequency([each[0].exits[index] for index in picks.ravel()]),
            float(1 - (macs[picks] / macs[-1]).mean()),
            float(1 - (macs[in_order] / macs[-1]).mean()),
            float(1 - (time[picks] / time[-1]).mean()),
            crossed_bootstrap(left.astype(float) - full, each[0].groups),
        )

    def scratch(self, task: str) -> Floats:
        """Accuracy of the truncated networks trained from scratch, ``(exits, budgets)``."""
        with np.load(self.runs / "scratch" / f"{task}.npz") as stored:
            return np.asarray(stored["right"].mean((2, 3)))

    def regrets(self, budget: int) -> dict[str, Floats]:
        """Criterion to (regret, Kendall's tau) per task, mean over pretraining runs, ``(tasks, 2)``."""
        per_task = []
        for task in TASKS:
            files = [self.runs / "criteria" / f"{name}-{task.name}.json" for name in PRETRAINED]
            per_task.append([json.loads(file.read_text())[str(budget)] for file in files])
        return {
            name: np.array([np.mean([run[name] for run in runs], axis=0) for runs in per_task])
            for name in per_task[0][0]
        }


def _by_frequency(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names), key=lambda name: (-names.count(name), name)))
