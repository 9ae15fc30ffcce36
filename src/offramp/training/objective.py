"""What the two pretraining objectives share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from offramp.encoders.base import StagedEncoder


class PretrainingModel(nn.Module, ABC):
    """An encoder at full depth with a module on top that is discarded after pretraining."""

    def __init__(self, encoder: StagedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def forward(self, views: Tensor, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch.

        Args:
            views: Both views of N pairs, float32 ``(2 N, 2, antennas, samples)`` or images ``(2 N, antennas, 64, 64)``: first
                all first ones, then all second ones.
            generator: Of whatever the objective draws, on the device of the views.

        Returns:
            The loss, and the share of views whose partner was found (None if the objective knows no partners).
        """

    def full_depth(self, x: Tensor, pooling: str = "default") -> Tensor:
        """The last exit's tap in float32; inside, bfloat16 where the device is an accelerator."""
        last = self.encoder.exits[-1].name
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            return self.encoder.taps(x, [last], pooling)[last].float()
