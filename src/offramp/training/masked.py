"""The masked objective: what was cut out of a window shall be told from what is left.

Source: SimMIM (Xie et al., arXiv 2111.09886), whose raw-pixel regression by one linear layer is adapted to I/Q: random spans
of time are zeroed at all antennas, and the last exit's tokens predict the samples that are missing.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from offramp.encoders.base import StagedEncoder
from offramp.errors import TrainingError
from offramp.training.config import INPUT_SHAPES
from offramp.training.objective import PretrainingModel

SPAN_SAMPLES = (8, 32)
"""Shortest and longest span; masked and visible spans take turns, so that about half of a window is masked."""
MAX_ANTENNAS = max(antennas for antennas, _, _ in INPUT_SHAPES)


class MaskedModel(PretrainingModel):
    """An encoder with a linear decoder from the last exit's tokens to I/Q samples of up to 8 antennas.

    The tokens must be laid out ``(antennas' x time', channels)``, antenna by antenna. They are averaged over the antennas', so
    that each of the time' positions predicts the samples of all antennas in its own stretch of time.

    Raises:
        TrainingError: The encoder's tokens do not cover a window in equal stretches.
    """

    def __init__(self, encoder: StagedEncoder) -> None:
        super().__init__(encoder)
        shapes = {samples: _tokens_of_one_antenna(encoder, samples) for _, samples, _ in INPUT_SHAPES}
        self.positions = {samples: positions for samples, (positions, _) in shapes.items()}
        shortest = min(shapes)
        self.stretch = math.ceil(shortest / self.positions[shortest])
        if any(positions * self.stretch < samples for samples, positions in self.positions.items()):
            raise TrainingError(
                f"the masked objective needs tokens that follow time, which those of {encoder.architecture} do not: "
                "use --objective contrastive"
            )
        self.decoder = nn.Linear(shapes[shortest][1], 2 * MAX_ANTENNAS * self.stretch)
        nn.init.trunc_normal_(self.decoder.weight, std=0.02)  # begins near predicting nothing

    def forward(self, views: Tensor, generator: Generator) -> tuple[Tensor, None]:
        """Mean squared error over the power of what was masked: 1 for a prediction of zero."""
        hidden = masked_spans(len(views), views.shape[3], generator)
        prediction = self.predict(views.masked_fill(hidden[:, None, None], 0))
        return masked_loss(prediction, views, hidden), None

    def predict(self, x: Tensor) -> Tensor:
        """Windows ``(N, 2, antennas, samples)`` to a guess at their power-normalised samples, same shape."""
        antennas, samples = x.shape[2:]
        tokens = self.full_depth(x, "tokens")
        tokens = tokens.view(len(x), -1, self.positions[samples], tokens.shape[2]).mean(1)
        stretches = self.decoder(tokens).view(len(x), -1, 2, MAX_ANTENNAS, self.stretch)
        whole: Tensor = stretches.permute(0, 2, 3, 1, 4).flatten(3)
        return whole[:, :, :antennas, :samples]


def masked_spans(count: int, samples: int, generator: Generator) -> Tensor:
    """Draw which samples are masked, bool ``(count, samples)``: spans of 8 to 32, every other one, from a random start."""
    low, high = SPAN_SAMPLES
    device = generator.device
    spans = (samples + high) // low + 1
    ends = torch.randint(low, high + 1, (count, spans), generator=generator, device=device).cumsum(1)
    start = torch.randint(0, high, (count, 1), generator=generator, device=device)
    number = torch.searchsorted(ends, start + torch.arange(samples, device=device), right=True)
    first = torch.randint(0, 2, (count, 1), generator=generator, device=device)
    return (number + first) % 2 == 0


def masked_loss(prediction: Tensor, views: Tensor, hidden: Tensor) -> Tensor:
    """Squared error over power, both summed over the masked samples of the antennas that received anything.

    Args:
        prediction: ``(N, 2, antennas, samples)``, in units of a window's root mean power.
        views: The whole windows, same shape, any scale.
        hidden: bool ``(N, samples)``.
    """
    present = views.abs().amax((1, 3)) > 0
    power = views.square().sum((1, 2, 3)) / (present.sum(1) * views.shape[3]).clamp_min(1)
    target = views * torch.rsqrt(power.clamp_min(torch.finfo(views.dtype).tiny))[:, None, None, None]
    counted = (hidden[:, None, None, :] & present[:, None, :, None]).float()
    return ((prediction - target).square() * counted).sum() / (target.square() * counted).sum()


def _tokens_of_one_antenna(encoder: StagedEncoder, samples: int) -> tuple[int, int]:
    """Positions in time and channels of the last exit's tokens for windows of this length."""
    last = encoder.exits[-1].name
    parameter = next(encoder.parameters())
    training = encoder.training
    with torch.no_grad():
        tokens = encoder.eval().taps(torch.zeros(1, 2, 1, samples, device=parameter.device), [last], "tokens")[last]
    encoder.train(training)
    return tokens.shape[1], tokens.shape[2]
