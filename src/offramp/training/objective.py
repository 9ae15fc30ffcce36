"""What the pretraining objectives share."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from offramp.encoders.base import StagedEncoder
from offramp.simulation.views import Drawn


class PretrainingModel(nn.Module, ABC):
    """An encoder with a module on top that is discarded after pretraining; or one on top of every exit.

    Args:
        encoder: To be pretrained.
        exit_aware: Ask the objective of every exit, the mean of whose losses is minimised, so that early stages are useful by
            themselves (as deeply-supervised nets, Lee et al., arXiv 1409.5185); of full depth alone otherwise.
    """

    def __init__(self, encoder: StagedEncoder, exit_aware: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        self.exits = encoder.exits if exit_aware else encoder.exits[-1:]

    @abstractmethod
    def forward(self, views: Tensor, generator: Generator, drawn: Drawn | None = None) -> tuple[Tensor, Tensor | None]:
        """The loss of a batch.

        Args:
            views: Both views of N pairs, float32 ``(2 N, 2, antennas, samples)`` or images ``(2 N, antennas, 64, 64)``: first
                all first ones, then all second ones.
            generator: Of whatever the objective draws, on the device of the views.
            drawn: What the generator of signals drew for the views, None if they are not simulated.

        Returns:
            The loss, and the share of views whose partner was found at full depth (None if the objective knows no partners).
        """

    def taps(self, x: Tensor, pooling: str = "default") -> list[Tensor]:
        """Taps of the exits that the objective asks, in float32; inside, bfloat16 where the device is an accelerator."""
        names = [exit.name for exit in self.exits]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            taps = self.encoder.taps(x, names, pooling)
        return [taps[name].float() for name in names]
