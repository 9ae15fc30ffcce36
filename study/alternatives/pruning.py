"""Structured pruning: whole channels and hidden units go, so that what is left is a smaller plain network.

Sources: first-order Taylor importance of Molchanov et al., "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771);
dependencies between layers after Fang et al., "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900), package torch-pruning.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from offramp.errors import EncoderError, OfframpError

BLOCK = 16
"""Channels that convolution kernels take at a time: what is left of a width is a multiple of it."""
WIDE = (nn.Conv1d, nn.Conv2d, nn.Linear)

Loss = Callable[[nn.Module], Tensor]


def prune(network: nn.Sequential, fraction: float, example: Tensor, loss: Loss) -> nn.Module:
    """A copy without the least important fraction of every width that the network's code leaves free.

    Transformers lose hidden units of their feed-forward parts: the width of tokens and heads stands in the code. Other networks lose
    channels, along with all that depends on them. The outputs keep their size.

    Args:
        network: A truncated encoder and a head, in evaluation mode.
        fraction: Of each width, between 0 and 1.
        example: A batch of inputs.
        loss: Of a network on training windows; its gradients say what is important.

    Raises:
        EncoderError: No width is free.
        OfframpError: The package torch-pruning is missing.
    """
    pruned = copy.deepcopy(network).requires_grad_(True)
    loss(pruned).backward()  # type: ignore[no-untyped-call]
    pairs = feed_forward_pairs(pruned)
    if pairs:
        for first, second in pairs:
            _prune_pair(first, second, fraction)
    else:
        _prune_channels(pruned, fraction, example)
    pruned.zero_grad()
    with torch.inference_mode():
        found, wanted = pruned(example).shape, network(example).shape
    if found != wanted:
        raise EncoderError(f"pruning changed the outputs from {tuple(wanted)} to {tuple(found)}")
    return pruned.eval().requires_grad_(False)


def feed_forward_pairs(network: nn.Module) -> list[tuple[nn.Linear, nn.Linear]]:
    """The two layers ``fc1`` and ``fc2`` of every feed-forward part of a transformer."""
    parts = ((getattr(part, "fc1", None), getattr(part, "fc2", None)) for part in network.modules())
    return [(a, b) for a, b in parts if isinstance(a, nn.Linear) and isinstance(b, nn.Linear)]


def kept_width(width: int, fraction: float) -> int:
    """What is left of a width: the nearest multiple of 16, at least 16, never more than there was."""
    return min(width, BLOCK * max(1, round((1 - fraction) * width / BLOCK)))


def _prune_pair(first: nn.Linear, second: nn.Linear, fraction: float) -> None:
    pruning = require_torch_pruning()
    into, bias, out = (_expected_change(parameter) for parameter in (first.weight, first.bias, second.weight))
    importance = (into.sum(1) + bias).square() + out.sum(0).square()
    dropped = importance.argsort()[: first.out_features - kept_width(first.out_features, fraction)].tolist()
    if dropped:
        pruning.prune_linear_out_channels(first, dropped)
        pruning.prune_linear_in_channels(second, dropped)


def _expected_change(parameter: Tensor) -> Tensor:
    """Of the loss, to first order, if an entry became zero."""
    assert parameter.grad is not None, "the loss was differentiated"
    return parameter.detach() * parameter.grad


def _prune_channels(network: nn.Sequential, fraction: float, example: Tensor) -> None:
    pruning = require_torch_pruning()
    fixed = fixed_layers(network, example)
    ignored = [*_layers_at(network, fixed), _last_linear(network)]
    ratios = {
        part: _ratio(part, fraction) for part in network.modules() if isinstance(part, WIDE) and part not in ignored
    }
    if not ratios:
        raise EncoderError("its code leaves no width free")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = pruning.pruner.BasePruner(
            network,
            example,
            importance=pruning.importance.GroupTaylorImportance(),
            pruning_ratio_dict=ratios,
            ignored_layers=ignored,
        )
        pruner.step()


def _ratio(layer: nn.Module, fraction: float) -> float:
    """What the package is told so that :func:`kept_width` is left: it rounds the rest down, so a quarter of an output is added."""
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(width, int)
    return max(0.0, 1 - (kept_width(width, fraction) + 0.25) / width)


def fixed_layers(network: nn.Sequential, example: Tensor) -> frozenset[str]:
    """Places (see :func:`place`) of layers that cannot lose an output, because the code counts on their width.

    Found by trial: one output of each place's first layer is taken from a copy, and the copy is run.
    """
    fixed: set[str] = set()
    free: set[str] = {place(name) for name, part in network.named_modules() if part is _last_linear(network)}
    while (failed := _first_failure(copy.deepcopy(network), example, fixed, free)) is not None:
        fixed.add(failed)
    return frozenset(fixed)


def place(name: str) -> str:
    """A layer's place within its stage, the same in all stages."""
    return re.sub(r"stages\.\d+", "stages", name)


def _first_failure(network: nn.Sequential, example: Tensor, fixed: set[str], free: set[str]) -> str | None:
    """The first untried place that cannot lose an output; those that can are added to ``free``."""
    pruning = require_torch_pruning()
    shape = network(example).shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = _traced(pruning, network, example)
        for name, layer in network.named_modules():
            here = place(name)
            if not isinstance(layer, WIDE) or here in fixed or here in free:
                continue
            try:
                handler = graph.get_pruner_of_module(layer).prune_out_channels
                graph.get_pruning_group(layer, handler, [0]).prune()
                works = network(example).shape == shape
            except Exception:  # whatever a network's own code raises on a width that it does not expect
                works = False
            if not works:
                return here
            free.add(here)
    return None


def _traced(pruning: ModuleType, network: nn.Module, example: Tensor) -> Any:
    try:
        return pruning.DependencyGraph().build_dependency(network, example_inputs=example)
    except Exception as error:  # torch-pruning raises what it stumbles over
        raise EncoderError(f"torch-pruning cannot follow its operations ({type(error).__name__})") from None


def _layers_at(network: nn.Module, places: frozenset[str]) -> list[nn.Module]:
    return [part for name, part in network.named_modules() if isinstance(part, WIDE) and place(name) in places]


def _last_linear(network: nn.Module) -> nn.Module:
    return [part for part in network.modules() if isinstance(part, nn.Linear)][-1]


def require_torch_pruning() -> ModuleType:
    """The module ``torch_pruning``, if it is installed."""
    try:
        import torch_pruning
    except ImportError:
        raise OfframpError("pruning needs the package torch-pruning: pip install offramp[compare]") from None
    return torch_pruning  # type: ignore[no-any-return]
