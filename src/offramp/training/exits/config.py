"""What determines a training for exits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from offramp.errors import TrainingError

Method = Literal[
    "joint", "progressive", "alternating", "two-stage", "self-distillation", "layerskip", "low-rank", "full"
]
Weights = Literal["uniform", "linear", "square-root", "inverse", "macs"]
Order = Literal["shallow-to-deep", "deep-to-shallow"]
Curriculum = Literal["none", "rotational", "gradual"]
ONE_EXIT = ("low-rank", "full")
"""Methods that train up to one exit and give a head to that one alone."""


@dataclass(frozen=True)
class ExitTraining:
    """All that determines a training for exits, beside the encoder and the data.

    Attributes:
        method: How the exits' losses share the steps; all start from the encoder's own weights.

            - ``joint``: all exits at every step (BranchyNet, arXiv 1709.01686; MSDNet, arXiv 1703.09844).
            - ``progressive``: exits join one after another, see ``order``; each new one's weight rises in a warm-up.
            - ``alternating``: odd steps the last exit alone, even steps all (BERxiT, EACL 2021).
            - ``two-stage``: encoder and last head in the first half, then the other heads on the frozen encoder (DeeBERT, arXiv
              2004.12993).
            - ``self-distillation``: shallower exits learn from the last one's answers too (Be Your Own Teacher, arXiv 1905.08094,
              without its hints on features; Phuong and Lampert, ICCV 2019).
            - ``layerskip``: stages are skipped at random, deeper ones more often, and exits of one width share one head (LayerSkip,
              arXiv 2404.16710).
            - ``low-rank``: low-rank adapters up to ``exit``, merged in the end (LoRA, arXiv 2106.09685).
            - ``full``: all weights up to ``exit``.
        weights: Of the exits' losses: ``uniform``; ``linear``, ``square-root`` and ``inverse`` in the exit's number from 1; ``macs``,
            in proportion to the MACs up to the exit with its head. They are scaled to sum to 1. ``layerskip`` has its own.
        order: Of ``progressive``.
        exit: Of ``low-rank`` and ``full``: the exit that gets a head, and up to which the encoder learns; the last if None.
        exits: The exits that get heads, for all other methods; all if empty.
        head: ``linear``, or ``mlp`` with one hidden layer.
        steps: Optimiser steps.
        batch: Windows per step; all if there are fewer.
        learning_rate: Peak of a one-cycle cosine with a linear warm-up over the first 5% (of each stage, if ``two-stage``).
        head_learning_rate: The same for the heads; ``learning_rate`` if None.
        weight_decay: Decoupled weight decay of AdamW.
        normalisation: What BatchNorm layers do while training. ``batch``: normalise by the batch and go on averaging, as when they were
            pretrained. ``stored``: normalise by the averages they came with, which stay; so do all with ``low-rank``, and the frozen
            encoder in the second stage of ``two-stage``.
        balanced: Give every class the same total weight in the loss.
        distillation: Share of the last exit's answers, against the labels, in what shallower exits learn from; ``self-distillation``.
        temperature: Of the softmax that the last exit teaches with.
        rank: Of the adapters of ``low-rank``.
        layer_dropout: Probability that ``layerskip`` skips the last stage for a window.
        curriculum: Of ``layerskip``: ``none``, all exits at every step; ``rotational``, every ``rotation``-th exit in turn;
            ``gradual``, from the last exit to the first over the first half of the steps. The last exit is always asked.
        rotation: Of the rotational curriculum.
        early_exit_scale: Of ``layerskip``: how much the losses before the last exit weigh.
        seed: Of heads, minibatches, and whatever else is drawn.
    """

    method: Method = "joint"
    weights: Weights = "uniform"
    order: Order = "shallow-to-deep"
    exit: str | None = None
    exits: tuple[str, ...] = ()
    head: Literal["linear", "mlp"] = "linear"
    steps: int = 300
    batch: int = 64
    learning_rate: float = 1e-3
    head_learning_rate: float | None = None
    weight_decay: float = 1e-2
    normalisation: Literal["batch", "stored"] = "batch"
    balanced: bool = False
    distillation: float = 0.5
    temperature: float = 3.0
    rank: int = 8
    layer_dropout: float = 0.1
    curriculum: Curriculum = "rotational"
    rotation: int = 2
    early_exit_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "exits", tuple(self.exits))
        hints = get_type_hints(type(self))
        for field in fields(self):
            choices = [choice for choice in get_args(hints[field.name]) if isinstance(choice, str)]
            value = getattr(self, field.name)
            if choices and value not in choices:
                raise TrainingError(f"{_option(field.name)} {value!r}: choose one of {', '.join(choices)}")
        for name, holds, advice in self._rules():
            if not holds:
                raise TrainingError(f"{_option(name)} {getattr(self, name)!r}: {advice}")

    def _rules(self) -> tuple[tuple[str, Any, str], ...]:
        return (
            ("steps", self.steps >= 1, "give 1 or more"),
            ("batch", self.batch >= 1, "give 1 or more"),
            ("rank", self.rank >= 1, "give 1 or more"),
            ("rotation", self.rotation >= 1, "give 1 or more"),
            ("seed", self.seed >= 0, "give 0 or more"),
            ("learning_rate", 0 < self.learning_rate < float("inf"), "give a positive number"),
            (
                "head_learning_rate",
                self.head_learning_rate is None or 0 < self.head_learning_rate < float("inf"),
                "give a positive number",
            ),
            ("weight_decay", 0 <= self.weight_decay < float("inf"), "give 0 or more"),
            ("temperature", 0 < self.temperature < float("inf"), "give a positive number"),
            ("early_exit_scale", 0 <= self.early_exit_scale < float("inf"), "give 0 or more"),
            ("distillation", 0 <= self.distillation <= 1, "give 0 to 1"),
            ("layer_dropout", 0 <= self.layer_dropout < 1, "give 0 or more, below 1"),
            ("steps", self.method != "two-stage" or self.steps >= 2, "two-stage takes 2 or more"),
            ("exit", self.exit is None or self.method in ONE_EXIT, f"is for the methods {' and '.join(ONE_EXIT)}"),
            ("exits", not self.exits or self.method not in ONE_EXIT, f"{self.method} has one head: give exit"),
        )


def _option(name: str) -> str:
    return name.replace("_", " ")
