"""Gives the drift monitors what they look at, in a thread of its own: every answer, and for some recordings the features of their windows too."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from offramp.bundle import TaskReference
from offramp.errors import OfframpError
from offramp.runtime import Prediction, Predictor
from offramp.runtime.engine import Engine
from offramp.serving.watching.drift import DriftMonitor, DriftStatus

MOST_WAITING = 1024
"""Answers; more are not looked at."""
FEATURES_EVERY = 4
"""Of so many recordings the features of one are looked at."""
MOST_SOURCES = 4096
PAUSE_S, MOST_PAUSE_S = 0.002, 0.1
"""Between two looks whether the engine is idle, and how long that is waited for."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """An answer to look at."""

    windows: NDArray[Any]
    prediction: Prediction
    source: str
    at: float


class DriftFollower:
    """Follows the answers of an engine. Use it as a context manager, or call :meth:`close`."""

    def __init__(self, engine: Engine, predictor: Predictor, reference: Mapping[str, TaskReference]) -> None:
        """Start.

        Args:
            engine: While it computes, no features are computed.
            predictor: That the engine has.
            reference: Of the bundle; nothing is followed without.
        """
        self._engine, self._predictor = engine, predictor
        self._dropped = self._recordings = 0
        self._waiting: queue.Queue[_Seen | None] = queue.Queue(MOST_WAITING)
        self.begin_anew(reference)
        self._thread = threading.Thread(target=self._work, name="offramp-drift", daemon=True)
        self._thread.start()

    def begin_anew(self, reference: Mapping[str, TaskReference]) -> None:
        """Compare with another reference, and forget what was seen."""
        self._reference, self._monitor = reference, DriftMonitor(reference)
        self._left: dict[tuple[str, str], tuple[int, bool]] = {}
        """By task and source: windows left of its recording, and whether their features are looked at."""
        self._blocks = {name: task.block_windows for name, task in self._monitor.status.tasks.items()}

    def consider(self, windows: NDArray[Any], prediction: Prediction, source: str) -> None:
        """Let an answer be looked at soon; costs next to nothing. What comes while too much waits is passed over."""
        if prediction.task not in self._reference:
            return
        try:
            self._waiting.put_nowait(_Seen(windows, prediction, source, time.time()))
        except queue.Full:
            self._dropped += 1

    @property
    def status(self) -> DriftStatus:
        """What is known now."""
        return self._monitor.status

    @property
    def dropped(self) -> int:
        """Answers that were passed over."""
        return self._dropped

    def close(self) -> None:
        """Stop; what waits is not looked at."""
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
                break
            with suppress(queue.Empty):
                self._waiting.get_nowait()
        self._thread.join()

    def __enter__(self) -> DriftFollower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (seen := self._waiting.get()) is not None:
            with suppress(OfframpError):  # of a task that was replaced by another, say
                features = self._features(seen) if self._chosen(seen) else None
                self._monitor.observe(seen.source, seen.prediction, features, seen.at)

    def _chosen(self, seen: _Seen) -> bool:
        """Whether the features of these windows are looked at: of a recording either all are, or none."""
        key = (seen.prediction.task, seen.source)
        left, chosen = self._left.pop(key, (0, False))
        if left <= 0:
            left, chosen = self._blocks[key[0]], self._recordings % FEATURES_EVERY == 0
            self._recordings += 1
        self._left[key] = (left - len(seen.windows), chosen)
        if len(self._left) > MOST_SOURCES:
            del self._left[next(iter(self._left))]  # the one that was silent longest
        return chosen

    def _features(self, seen: _Seen) -> NDArray[Any]:
        ends = time.monotonic() + MOST_PAUSE_S
        while not self._engine.idle and time.monotonic() < ends:
            time.sleep(PAUSE_S)
        task = seen.prediction.task
        return self._predictor.features(seen.windows, task, self._reference[task].exit)
