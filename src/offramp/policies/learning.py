"""What learned criteria are fitted to: the outputs of the consulted exits on validation windows.

Descriptors are computed by the same memory that runs later, over all windows as if none left. Sources: see
:mod:`offramp.policies.criteria`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from offramp.errors import DataError, PolicyError
from offramp.policies.criteria import CRITERIA, Seen, confidence, descriptors
from offramp.policies.policy import Policy

Array = NDArray[np.float64]
Fitted = dict[str, NDArray[np.float32]]

PENALTY = 1e-3
"""Of squared weights of standardised descriptors, per window: the descriptors of an exit are nearly collinear."""
MOST_BINS, FEWEST_IN_BIN = 10, 20
BEYOND = 2.0
"""An edge that no confidence reaches; finite, so that JSON can hold it."""


def learned_parameters(
    criterion: str,
    kind: Literal["classification", "regression"],
    exits: Sequence[str],
    outputs: Mapping[str, NDArray[np.float32]],
    targets: NDArray[Any],
    temperatures: Sequence[float],
    losses: NDArray[np.floating] | None = None,
) -> Fitted:
    """Fit ``Policy.parameters`` of a criterion; deterministic.

    Args:
        criterion: A key of :data:`~offramp.policies.criteria.CRITERIA`.
        kind: ``classification`` or ``regression``.
        exits: The exits that the policy consults, in their order: memory runs over them.
        outputs: Per exit, validation logits ``(N, classes)`` or values ``(N, dimensions)``.
        targets: ``(N,)`` class indices, or values ``(N, ...)`` as many as there are dimensions.
        temperatures: Of each of the exits, as the policy has them.
        losses: ``(exits, N)`` of the exits' answers, in [0, 1] for classification. Left out: 0 for a right class and 1 for a wrong
            one; for regression the root mean square error in units of the targets' spread.

    Returns:
        Nothing for criteria that are not learned. ``learned_halting``: ``weight`` ``(features,)``, ``bias`` ``()``. ``benefit``:
        ``weight`` ``(exits, features)``, ``bias`` ``(exits,)``. ``bin_accuracy``: ``edges`` ``(exits, bins - 1)``, ``accuracy``
        ``(exits, bins)``. With regression also ``center`` and ``spread`` of the targets ``(dimensions,)``. All float32.

    Raises:
        PolicyError: The criterion is unknown or not for this kind, or an exit has no outputs.
        DataError: No windows, shapes that do not fit, or outputs or targets that are not finite; names the exit.
    """
    names = tuple(exits)
    policy = Policy(
        kind=kind,
        criterion=criterion,
        exits=names,
        thresholds=(np.inf,) * (len(names) - 1),
        temperatures=tuple(float(temperature) for temperature in temperatures),
        answer_temperatures=(1.0,) * len(names),
    )
    _check(names, outputs, targets)
    if not CRITERIA[criterion].learned:
        return {}
    values = targets.reshape(len(targets), -1).astype(np.float64)
    scale = _scale(values) if kind == "regression" else {}
    if losses is None:
        losses = np.stack([_loss(exit, outputs[exit], values, scale) for exit in names])
    _check_losses(losses, (len(names), len(targets)), kind)
    lost = losses.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        seen = list(_seen(policy, outputs))
        described = [_described(exit, one, scale) for exit, one in zip(names, seen, strict=True)]
    if criterion == "bin_accuracy":
        return _bins([confidence(one.outputs) for one in seen], lost)
    if criterion == "benefit":
        return _benefit(described, lost) | scale
    return _halting(described, 1 - lost if kind == "classification" else 1 - np.tanh(lost)) | scale


def _halting(described: Sequence[Array], certainty: Array) -> Fitted:
    """One layer through a logistic function for all exits that decide, by mean squared error."""
    deciding = max(1, len(described) - 1)
    features, wanted = np.concatenate(described[:deciding]), certainty[:deciding].ravel()
    center, spread = _standard(features)
    rows = np.column_stack([(features - center) / spread, np.ones(len(features))])

    def error(parameters: Array) -> tuple[float, Array]:
        said = expit(rows @ parameters)
        weight = np.append(parameters[:-1], 0)
        gradient = 2 * rows.T @ ((said - wanted) * said * (1 - said)) / len(rows) + 2 * PENALTY * weight
        return float(((said - wanted) ** 2).mean() + PENALTY * weight @ weight), gradient

    start = np.append(np.zeros(features.shape[1]), logit(np.clip(wanted.mean(), 0.01, 0.99)))
    found = minimize(error, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-14, "gtol": 1e-9})
    weight, bias = _folded(found.x[:-1], found.x[-1], center, spread)
    return {"weight": weight.astype(np.float32), "bias": np.asarray(bias, dtype=np.float32)}


def _benefit(described: Sequence[Array], losses: Array) -> Fitted:
    """Ridge regression per exit of the loss there minus the loss at the last exit; nothing is to be gained at the last one."""
    weights, biases = [], []
    for features, gain in zip(described, losses - losses[-1], strict=True):
        center, spread = _standard(features)
        rows = (features - center) / spread
        gram = rows.T @ rows / len(rows) + PENALTY * np.eye(rows.shape[1])
        slope = np.linalg.solve(gram, rows.T @ (gain - gain.mean()) / len(rows))
        weight, bias = _folded(slope, gain.mean(), center, spread)
        weights.append(weight)
        biases.append(bias)
    return {"weight": np.stack(weights).astype(np.float32), "bias": np.asarray(biases, dtype=np.float32)}


def _bins(confidences: Sequence[NDArray[np.float32]], losses: Array) -> Fitted:
    """Per exit, bins of about equally many windows and Laplace's estimate of the accuracy in each."""
    edges, accuracies = [], []
    for certain, loss in zip(confidences, losses, strict=True):
        inner = _edges(certain)
        place = np.searchsorted(inner, certain, side="right")
        count = np.bincount(place, minlength=len(inner) + 1)
        right = np.bincount(place, weights=1 - loss, minlength=len(inner) + 1)
        edges.append(inner)
        accuracies.append((right + 1) / (count + 2))
    most = max(map(len, edges))
    return {
        "edges": np.stack([np.pad(row, (0, most - len(row)), constant_values=BEYOND) for row in edges]),
        "accuracy": np.stack([np.pad(row, (0, most + 1 - len(row)), mode="edge") for row in accuracies]).astype(
            np.float32
        ),
    }


def _edges(certain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edges between bins, each midway between two neighbouring confidences, so that no bin holds fewer than 20 windows."""
    ordered = np.sort(certain)
    wanted = min(MOST_BINS, max(1, len(ordered) // FEWEST_IN_BIN))
    edges, below = [], 0
    for k in range(1, wanted):
        # equal confidences share a bin
        place = int(np.searchsorted(ordered, ordered[k * len(ordered) // wanted]))
        if place - below >= FEWEST_IN_BIN and len(ordered) - place >= FEWEST_IN_BIN:
            low, high = ordered[place - 1], ordered[place]
            middle = np.float32((low + high) / 2)
            edges.append(middle if middle > low else high)
            below = place
    return np.asarray(edges, dtype=np.float32)


def _seen(policy: Policy, outputs: Mapping[str, NDArray[np.float32]]) -> Iterator[Seen]:
    """What a criterion that remembers sees at each exit if no window leaves."""
    # memory is the same for every criterion that remembers, and this one needs no parameters
    policy = replace(policy, criterion="patience" if policy.kind == "classification" else "agreement")
    memory = policy.start(len(outputs[policy.exits[0]]))
    for index, exit in enumerate(policy.exits):
        previous = memory[1]
        _, memory = policy.certainty(exit, outputs[exit], memory)
        temperature = policy.temperatures[index]
        scaled = outputs[exit] if temperature == 1 else outputs[exit] / temperature
        yield Seen(index, scaled, memory[0], previous)


def _described(exit: str, seen: Seen, scale: Fitted) -> Array:
    described: Array = np.asarray(descriptors(seen, scale), dtype=np.float64)
    if not np.isfinite(described).all():
        raise DataError(f"exit {exit!r}: outputs are too large to be told apart; check the heads and the transform")
    return described


def _scale(values: Array) -> Fitted:
    """Mean and standard deviation of targets per dimension; 1 where they are all the same."""
    center, spread = _standard(values)
    return {"center": center.astype(np.float32), "spread": spread.astype(np.float32)}


def _loss(exit: str, outputs: NDArray[np.float32], values: Array, scale: Fitted) -> Array:
    if not scale:
        wrong: Array = (outputs.argmax(1) != values[:, 0]).astype(np.float64)
        return wrong
    if outputs.shape != values.shape:
        raise DataError(f"exit {exit!r}: outputs {outputs.shape} and targets {values.shape} do not fit")
    error: Array = np.sqrt((((outputs - values) / scale["spread"]) ** 2).mean(1))
    return error


def _standard(features: Array) -> tuple[Array, Array]:
    """Mean and standard deviation per column; 1 in place of the deviation of a column that hardly changes."""
    center, spread = features.mean(0), features.std(0)
    return center, np.where(spread > 1e-6 * np.maximum(1, np.abs(center)), spread, 1.0)


def _folded(weight: Array, bias: float, center: Array, spread: Array) -> tuple[Array, float]:
    """Weight and bias for descriptors as they are instead of standardised ones."""
    folded: Array = weight / spread
    return folded, float(bias - folded @ center)


def _check(exits: Sequence[str], outputs: Mapping[str, NDArray[np.float32]], targets: NDArray[Any]) -> None:
    if not len(targets):
        raise DataError("a learned policy needs validation windows: there are none")
    if not np.isfinite(targets).all():
        raise DataError("validation targets are not all finite; check the target")
    for exit in exits:
        if exit not in outputs:
            raise PolicyError(f"a policy needs scores: there are no outputs of exit {exit!r}")
        if len(outputs[exit]) != len(targets):
            raise DataError(f"exit {exit!r}: {len(outputs[exit])} outputs for {len(targets)} validation targets")
        if not np.isfinite(outputs[exit]).all():
            raise DataError(
                f"exit {exit!r}: validation outputs are not all finite; check the heads and the encoder's weights"
            )


def _check_losses(losses: NDArray[np.floating], shape: tuple[int, int], kind: str) -> None:
    if losses.shape != shape or not np.isfinite(losses).all():
        raise DataError(f"losses of shape {losses.shape}: give a finite number per exit and window, {shape}")
    if losses.min() < 0 or (kind == "classification" and losses.max() > 1):
        raise DataError(
            f"losses reach from {losses.min():g} to {losses.max():g}: give none below 0, and for classification none above 1"
        )
