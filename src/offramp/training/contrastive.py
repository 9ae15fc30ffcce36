"""The contrastive objective: tell two views of one transmission from all others in the batch.

Source: InfoNCE (van den Oord et al., arXiv 1807.03748) in the symmetric form of SimCLR (Chen et al., arXiv 2002.05709), with a
projection head of up to three layers that is discarded after pretraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from offramp.encoders.base import StagedEncoder
from offramp.simulation.views import Drawn
from offramp.training.objective import PretrainingModel
from offramp.training.processes import gathered

PROJECTION_WIDTH = 128


class ContrastiveModel(PretrainingModel):
    """An encoder with a projection head, or one per exit.

    Args:
        encoder: To be pretrained.
        depth: Linear layers of a head, 0 to 3, with BatchNorm and ReLU between them; 0 compares the taps themselves.
        temperature: Of the loss.
        exit_aware: See :class:`PretrainingModel`. Hidden layers of all heads are as wide as those at full depth.
    """

    def __init__(
        self, encoder: StagedEncoder, depth: int = 2, temperature: float = 0.1, exit_aware: bool = False
    ) -> None:
        super().__init__(encoder, exit_aware)
        self.temperature = temperature
        full = encoder.exits[-1].width
        hidden = [full // 2**layer for layer in range(1, depth)]
        self.projections = nn.ModuleList([_projection([exit.width, *hidden], depth) for exit in self.exits])

    def project(self, x: Tensor) -> list[Tensor]:
        """Windows to projections of unit length per exit asked, float32 ``(N, 128)``, or ``(N, width)`` at depth 0."""
        return self._projected(self.taps(x))

    def forward(self, views: Tensor, generator: Generator, drawn: Drawn | None = None) -> tuple[Tensor, Tensor]:
        """Mean InfoNCE of the exits among the views of all processes; nothing is drawn from ``generator``."""
        return self.contrast(self.taps(views))

    def contrast(self, taps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` returns, from the taps of the asked exits."""
        losses = []
        for projected in self._projected(taps):
            first, second = projected.chunk(2)
            loss, matched = info_nce(gathered(first), gathered(second), self.temperature)
            losses.append(loss)
        return torch.stack(losses).mean(), matched

    def _projected(self, taps: Sequence[Tensor]) -> list[Tensor]:
        pairs = zip(self.projections, taps, strict=True)
        return [functional.normalize(projection(tap), dim=1) for projection, tap in pairs]


def _projection(widths: list[int], depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    if depth > 0:
        layers.append(nn.Linear(widths[-1], PROJECTION_WIDTH))
    return nn.Sequential(*layers)


def info_nce(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE over a batch of pairs.

    Args:
        first: Projections of unit length of one view, ``(N, width)``.
        second: The other view of the same transmissions, ``(N, width)``.
        temperature: Divides the cosine similarities.

    Returns:
        The loss (natural logarithm; ``log(2 N - 1)`` when nothing is learned) and the share of views whose nearest other view
        is their partner.
    """
    both = torch.cat([first, second])
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    loss = functional.cross_entropy(similarity, partner)
    return loss, (similarity.argmax(1) == partner).float().mean()
