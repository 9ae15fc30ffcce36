"""Everything that watches one process: it is told of batches, answers and requests, and says what it has seen."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from offramp.bundle import BundleTask, load_reference
from offramp.runtime import Predictor
from offramp.runtime.engine import Answer, Engine
from offramp.runtime.engine.counts import BatchRun
from offramp.serving.page.counts import TaskAgreement, TaskDrift
from offramp.serving.service import RequestOutcome
from offramp.serving.watching.following import DriftFollower
from offramp.serving.watching.logs import log_outcome
from offramp.serving.watching.shadow import ShadowDepth
from offramp.serving.watching.tally import ServingTally


class Watch:
    """Counts, logs, traces, drift and shadow of one process."""

    def __init__(
        self, predictor: Predictor, number: int = 0, on_outcome: Callable[[RequestOutcome], object] | None = None
    ) -> None:
        """Watch what a predictor's tasks answer.

        Args:
            predictor: Whose engine will be watched.
            number: Of the process.
            on_outcome: Called with each request too, for traces.
        """
        self._predictor, self._number, self._traced = predictor, number, on_outcome
        self._tally, self._started = ServingTally(), time.time()
        self._shadow: ShadowDepth | None = None
        self._drift: DriftFollower | None = None

    @contextmanager
    def watching(self, engine: Engine, bundle: Path, share: float) -> Iterator[None]:
        """Follow drift from a bundle's reference, and finish a share of early answers to full depth when the engine is idle, until the end of the block."""
        with ExitStack() as stack:
            if share:
                self._shadow = stack.enter_context(ShadowDepth(engine, share))
            if reference := load_reference(bundle):
                self._drift = stack.enter_context(DriftFollower(engine, self._predictor, reference))
            yield

    def begin_anew(self, bundle: Path) -> None:
        """After a task was loaded anew: compare with the reference that the bundle has now, and forget what was seen."""
        if self._drift is not None:
            self._drift.begin_anew(load_reference(bundle))

    def on_batch(self, batch: BatchRun) -> None:
        """A batch ran; called by whoever computes."""
        self._tally.on_batch(batch)

    def on_answer(self, task: BundleTask, windows: NDArray[Any], answer: Answer, source: str) -> None:
        """A task answered."""
        self._tally.on_answer(task, windows, answer, source)
        if self._shadow is not None:
            self._shadow.consider(windows, task, answer.prediction, source or None)
        if self._drift is not None:
            self._drift.consider(windows, answer.prediction, source)

    def on_outcome(self, outcome: RequestOutcome) -> None:
        """A request is over."""
        self._tally.on_outcome(outcome)
        log_outcome(outcome)
        if self._traced is not None:
            self._traced(outcome)

    def document(self, engine: Engine, ready: bool, draining: bool) -> dict[str, Any]:
        """What this process has seen, JSON types only: what :mod:`offramp.serving.watching.overview` adds up."""
        return {
            "number": self._number,
            "pid": os.getpid(),
            "started": self._started,
            "written": time.time(),
            "ready": ready,
            "draining": draining,
            "memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "tally": self._tally.document(),
            "queues": [asdict(depth) for depth in engine.queues],
            "steps": engine.steps,
            "drift": self._drifted(),
            "agreement": self._agreement(),
        }

    def _drifted(self) -> dict[str, Any]:
        if self._drift is None:
            return {}
        return {
            name: {**asdict(task), "p_values": task.p_values, "seen": task.recordings}
            for name, task in self._drift.status.tasks.items()
        }

    def _agreement(self) -> dict[str, Any]:
        if self._shadow is None:
            return {}
        return {task: {**asdict(found), "seen": found.blocks} for task, found in self._shadow.status.foremost.items()}

    def page_drift(self, found: Mapping[str, Any]) -> dict[str, TaskDrift]:
        """What processes say of drift, as the page shows it."""
        return {
            name: TaskDrift(
                state=said["state"],
                p_values=said["p_values"],
                level=said["level"],
                recordings=said["recordings"],
                since=said["alarmed_since"],
            )
            for name, said in found.items()
        }

    def page_agreement(self, found: Mapping[str, Any]) -> dict[str, TaskAgreement]:
        """What processes say of agreement with full depth, as the page shows it."""
        return {
            task: TaskAgreement(
                low=said["lower"],
                high=said["upper"],
                estimate=said["agreement"],
                checked=said["windows"],
                promised=said["promised"],
                certificate=said["certificate"],
            )
            for task, said in found.items()
        }
