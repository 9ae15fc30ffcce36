"""Copies of modules that share the parameters of the original, and how far two results lie apart."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from offramp.encoders.storage import first_line
from offramp.errors import EncoderError

M = TypeVar("M", bound=nn.Module)


def shared_copy(model: M) -> M:
    """The same modules anew, with the very parameters and buffers of the original: structure and flags can change, weights are one.

    Raises:
        EncoderError: A module holds something that cannot be copied.
    """
    tensors = [*model.parameters(), *model.buffers()]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except Exception as error:  # whatever the modules of others do when they are copied
        raise EncoderError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from None


def relative_difference(value: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value; infinite if shapes differ or a value is NaN."""
    if value.shape != expected.shape:
        return float("inf")
    if torch.equal(value, expected):
        return 0.0
    scale = expected.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    difference = float((value.double() - expected.double()).abs().max() / scale)
    return difference if difference == difference else float("inf")


def check_float32(model: nn.Module) -> None:
    """Raise :class:`EncoderError` unless all parameters are float32."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise EncoderError(f"parameter {name} is {parameter.dtype}: convert the model with model.float()")
