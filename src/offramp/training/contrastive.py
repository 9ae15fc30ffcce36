"""The contrastive objective: two views of one transmission shall be told from all others in the batch.

Source: InfoNCE (van den Oord et al., arXiv 1807.03748) in the symmetric form of SimCLR (Chen et al., arXiv 2002.05709), with a
two-layer projection head that is discarded after pretraining.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.base import StagedEncoder

PROJECTION_WIDTH = 128


class ContrastiveModel(nn.Module):
    """An encoder at full depth with a projection head."""

    def __init__(self, encoder: StagedEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.exits[-1].width
        self.projection = nn.Sequential(
            nn.Linear(width, width // 2), nn.BatchNorm1d(width // 2), nn.ReLU(), nn.Linear(width // 2, PROJECTION_WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Input windows to projections of unit length, ``(N, 128)``."""
        last = self.encoder.exits[-1].name
        return functional.normalize(self.projection(self.encoder.taps(x, [last])[last]), dim=1)


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
