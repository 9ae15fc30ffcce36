"""Folding BatchNorm into the convolution before it."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def fold_batchnorm(module: M) -> M:
    """A copy in evaluation mode in which every convolution that a BatchNorm follows in a Sequential has taken it in.

    Outputs change by rounding alone. The module given is left as it was.
    """
    folded = copy.deepcopy(module).eval()
    for part in folded.modules():
        if isinstance(part, nn.Sequential):
            _fold_sequence(part)
    return folded


def _fold_sequence(sequence: nn.Sequential) -> None:
    kept: list[nn.Module] = []
    for layer in sequence:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and kept and isinstance(kept[-1], nn.Conv1d | nn.Conv2d):
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer)
        else:
            kept.append(layer)
    sequence._modules = dict(zip(map(str, range(len(kept))), kept, strict=True))
