"""What convolutional encoders of raw I/Q share: their input, its scale, and their pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.errors import EncoderError


class IQConvolutional(StagedEncoder):
    """Input ``(N, 2, antennas, time)``, axis 1 = I, Q; at least 1 antenna and 64 samples.

    Default tap: mean over antennas and time, ``(N, channels)``. Tokens: ``(N, positions, channels)``.
    """

    stages: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.input = InputSpec(("batch", "iq", "antennas", "time"), (2, None, None), (2, 1, 64))

    def begin(self, x: Tensor) -> State:
        """Scale every window to unit mean power per complex sample; an all-zero window stays zero."""
        power = x.square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
        scaled = x * torch.rsqrt(power.clamp_min(torch.finfo(x.dtype).tiny))
        return (scaled.contiguous(memory_format=torch.channels_last),)

    def advance(self, stage: int, state: State) -> State:
        return (self.stages[stage](state[0]),)

    def antenna_maps(self, exit: int, state: State) -> Tensor | None:
        return state[0].transpose(1, 2) if state[0].shape[2] > 1 else None

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        if pooling == "tokens":
            return state[0].flatten(2).transpose(1, 2)
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: {self.architecture} has default, tokens")
        return state[0].mean((2, 3))
