"""What a server does, whatever the transport: it finds the model, asks it, waits within limits, and tells whoever watches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from offramp.serving.models.repository import Repository
from offramp.serving.protocol.faults import BadRequest, Late, ServingFault, Unavailable, fault_of
from offramp.serving.protocol.requests import AnswerPart, InferRequest, Model, ModelSpec, Parameters, Pending

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "infer_stream",
)

TRACE_PARENT: ContextVar[str] = ContextVar("trace_parent", default="")
"""The header ``traceparent`` of the request that is being answered."""


@dataclass(frozen=True)
class Limits:
    """What is taken from clients.

    Attributes:
        body_bytes: Of a request, also behind its compression.
        windows: Rows of the first input of a request.
        seconds: From a request to its answer.
        connections: At once, by HTTP.
        streams: Requests under way at once on one gRPC stream.
    """

    body_bytes: int = 64 << 20
    windows: int = 4096
    seconds: float = 60.0
    connections: int = 1024
    streams: int = 64


@dataclass(frozen=True)
class RequestOutcome:
    """A request that is over, for whoever watches.

    Attributes:
        model: Its name.
        windows: Rows of its first input.
        seconds: From request to answer.
        fault: Why it was not answered; None if it was.
        parameters: Of the request.
    """

    model: str
    windows: int
    seconds: float
    fault: ServingFault | None
    parameters: Parameters


def _nothing(outcome: RequestOutcome) -> None:
    return None


def _no_backlog() -> float:
    return 1.0


@dataclass(eq=False)
class Service:
    """Models behind any transport.

    Attributes:
        repository: Of models.
        name: Of the server.
        version: Of the server.
        limits: What is taken.
        backlog: Seconds of work that wait: when to ask again.
        on_outcome: Called when a request is over.
        draining: Nothing new is taken any more.
    """

    repository: Repository
    name: str = "offramp"
    version: str = ""
    limits: Limits = field(default_factory=Limits)
    backlog: Callable[[], float] = _no_backlog
    on_outcome: Callable[[RequestOutcome], object] = _nothing
    draining: bool = False
    under_way: int = 0
    _going_on: bool = False

    @property
    def ready(self) -> bool:
        """Whether every model is, and requests are taken."""
        return not self.draining and self.repository.ready

    def spec(self, name: str, version: str = "") -> ModelSpec:
        """Of a model that may be asked now. Raises :class:`~offramp.serving.protocol.faults.ServingFault`."""
        if self.draining:
            raise Unavailable("the server is shutting down: ask another one", retry_after=1.0)
        return self.repository.model(name, version).spec

    def refused(self, name: str, fault: ServingFault) -> None:
        """Take note of a request that was not even asked: it did not fit its model, or there is none."""
        known = name if any(entry.name == name for entry in self.repository.index) else ""
        self.repository.count(known, 0, 0, answered=False)
        self.on_outcome(RequestOutcome(known, 0, 0.0, fault, {}))

    async def infer(self, name: str, version: str, request: InferRequest) -> AnswerPart:
        """The whole answer of a model.

        Raises:
            ServingFault: It is not answered.
        """
        began = time.perf_counter_ns()
        pendings: Sequence[Pending] = ()
        fault: ServingFault | None = None
        self.under_way += 1
        try:
            pendings = self._ask(name, version, request)
            async with asyncio.timeout(self.limits.seconds):
                await _all_done(pendings)
            return _joined([pending.finish(pending.future.result()) for pending in pendings])
        except Exception as error:
            fault = self._fault(error)
            raise fault from None
        except BaseException:  # the client is gone
            fault = Unavailable("the request was given up")
            raise
        finally:
            self._over(name, request, began, fault, pendings)

    async def parts(
        self, name: str, version: str, request: InferRequest
    ) -> AsyncGenerator[tuple[AnswerPart, bool], None]:
        """The parts of an answer, each as soon as it is there, and whether it is the last one.

        Raises:
            ServingFault: The next part is not answered; those that were given stay true.
        """
        began = time.perf_counter_ns()
        pendings: Sequence[Pending] = ()
        fault: ServingFault | None = None
        self.under_way += 1
        try:
            pendings = self._ask(name, version, replace(request, streamed=True))
            loop = asyncio.get_running_loop()
            done: asyncio.Queue[Pending] = asyncio.Queue()
            for pending in pendings:
                tell = partial(loop.call_soon_threadsafe, done.put_nowait, pending)
                pending.future.add_done_callback(lambda _, tell=tell: tell())  # type: ignore[misc]
            ends = loop.time() + self.limits.seconds
            for left in reversed(
                range(len(pendings))
            ):  # no asyncio.timeout around: it is another task that asks for the next part
                pending = await asyncio.wait_for(done.get(), ends - loop.time())
                yield pending.finish(pending.future.result()), left == 0
        except Exception as error:
            fault = self._fault(error)
            raise fault from None
        except BaseException:  # the client is gone
            fault = Unavailable("the request was given up")
            raise
        finally:
            self._over(name, request, began, fault, pendings)

    def _ask(self, name: str, version: str, request: InferRequest) -> Sequence[Pending]:
        if self.draining:
            raise Unavailable("the server is shutting down: ask another one", retry_after=1.0)
        rows = _rows(request)
        if rows > self.limits.windows:
            raise BadRequest(f"a request of {rows:,} windows: send at most {self.limits.windows:,} at a time")
        model = self.repository.model(name, version)
        pendings = model.ask(request)
        if not self._going_on:
            self._going_on = True
            asyncio.get_running_loop().call_soon(self._go_on, model)
        return pendings

    def _go_on(self, model: Model) -> None:
        """Let a model compute once all that came with its request has been read too: so requests that come together are a batch."""
        self._going_on = model.go_on()
        if self._going_on:
            asyncio.get_running_loop().call_soon(self._go_on, model)

    def _fault(self, error: Exception) -> ServingFault:
        if isinstance(error, TimeoutError):
            return Late(f"no answer within {self.limits.seconds:g} s")
        return fault_of(error, self.backlog())

    def _over(
        self, name: str, request: InferRequest, began: int, fault: ServingFault | None, pendings: Sequence[Pending]
    ) -> None:
        self.under_way -= 1
        for pending in pendings:
            pending.future.cancel()  # whoever is not done yet: nobody waits any more
        took = time.perf_counter_ns() - began
        self.repository.count(name, _rows(request), took, fault is None)
        self.on_outcome(RequestOutcome(name, _rows(request), took / 1e9, fault, request.parameters))


async def _all_done(pendings: Sequence[Pending]) -> None:
    """Wait for all, with one wake-up of this loop; the first that fails ends it."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    lock, left = threading.Lock(), len(pendings)

    def wake() -> None:
        if not over.done():
            over.set_result(None)

    def one_less(future: Any) -> None:
        nonlocal left
        with lock:
            left -= 1
            now = left == 0 or future.cancelled() or future.exception() is not None
        if now:
            loop.call_soon_threadsafe(wake)

    for pending in pendings:
        pending.future.add_done_callback(one_less)
    if pendings:
        await over
    for pending in pendings:
        if pending.future.done():
            pending.future.result()


def _joined(parts: Sequence[AnswerPart]) -> AnswerPart:
    """One part that says what all say: parameters that differ are left out."""
    if len(parts) == 1:
        return parts[0]
    outputs = {name: array for part in parts for name, array in part.outputs.items()}
    first = dict(parts[0].parameters) if parts else {}
    same = {name: value for name, value in first.items() if all(part.parameters.get(name) == value for part in parts)}
    return AnswerPart(outputs, same)


def _rows(request: InferRequest) -> int:
    first = next(iter(request.inputs.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1
