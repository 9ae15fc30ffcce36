"""A policy: which exits are consulted, by what criterion and at what thresholds windows leave. Works without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offramp.errors import PolicyError
from offramp.policies.criteria import CRITERIA, Array, Seen, confidence, namespace_of
from offramp.policies.purpose import Aim, StoredGuarantee, json_numbers

Memory = tuple[Array, Array]
"""What is kept between exits, batch first as an encoder's state: ``(streak (n,), previous outputs (n, outputs))``. Survivors are
``tuple(part[keep] for part in memory)``."""


@dataclass(frozen=True, eq=False)
class Policy:
    """Decides exit by exit which windows leave; all that are left leave at the last exit consulted.

    Attributes:
        kind: ``classification`` or ``regression``.
        criterion: Name of the criterion, a key of :data:`~offramp.policies.criteria.CRITERIA`.
        exits: Names of the exits consulted, in order of depth.
        thresholds: For each of them but the last: a window leaves where the certainty reaches it. Infinity lets none leave.
        temperatures: Each exit's, by which it divides its logits before it decides; ones for regression.
        answer_temperatures: Each exit's for the confidence of the answers that it gives, fitted to the windows that reach it.
        parameters: Of a learned criterion.
        reject_below: A window that is still there at the last exit is rejected instead of answered where the probability of the
            answer is lower than this (the reject option of Chow, IEEE Trans. Inf. Theory 1970). For classification.
        aim: What thresholds were chosen for, where that is a score within a budget and known. It decides nothing.
        guarantee: What is certified for the policy; None for nothing. It decides nothing.
    """

    kind: Literal["classification", "regression"]
    criterion: str
    exits: tuple[str, ...]
    thresholds: tuple[float, ...]
    temperatures: tuple[float, ...]
    answer_temperatures: tuple[float, ...]
    parameters: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    reject_below: float | None = None
    aim: Aim | None = None
    guarantee: StoredGuarantee | None = None

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise PolicyError(f"unknown criterion {self.criterion!r}: choose one of {', '.join(CRITERIA)}")
        if self.kind not in CRITERIA[self.criterion].kinds:
            fitting = ", ".join(name for name, criterion in CRITERIA.items() if self.kind in criterion.kinds)
            raise PolicyError(f"criterion {self.criterion!r} is not for {self.kind}: choose one of {fitting}")
        if not self.exits or len(set(self.exits)) < len(self.exits):
            raise PolicyError(f"a policy consults {list(self.exits)}: name one exit or more, each once")
        sizes = (len(self.thresholds) + 1, len(self.temperatures), len(self.answer_temperatures))
        if any(size != len(self.exits) for size in sizes):
            raise PolicyError(
                f"a policy of {len(self.exits)} exits takes {len(self.exits) - 1} thresholds and {len(self.exits)} temperatures"
            )
        if self.reject_below is not None and self.kind != "classification":
            raise PolicyError("reject_below is a probability of a class: leave it out for regression")
        if not all(0 < temperature < np.inf for temperature in (*self.temperatures, *self.answer_temperatures)):
            raise PolicyError("a temperature is not a positive number: fit the policy again")
        if any(np.isnan(threshold) for threshold in self.thresholds):
            raise PolicyError("a threshold is NaN: fit the policy again")
        if self.aim is not None and len(self.aim.leaving) != len(self.exits):
            raise PolicyError(
                f"a policy of {len(self.exits)} exits has {len(self.aim.leaving)} costs of leaving: fit the policy again"
            )

    @classmethod
    def fixed(cls, kind: Literal["classification", "regression"], exit: str, temperature: float = 1.0) -> Policy:
        """One exit for all windows; ``temperature`` is that of its answers."""
        criterion = next(name for name, criterion in CRITERIA.items() if kind in criterion.kinds)
        return cls(kind, criterion, (exit,), (), (1.0,), (temperature,))

    def start(self, n: int) -> Memory:
        """The memory of ``n`` windows before the first exit."""
        return np.zeros(n, dtype=np.int64), np.zeros((n, 0), dtype=np.float32)

    def step(self, exit: str, outputs: Array, memory: Memory) -> tuple[Array, Memory]:
        """Decide at one exit.

        Args:
            exit: Name of the exit, one of ``exits``; to be called in their order.
            outputs: Of its head for the n windows that are still there: logits ``(n, classes)`` or values ``(n, dimensions)``, a
                NumPy array or a torch tensor.
            memory: From :meth:`start` or the step before, cut to the same windows.

        Returns:
            Which windows leave, bool ``(n,)``, and the memory after this exit, of all n windows. At the last exit all leave,
            whatever the criterion, which is not computed.

        Raises:
            PolicyError: The exit is not consulted, or there are no outputs.
        """
        index = self._index(exit)
        if index == len(self.exits) - 1:
            self._check_scores(exit, outputs)
            xp = namespace_of(outputs)
            return xp.ones_like(outputs[:, 0], dtype=xp.bool), memory
        certainty, memory = self.certainty(exit, outputs, memory)
        return certainty >= self.thresholds[index], memory

    def certainty(self, exit: str, outputs: Array, memory: Memory) -> tuple[Array, Memory]:
        """How certain an exit is, ``(n,)``, and the memory after it; see :meth:`step`."""
        index = self._index(exit)
        self._check_scores(exit, outputs)
        criterion, temperature = CRITERIA[self.criterion], self.temperatures[index]
        scaled = outputs if temperature == 1 else outputs / temperature
        if not criterion.remembers:
            return criterion.certainty(Seen(index, scaled, *memory), self.parameters), memory
        streak, previous = (_beside(part, outputs) for part in memory)
        streak = _continued(streak, previous, outputs)
        return criterion.certainty(Seen(index, scaled, streak, previous), self.parameters), (streak, outputs)

    def confidence(self, exit: str, outputs: Array) -> Array:
        """Probability of the answer that an exit gives, ``(n,)``, at the temperature of the windows that reach it."""
        return confidence(outputs / self.answer_temperatures[self._index(exit)])

    def rejects(self, exit: str, outputs: Array) -> Array:
        """Which of the windows that leave at an exit are rejected instead of answered, bool ``(n,)``."""
        if self.reject_below is None and isinstance(outputs, np.ndarray):
            return np.zeros(len(outputs), dtype=np.bool_)
        if self.reject_below is None or exit != self.exits[-1]:
            xp = namespace_of(outputs)
            return xp.zeros_like(outputs[:, 0], dtype=xp.bool)
        return ~(self.confidence(exit, outputs) >= self.reject_below)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; infinite thresholds as strings; aim and guarantee only where there are such."""
        stored = asdict(replace(self, parameters={}, aim=None, guarantee=None))
        del stored["aim"], stored["guarantee"]
        stored["parameters"] = {name: np.asarray(value).tolist() for name, value in self.parameters.items()}
        stored["thresholds"] = json_numbers(self.thresholds)
        if self.aim is not None:
            stored["aim"] = asdict(self.aim) | {"leaving": list(self.aim.leaving)}
        if self.guarantee is not None:
            stored["guarantee"] = self.guarantee.to_dict()
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Policy:
        """From what :meth:`to_dict` gave. Raises KeyError, TypeError or ValueError where it is damaged."""
        return cls(
            kind=stored["kind"],
            criterion=stored["criterion"],
            exits=tuple(stored["exits"]),
            thresholds=tuple(map(float, stored["thresholds"])),
            temperatures=tuple(map(float, stored["temperatures"])),
            answer_temperatures=tuple(map(float, stored["answer_temperatures"])),
            parameters={name: np.asarray(value, dtype=np.float32) for name, value in stored["parameters"].items()},
            reject_below=None if stored["reject_below"] is None else float(stored["reject_below"]),
            aim=None if stored.get("aim") is None else Aim.from_dict(stored["aim"]),
            guarantee=None if stored.get("guarantee") is None else StoredGuarantee.from_dict(stored["guarantee"]),
        )

    def _check_scores(self, exit: str, outputs: Array) -> None:
        if getattr(outputs, "ndim", 0) != 2 or outputs.shape[1] < 1 + (self.kind == "classification"):
            shape = tuple(getattr(outputs, "shape", ()))
            raise PolicyError(f"a policy needs scores: exit {exit!r} gave outputs of shape {shape}, not (N, classes)")

    def _index(self, exit: str) -> int:
        if exit not in self.exits:
            raise PolicyError(f"exit {exit!r} is not consulted: the policy has {', '.join(self.exits)}")
        return self.exits.index(exit)


def _continued(streak: Array, previous: Array, outputs: Array) -> Array:
    """The streak with one exit more: it begins again at 1 where the class is another."""
    xp = namespace_of(outputs)
    if previous.shape[1] == 0:
        return streak * 0 + 1
    same = xp.argmax(outputs, axis=1) == xp.argmax(previous, axis=1)
    return xp.where(same, streak + 1, streak * 0 + 1)


def _beside(part: Array, outputs: Array) -> Array:
    """Memory that :meth:`Policy.start` made, as an array of the outputs' library on their device."""
    if isinstance(outputs, np.ndarray) or not isinstance(part, np.ndarray):
        return part
    return namespace_of(outputs).asarray(part, device=outputs.device)
