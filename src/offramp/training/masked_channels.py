"""The masked objective for channels: what was hidden in time, frequency or space shall be told from the noisy rest.

Source: masked autoencoders (He et al., arXiv 2111.06377): the encoder sees the visible patches alone, a small decoder fills in the
hidden ones. What is hidden follows WiFo (Liu et al., arXiv 2412.08908): patches at random, the newest slots, a band of
subcarriers, or antennas. The encoder sees the channel in noise; the target is the channel without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from offramp.encoders.base import StagedEncoder
from offramp.encoders.channel_transformer import EPS, VALUES, ChannelTransformer, channel_patches
from offramp.encoders.transformer import Block
from offramp.errors import TrainingError
from offramp.training.objective import PretrainingModel

SNR_DB = (0.0, 30.0)
"""Of what the encoder sees; uniform per channel."""
DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 96, 2, 6
SINGLE_SHARE = 0.15
"""Share of steps that see the newest slot alone."""


@dataclass(frozen=True)
class Hiding:
    """A way to hide patches.

    Attributes:
        name: What it hides.
        share: Of the steps that hide in this way.
        visible: Share of the patches that stay.
    """

    name: str
    share: float
    visible: float


HIDINGS = (
    Hiding("random", 0.25, 0.4),
    Hiding("newest", 0.45, 0.75),
    Hiding("band", 0.15, 0.5),
    Hiding("antennas", 0.15, 0.25),
)


class MaskedChannelModel(PretrainingModel):
    """A channel transformer with a decoder of two blocks.

    Raises:
        TrainingError: The encoder is of another architecture.
    """

    def __init__(self, encoder: StagedEncoder) -> None:
        if not isinstance(encoder, ChannelTransformer):
            raise TrainingError(f"{encoder.architecture} takes no channels over time: leave out --data")
        super().__init__(encoder)
        self.channel_encoder = encoder
        width = encoder.config["width"]
        self.narrow = nn.Linear(width + width, DECODER_WIDTH)
        self.hidden_token = nn.Parameter(torch.zeros(width))
        self.decoder = nn.Sequential(
            *(Block(DECODER_WIDTH, DECODER_HEADS, 4 * DECODER_WIDTH, EPS) for _ in range(DECODER_DEPTH)),
            nn.LayerNorm(DECODER_WIDTH, eps=EPS),
            nn.Linear(DECODER_WIDTH, VALUES),
        )

    def forward(self, views: Tensor, generator: Generator) -> tuple[Tensor, None]:
        """Squared error of the hidden patches over their power.

        Args:
            views: Channels without noise, float32 ``(N, 2, slots, antennas, subcarriers)``.
            generator: Of noise and of what is hidden, on the device of the channels.
        """
        single = _draw((), generator).item() < SINGLE_SHARE
        clean = views[:, :, -1:] if single else views
        noisy, clean = in_noise(clean, generator)
        hiding = _choose(single, generator)
        target, grid = channel_patches(clean)
        score = hiding_scores(hiding, len(clean), grid, generator)
        kept = max(1, round(hiding.visible * score.shape[1]))
        order = score.argsort(1)
        restored = self.restore(noisy, order[:, :kept], order[:, kept:])
        wanted = target.flatten(1, 2).gather(1, order[:, kept:, None].expand(-1, -1, VALUES))
        return (restored - wanted).square().sum() / wanted.square().sum(), None

    def restore(self, noisy: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """The decoder's guess at the hidden patches, ``(N, hidden patches, 128)``, from the visible ones.

        Args:
            noisy: Channels of unit mean power.
            visible: Numbers of the patches that the encoder sees, int64 ``(N, visible patches)``.
            hidden: Numbers of the others.
        """
        patches, positions = (part.flatten(1, 2) for part in self.channel_encoder.begin(noisy))
        state = tuple(_rows(part, visible).unsqueeze(1) for part in (patches, positions))
        for stage in range(len(self.channel_encoder.exits)):
            state = self.channel_encoder.advance(stage, state)
        seen = self.channel_encoder.norm(state[0]).squeeze(1)
        blank = self.hidden_token.expand(*hidden.shape, -1)
        tokens = torch.cat([seen, blank], dim=1)
        places = torch.cat([_rows(positions, visible), _rows(positions, hidden)], dim=1)
        decoded: Tensor = self.decoder(self.narrow(torch.cat([tokens, places], dim=-1)))
        return decoded[:, visible.shape[1] :]


def in_noise(clean: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Channels in white noise, SNR 0 to 30 dB, scaled to unit mean power; and without it, scaled by the same factor."""
    axes = tuple(range(2, clean.ndim))
    power = clean.square().sum(1, keepdim=True).mean(axes, keepdim=True)
    snr = SNR_DB[0] + (SNR_DB[1] - SNR_DB[0]) * _draw((len(clean), *[1] * (clean.ndim - 1)), generator)
    level = (power / 2 * 10 ** (-snr / 10)).sqrt()
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    noisy = clean + level * noise
    scale = noisy.square().sum(1, keepdim=True).mean(axes, keepdim=True).clamp_min(1e-30).rsqrt()
    return noisy * scale, clean * scale


def hiding_scores(hiding: Hiding, count: int, grid: tuple[int, int, int], generator: Generator) -> Tensor:
    """A number for every patch, ``(count, times * rows * columns)``: those with the largest are hidden."""
    times, rows, columns = grid
    score = _draw((count, times, rows, columns), generator)
    if hiding.name == "newest":
        score = score + torch.arange(times, device=score.device)[:, None, None]
    elif hiding.name == "band":
        start = _draw((count, 1), generator) * columns
        shifted = (torch.arange(columns, device=score.device) - start.floor()) % columns
        score = score + shifted[:, None, None, :]
    elif hiding.name == "antennas":
        score = score + 10 * _draw((count, 1, rows, 1), generator).argsort(2).argsort(2)
    return score.flatten(1)


def augment_channels(channels: Tensor, generator: Generator) -> Tensor:
    """Turn the phase of every channel ``(N, 2, ...)`` at random, mirror the array of half of them, and turn time back in half."""
    count = len(channels)
    flat = (count, *[1] * (channels.ndim - 2))
    phase = 2 * torch.pi * _draw(flat, generator)
    real, imaginary = channels[:, 0], channels[:, 1]
    turned = torch.stack(
        [real * phase.cos() - imaginary * phase.sin(), real * phase.sin() + imaginary * phase.cos()], dim=1
    )
    mirrored = _draw((count,), generator) < 0.5
    turned[mirrored] = turned[mirrored].flip(3)
    backwards = _draw((count,), generator) < 0.5
    turned[backwards] = turned[backwards].flip(2)
    return turned


def _choose(single: bool, generator: Generator) -> Hiding:
    usable = [hiding for hiding in HIDINGS if not (single and hiding.name == "newest")]
    weights = torch.tensor([hiding.share for hiding in usable])
    number = torch.multinomial(weights.to(generator.device), 1, generator=generator)
    return usable[int(number)]


def _draw(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _rows(tokens: Tensor, numbers: Tensor) -> Tensor:
    return tokens.gather(1, numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
