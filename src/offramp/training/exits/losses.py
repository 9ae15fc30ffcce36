"""Losses of one exit's outputs: against the targets, and against what the last exit says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Goal:
    """What the outputs of a batch should be.

    Attributes:
        targets: int64 ``(n,)`` classes, or float32 ``(n, dimensions)`` standardised values.
        class_weights: float32 ``(classes,)`` that each window's loss is multiplied by; None for 1.
    """

    targets: Tensor
    class_weights: Tensor | None = None


def task_loss(outputs: Tensor, goal: Goal) -> Tensor:
    """Mean cross-entropy of logits ``(n, classes)``, natural logarithm, or mean squared error of values ``(n, dimensions)``."""
    if goal.targets.is_floating_point():
        return functional.mse_loss(outputs, goal.targets)
    losses = functional.cross_entropy(outputs, goal.targets, reduction="none")
    # not cross_entropy's own weights, which divide by the weights of the batch instead of its size
    return losses.mean() if goal.class_weights is None else (losses * goal.class_weights[goal.targets]).mean()


def distillation_loss(outputs: Tensor, teacher: Tensor, temperature: float, classes: bool) -> Tensor:
    """How far outputs are from a teacher's, through which no gradient flows.

    Args:
        outputs: ``(n, classes)`` logits or ``(n, dimensions)`` values.
        teacher: The same of the teacher.
        temperature: Divides both logits.
        classes: Whether they are logits.

    Returns:
        Mean Kullback-Leibler divergence of the softened answers times the temperature squared, which keeps the gradient's size
        (Hinton et al., arXiv 1503.02531); or mean squared error.
    """
    teacher = teacher.detach()
    if not classes:
        return functional.mse_loss(outputs, teacher)
    ours, theirs = (functional.log_softmax(logits / temperature, dim=1) for logits in (outputs, teacher))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def distilled_losses(outputs: Sequence[Tensor], goal: Goal, share: float, temperature: float) -> list[Tensor]:
    """Loss of every exit: the last one's against the targets, the others' a mixture of that and of distillation from the last.

    Args:
        outputs: Of the exits, in order of depth.
        goal: The targets.
        share: Of distillation in the mixture, 0 to 1.
        temperature: See :func:`distillation_loss`.
    """
    classes = not goal.targets.is_floating_point()
    *shallow, last = outputs
    mixed = [
        (1 - share) * task_loss(exit, goal) + share * distillation_loss(exit, last, temperature, classes)
        for exit in shallow
    ]
    return [*mixed, task_loss(last, goal)]


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Weights ``(classes,)`` that give every class present the same total, 1 on average over the windows."""
    counts = torch.bincount(targets, minlength=classes)
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(targets) / (present * counts.clamp_min(1)), 0.0)
