"""The contrastive objective: two views of one transmission shall be told from all others in the batch.

Source: InfoNCE (van den Oord et al., arXiv 1807.03748) in the symmetric form of SimCLR (Chen et al., arXiv 2002.05709), with a
projection head of up to three layers that is discarded after pretraining.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from offramp.encoders.base import StagedEncoder
from offramp.training.objective import PretrainingModel
from offramp.training.processes import gathered

PROJECTION_WIDTH = 128


class ContrastiveModel(PretrainingModel):
    """An encoder with a projection head.

    Args:
        encoder: To be pretrained.
        depth: Linear layers of the head, 0 to 3, with BatchNorm and ReLU between them; 0 compares the taps themselves.
        temperature: Of the loss.
    """

    def __init__(self, encoder: StagedEncoder, depth: int = 2, temperature: float = 0.1) -> None:
        super().__init__(encoder)
        self.temperature = temperature
        width = encoder.exits[-1].width
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width // 2), nn.BatchNorm1d(width // 2), nn.ReLU()]
            width //= 2
        if depth > 0:
            layers.append(nn.Linear(width, PROJECTION_WIDTH))
        self.projection = nn.Sequential(*layers)

    def project(self, x: Tensor) -> Tensor:
        """Windows to projections of unit length, float32 ``(N, 128)``, or ``(N, width)`` at depth 0."""
        return functional.normalize(self.projection(self.full_depth(x)), dim=1)

    def forward(self, views: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """InfoNCE among the views of all processes; nothing is drawn from ``generator``."""
        first, second = self.project(views).chunk(2)
        return info_nce(gathered(first), gathered(second), self.temperature)


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
