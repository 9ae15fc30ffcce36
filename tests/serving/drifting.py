"""References and recordings of a made-up task, for the tests of the drift monitors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import TaskReference
from offramp.bundle.reference import Projection
from offramp.runtime.predictor import Prediction
from offramp.runtime.reference import answers_of

CLASSES, EXITS, WIDTH, SIZE = 5, ("stem", "deep"), 6, 12
PROJECTION = Projection(np.zeros(WIDTH, np.float32), np.eye(WIDTH, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class World:
    """Recordings that differ: each has a class, a confidence and a place in feature space of its own."""

    seed: int = 0
    shift: float = 0.0

    def recordings(self, count: int) -> list[tuple[Prediction, NDArray[np.float32]]]:
        """Answers and features of so many."""
        rng = np.random.default_rng([self.seed, int(100 * self.shift)])
        return [self._one(rng) for _ in range(count)]

    def _one(self, rng: np.random.Generator) -> tuple[Prediction, NDArray[np.float32]]:
        kind, sure = rng.integers(CLASSES), 1.5 + rng.standard_normal() - self.shift
        logits = rng.standard_normal((SIZE, CLASSES))
        logits[:, kind] += sure
        place = 2 * rng.standard_normal(WIDTH) + self.shift
        features = (place + rng.standard_normal((SIZE, WIDTH))).astype(np.float32)
        return predicted(logits), features


def predicted(logits: NDArray[np.float64], task: str = "t", policy: str = "routed") -> Prediction:
    """A prediction; sure windows left early."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    outputs = (shares / shares.sum(1, keepdims=True)).astype(np.float32)
    left = (outputs.max(1) < 0.6).astype(np.int64)
    names = tuple(f"class {number}" for number in range(logits.shape[1]))
    return Prediction(task, "classification", outputs, names, policy, EXITS, left, np.zeros(len(left), np.bool_))


def joined(recordings: list[tuple[Prediction, NDArray[np.float32]]]) -> tuple[Prediction, NDArray[np.float32]]:
    """Several as one."""
    first = recordings[0][0]
    told = {
        part: np.concatenate([getattr(prediction, part) for prediction, _ in recordings])
        for part in ("outputs", "left", "rejected")
    }
    return replace(first, **told), np.concatenate([features for _, features in recordings])


def reference(count: int = 40, seed: int = 1) -> TaskReference:
    """Of so many recordings."""
    whole, features = joined(World(seed).recordings(count))
    groups = np.repeat(np.arange(count), SIZE).astype(np.int32)
    policies = {"routed": answers_of(whole, None)}
    return TaskReference(
        "classification", CLASSES, "stem", True, "calibration", groups, features, PROJECTION, None, policies
    )
