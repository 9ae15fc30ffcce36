"""What a bundle holds: heads, tasks, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.errors import BundleError
from offramp.transforms import Transform

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Head:
    """A head's weights. One layer is linear; between two layers stands a ReLU.

    Attributes:
        layers: Weight float32 ``(outputs, inputs)`` and bias float32 ``(outputs,)`` of each layer.
        positions: For a head on tokens, which all positions share: the entries of the flattened target that it gives at each
            position, int64 ``(positions, values)``. None for a head on a default tap.
        query: For a head that pools tokens by attention, float32 ``(inputs,)``: the softmax over positions of its products with the
            tokens weighs them, and the layers take the weighted mean. None for any other.
    """

    layers: tuple[Layer, ...]
    positions: NDArray[np.int64] | None = None
    query: NDArray[np.float32] | None = None

    @property
    def inputs(self) -> int:
        """Width of the tap that the head takes, at each position if it has them."""
        return int(self.layers[0][0].shape[1])

    @property
    def outputs(self) -> int:
        """Number of classes, or of target dimensions."""
        return int(self.layers[-1][0].shape[0]) if self.positions is None else self.positions.size

    def __call__(self, taps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Taps float32 ``(N, inputs)``, or ``(N, positions, inputs)``, to logits or values, float32 ``(N, outputs)``."""
        if self.query is not None:
            scores = taps @ self.query
            share = np.exp(scores - scores.max(1, keepdims=True))
            taps = np.einsum("np,npw->nw", share / share.sum(1, keepdims=True), taps)
        first, *others = self.layers
        hidden = taps.reshape(-1, taps.shape[-1]) @ first[0].T + first[1]
        for weight, bias in others:
            hidden = np.maximum(hidden, 0) @ weight.T + bias
        if self.positions is None:
            return hidden
        outputs = np.empty((len(taps), self.positions.size), dtype=hidden.dtype)
        outputs[:, self.positions] = hidden.reshape(len(taps), *self.positions.shape)
        return outputs


@dataclass(frozen=True, eq=False)
class BundleTask:
    """One task of a bundle.

    Attributes:
        name: Unique within the bundle.
        kind: ``classification`` or ``regression``.
        metric: Name of the metric in ``val``.
        exit: The chosen exit.
        label_names: Names of the classes 0, 1, ...; empty for regression.
        transform: What the windows go through before the encoder.
        window_shape: Shape of one raw window, without batch axis.
        heads: A head for every exit, in order of depth.
        val: Validation score of every exit.
        data: How windows were read (format, input, window, hop, cut ...), JSON types only.
        target_shape: Shape of one window's target before it was flattened: ``outputs.reshape(-1, *target_shape)``. Empty for
            classification.
        policies: By name, what :meth:`offramp.policies.Policy.to_dict` gives: which windows leave at which exit.
        temperatures: Per exit, by which its logits are divided before they become probabilities; 1 where none is stored.
        poolings: By exit, how the tap is pooled: ``default``, ``statistics``, ``quantiles`` or ``tokens``; ``default`` where an exit is
            left out. At ``input`` it says whether the side features are ``tokens``.
        side: Name of the side features in front of every tap, which are a tap by themselves at the exit ``input``; None without.
        statistics: Name of the set of BatchNorm statistics that the encoder runs with; None for its own.
    """

    name: str
    kind: str
    metric: str
    exit: str
    label_names: tuple[str, ...]
    transform: Transform
    window_shape: tuple[int, ...]
    heads: dict[str, Head]
    val: dict[str, float]
    data: dict[str, Any] = field(default_factory=dict)
    target_shape: tuple[int, ...] = ()
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    temperatures: dict[str, float] = field(default_factory=dict)
    poolings: dict[str, str] = field(default_factory=dict)
    side: str | None = None
    statistics: str | None = None

    @property
    def temperature(self) -> float:
        """Of the chosen exit."""
        return self.temperatures.get(self.exit, 1.0)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A frozen encoder and its tasks.

    Attributes:
        encoder: ``architecture``, ``config`` (constructor arguments), ``sha256`` (its fingerprint) and ``exits``: a list of
            ``{"name", "index", "width", "params"}`` in order of depth.
        tasks: By name.
        encoder_path: Where the weights are if not in the bundle's ``encoder`` folder: an encoder folder or a checkpoint,
            absolute or relative to the bundle.
        statistics: BatchNorm's statistics by set, float32 by the name of the encoder's buffer.
    """

    encoder: dict[str, Any]
    tasks: dict[str, BundleTask]
    encoder_path: str | None = None
    statistics: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)

    def choose(self, name: str | None) -> BundleTask:
        """A task by name; without a name the only one. Raises :class:`BundleError` that lists the tasks otherwise."""
        if name is None and len(self.tasks) > 1:
            raise BundleError(f"the bundle has several tasks: choose one with --task ({', '.join(self.tasks)})")
        return self.task(next(iter(self.tasks)) if name is None else name)

    def task(self, name: str) -> BundleTask:
        """A task by name; raises :class:`BundleError` that lists the tasks if there is none."""
        if not isinstance(name, str) or name not in self.tasks:
            raise BundleError(f"unknown task {name!r}: the bundle has {', '.join(self.tasks)}")
        return self.tasks[name]


def is_permutation(indices: NDArray[np.int64], count: int) -> bool:
    """Whether an array of any shape holds each of 0, 1, ..., ``count - 1`` exactly once."""
    return indices.size == count and bool((np.sort(indices, axis=None) == np.arange(count)).all())
