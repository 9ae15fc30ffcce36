"""The supervised objective: tell from a tap what the generator drew for the window.

Source of the weights: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses" (arXiv 1705.07115), equations 7
and 10: every quantity has a learned variance, which divides its loss and may not grow for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from offramp.encoders.base import StagedEncoder
from offramp.simulation.views import Drawn
from offramp.training.contrastive import ContrastiveModel
from offramp.training.labels import QUANTITIES
from offramp.training.objective import PretrainingModel


class Readouts(nn.Module):
    """A linear readout of every quantity from one tap, discarded after pretraining.

    Args:
        width: Of the tap.
        labels: Names of the quantities.
    """

    def __init__(self, width: int, labels: Sequence[str]) -> None:
        super().__init__()
        self.sizes = {name: max(1, QUANTITIES[name].classes) for name in labels}
        self.linear = nn.Linear(width, sum(self.sizes.values()))
        self.log_variances = nn.Parameter(torch.zeros(len(self.sizes)))

    def losses(self, tap: Tensor, drawn: Drawn) -> dict[str, Tensor]:
        """Mean loss by quantity over the windows for which it has a meaning, zero where it has none in the whole batch.

        Cross-entropy of a class; of a number, the Huber loss of its standardised value.

        Args:
            tap: ``(N, width)``.
            drawn: Of the same N windows.
        """
        outputs = self.linear(tap).split(list(self.sizes.values()), dim=1)
        return {name: _loss(name, output, drawn) for name, output in zip(self.sizes, outputs, strict=True)}

    def forward(self, tap: Tensor, drawn: Drawn) -> Tensor:
        """The sum of all losses, each weighted by its learned variance."""
        total = tap.new_zeros(())
        for log_variance, (name, loss) in zip(self.log_variances, self.losses(tap, drawn).items(), strict=True):
            share = 1.0 if QUANTITIES[name].classes else 0.5
            weighted = share * torch.exp(-log_variance) * loss + log_variance / 2
            # What no window of the batch has must not move its variance either.
            total = total + weighted * known(name, drawn).any()
        return total


def known(name: str, drawn: Drawn) -> Tensor:
    """For which windows a quantity has a meaning: bool ``(N,)``."""
    value: Tensor = getattr(drawn, QUANTITIES[name].field)
    return value.isfinite() if value.is_floating_point() else value >= 0


def target(name: str, drawn: Drawn) -> Tensor:
    """A class, int64 ``(N,)``, or a standardised number, float32 ``(N,)``; any valid one where the quantity has no meaning."""
    quantity = QUANTITIES[name]
    value = torch.where(known(name, drawn), getattr(drawn, quantity.field), 1)
    scaled = ((value.log2() if quantity.logarithmic else value) - quantity.centre) / quantity.spread
    return scaled.long().clamp(0, quantity.classes - 1) if quantity.classes else scaled


def _loss(name: str, output: Tensor, drawn: Drawn) -> Tensor:
    wanted, counted = target(name, drawn), known(name, drawn)
    if QUANTITIES[name].classes:
        losses = functional.cross_entropy(output, wanted, reduction="none")
    else:
        losses = functional.smooth_l1_loss(output[:, 0], wanted, reduction="none")
    return (losses * counted).sum() / counted.sum().clamp_min(1)


class SupervisedModel(PretrainingModel):
    """An encoder with readouts of what the generator drew.

    Args:
        encoder: To be pretrained.
        labels: Names of the quantities.
        exit_aware: See :class:`PretrainingModel`.
    """

    def __init__(self, encoder: StagedEncoder, labels: Sequence[str], exit_aware: bool = False) -> None:
        super().__init__(encoder, exit_aware)
        self.readouts = nn.ModuleList(Readouts(exit.width, labels) for exit in self.exits)

    def forward(self, views: Tensor, generator: Generator, drawn: Drawn | None = None) -> tuple[Tensor, None]:
        """Mean weighted loss of the exits; nothing is drawn from ``generator``."""
        return _mean_loss(self.readouts, self.taps(views), drawn), None


class MixedModel(ContrastiveModel):
    """The contrastive objective plus the supervised one, on the same taps."""

    def __init__(
        self,
        encoder: StagedEncoder,
        labels: Sequence[str],
        depth: int = 2,
        temperature: float = 0.1,
        exit_aware: bool = False,
    ) -> None:
        super().__init__(encoder, depth, temperature, exit_aware)
        self.readouts = nn.ModuleList(Readouts(exit.width, labels) for exit in self.exits)

    def forward(self, views: Tensor, generator: Generator, drawn: Drawn | None = None) -> tuple[Tensor, Tensor]:
        """The sum of both losses; nothing is drawn from ``generator``."""
        taps = self.taps(views)
        contrasted, matched = self.contrast(taps)
        return contrasted + _mean_loss(self.readouts, taps, drawn), matched


def _mean_loss(readouts: nn.ModuleList, taps: Sequence[Tensor], drawn: Drawn | None) -> Tensor:
    assert drawn is not None, "the configuration asks for what the generator drew only where there is a generator"
    return torch.stack([readout(tap, drawn) for readout, tap in zip(readouts, taps, strict=True)]).mean()
