"""A task as one module of real operations: what is exported."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.bundle import BundleTask
from offramp.encoders.base import StagedEncoder
from offramp.errors import OfframpError
from offramp.heads.modules import head_module
from offramp.transforms import SPECTROGRAM_BINS, SPECTROGRAM_HOP, Transform


class Standardize(nn.Module):
    """``(x - mean) * scale`` per channel."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(transform.mean))
        self.register_buffer("scale", torch.tensor(transform.scale))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, ...)`` float32, shape kept."""
        per_channel = (-1, *[1] * (x.ndim - 2))
        return (x - self.get_buffer("mean").view(per_channel)) * self.get_buffer("scale").view(per_channel)


class Spectrogram(nn.Module):
    """:func:`offramp.transforms.spectrogram` without complex numbers: the short-time Fourier transform as a convolution."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.frames = transform.frames
        sample = np.arange(SPECTROGRAM_BINS)
        frequency = sample - SPECTROGRAM_BINS // 2
        taper = np.hanning(SPECTROGRAM_BINS + 1)[:-1]
        angle = 2 * math.pi / SPECTROGRAM_BINS * frequency[:, None] * sample
        cosine, sine = (np.cos(angle) * taper, np.sin(angle) * taper)
        real, imaginary = np.stack([cosine, sine], axis=1), np.stack([-sine, cosine], axis=1)
        self.register_buffer("kernel", torch.tensor(np.concatenate([real, imaginary]), dtype=torch.float32))
        self.gain = 1 / float(np.square(taper).sum())

    def forward(self, x: Tensor) -> Tensor:
        """I/Q ``(N, 2, antennas, time)`` float32 to ``(N, antennas, 64, frames)``."""
        power = x.square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
        scaled = x / power.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        signals = scaled.transpose(1, 2).flatten(0, 1)
        hop = SPECTROGRAM_HOP if self.frames is None else (x.shape[3] - SPECTROGRAM_BINS) // (self.frames - 1)
        spectrum = functional.conv1d(signals, self.get_buffer("kernel"), stride=hop)[..., : self.frames]
        real, imaginary = spectrum.chunk(2, dim=1)
        level = torch.log((real.square() + imaginary.square()) * self.gain + 1e-6)
        return level.reshape(-1, x.shape[2], *level.shape[1:])


class Degrade(nn.Module):
    """Unobserved antennas become zero, see :func:`offramp.transforms.degrade`."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        if transform.snr_db is not None:
            raise OfframpError(
                "a graph cannot draw the noise of transform degrade: export a task whose input has no noise"
            )
        self.antennas = transform.antennas

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 2, ..., antennas, x)`` float32, shape kept."""
        every = x.shape[-2]
        observed = torch.arange(every) % (every // (self.antennas or every)) == 0
        return torch.where(observed[:, None], x, 0.0)


TRANSFORMS: dict[str, Callable[[Transform], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "standardize": Standardize,
    "spectrogram": Spectrogram,
    "degrade": Degrade,
}


class DeployedTask(nn.Module):
    """Raw windows to class probabilities or values: transform, truncated encoder with BatchNorm folded, head, softmax."""

    def __init__(self, encoder: nn.Module, task: BundleTask, exit: str) -> None:
        """Take the encoder as the task sees it, truncated at ``exit``, and the task."""
        super().__init__()
        self.transform = TRANSFORMS[task.transform.name](task.transform)
        self.encoder = encoder
        self.head = head_module(task.heads[exit])
        self.temperature = task.temperatures.get(exit, 1.0)
        self.output = nn.Softmax(dim=1) if task.kind == "classification" else nn.Identity()

    def forward(self, windows: Tensor) -> Tensor:
        """float32 ``(N, *window_shape)`` to float32 probabilities ``(N, classes)`` or values ``(N, dimensions)``."""
        answer: Tensor = self.output(self.head(self.encoder(self.transform(windows))) / self.temperature)
        return answer


class EveryExit(nn.Module):
    """Input to the outputs at all exits, in order of depth: one graph from which those of single exits are cut."""

    def __init__(self, encoder: StagedEncoder, heads: dict[str, nn.Module]) -> None:
        """Take an encoder and heads by exit; an exit without a head gives its tap."""
        super().__init__()
        self.encoder = encoder
        # Names of modules may not hold dots, names of exits do.
        self.heads = nn.ModuleList(heads.get(exit.name, nn.Identity()) for exit in encoder.exits)

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        """float32 ``(N, *input.shape)`` to one float32 tensor per exit: its tap, or its head's ``(N, outputs)``."""
        taps = self.encoder.taps(windows).values()
        return tuple(head(tap) for head, tap in zip(self.heads, taps, strict=True))
