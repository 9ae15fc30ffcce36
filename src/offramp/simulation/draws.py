"""Random draws on the device of a generator, and generators that are functions of a seed and a block number."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor


def seeded(seed: int, block: int, device: torch.device | str = "cpu") -> Generator:
    """A generator for one of many independent blocks of draws."""
    return Generator(device).manual_seed((seed * 1_000_003 + block) % 2**62)


def uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform float32 draws."""
    return torch.rand(shape, generator=generator, device=generator.device).mul_(high - low).add_(low)


def log_uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Float32 draws whose logarithm is uniform; ``low`` > 0."""
    return torch.exp(uniform(math.log(low), math.log(high), shape, generator))


def complex_normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Circular complex64 normal draws of unit power."""
    return torch.randn(shape, dtype=torch.complex64, generator=generator, device=generator.device)


def integers(high: int, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform int64 draws from 0 to ``high - 1``."""
    return torch.randint(high, shape, generator=generator, device=generator.device)


def choice(values: Tensor, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform draws, with repetition, of entries of the one-dimensional ``values``."""
    return values.to(generator.device)[integers(len(values), shape, generator)]
