"""Low-rank adapters on the stages up to an exit, and their merging into a plain encoder.

Source: LoRA (Hu et al., arXiv 2106.09685), as the package ``peft`` (extra ``hub``) has it for linear layers and convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from torch import nn

from offramp.encoders.base import StagedEncoder
from offramp.errors import TrainingError

SCALE = 2.0
"""What the adapters' product is multiplied by: ``lora_alpha`` over the rank."""


def add_adapters(encoder: StagedEncoder, last: int, rank: int) -> None:
    """Put an adapter on every linear layer and convolution of stages 0 to ``last``; only adapters require gradients then.

    Convolutions in groups get none (their blocks have a lower rank than the adapter), nor do layers inside
    ``nn.MultiheadAttention``, which are used without being called.

    Raises:
        TrainingError: ``peft`` is missing, or there is no such layer.
    """
    names = list(_adaptable(encoder, last))
    if not names:
        raise TrainingError(
            f"low-rank: {encoder.architecture} has no linear layer and no convolution without groups up to "
            f"{encoder.exits[last].name}: choose method full"
        )
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules=names, bias="none")
    encoder.requires_grad_(False)
    peft.inject_adapter_in_model(config, encoder)


def merge_adapters(encoder: StagedEncoder) -> None:
    """Add every adapter to the layer that it is on and take it away: the encoder's modules are plain ones again."""
    layers = _peft().tuners.lora.LoraLayer
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, layers):
                child.merge()
                setattr(parent, name, child.base_layer)
    encoder.requires_grad_(True)


def _adaptable(encoder: StagedEncoder, last: int) -> Iterator[str]:
    """Full names of the layers that get an adapter."""
    for number, stage in enumerate(list(encoder.stages)[: last + 1]):
        hidden = {
            id(inner)
            for module in stage.modules()
            if isinstance(module, nn.MultiheadAttention)
            for inner in module.modules()
        }
        for name, module in stage.named_modules(prefix=f"stages.{number}"):
            plain = isinstance(module, nn.Linear) or (
                isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1
            )
            if plain and id(module) not in hidden:
                yield name


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError:
        raise TrainingError("low-rank training needs the package peft: pip install offramp[hub]") from None
