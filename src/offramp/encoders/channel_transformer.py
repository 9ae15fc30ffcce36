"""A transformer over MIMO-OFDM channels in space, frequency and time, with an exit after the embedding and after every block.

A channel ``(2, slots, antennas, subcarriers)`` is scaled to unit mean power and cut into places of 4 antennas x 4 subcarriers. A
token is one place over all slots, so that its own past is in it from the start and what blocks add is what other places know and
what is not linear. A sine-cosine table says where a place lies among antennas and subcarriers.
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
from offramp.encoders.building import Count, Width
from offramp.encoders.transformer import Block, initialise_linear, sine_cosine_table
from offramp.errors import EncoderError

SIDE = 4
"""Antennas and subcarriers of a place."""
SLOTS = 16
"""Most slots; fewer are as if the older ones had been silent."""
EPS = 1e-6
MOST_PLACES = 64
"""Places along antennas and along subcarriers that there are positions for."""


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


class PlaceEmbedding(nn.Module):
    """Places ``(N, P, values)`` and their positions ``(N, P, width)`` to tokens ``(N, P, width)``."""

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(values, width)

    def forward(self, places: Tensor, positions: Tensor) -> Tensor:
        tokens: Tensor = self.proj(places) + positions
        return tokens


class ChannelTransformer(StagedEncoder):
    """Input ``(N, 2, slots, antennas, subcarriers)``, the newest slot last, or ``(N, 2, antennas, subcarriers)``.

    Antennas and subcarriers that are no multiple of 4 are padded with zeros behind the last. Exits: ``embedding``, ``block1`` ..
    ``blockN``. Default tap, behind a final norm: mean and standard deviation over all tokens (statistics pooling), ``(N, 2 *
    width)``. Tokens, without that norm: one for every place, antennas first, ``(N, places, width)``.
    """

    architecture = "channel-transformer"
    axis_positions: Tensor

    def __init__(self, width: Width = 144, depth: Count = 6, heads: Count = 6) -> None:
        super().__init__()
        if width % 4:
            raise EncoderError(f"width={width}: two axes of sines and cosines need a multiple of 4")
        if width % heads:
            raise EncoderError(f"width={width}, heads={heads}: the width must be a multiple of the heads")
        self.config = {"width": width, "depth": depth, "heads": heads}
        most = MOST_PLACES * SIDE
        self.input = ChannelsInput(
            ("batch", "iq", "slots", "antennas", "subcarriers"),
            (2, None, None, None),
            (2, 1, 1, 1),
            maximum=(2, SLOTS, most, most),
        )
        embedding = PlaceEmbedding(2 * SLOTS * SIDE**2, width)
        self.stages = nn.ModuleList([embedding, *(Block(width, heads, 4 * width, EPS) for _ in range(depth))])
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.register_buffer("axis_positions", sine_cosine_table(MOST_PLACES, width // 2), persistent=False)
        initialise_linear(self)
        names = ["embedding", *(f"block{i + 1}" for i in range(depth))]
        self.exits = self.measure_exits(names, [2 * width] * len(names))

    def begin(self, x: Tensor) -> State:
        """Places ``(N, P, 512)`` of channels of unit mean power, and their positions ``(N, P, width)``."""
        over_time = x.unsqueeze(2) if x.ndim == 4 else x
        silent = SLOTS - over_time.shape[2]
        places, grid = channel_places(functional.pad(unit_power(over_time), (0, 0, 0, 0, silent, 0)))
        return places, self.positions(*grid).expand(x.shape[0], -1, -1)

    def positions(self, rows: int, columns: int) -> Tensor:
        """What is added to the tokens of a grid of places, ``(rows * columns, width)``."""
        table = self.axis_positions
        of_row = table[:rows, None].expand(-1, columns, -1)
        of_column = table[:columns].expand(rows, -1, -1)
        return torch.cat([of_row, of_column], dim=-1).flatten(0, 1)

    def advance(self, stage: int, state: State) -> State:
        return (self.stages[stage](*state),)

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        if pooling == "tokens":
            return state[0]  # a norm would take the strength of the channel at each place away
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: channel-transformer has default, tokens")
        tokens: Tensor = self.norm(state[0])
        mean = tokens.mean(1)
        spread = (tokens - mean[:, None]).square().mean(1).add(EPS).sqrt()
        return torch.cat([mean, spread], dim=-1)

    def target_positions(self, shape: tuple[int, ...], positions: int) -> NDArray[np.int64]:
        """Entries of a channel ``(2, slots, antennas, subcarriers)`` that lie at each place, int64 ``(positions, values)``.

        Raises:
            EncoderError: The target is no such channel, or has other places than the input.
        """
        if len(shape) != 4 or shape[2] % SIDE or shape[3] % SIDE or math.prod(shape[2:]) != positions * SIDE**2:
            raise EncoderError(
                f"a target of shape {shape} does not lie on {positions} places of {SIDE} antennas x {SIDE} subcarriers: "
                "heads on tokens of channel-transformer predict channels (2, slots, antennas, subcarriers) like its input"
            )
        parts, slots, antennas, subcarriers = shape
        indices = np.arange(math.prod(shape), dtype=np.int64).reshape(
            parts, slots, antennas // SIDE, SIDE, subcarriers // SIDE, SIDE
        )
        return indices.transpose(2, 4, 0, 1, 3, 5).reshape(positions, -1)


ARCHITECTURES = (ChannelTransformer,)


def unit_power(x: Tensor) -> Tensor:
    """Scale channels ``(N, 2, slots, antennas, subcarriers)`` to unit mean power each; zeros stay zeros."""
    power = x.square().sum(1, keepdim=True).mean((2, 3, 4), keepdim=True)
    return x * torch.rsqrt(power.clamp_min(torch.finfo(x.dtype).tiny))


def channel_places(x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Channels ``(N, 2, slots, antennas, subcarriers)`` to places ``(N, rows * columns, 2 * slots * 16)``, and rows and columns.

    Values of a place: real then imaginary part, each slot by slot, antenna by antenna.
    """
    n, _, slots, antennas, subcarriers = x.shape
    padded = functional.pad(x, (0, -subcarriers % SIDE, 0, -antennas % SIDE))
    rows, columns = padded.shape[3] // SIDE, padded.shape[4] // SIDE
    blocks = padded.view(n, 2, slots, rows, SIDE, columns, SIDE).permute(0, 3, 5, 1, 2, 4, 6)
    return blocks.reshape(n, rows * columns, 2 * slots * SIDE**2), (rows, columns)
