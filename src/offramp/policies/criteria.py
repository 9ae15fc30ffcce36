"""How certain an exit is of its answers: pure functions on arrays, larger is more certain, NaN where an output is NaN.

They take NumPy arrays or torch tensors alike, through the array API standard, and never import torch themselves. Sources:

* ``confidence``: the largest softmax probability (Hendrycks and Gimpel, arXiv 1610.02136; MSDNet, arXiv 1703.09844).
* ``entropy``: one minus the entropy over its largest value (BranchyNet, arXiv 1709.01686; DeeBERT, arXiv 2004.12993).
* ``margin``: between the two largest probabilities.
* ``patience``: how many exits in a row have given the same class (PABEE, arXiv 2006.04152).
* ``agreement``: minus the distance to the answer of the exit before, in the target's unit, for regression (PABEE, section 3.3).
* ``learned_halting``: one linear layer, shared by the exits, trained against the error (BERxiT, EACL 2021). BERxiT's layer sees the hidden
  state; taps differ in width here, so that ours sees what is told about the outputs by :func:`descriptors`.
* ``benefit``: minus the predicted benefit of going on, a linear function per exit of the same descriptors (after BEACON).
* ``bin_accuracy``: held-out accuracy of the bin that the confidence falls into (performance control, PCEE, arXiv 2412.19325).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import numpy as of_numpy

from offramp.schema.metrics import Kind
from offramp.schema.policies import CRITERION_KINDS

SATURATED = 40.0
"""The logistic function of more is 1, and its exponential might overflow."""

Array = Any
"""A NumPy array or a torch tensor."""
Parameters = Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]
"""What a learned criterion was fitted to, float32."""


@dataclass(frozen=True)
class Seen:
    """What a criterion may look at: the outputs of one exit for n windows, and what the exits before it said.

    Attributes:
        index: Of the exit among those consulted, 0 for the first.
        outputs: ``(n, classes)`` logits, already divided by the exit's temperature, or ``(n, dimensions)`` values.
        streak: ``(n,)`` integers: how many consulted exits in a row have given the present class, this one included.
        previous: ``(n, outputs)`` of the exit consulted before, ``(n, 0)`` at the first one.
    """

    index: int
    outputs: Array
    streak: Array
    previous: Array


@dataclass(frozen=True)
class Criterion:
    """A way to tell how certain an exit is.

    Attributes:
        name: As suites name it.
        kinds: The kinds of task that it is for.
        certainty: From what was seen and learned parameters to ``(n,)``; larger is more certain.
        learned: Whether it has parameters, which :mod:`offramp.policies.learning` fits.
        remembers: Whether it looks at ``streak`` or ``previous``.
    """

    name: str
    kinds: tuple[Kind, ...]
    certainty: Callable[[Seen, Parameters], Array]
    learned: bool = False
    remembers: bool = False


def namespace_of(array: Array) -> Any:
    """The functions of an array's library; NumPy's own without looking for it, which costs more than small arrays do."""
    return of_numpy if isinstance(array, np.ndarray) else array_namespace(array)


def softmax(logits: Array) -> Array:
    """Probabilities ``(n, classes)``; a row that holds NaN is NaN throughout."""
    if isinstance(logits, np.ndarray):  # methods, for small arrays cost less than the calls around them
        of_numpy_alone = np.exp(logits - logits.max(1, keepdims=True))
        return of_numpy_alone / of_numpy_alone.sum(1, keepdims=True)
    xp = namespace_of(logits)
    exponential = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
    return exponential / xp.sum(exponential, axis=1, keepdims=True)


def confidence(logits: Array) -> Array:
    """The largest probability, ``(n,)``."""
    if isinstance(logits, np.ndarray):
        return 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    xp = namespace_of(logits)
    return 1 / xp.sum(xp.exp(logits - xp.max(logits, axis=1, keepdims=True)), axis=1)


def entropy(logits: Array) -> Array:
    """One minus the entropy of the probabilities over that of guessing, ``(n,)``, in [0, 1]."""
    xp = namespace_of(logits)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    exponential = xp.exp(shifted)
    total = xp.sum(exponential, axis=1)
    # exp underflows to 0 where the logit is far below, and 0 times that logit is 0, unless it is -infinity
    mean = xp.sum(exponential * xp.where(exponential > 0, shifted, 0 * exponential), axis=1) / total
    return 1 - (xp.log(total) - mean) / math.log(logits.shape[1])


def margin(logits: Array) -> Array:
    """The largest probability minus the second largest, ``(n,)``."""
    xp = namespace_of(logits)
    ordered = xp.sort(softmax(logits), axis=1)
    return ordered[:, -1] - ordered[:, -2]


def patience(seen: Seen) -> Array:
    """Length of the streak of equal answers, ``(n,)`` float; NaN where an output is."""
    xp = namespace_of(seen.outputs)
    # the sum of finite logits times 0 is 0, and NaN otherwise
    return xp.astype(seen.streak, seen.outputs.dtype) + 0 * xp.sum(seen.outputs, axis=1)


def agreement(seen: Seen) -> Array:
    """Minus the distance to the previous exit's answer, ``(n,)``; minus infinity at the first exit."""
    xp = namespace_of(seen.outputs)
    if seen.previous.shape[1] == 0:
        return 0 * xp.sum(seen.outputs, axis=1) - xp.inf
    return -xp.sqrt(xp.sum((seen.outputs - seen.previous) ** 2, axis=1))


def descriptors(seen: Seen, parameters: Parameters) -> Array:
    """What learned criteria see of an exit's outputs, ``(n, features)``.

    Classification: confidence, margin, entropy, share of the exits so far in the streak. Regression: distance to the previous
    answer and distance from the mean target, in units of the targets' spread (``parameters["center"]``, ``parameters["spread"]``).
    """
    xp = namespace_of(seen.outputs)
    if "center" not in parameters:
        share = patience(seen) / (seen.index + 1)
        return xp.stack([confidence(seen.outputs), margin(seen.outputs), entropy(seen.outputs), share], axis=1)
    center, spread = (_like(parameters[name], seen.outputs) for name in ("center", "spread"))
    scaled = (seen.outputs - center) / spread
    moved = (seen.outputs - seen.previous) / spread if seen.previous.shape[1] else 0 * scaled + 1
    return xp.stack([xp.sqrt(xp.mean(moved**2, axis=1)), xp.sqrt(xp.mean(scaled**2, axis=1))], axis=1)


def learned_halting(seen: Seen, parameters: Parameters) -> Array:
    """Certainty by one linear layer for all exits, through a logistic function, ``(n,)`` in [0, 1]."""
    xp = namespace_of(seen.outputs)
    weight, bias = (_like(parameters[name], seen.outputs) for name in ("weight", "bias"))
    score = xp.clip(descriptors(seen, parameters) @ weight + bias, -SATURATED, SATURATED)
    return 1 / (1 + xp.exp(-score))


def benefit(seen: Seen, parameters: Parameters) -> Array:
    """Minus the predicted benefit of going on, by a linear function per exit, ``(n,)``."""
    weight, bias = (_like(parameters[name], seen.outputs) for name in ("weight", "bias"))
    return -(descriptors(seen, parameters) @ weight[seen.index, :] + bias[seen.index])


def bin_accuracy(seen: Seen, parameters: Parameters) -> Array:
    """Held-out accuracy of the confidence's bin at this exit, ``(n,)``."""
    xp = namespace_of(seen.outputs)
    edges, accuracy = (_like(parameters[name], seen.outputs)[seen.index, :] for name in ("edges", "accuracy"))
    certain = confidence(seen.outputs)
    place = xp.sum(xp.astype(certain[:, None] >= edges[None, :], xp.int64), axis=1)
    return xp.take(accuracy, place, axis=0) + 0 * certain


def _like(parameter: np.ndarray[Any, np.dtype[np.float32]], outputs: Array) -> Array:
    """A parameter as an array of the outputs' library, on their device."""
    if isinstance(outputs, np.ndarray):
        return parameter
    return array_namespace(outputs).asarray(parameter, device=outputs.device)


def _criterion(
    name: str, certainty: Callable[[Seen, Parameters], Array], learned: bool = False, remembers: bool = False
) -> Criterion:
    return Criterion(name, CRITERION_KINDS[name], certainty, learned, remembers)


CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        _criterion("confidence", lambda seen, _: confidence(seen.outputs)),
        _criterion("entropy", lambda seen, _: entropy(seen.outputs)),
        _criterion("margin", lambda seen, _: margin(seen.outputs)),
        _criterion("patience", lambda seen, _: patience(seen), remembers=True),
        _criterion("bin_accuracy", bin_accuracy, learned=True),
        _criterion("agreement", lambda seen, _: agreement(seen), remembers=True),
        _criterion("learned_halting", learned_halting, learned=True, remembers=True),
        _criterion("benefit", benefit, learned=True, remembers=True),
    )
}
