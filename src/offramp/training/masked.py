"""The masked objective: predict what was cut out of a window from what is left.

Source: SimMIM (Xie et al., arXiv 2111.09886), whose raw-pixel regression by one linear layer is adapted to I/Q: random spans
of time are zeroed at all antennas, and the last exit's tokens predict the samples that are missing.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from offramp.encoders.base import StagedEncoder
from offramp.errors import TrainingError
from offramp.simulation.views import Drawn
from offramp.training.config import INPUT_SHAPES
from offramp.training.objective import PretrainingModel

SPAN_SAMPLES = (8, 32)
"""Shortest and longest span; masked and visible spans take turns, so that about half of a window is masked."""
MAX_ANTENNAS = max(antennas for antennas, _, _ in INPUT_SHAPES)


class MaskedModel(PretrainingModel):
    """An encoder with a linear decoder from tokens to I/Q samples of up to 8 antennas, at full depth or at every exit.

    The tokens must be laid out ``(antennas' x time', channels)``, antenna by antenna. They are averaged over the antennas', so
    that each of the time' positions predicts the samples of all antennas in its own stretch of time.

    Raises:
        TrainingError: The encoder's tokens do not cover a window in equal stretches.
    """

    def __init__(self, encoder: StagedEncoder, exit_aware: bool = False) -> None:
        super().__init__(encoder, exit_aware)
        shapes = {samples: self._token_shapes(samples) for _, samples, _ in INPUT_SHAPES}
        shortest = min(shapes)
        self.positions = {samples: [positions for positions, _ in of_exits] for samples, of_exits in shapes.items()}
        self.stretches = [math.ceil(shortest / positions) for positions in self.positions[shortest]]
        for samples, of_exits in self.positions.items():
            if any(p * stretch < samples for p, stretch in zip(of_exits, self.stretches, strict=True)):
                raise TrainingError(
                    f"the masked objective needs tokens that follow time, which those of {encoder.architecture} do not: "
                    "use --objective contrastive"
                )
        widths = [width for _, width in shapes[shortest]]
        self.decoders = nn.ModuleList(map(_decoder, widths, self.stretches))

    def forward(self, views: Tensor, generator: Generator, drawn: Drawn | None = None) -> tuple[Tensor, None]:
        """Mean squared error over the power of what was masked, mean over the exits: 1 for a prediction of zero."""
        hidden = masked_spans(len(views), views.shape[3], generator)
        predictions = self.predict(views.masked_fill(hidden[:, None, None], 0))
        return torch.stack([masked_loss(prediction, views, hidden) for prediction in predictions]).mean(), None

    def predict(self, x: Tensor) -> list[Tensor]:
        """Windows ``(N, 2, antennas, samples)`` to every asked exit's guess at their power-normalised samples, same shape."""
        return [self._samples(tokens, number, x) for number, tokens in enumerate(self.taps(x, "tokens"))]

    def _samples(self, tokens: Tensor, number: int, x: Tensor) -> Tensor:
        antennas, samples = x.shape[2:]
        tokens = tokens.view(len(x), -1, self.positions[samples][number], tokens.shape[2]).mean(1)
        stretches = self.decoders[number](tokens).view(len(x), -1, 2, MAX_ANTENNAS, self.stretches[number])
        whole: Tensor = stretches.permute(0, 2, 3, 1, 4).flatten(3)
        return whole[:, :, :antennas, :samples]

    def _token_shapes(self, samples: int) -> list[tuple[int, int]]:
        """Positions in time and channels of the asked exits' tokens for windows of this length and one antenna."""
        parameter = next(self.encoder.parameters())
        training = self.encoder.training
        self.encoder.eval()
        with torch.no_grad():
            taps = self.taps(torch.zeros(1, 2, 1, samples, device=parameter.device), "tokens")
        self.encoder.train(training)
        return [(tokens.shape[1], tokens.shape[2]) for tokens in taps]


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


def _decoder(width: int, stretch: int) -> nn.Linear:
    decoder = nn.Linear(width, 2 * MAX_ANTENNAS * stretch)
    nn.init.trunc_normal_(decoder.weight, std=0.02)  # begins near predicting nothing
    return decoder
