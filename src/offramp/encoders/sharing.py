"""Copies of the modules of others, with the same or with new parameters, and how far two results lie apart."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from offramp.encoders.base import seeded
from offramp.encoders.storage import first_line
from offramp.errors import EncoderError

M = TypeVar("M", bound=nn.Module)

RESETS = ("reset_parameters", "_reset_parameters", "init_weights")
"""Names that modules of torch, and timm's, give to the method that draws their parameters."""


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


def redrawn_copy(model: M, seed: int) -> M:
    """The same modules anew, on the CPU, with random parameters as the modules themselves draw them.

    Raises:
        EncoderError: A module holds parameters and has no method that draws them.
    """
    fresh = copy.deepcopy(model).cpu()
    done: set[nn.Module] = set()
    with seeded(seed), torch.no_grad():
        for name, module in [*fresh.named_modules()]:
            if is_hugging_face(module) and module not in done:
                done.update(module.modules())
                anew: M = type(module)(copy.deepcopy(module.config))
                if not name:
                    return anew
                fresh.set_submodule(name, anew)
                done.update(anew.modules())
        for name, module in reversed([*fresh.named_modules()]):  # a module may draw what its parts hold once more
            if module in done:
                continue
            reset = next((getattr(module, method) for method in RESETS if hasattr(module, method)), None)
            held = [parameter for parameter, _ in module.named_parameters(recurse=False)]
            if reset is not None:
                reset()
            elif held:
                raise EncoderError(
                    f"{type(module).__name__} {name!r} holds {held[0]} and has no reset_parameters() that draws it anew: add "
                    f"one, or leave the control random_encoder out"
                )
    return fresh


def is_hugging_face(model: nn.Module) -> bool:
    """Whether the Transformers library made this model; without importing it."""
    return any(
        kind.__name__ == "PreTrainedModel" and kind.__module__.startswith("transformers.")
        for kind in type(model).__mro__
    )


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
