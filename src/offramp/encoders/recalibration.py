"""BatchNorm statistics for other data than an encoder was pretrained on: measured without labels, no weight changes.

Source: Li, Wang, Shi, Liu, Hou, "Revisiting Batch Normalization for Practical Domain Adaptation" (arXiv 1603.04779).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.encoders.base import StagedEncoder
from offramp.encoders.taps import freeze
from offramp.errors import EncoderError

BUFFERS = ("running_mean", "running_var")


def has_statistics(encoder: StagedEncoder) -> bool:
    """Whether any BatchNorm layer keeps statistics."""
    return bool(_norms(encoder))


def recalibrated(encoder: StagedEncoder, batches: Iterable[Tensor]) -> StagedEncoder:
    """The same encoder, weights shared, whose BatchNorm statistics are the mean of those of some batches; frozen.

    Args:
        encoder: Not changed. Without BatchNorm it is returned as it is.
        batches: Inputs ``(n, *input.shape)`` on the encoder's device.
    """
    if not has_statistics(encoder):
        return encoder
    own = _own_buffers(encoder).eval()
    for norm in _norms(own).values():
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            own.taps(batch, [own.exits[-1].name])
    return freeze(own)


def statistics_of(encoder: StagedEncoder) -> dict[str, NDArray[np.float32]]:
    """Running means and variances of all BatchNorm layers, float32 ``(channels,)`` by the name of the buffer."""
    return {
        f"{name}.{buffer}": getattr(norm, buffer).detach().cpu().numpy().astype(np.float32)
        for name, norm in _norms(encoder).items()
        for buffer in BUFFERS
    }


def with_statistics(encoder: StagedEncoder, statistics: Mapping[str, NDArray[np.float32]]) -> StagedEncoder:
    """The same encoder, weights shared, with these BatchNorm statistics; frozen.

    Raises:
        EncoderError: They are not those of this encoder's layers, or a variance is negative.
    """
    own = _own_buffers(encoder)
    norms = _norms(own)
    expected = {f"{name}.{buffer}" for name in norms for buffer in BUFFERS}
    if expected != set(statistics):
        odd = sorted(expected ^ set(statistics))[0]
        raise EncoderError(f"BatchNorm statistics do not fit {encoder.architecture}: {odd} is on one side alone")
    for name, norm in norms.items():
        for buffer in BUFFERS:
            values, place = statistics[f"{name}.{buffer}"], getattr(norm, buffer)
            if values.shape != tuple(place.shape):
                raise EncoderError(
                    f"BatchNorm statistics {name}.{buffer} have shape {values.shape}, and the layer's are {tuple(place.shape)}"
                )
            if buffer == "running_var" and (values < 0).any():
                raise EncoderError(f"BatchNorm statistics {name}.{buffer}: a variance is below zero")
            place.copy_(torch.from_numpy(values))
    return freeze(own)


def _own_buffers(encoder: StagedEncoder) -> StagedEncoder:
    """A copy with buffers of its own and the parameters of the original."""
    shared = {id(parameter): parameter for parameter in encoder.parameters()}
    return copy.deepcopy(encoder, shared)


def _norms(encoder: StagedEncoder) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    }
