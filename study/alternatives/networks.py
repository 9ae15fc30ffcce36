"""The networks that are compared: every exit, and what a user would build instead, each as an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alternatives.distillation import FROM_SCRATCH, RECOVERY, Lesson, Taught, narrower, teach, untrained_like
from alternatives.pruning import Loss, prune
from alternatives.records import Method
from offramp.bundle import BundleTask
from offramp.encoders.view import TaskView
from offramp.errors import EncoderError
from offramp.export.folding import fold_batchnorm
from offramp.export.graph import cut_graphs, onnx_bytes
from offramp.export.int8 import CALIBRATION_WINDOWS, quantise
from offramp.export.modules import EveryExit
from offramp.heads.modules import head_module

METHODS: tuple[Method, ...] = ("int8", "pruned", "distilled")
PRUNED = (0.5, 0.75)
"""Fractions of each width that are taken away."""
NARROW = (0.5, 0.25)
"""Fractions of each width that distilled networks have."""
IMPORTANCE_WINDOWS = 256


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network to be scored and timed: see :class:`alternatives.records.Network`."""

    name: str
    method: Method
    exit: str
    content: bytes
    size: float | None = None
    epochs: int | None = None
    parameters: int | None = None


@dataclass(frozen=True, eq=False)
class Workshop:
    """What networks for one task are built from.

    Attributes:
        view: The bundle's encoder, frozen, as the task sees it; it is left as it was.
        task: The bundle's task.
        lesson: What networks learn from; its teacher is full depth.
        epochs: Most epochs of training.
    """

    view: TaskView
    task: BundleTask
    lesson: Lesson
    epochs: int

    @property
    def full(self) -> str:
        """The last exit."""
        return self.view.exits[-1].name

    def ends(self) -> list[str]:
        """Where alternatives end: at full depth, alone, and at the chosen exit, combined."""
        return list(dict.fromkeys((self.full, self.task.exit)))

    def plain(self, exit: str) -> nn.Sequential:
        """A copy of the network that the exit is."""
        truncated = deepcopy(self.view.truncate(exit))
        return nn.Sequential(truncated, head_module(self.task.heads[exit])).eval()

    def graph(self, network: nn.Module) -> bytes:
        """As ONNX, BatchNorm folded."""
        return onnx_bytes(fold_batchnorm(network).requires_grad_(False), self.view.shape, ["outputs"])


def every_exit_graph(view: TaskView, task: BundleTask) -> bytes:
    """All exits of a task in one graph, an output each by its name."""
    heads = {name: head_module(head) for name, head in task.heads.items()}
    network = EveryExit(fold_batchnorm(view), heads).requires_grad_(False)
    return onnx_bytes(network, view.shape, [exit.name for exit in view.exits])


def exit_candidates(view: TaskView, task: BundleTask, everything: bytes) -> list[Candidate]:
    """All exits as they are, in order of depth."""
    names = [exit.name for exit in view.exits]
    heads = {name: sum(w.size + b.size for w, b in task.heads[name].layers) for name in names}
    return [
        Candidate(f"exit {name}", "exit", name, content, parameters=view.exits[number].params + heads[name])
        for number, (name, content) in enumerate(
            zip(names, cut_graphs(everything, [[name] for name in names]), strict=True)
        )
    ]


def build(
    workshop: Workshop, exits: Sequence[Candidate], methods: Sequence[str], on_note: Callable[[str], None]
) -> Iterator[Candidate]:
    """The alternatives of some methods, one after another; what cannot be built is said to ``on_note``.

    Pruned and distilled networks are trained on the task. So that this is not taken for a merit of pruning, the chosen exit
    trained in the same way comes with them as ``tuned``.
    """
    if "int8" in methods:
        yield from _quantised(workshop, exits)
    for method, make in (("pruned", _pruned), ("distilled", _distilled)):
        if method in methods:
            try:
                yield from make(workshop)
            except EncoderError as error:
                on_note(f"{method}: left out, {error}")
    if {"pruned", "distilled"} & set(methods):
        taught = teach(workshop.plain(workshop.task.exit), workshop.lesson, workshop.epochs, RECOVERY)
        yield _trained(workshop, "tuned", workshop.task.exit, None, taught)


def count(workshop: Workshop, methods: Sequence[str]) -> int:
    """How many networks :func:`build` makes if none is left out."""
    sizes = {"int8": 1, "pruned": len(PRUNED), "distilled": len(NARROW)}
    trained = bool({"pruned", "distilled"} & set(methods))
    return len(workshop.ends()) * sum(sizes[method] for method in methods) + trained


def _quantised(workshop: Workshop, exits: Sequence[Candidate]) -> Iterator[Candidate]:
    train = workshop.lesson.train
    count = min(CALIBRATION_WINDOWS, len(train))
    windows = workshop.lesson.inputs(np.random.default_rng(0).choice(train, count, replace=False))
    for end in workshop.ends():
        plain = next(exit for exit in exits if exit.exit == end)
        content = quantise(plain.content, windows)
        yield Candidate(_name(workshop, "int8", end, None), "int8", end, content, parameters=plain.parameters)


def _pruned(workshop: Workshop) -> Iterator[Candidate]:
    train = workshop.lesson.train
    example = torch.from_numpy(workshop.lesson.inputs(train[:2]))
    loss = _importance_loss(workshop, np.random.default_rng(1).permutation(train)[:IMPORTANCE_WINDOWS])
    for end in workshop.ends():
        seen: set[int] = set()
        for fraction in PRUNED:
            network = prune(workshop.plain(end), fraction, example, loss)
            if _is_new(network, seen):
                taught = teach(network, workshop.lesson, workshop.epochs, RECOVERY)
                yield _trained(workshop, "pruned", end, fraction, taught)


def _importance_loss(workshop: Workshop, indices: NDArray[np.int64]) -> Loss:
    windows = torch.from_numpy(workshop.lesson.inputs(indices))
    return lambda network: workshop.lesson.loss(network(windows), indices)


def _distilled(workshop: Workshop) -> Iterator[Candidate]:
    for end in workshop.ends():
        seen: set[int] = set()
        for fraction in NARROW:
            plain = narrower(workshop.view.encoder, fraction).eval()
            small = TaskView(plain, workshop.view.shape, workshop.view.poolings, workshop.view.side)
            head = untrained_like(workshop.task.heads[end], small.tap_shapes[end][-1])
            network = nn.Sequential(small.truncate(end), head)
            if _is_new(network, seen):
                taught = teach(network, workshop.lesson, workshop.epochs, FROM_SCRATCH)
                yield _trained(workshop, "distilled", end, fraction, taught)


def _is_new(network: nn.Module, seen: set[int]) -> bool:
    """Whether no network of this size was made yet: narrow widths have a floor."""
    size = _parameters(network)
    known = size in seen
    seen.add(size)
    return not known


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _trained(workshop: Workshop, method: Method, end: str, size: float | None, taught: Taught) -> Candidate:
    return Candidate(
        _name(workshop, method, end, size),
        method,
        end,
        workshop.graph(taught.network),
        size,
        taught.epoch,
        _parameters(taught.network),
    )


def _name(workshop: Workshop, method: Method, end: str, size: float | None) -> str:
    """``pruned by 50%``, or ``exit stage2.0 + distilled to 25%``."""
    alone = method if size is None else f"{method} {'by' if method == 'pruned' else 'to'} {size:.0%}"
    return f"exit {end} + {alone}" if end != workshop.full or method == "tuned" else alone
