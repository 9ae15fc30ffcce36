"""Frozen encoders, and the shapes of what they give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from offramp.encoders.base import StagedEncoder


def freeze(encoder: StagedEncoder) -> StagedEncoder:
    """Put an encoder into inference mode and stop gradients; its parameters and buffers cannot change from here on."""
    return encoder.eval().requires_grad_(False)


@contextmanager
def inference() -> Iterator[None]:
    """Within, torch tracks no gradients and takes numbers below 1.2e-38 for zero.

    Processors compute with such denormal numbers ten to a hundred times slower, and pretrained transformers are full of them: a pass of LWM
    v1.0 takes a tenth of the time, to the same taps.
    """
    torch.set_flush_denormal(True)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_flush_denormal(False)


def tap_shapes(encoder: StagedEncoder, shape: tuple[int, ...], pooling: str = "default") -> dict[str, tuple[int, ...]]:
    """Shape of one window's tap at every exit, in order of depth: ``(width,)``, or ``(positions, width)`` for ``tokens``.

    Args:
        encoder: Frozen with :func:`freeze`. Unless the pooling is its own, it runs once, on one made-up window.
        shape: Of one window, as the encoder takes it.
        pooling: See :meth:`StagedEncoder.tap`.

    Raises:
        EncoderError: The encoder does not take windows of this shape, or has no such pooling.
    """
    if pooling == "default":
        return {exit.name: (exit.width,) for exit in encoder.exits}
    window = encoder.input.draw(1, shape).to(next(encoder.parameters()).device)
    with torch.inference_mode():
        return {name: tuple(tap.shape[1:]) for name, tap in encoder.taps(window, pooling=pooling).items()}
