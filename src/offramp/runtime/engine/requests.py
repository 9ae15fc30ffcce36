"""What is asked of an engine, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.policies.policy import Memory
from offramp.runtime.execution import Cascade, State
from offramp.runtime.predictor import Prediction

if TYPE_CHECKING:
    from offramp.runtime.engine.lanes import LevelChoice

Indices = NDArray[np.int64]
Why = Literal["fixed", "policy", "budget", "request", "load", "deadline"]
"""Why windows left where they did: the task's own exit, a policy, the exit of a service level or of the request itself, an exit that load moved them
to, or the deepest that was reached by the deadline."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What one task says about the windows of one request.

    Attributes:
        prediction: As :meth:`offramp.runtime.Predictor.predict` gives it.
        why: Why the windows left where they did.
        slice: Name of the service level.
        milliseconds: From arrival to answer.
    """

    prediction: Prediction
    why: Why
    slice: str
    milliseconds: float


@dataclass(frozen=True, eq=False)
class Submission:
    """A request under way.

    Attributes:
        answers: By task, each as soon as it is there. A future raises :class:`~offramp.errors.DeadlinePassed` where its time was over
            before it was computed, and what the task itself raises.
    """

    answers: Mapping[str, Future[Answer]]

    @property
    def done(self) -> bool:
        """Whether all answers are there."""
        return all(answer.done() for answer in self.answers.values())

    def cancel(self) -> None:
        """Give up: what nobody waits for any more is not computed from the next segment on."""
        for answer in self.answers.values():
            answer.cancel()

    def result(self, timeout: float | None = None) -> dict[str, Answer]:
        """All answers, when all are there; raises what any of them raises."""
        return {task: answer.result(timeout) for task, answer in self.answers.items()}


class Promise(Future[Answer]):
    """A future whose cancelling wakes whoever waits for it, as an executor would."""

    def cancel(self) -> bool:
        known = self.done()
        cancelled = super().cancel()
        if cancelled and not known:
            self.set_running_or_notify_cancel()
        return cancelled


@dataclass(eq=False)
class Ask:
    """One task's part in a job, with the heads and the policy that it was submitted with, whatever becomes of the task.

    Attributes:
        task: What is asked.
        cascade: Its heads and policy.
        consults: By segment, the exit that the policy consults behind it.
        last: The deepest of these segments.
        named: Name of the policy.
        why: Why windows leave where they do.
        earlier: By segment, where windows may leave instead if they would be late; none where they must not.
        future: The answer.
        rows: Windows that have not left, by their places at the start.
        memory: Of the policy, of these windows.
        exit: By window at the start, index into the policy's exits.
        outputs: By window at the start, of that exit.
    """

    task: BundleTask
    cascade: Cascade
    consults: Mapping[int, str]
    last: int
    named: str
    why: Why
    earlier: Mapping[int, LevelChoice]
    future: Future[Answer]
    rows: Indices
    memory: Memory
    exit: Indices
    outputs: NDArray[np.float32]

    @property
    def open(self) -> bool:
        """Whether somebody waits for the answer."""
        return not self.future.done()

    def reaches(self, depth: int) -> bool:
        """Whether its windows can leave at a segment or before it, and not before the pass is there."""
        return self.last <= depth or depth in self.earlier

    def move(self, depth: int) -> None:
        """Let its windows leave at a segment if they would leave behind it."""
        if self.last > depth:
            chosen = self.earlier[depth]
            self.cascade, self.consults, self.last = chosen.cascade, chosen.consults, chosen.last
            self.named, self.why = chosen.named, "deadline"


@dataclass(eq=False)
class WindowsJob:
    """Windows of one request in one pass; see :class:`~offramp.runtime.engine.scheduler.Job`.

    Attributes:
        state: Behind the segment before; the input at first.
        present: Windows that are in it, by their places at the start.
        asks: The tasks.
        arrived: When, in seconds.
        slice: Name of the service level.
    """

    state: State
    present: Indices
    asks: list[Ask]
    deadline: float
    priority: int
    arrived: float
    slice: str
    unit: int

    @property
    def count(self) -> int:
        return len(self.present)

    @property
    def last(self) -> int:
        return max((ask.last for ask in self.asks if ask.open), default=0)

    @property
    def wanted(self) -> bool:
        return any(ask.open for ask in self.asks)
