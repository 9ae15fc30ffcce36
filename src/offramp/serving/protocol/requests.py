"""What is asked of a model, and what it answers, whatever the transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model takes or gives.

    Attributes:
        name: Of the tensor.
        datatype: One of :data:`offramp.serving.protocol.datatypes.DTYPES`.
        shape: -1 for any size.
        labels: What the places of the last axis stand for, if they are classes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """What a model is.

    Attributes:
        name: Of the model.
        inputs: That it takes, all of them.
        outputs: That it gives.
        version: The one that is served.
        platform: What runs it.
        streams: Whether parts of an answer come at times of their own.
        parameters: What else a client may want to know, as text.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    version: str = "1"
    platform: str = "python"
    streams: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class InferRequest:
    """A request whose tensors fit the model's inputs.

    Attributes:
        inputs: By name.
        outputs: Names of the outputs that are wanted, at least one; None for all.
        parameters: Of the request.
        streamed: Whether parts are wanted as they come.
    """

    inputs: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...] | None = None
    parameters: Parameters = field(default_factory=dict)
    streamed: bool = False


@dataclass(frozen=True, eq=False)
class AnswerPart:
    """A part of an answer.

    Attributes:
        outputs: By name. BYTES are arrays of objects or of text.
        parameters: What is said about it.
    """

    outputs: Mapping[str, NDArray[Any]]
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pending:
    """A part that is being computed.

    Attributes:
        future: Done when the part is there. Cancelling it says that nobody waits. Who waits calls ``finish`` on its result, so that whoever
            computes need not.
        finish: What makes the part of the result.
    """

    future: Future[Any]
    finish: Callable[[Any], AnswerPart]


class Model(Protocol):
    """Anything that can be served."""

    @property
    def spec(self) -> ModelSpec:
        """What it is."""

    def go_on(self) -> bool:
        """Called by whoever asked, soon after: compute for a moment what waits, if that spares waiting for another thread.

        Returns:
            Whether it should be called again.
        """

    def ask(self, request: InferRequest) -> Sequence[Pending]:
        """Begin to answer and return at once, with something pending per part.

        What cannot be answered may be raised here or by a future: :class:`~offramp.serving.protocol.faults.ServingFault` with its status,
        errors of Offramp with theirs, and any other as a failed model.
        """
