"""Any function of arrays as a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.serving.protocol.faults import Broken
from offramp.serving.protocol.requests import AnswerPart, InferRequest, ModelSpec, Pending

Function = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""From inputs by name to outputs by name."""


@dataclass(frozen=True, eq=False)
class CallableModel:
    """A function that is called for each request by itself, in threads of its own.

    Attributes:
        spec: What it takes and gives: inputs are checked against it, and so are the names of its outputs.
        function: It may raise :class:`~offramp.errors.OfframpError` for what it cannot take.
        threads: That may call it at once.
    """

    spec: ModelSpec
    function: Function
    threads: int = 1
    _pool: ThreadPoolExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pool", ThreadPoolExecutor(self.threads, thread_name_prefix=self.spec.name))

    def ask(self, request: InferRequest) -> Sequence[Pending]:
        """Call it with the inputs."""
        return [Pending(self._pool.submit(self._call, request), _as_it_is)]

    def go_on(self) -> bool:
        return False

    def _call(self, request: InferRequest) -> AnswerPart:
        given = self.function(request.inputs)
        missing = [each.name for each in self.spec.outputs if each.name not in given]
        if missing:
            raise Broken(f"model {self.spec.name!r} gave no {', '.join(missing)}")
        return AnswerPart({each.name: np.asarray(given[each.name]) for each in self.spec.outputs})


def _as_it_is(part: AnswerPart) -> AnswerPart:
    return part
