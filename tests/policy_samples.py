"""Policies of every criterion, and encoders whose outputs are known, for the tests of policies and of their execution."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.policies import CRITERIA, Policy
from offramp.policies.learning import learned_parameters
from offramp.policies.simulation import certainties

PAIRS = [(name, kind) for name, criterion in CRITERIA.items() for kind in criterion.kinds]
"""Every criterion with every kind of task that it is for."""


def drawn_policy(
    criterion: str, kind: Any, exits: tuple[str, ...], outputs: dict[str, np.ndarray], rng: np.random.Generator
) -> Policy:
    """Learned parameters from made-up targets; thresholds that let a random share of the windows leave at each exit.

    Certainties that lie together are not parted: a threshold is in the middle of a gap.
    """
    count = len(outputs[exits[0]])
    ones = (1.0,) * len(exits)
    classes = kind == "classification"
    temperatures = tuple(rng.uniform(0.5, 2, len(exits)).tolist()) if classes else ones
    parameters: dict[str, Any] = {}
    if CRITERIA[criterion].learned:
        last = outputs[exits[-1]]
        finite = {exit: np.nan_to_num(outputs[exit], nan=0.0, posinf=3.0, neginf=-3.0) for exit in exits}
        shift = rng.normal(size=last.shape).astype(np.float32)
        wanted = finite[exits[-1]] + shift
        parameters = learned_parameters(
            criterion, kind, exits, finite, wanted.argmax(1) if classes else wanted, temperatures
        )
    policy = Policy(kind, criterion, exits, (np.inf,) * (len(exits) - 1), temperatures, temperatures, parameters)
    with np.errstate(invalid="ignore"):
        certain = certainties(policy, outputs)[:-1]
    thresholds = []
    for row in certain:
        values = np.unique(row[np.isfinite(row)]).astype(np.float64)
        middle = (values[1:] + values[:-1]) / 2
        share = rng.uniform(0.2, 1)
        thresholds.append(float(np.quantile(middle, share, method="nearest")) if len(middle) else np.inf)
    reject = float(rng.uniform(0.2, 0.6)) if classes and rng.random() < 0.5 and count else None
    return Policy(kind, criterion, exits, tuple(thresholds), temperatures, temperatures, parameters, reject)


class Scripted(StagedEncoder):
    """Its input ``(N, exits, outputs)`` says what each exit gives; heads need do nothing. It counts what runs."""

    architecture = "scripted"

    def __init__(self, depth: int = 4, width: int = 3) -> None:
        super().__init__()
        self.config = {"depth": depth, "width": width}
        self.input = InputSpec(("batch", "exit", "output"), (depth, width), (depth, width))
        self.stages = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.exits = self.measure_exits([f"e{i}" for i in range(depth)], [width] * depth)
        self.advanced: list[tuple[int, int]] = []
        """Stage, and windows that it ran for."""
        self.pooled: list[tuple[int, int]] = []

    def begin(self, x: Tensor) -> State:
        return x, torch.arange(len(x))

    def advance(self, stage: int, state: State) -> State:
        self.advanced.append((stage, len(state[0])))
        return state

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        self.pooled.append((exit, len(state[0])))
        return state[0][:, exit]

    def heads(self) -> dict[str, nn.Module]:
        return {exit.name: nn.Identity() for exit in self.exits}
