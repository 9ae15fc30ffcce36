"""The masked objective for channels: predict what was hidden in time, frequency or space from the noisy rest.

What is hidden follows WiFo (Liu et al., arXiv 2412.08908): the slots to come always, and with them nothing more, places at random, a
band of subcarriers, or antennas. All places go through the encoder, hidden ones as one learned token, as in SimMIM (Xie et
al., arXiv 2111.09886), and a linear map of tokens gives the newest slot and those to come. The encoder sees the
channel in noise; the target is the channel without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from offramp.encoders.base import StagedEncoder, State
from offramp.encoders.channel_transformer import SIDE, SLOTS, ChannelTransformer, channel_places
from offramp.errors import TrainingError
from offramp.simulation.views import Drawn
from offramp.training.objective import PretrainingModel

SNR_DB = (0.0, 30.0)
"""Of what the encoder sees; uniform per channel."""
AHEAD = 4
"""Slots to come that are asked for."""
SHORT_SHARE = 0.3
"""Share of steps that see less than all of the past; half of them one slot alone."""


@dataclass(frozen=True)
class Hiding:
    """A way to hide places.

    Attributes:
        name: What it hides.
        share: Of the steps that hide in this way.
        hidden: Share of the places.
    """

    name: str
    share: float
    hidden: float


HIDINGS = (
    Hiding("nothing", 0.55, 0.0),
    Hiding("random", 0.15, 0.5),
    Hiding("band", 0.15, 0.375),
    Hiding("antennas", 0.15, 0.5),
)


class MaskedChannelModel(PretrainingModel):
    """A channel transformer with a linear decoder.

    Raises:
        TrainingError: The encoder is of another architecture.
    """

    def __init__(self, encoder: StagedEncoder, exit_aware: bool = False) -> None:
        if not isinstance(encoder, ChannelTransformer):
            raise TrainingError(f"{encoder.architecture} takes no channels over time: leave out --data")
        super().__init__(encoder, exit_aware)
        self.channel_encoder = encoder
        width = encoder.config["width"]
        self.hidden_token = nn.Parameter(torch.zeros(width))
        self.decoders = nn.ModuleList([nn.Linear(width, 2 * (1 + AHEAD) * SIDE**2) for _ in self.exits])

    def forward(self, views: Tensor, generator: Generator, drawn: Drawn | None = None) -> tuple[Tensor, None]:
        """Squared error of the newest slot and the four to come over their power, at all places.

        Args:
            views: Channels without noise, float32 ``(N, 2, slots, antennas, subcarriers)``, slots > 4.
            generator: Of noise and of what is hidden, on the device of the channels.
        """
        past = _past_slots(views.shape[2] - AHEAD, generator)
        newest = views.shape[2] - AHEAD
        noisy, clean = in_noise(views, newest - past, newest, generator)
        target, grid = channel_places(clean[:, :, newest - 1 :])
        hidden = hidden_places(_choose(generator), len(views), grid, generator)
        errors = [(guess - target).square().sum() / target.square().sum() for guess in self.restore(noisy, hidden)]
        return torch.stack(errors).mean(), None

    def restore(self, noisy: Tensor, hidden: Tensor) -> list[Tensor]:
        """Every asked exit's guess at the newest slot and the four to come, ``(N, places, values)`` in the order of
        ``channel_places``.

        Args:
            noisy: Past slots ``(N, 2, slots, antennas, subcarriers)``.
            hidden: Places that the encoder does not see, bool ``(N, places)``.
        """
        encoder = self.channel_encoder
        places, positions = encoder.begin(noisy)
        (tokens,) = encoder.advance(0, (places, positions))
        state: State = (torch.where(hidden.unsqueeze(-1), self.hidden_token + positions, tokens),)
        states = [state]
        for stage in range(1, len(encoder.exits)):
            state = encoder.advance(stage, state)
            states.append(state)
        asked = zip(self.decoders, self.exits, strict=True)
        return [decoder(encoder.norm(states[exit.index][0])) for decoder, exit in asked]


def in_noise(views: Tensor, start: int, stop: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Slots ``start`` to ``stop`` in white noise, SNR 0 to 30 dB, scaled to unit mean power; all slots without noise, scaled alike."""
    axes = (1, 2, 3, 4)
    seen = views[:, :, start:stop]
    power = seen.square().mean(axes, keepdim=True)
    snr = SNR_DB[0] + (SNR_DB[1] - SNR_DB[0]) * _draw((len(views), 1, 1, 1, 1), generator)
    level = (power * 10 ** (-snr / 10)).sqrt()
    noisy = seen + level * torch.randn(seen.shape, generator=generator, device=seen.device)
    scale = (2 * noisy.square().mean(axes, keepdim=True)).clamp_min(1e-30).rsqrt()
    return noisy * scale, views * scale


def hidden_places(hiding: Hiding, count: int, grid: tuple[int, int], generator: Generator) -> Tensor:
    """Which places are hidden, bool ``(count, rows * columns)``."""
    rows, columns = grid
    score = _draw((count, rows, columns), generator)
    if hiding.name == "band":
        start = (_draw((count, 1), generator) * columns).floor()
        score = ((torch.arange(columns, device=score.device) - start) % columns).unsqueeze(1).expand_as(score)
        return (score < round(hiding.hidden * columns)).flatten(1)
    if hiding.name == "antennas":
        order = _draw((count, rows, 1), generator).argsort(1).argsort(1)
        return (order < round(hiding.hidden * rows)).expand_as(score).flatten(1)
    return (score < hiding.hidden).flatten(1)


def augment_channels(channels: Tensor, generator: Generator) -> Tensor:
    """Turn the phase of every channel ``(N, 2, slots, antennas, subcarriers)`` at random, mirror half of the arrays, and half of time."""
    count = len(channels)
    phase = 2 * torch.pi * _draw((count, 1, 1, 1), generator)
    real, imaginary = channels[:, 0], channels[:, 1]
    turned = torch.stack(
        [real * phase.cos() - imaginary * phase.sin(), real * phase.sin() + imaginary * phase.cos()], dim=1
    )
    mirrored = _draw((count,), generator) < 0.5
    turned[mirrored] = turned[mirrored].flip(3)
    backwards = _draw((count,), generator) < 0.5
    turned[backwards] = turned[backwards].flip(2)
    return turned


def _past_slots(available: int, generator: Generator) -> int:
    """How many slots a step sees: all in most steps, else one, or any number."""
    full = min(available, SLOTS)
    fate, share = (float(value) for value in _draw((2,), generator))
    if fate >= SHORT_SHARE:
        return full
    return 1 if fate < SHORT_SHARE / 2 else 1 + int(share * full)


def _choose(generator: Generator) -> Hiding:
    weights = torch.tensor([hiding.share for hiding in HIDINGS], device=generator.device)
    return HIDINGS[int(torch.multinomial(weights, 1, generator=generator))]


def _draw(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
