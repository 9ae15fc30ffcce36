"""A transformer over MIMO-OFDM channels in space, frequency and time, with an exit after the embedding and after every block.

A channel ``(2, slots, antennas, subcarriers)`` is scaled to unit mean power and cut into patches of 4 slots x 4 antennas x 4
subcarriers, as in WiFo (Liu et al., "WiFo: Wireless Foundation Model for Channel Prediction", arXiv 2412.08908). A linear map makes
a token of each; a sine-cosine table says where it lies on each of the three axes, slots counted back from the newest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.encoders.transformer import Block, initialise_linear, sine_cosine_table
from offramp.errors import EncoderError

PATCH = 4
"""Slots, antennas and subcarriers of a patch."""
VALUES = 2 * PATCH**3
"""Numbers in a patch: real and imaginary parts."""
EPS = 1e-6
MOST_PATCHES = 64
"""Patches along an axis that there are positions for."""


@dataclass(frozen=True)
class ChannelsInput(InputSpec):
    """Channels over time, or a single channel without the axis of slots."""

    def describe(self) -> str:
        """The accepted shapes in words."""
        single = InputSpec(("batch", "iq", "antennas", "subcarriers"), (2, None, None), (2, 1, 1))
        return f"{super().describe()} or {single.describe()}"

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`EncoderError` unless ``shape`` (without the batch axis) is accepted."""
        if len(shape) == len(self.shape) - 1 and shape[0] == 2:
            shape = (2, 1, *shape[1:])
        super().check(shape)


class Embedding(nn.Module):
    """Patches ``(N, times, places, 128)`` and their positions to tokens ``(N, times, places, width)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(VALUES, width)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        tokens: Tensor = self.proj(patches) + positions
        return tokens


class ChannelTransformer(StagedEncoder):
    """Input ``(N, 2, slots, antennas, subcarriers)``, the newest slot last, or ``(N, 2, antennas, subcarriers)``.

    Sizes that are no multiple of 4 are padded with zeros: slots before the oldest, antennas and subcarriers behind the last.
    Exits: ``embedding``, ``block1`` .. ``blockN``. Default tap, behind a final norm: mean and standard deviation over all tokens
    (statistics pooling), ``(N, 2 * width)``. Tokens: for every place (4 antennas x 4 subcarriers) its tokens of all times side by
    side, oldest first, ``(N, places, times * width)``.
    """

    architecture = "channel-transformer"
    axis_positions: Tensor

    def __init__(self, width: int = 96, depth: int = 6, heads: int = 6) -> None:
        super().__init__()
        if width % 6:
            raise EncoderError(f"width={width}: three axes of sines and cosines need a multiple of 6")
        self.config = {"width": width, "depth": depth, "heads": heads}
        self.input = ChannelsInput(
            ("batch", "iq", "slots", "antennas", "subcarriers"),
            (2, None, None, None),
            (2, 1, 1, 1),
            maximum=(2, *[MOST_PATCHES * PATCH] * 3),
        )
        self.stages = nn.ModuleList([Embedding(width), *(Block(width, heads, 4 * width, EPS) for _ in range(depth))])
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.register_buffer("axis_positions", sine_cosine_table(MOST_PATCHES, width // 3), persistent=False)
        initialise_linear(self)
        names = ["embedding", *(f"block{i + 1}" for i in range(depth))]
        self.exits = self._measure_exits(names, [2 * width] * len(names))

    def begin(self, x: Tensor) -> State:
        """Patches ``(N, times, places, 128)`` and their positions ``(N, times, places, width)``."""
        patches, grid = channel_patches(unit_power(x))
        return patches, self.positions(*grid).expand(x.shape[0], -1, -1, -1)

    def positions(self, times: int, rows: int, columns: int) -> Tensor:
        """What is added to the tokens of a grid, ``(times, rows * columns, width)``."""
        table = self.axis_positions
        shape = (times, rows, columns, -1)
        of_time = table[:times].flip(0)[:, None, None].expand(shape)
        of_row, of_column = table[:rows, None].expand(shape), table[:columns].expand(shape)
        return torch.cat([of_time, of_row, of_column], dim=-1).flatten(1, 2)

    def advance(self, stage: int, state: State) -> State:
        if stage == 0:
            return (self.stages[0](*state),)
        tokens = state[0]
        return (self.stages[stage](tokens.flatten(1, 2)).view(tokens.shape),)

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        tokens: Tensor = self.norm(state[0])
        if pooling == "tokens":
            return tokens.transpose(1, 2).flatten(2)
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: channel-transformer has default, tokens")
        flat = tokens.flatten(1, 2)
        mean = flat.mean(1)
        spread = (flat - mean[:, None]).square().mean(1).add(EPS).sqrt()
        return torch.cat([mean, spread], dim=-1)

    def target_positions(self, shape: tuple[int, ...], positions: int) -> NDArray[np.int64]:
        """Entries of a channel ``(2, slots, antennas, subcarriers)`` that lie at each place, int64 ``(positions, values)``.

        Raises:
            EncoderError: The target is no such channel, or has other places than the input.
        """
        if len(shape) != 4 or shape[2] % PATCH or shape[3] % PATCH or math.prod(shape[2:]) != positions * PATCH**2:
            raise EncoderError(
                f"a target of shape {shape} does not lie on {positions} places of {PATCH} antennas x {PATCH} subcarriers: "
                "heads on tokens of channel-transformer predict channels (2, slots, antennas, subcarriers) like its input"
            )
        parts, slots, antennas, subcarriers = shape
        indices = np.arange(math.prod(shape), dtype=np.int64).reshape(
            parts, slots, antennas // PATCH, PATCH, subcarriers // PATCH, PATCH
        )
        return indices.transpose(2, 4, 0, 1, 3, 5).reshape(positions, -1)


def unit_power(x: Tensor) -> Tensor:
    """Scale channels ``(N, 2, ..., antennas, subcarriers)`` to unit mean power each; zeros stay zeros."""
    axes = tuple(range(2, x.ndim))
    power = x.square().sum(1, keepdim=True).mean(axes, keepdim=True)
    return x * torch.rsqrt(power.clamp_min(torch.finfo(x.dtype).tiny))


def channel_patches(x: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Channels to patches ``(N, times, rows * columns, 128)``, and the grid: times, rows of antennas, columns of subcarriers.

    Values of a patch: real then imaginary part, each slot by slot, antenna by antenna.
    """
    if x.ndim == 4:
        x = x.unsqueeze(2)
    n, _, slots, antennas, subcarriers = x.shape
    x = functional.pad(x, (0, -subcarriers % PATCH, 0, -antennas % PATCH, -slots % PATCH, 0))
    times, rows, columns = (size // PATCH for size in x.shape[2:])
    blocks = x.view(n, 2, times, PATCH, rows, PATCH, columns, PATCH).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return blocks.reshape(n, times, rows * columns, VALUES), (times, rows, columns)
