"""Shadow depth: idle time finishes a sample of early answers to full depth, and so tells how often they are its answers, without labels.

Requests are sampled, not windows that left early: a request's windows that went to full depth by themselves agree with it, and count. What is
sampled waits in a buffer of fixed size. Whether there is room does not depend on where windows left, so that what is dropped under load biases
nothing but what load itself does: the figures are of the traffic at times when there was room.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.errors import DataError, EngineError, OfframpError, Overloaded
from offramp.policies.guarantees import window_losses
from offramp.policies.policy import Policy
from offramp.runtime.engine import Answer, Engine, ServiceLevel, Submission
from offramp.runtime.engine.scheduler import BACKGROUND
from offramp.runtime.predictor import Prediction
from offramp.runtime.stored import policies_of
from offramp.serving.watching.agreement import AgreementWatch, LiveAgreement

SLICE = "shadow"
"""Service level of what is finished: less important than any other."""
MOST_WINDOWS = 4
"""Of one request that are looked at."""
PAUSE_S = 0.005
"""Between two looks whether the engine is idle."""
LOOK_S = 0.1
"""Between two looks whether this is to end, while a window waits."""
REST = 4.0
"""Times what a window took: how long nothing is computed then, so that few real requests meet one at work."""
MOST_REST_S = 1.0
DISTANCES = ("mean_error", "rmse", "median_error", "p90_error")
"""Metrics whose score on validation is a distance in the target's unit."""


@dataclass(frozen=True)
class ShadowStatus:
    """What is known, and what it took.

    Attributes:
        agreements: By task, one for each policy or fixed exit that its answers came from.
        unwatched: By task, why its answers cannot be compared.
        sampled: Requests that were sampled.
        dropped: Of these, that found no room.
        waiting: Of these, that are not finished yet.
        computed: Windows that were taken to full depth.
    """

    agreements: dict[str, tuple[LiveAgreement, ...]]
    unwatched: dict[str, str]
    sampled: int
    dropped: int
    waiting: int
    computed: int

    @property
    def foremost(self) -> dict[str, LiveAgreement]:
        """One for each task: that with a certificate, or else that of most windows."""
        return {
            task: max(rows, key=lambda row: (row.certificate != "none", row.windows))
            for task, rows in self.agreements.items()
        }


@dataclass(frozen=True, eq=False)
class _Watched:
    """A task as it is served.

    Attributes:
        stored: From the bundle.
        full: Its deepest exit.
        policies: By name.
        distance: How far apart two answers of a regression are different where no certificate says so.
        watches: By policy and exit.
    """

    stored: BundleTask
    full: str
    policies: Mapping[str, Policy]
    distance: float | None
    watches: dict[tuple[str, str], AgreementWatch]

    def limit(self, policy: str) -> float | None:
        """The same for answers of one policy, which may be certified for a limit of its own."""
        certified = self.policies[policy].guarantee if policy in self.policies else None
        return self.distance if certified is None or certified.limit is None else certified.limit


@dataclass(frozen=True, eq=False)
class _Sampled:
    """Some windows of one answered request.

    Attributes:
        task: Whose answers they are.
        policy: Name of the policy.
        exit: The deepest exit that it consults.
        source: Where they come from.
        when: They were answered, in seconds.
        windows: Those that left before full depth, raw ``(n, *window_shape)``.
        answers: Theirs, ``(n, outputs)``.
        agreeing: How many others went to full depth.
    """

    task: _Watched
    policy: str
    exit: str
    source: str
    when: float
    windows: NDArray[np.generic]
    answers: NDArray[np.float32]
    agreeing: int


class ShadowDepth:
    """Follows the answers of an engine. Its thread asks the engine for full depth, one window at a time, when nobody else asks anything.

    Use it as a context manager, or call :meth:`close` before the engine is closed.
    """

    def __init__(
        self,
        engine: Engine,
        share: float = 0.02,
        seed: int = 0,
        most_waiting: int = 256,
        block_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start.

        Args:
            engine: It gets the service level ``shadow``.
            share: Of the requests that are sampled, in (0, 1].
            seed: Of the sampling.
            most_waiting: Sampled requests that may wait; more are dropped.
            block_seconds: What one source sends within this time counts once.
            clock: Seconds, never going back.

        Raises:
            EngineError: The arguments make no sense, or the engine has a level of this name already.
        """
        if not 0 < share <= 1 or most_waiting < 1 or not block_seconds > 0:
            raise EngineError(
                f"shadow depth with share={share!r}, most_waiting={most_waiting!r}, block_seconds={block_seconds!r}: give a share in "
                "(0, 1], and numbers above 0"
            )
        if SLICE in engine.slices:
            raise EngineError(f"slice {SLICE!r} is that of shadow depth: call yours otherwise")
        engine.set_slice(SLICE, ServiceLevel(priority=BACKGROUND))
        self._engine, self._share, self._most_waiting = engine, share, most_waiting
        self._random, self._clock, self._block_seconds = random.Random(seed), clock, block_seconds
        self._lock, self._wake, self._stop = threading.Lock(), threading.Event(), threading.Event()
        self._tasks: dict[str, _Watched] = {}
        self._unwatched: dict[str, str] = {}
        self._buffer: deque[_Sampled] = deque()
        self._sampled = self._dropped = self._busy = self._computed = 0
        self._thread = threading.Thread(target=self._work, name="offramp-shadow", daemon=True)
        self._thread.start()

    def consider(
        self, windows: NDArray[np.generic], task: BundleTask, prediction: Prediction, source: str | None = None
    ) -> None:
        """Perhaps sample an answer. Costs next to nothing where it does not; ``windows`` may be changed as soon as this is back.

        Args:
            windows: Raw, as the engine was asked ``(N, ...)``.
            task: That answered. One of the same name that replaces it begins anew, with nothing known.
            prediction: What it answered, for the same N windows.
            source: Name of the recording or radio that they come from; all that come without one count as one source.
        """
        if self._random.random() >= self._share or self._stop.is_set():
            return
        watched = self._tasks.get(task.name)
        if watched is None or watched.stored is not task:
            watched = self._begun(task)
        if task.name in self._unwatched or prediction.consulted == (watched.full,):
            return
        with self._lock:
            self._sampled += 1
            if len(self._buffer) + self._busy >= self._most_waiting:
                self._dropped += 1
                return
        rows = np.flatnonzero(~prediction.rejected)
        if len(rows) > MOST_WINDOWS:
            rows = rows[sorted(self._random.sample(range(len(rows)), MOST_WINDOWS))]
        if not len(rows):
            return
        at_full = np.asarray([exit == watched.full for exit in prediction.consulted])[prediction.left[rows]]
        early = rows[~at_full]
        entry = _Sampled(
            task=watched,
            policy=prediction.policy,
            exit=prediction.exit,
            source=source or "",
            when=self._clock(),
            windows=np.asarray(windows)[early],
            answers=prediction.outputs[early],
            agreeing=int(at_full.sum()),
        )
        with self._lock:
            self._buffer.append(entry)
        self._wake.set()

    @property
    def status(self) -> ShadowStatus:
        """What is known now."""
        with self._lock:
            if not self._buffer and not self._busy:
                for task in self._tasks.values():
                    for watch in task.watches.values():
                        watch.advance(self._clock())
            return ShadowStatus(
                agreements={
                    name: tuple(watch.status for watch in task.watches.values())
                    for name, task in self._tasks.items()
                    if task.watches
                },
                unwatched=dict(self._unwatched),
                sampled=self._sampled,
                dropped=self._dropped,
                waiting=len(self._buffer) + self._busy,
                computed=self._computed,
            )

    def close(self) -> None:
        """Stop; what waits is not finished. May be called more than once."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        if SLICE in self._engine.slices:
            self._engine.set_slice(SLICE, None)

    def __enter__(self) -> ShadowDepth:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begun(self, task: BundleTask) -> _Watched:
        full = list(task.heads)[-1]
        distance = None
        if task.kind != "classification" and task.metric in DISTANCES and task.val.get(full, 0.0) > 0:
            distance = task.val[full]
        watched = _Watched(task, full, policies_of(task), distance, {})
        with self._lock:
            self._tasks[task.name] = watched
            self._unwatched.pop(task.name, None)
        return watched

    # --- its own thread

    def _work(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                entry = self._buffer.popleft() if self._buffer else None
                self._busy = int(entry is not None)
            if entry is None:
                self._wake.wait()
                self._wake.clear()
                continue
            losses = self._finished(entry)
            with self._lock:
                self._busy = 0
                if losses is not None:
                    windows = len(entry.windows) + entry.agreeing
                    self._watch(entry).add(entry.source, losses, windows, entry.when)

    def _watch(self, entry: _Sampled) -> AgreementWatch:
        watched, key = entry.task, (entry.policy, entry.exit)
        if key not in watched.watches:
            policy = watched.policies.get(entry.policy)
            guarantee = None if policy is None else policy.guarantee
            task = watched.stored
            watched.watches[key] = AgreementWatch(task.name, *key, task.kind, guarantee, self._block_seconds)
        return watched.watches[key]

    def _finished(self, entry: _Sampled) -> float | None:
        """How many of the windows that left early have another answer at full depth; None if that is not to be known."""
        task, losses = entry.task.stored, 0.0
        limit = entry.task.limit(entry.policy)
        if task.kind != "classification" and limit is None:
            self._give_up(entry.task, f"{task.metric} is no distance: certify a policy with a limit")
            return None
        for window, answer in zip(entry.windows, entry.answers, strict=True):
            full = self._at_full_depth(entry.task, window[None])
            if full is None:
                return None
            if not np.isfinite(full).all():
                losses += 1
                continue
            if limit is None:
                loss = window_losses("disagreement", "classification", answer[None], full, full.argmax(1))
            else:
                loss = window_losses("disagreement", "regression", answer[None], full, full, limit)
            losses += float(loss[0])
        return losses

    def _at_full_depth(self, task: _Watched, window: NDArray[np.generic]) -> NDArray[np.float32] | None:
        """The answer for a window ``(1, outputs)``, when there was nothing else to do; None when this is to end, or cannot be."""
        name = task.stored.name
        while True:
            while not self._engine.idle:
                if self._stop.wait(PAUSE_S):
                    return None
            if self._stop.is_set() or self._tasks[name] is not task:
                return None
            try:
                answer = self._waited_for(
                    self._engine.submit(window, [name], SLICE, exit=task.full, as_reached=True), name
                )
            except Overloaded:
                continue
            except DataError:  # it is not finite there
                return np.full((1, task.stored.heads[task.full].outputs), np.nan, np.float32)
            except OfframpError as error:
                self._give_up(task, str(error))
                return None
            if answer is None:
                return None
            with self._lock:
                self._computed += 1
            self._stop.wait(min(MOST_REST_S, REST * answer.milliseconds / 1e3))
            return answer.prediction.outputs

    def _waited_for(self, submission: Submission, task: str) -> Answer | None:
        while True:
            try:
                return submission.answers[task].result(LOOK_S)
            except TimeoutError:
                if self._stop.is_set():
                    submission.cancel()
                    return None

    def _give_up(self, task: _Watched, reason: str) -> None:
        with self._lock:
            if self._tasks[task.stored.name] is task:
                self._unwatched[task.stored.name] = reason
