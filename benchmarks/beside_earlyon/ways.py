"""The task, and the two ways of answering it: heads and policies of ours, and those of `earlyon`, counted alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import theirs
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.costs import exit_costs
from offramp.encoders.base import StagedEncoder
from offramp.experiment.features import FeatureBank
from offramp.experiment.policies.samples import final_sample, validation_sample
from offramp.experiment.prepare import Prepared, load, prepare
from offramp.heads.fit import FittedExit, Problem, fit_exit
from offramp.heads.modules import head_module
from offramp.policies.costs import CascadeCosts
from offramp.policies.policy import Policy
from offramp.policies.search import Searcher
from offramp.policies.selection import non_inferior
from offramp.schema.suite import DEFAULT_SUITE, load_suite
from offramp.scoring.resampling import Resamples

TASK, TOLERANCE = "modulation", "2%"
"""Of the embedded suite, and its tolerance for the fixed exit."""

Indices = NDArray[np.int64]
Right = NDArray[np.bool_]
Answered = tuple[Right, NDArray[np.float64]]
"""Which test windows of one seed are right, and the MACs of each, both ``(N,)``."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a way of answering does to the test windows of every seed.

    Attributes:
        right: ``(S, N)``.
        macs: ``(S, N)``.
    """

    right: Right
    macs: NDArray[np.float64]

    @classmethod
    def of(cls, seeds: Sequence[Answered]) -> Outcome:
        return cls(np.stack([right for right, _ in seeds]), np.stack([macs for _, macs in seeds]))

    def row(self, full: float) -> dict[str, float]:
        mean = float(self.macs.mean())
        return {
            "accuracy": round(float(self.right.mean()), 4),
            "mean_macs": round(mean),
            "of_full": round(mean / full, 3),
        }


class Task:
    """The task, with windows as tensors."""

    def __init__(self, seeds: int) -> None:
        suite = load_suite(DEFAULT_SUITE)
        suite = replace(suite, suite=suite.suite.model_copy(update={"seeds": suite.suite.seeds[:seeds]}))
        self.encoder: StagedEncoder = load(suite, "cpu")
        spec = next(task for task in suite.tasks if task.name == TASK)
        self.prepared: Prepared = prepare(spec, suite, self.encoder)
        self.problem: Problem = self.prepared.problem
        self.shape, self.classes = self.prepared.input_shape, self.problem.outputs
        self.names = [exit.name for exit in self.encoder.exits]
        self.test = self.problem.split.test

    def windows(self, indices: Indices) -> Tensor:
        return torch.from_numpy(self.prepared.transform(self.prepared.dataset.windows.read(indices)))

    def labels(self, indices: Indices) -> Tensor:
        return torch.from_numpy(self.problem.dataset.targets[indices])

    def loader(self, indices: Indices, shuffle: bool = False) -> theirs.Loader:
        return theirs.loader(self.windows(indices), self.labels(indices), shuffle)

    def folds(self, seed: int) -> tuple[Indices, Indices]:
        return self.problem.split.draws[seed].folds[0]

    def costs(self, heads: Mapping[str, nn.Module]) -> CascadeCosts:
        """MACs up to each exit and of each head."""
        return CascadeCosts.of_exits(exit_costs(self.encoder, self.shape, heads, measure=False).values())


class Ours:
    """Heads of one kind, for all exits and seeds."""

    def __init__(self, task: Task, bank: FeatureBank, kind: str) -> None:
        spec = task.problem.task
        head = spec.head.model_copy(update={"kind": kind})
        self.task, self.taps = task, bank.taps
        self.problem = replace(task.problem, task=spec.model_copy(update={"head": head}))
        draws = task.problem.split.draws
        started, fitted = time.process_time(), []
        for seed, draw in enumerate(draws):  # one by one, for the time that one takes
            fitted.append([fit_exit(self.problem, name, bank.taps(name), [draw]) for name in task.names])
            if seed == 0:
                self.seconds_of_one = time.process_time() - started
        self.fitted = [_joined([of_seed[index] for of_seed in fitted]) for index in range(len(task.names))]
        self.heads = [
            {each.name: head_module(each.heads[seed]).eval().requires_grad_(False) for each in self.fitted}
            for seed in range(len(draws))
        ]
        self.costs = task.costs(self.heads[0])
        self.targets = self.problem.dataset.targets[task.test]
        units = self.problem.test_units
        self.tests = [
            final_sample(self.problem, self.fitted, bank.taps, seed, task.test, units) for seed in range(len(draws))
        ]

    def fixed_exit(self) -> int:
        """By the suite's rule, on validation."""
        problem = self.problem
        resamples = Resamples.draw(problem.val_units.count, len(problem.split.draws), 0)
        return non_inferior([each.val_sums for each in self.fitted], problem.metric, resamples, TOLERANCE).chosen

    def policies(self, budgets: Sequence[Sequence[float]]) -> list[list[Policy]]:
        """The best confidence policy on validation, by seed and budget; every seed has budgets of its own."""
        policies = []
        for seed, of_seed in enumerate(budgets):
            windows = validation_sample(self.problem, self.fitted, self.taps, seed).windows
            found = Searcher(windows, "classification").search(["confidence"], self.costs, of_seed)
            policies.append([each["confidence per exit"].policy for each in found])
        return policies

    def at_exit(self, exit: int) -> Outcome:
        cost = self.costs.fixed()[exit]
        answers = [test.windows.outputs[self.task.names[exit]].argmax(1) for test in self.tests]
        return Outcome.of([(answer == self.targets, np.full(len(answer), cost)) for answer in answers])

    def under(self, policies: Sequence[Policy]) -> Outcome:
        """One policy per seed."""
        seeds = []
        for test, policy in zip(self.tests, policies, strict=True):
            decided = test.decide(policy)
            leaving = self.costs.leaving([self.task.names.index(exit) for exit in policy.exits])
            seeds.append((decided.outputs.argmax(1) == self.targets, leaving[decided.exit]))
        return Outcome.of(seeds)


def _joined(parts: Sequence[FittedExit]) -> FittedExit:
    """One exit's fits of single seeds as one fit of all."""
    return replace(
        parts[0],
        heads=tuple(part.heads[0] for part in parts),
        val_heads=tuple(part.val_heads[0] for part in parts),
        strengths=tuple(part.strengths[0] for part in parts),
        val_sums=np.concatenate([part.val_sums for part in parts]),
        test_sums=np.concatenate([part.test_sums for part in parts]),
    )


class Theirs:
    """`earlyon`'s heads for one seed, and how they decide."""

    def __init__(self, task: Task, full_head: nn.Module, costs: CascadeCosts | None = None) -> None:
        self.model = theirs.wrap(task.encoder, full_head, task.classes, task.shape)
        heads = {
            name: self.model.exit_heads[point.name]
            for name, point in zip(task.names, self.model.config.exit_points, strict=False)
        }
        self.costs = costs or task.costs({**heads, task.names[-1]: full_head})

    def macs(self, left: Indices, enabled: Sequence[bool]) -> NDArray[np.float64]:
        """Of windows that leave at these exits: all heads that are enabled up to there count."""
        asked = np.asarray([*enabled, True])
        cost = np.asarray(self.costs.reach) + np.cumsum(np.asarray(self.costs.consult) * asked)
        macs: NDArray[np.float64] = cost[left]
        return macs

    def mean_macs(self, left: Indices, enabled: Sequence[bool]) -> float:
        return float(self.macs(left, enabled).mean())

    def answers(self, routing: theirs.Routing, known: theirs.HeadLogits) -> Answered:
        model = routing.apply(self.model)
        left, answers = theirs.decide(known, model)
        return answers == known.targets.numpy(), self.macs(left, model.config.enabled_exits)
