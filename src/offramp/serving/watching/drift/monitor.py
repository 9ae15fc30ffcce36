"""Tells from answers and features of live windows whether recordings still look like those of the reference."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import TaskReference
from offramp.errors import OfframpError
from offramp.runtime.predictor import Prediction
from offramp.runtime.reference import answers_of
from offramp.serving.watching.drift.blocks import FEWEST_RECORDINGS, Layout, block_size, reference_blocks
from offramp.serving.watching.drift.gathered import PolicyWatch
from offramp.serving.watching.drift.ranks import HORIZONS
from offramp.serving.watching.drift.status import DriftStatus, State, TaskDriftStatus


class DriftMonitor:
    """Compares what is served with the reference of a bundle. Safe to use from several threads.

    Windows come with the name of their source. As many of one source as a recording of the reference has are a recording; each source counts once
    among the last recordings, with its latest. What is compared, how, and what the rate of false alarms rests on stands in
    ``docs/drift.md``.
    """

    def __init__(self, reference: Mapping[str, TaskReference], false_alarms_per_1000_recordings: float = 1.0) -> None:
        """Begin with nothing seen.

        Args:
            reference: Of every task that is watched, from :func:`offramp.bundle.load_reference`.
            false_alarms_per_1000_recordings: That there may be on average over all tasks, monitors and time, in (0, 100].

        Raises:
            OfframpError: The rate makes no sense.
        """
        rate = false_alarms_per_1000_recordings
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 100:
            raise OfframpError(f"false_alarms_per_1000_recordings={rate!r}: give a number above 0, up to 100")
        self._rate = float(rate)
        self._lock = threading.Lock()
        per_task = self._rate / 1000 / max(1, len(reference))
        self._tasks = {name: _WatchedTask(task, per_task) for name, task in reference.items()}

    def observe(
        self,
        source: str,
        prediction: Prediction,
        features: NDArray[np.float32] | None = None,
        at: float | None = None,
    ) -> None:
        """See some windows of one source, in order. Tasks without a reference are passed over.

        Args:
            source: What tells recordings apart: a radio, a session, a file. Windows of one recording must not come under many names.
            prediction: Of one task for N windows.
            features: What :meth:`offramp.runtime.Predictor.features` gives for the same windows at the exit of the task's reference, float32
                ``(N, width)``. None where that was not computed: a recording is compared by its features if all its windows have them.
            at: Unix time in seconds; now if None.

        Raises:
            OfframpError: Features are of another number of windows.
            BundleError: They are of another width than the reference's.
        """
        watched = self._tasks.get(prediction.task)
        if watched is None or not len(prediction.left):
            return
        reference = watched.reference
        known = reference.policies.get(prediction.policy)
        if known is None or known.exits != prediction.consulted:
            with self._lock:
                watched.ignored += len(prediction.left)
            return
        if features is not None and len(features) != len(prediction.left):
            raise OfframpError(
                f"{len(features)} rows of features for {len(prediction.left)} windows: give one for each"
            )
        projected = None if features is None else reference.projection(np.asarray(features, np.float32))
        answers = answers_of(prediction, reference.value_projection)
        now = time.time() if at is None else float(at)
        with self._lock:
            watched.windows += len(prediction.left)
            if watched.problem is not None:
                return
            watch = watched.policy(prediction.policy)
            watch.add(source, watch.layout.rows(answers, projected), now)

    def reset(self) -> None:
        """Forget alarms and everything seen, as after a new bundle or a repair."""
        with self._lock:
            for task in self._tasks.values():
                task.forget()

    @property
    def alarmed(self) -> dict[str, list[str]]:
        """By task, the monitors that alarm; no tasks without."""
        with self._lock:
            found = {name: task.alarmed for name, task in self._tasks.items()}
        return {name: monitors for name, monitors in found.items() if monitors}

    @property
    def status(self) -> DriftStatus:
        """What is known now."""
        with self._lock:
            return DriftStatus(self._rate, {name: task.status(name) for name, task in self._tasks.items()})


class _WatchedTask:
    """One task."""

    def __init__(self, reference: TaskReference, rate: float) -> None:
        self.reference, self.rate = reference, rate
        self.windows = self.ignored = 0
        self.size = block_size(reference)
        self._blocks, self._recording = reference_blocks(reference, self.size)
        self._recordings = len(np.unique(self._recording))
        self._policies: dict[str, PolicyWatch] = {}

    def forget(self) -> None:
        """Begin with nothing seen."""
        self.windows = self.ignored = 0
        for watch in self._policies.values():
            watch.forget()

    @property
    def alarmed(self) -> list[str]:
        """Monitors that alarm, under any policy."""
        return sorted({monitor for watch in self._policies.values() for monitor in watch.alarmed})

    @property
    def problem(self) -> str | None:
        """Why nothing can be calibrated."""
        if self.reference.held_out == "trained":
            return (
                "it cannot be calibrated: the heads learned from the reference's recordings, so that new ones look different without a change; give the "
                "run more recordings, or a calibration set"
            )
        if self._recordings < FEWEST_RECORDINGS:
            return (
                f"it cannot be calibrated: the reference has {self._recordings} recordings of {self.size} windows, and fewer than {FEWEST_RECORDINGS} do "
                "not show how recordings differ; give the run more recordings"
            )
        return None

    def policy(self, name: str) -> PolicyWatch:
        """What is seen under a policy, ranked among the reference's answers under the same."""
        if name not in self._policies:
            reference, answers = self.reference, self.reference.policies[name]
            values = 0 if answers.values is None else answers.values.shape[1]
            layout = Layout(reference.classes, values, answers.exits, reference.features.shape[1], self.size)
            rows = layout.rows(answers, reference.features)
            summaries = np.stack([layout.summary(rows[block]) for block in self._blocks])
            self._policies[name] = PolicyWatch(layout, summaries, self._recording, self.rate)
        return self._policies[name]

    def status(self, name: str) -> TaskDriftStatus:
        """All that is known; ``name`` is the task's."""
        watches, problem = self._policies, self.problem
        monitors = [each for policy, watch in watches.items() if watch.recordings for each in watch.status(policy)]
        since = min((each.alarmed_since for each in monitors if each.alarmed_since is not None), default=None)
        state: State = "steady"
        if problem is not None:
            state = "uncalibrated"
        elif since is not None:
            state = "alarm"
        elif max((watch.sources for watch in watches.values()), default=0) < HORIZONS[0]:
            state = "learning"
        return TaskDriftStatus(
            task=name,
            state=state,
            why=problem or self._basis(),
            block_windows=self.size,
            reference_recordings=self._recordings,
            recordings=sum(watch.recordings for watch in watches.values()),
            windows=self.windows,
            waiting=sum(watch.waiting for watch in watches.values()),
            ignored=self.ignored,
            level=self.rate,
            average_run_length=None if problem else 1 / self.rate,
            alarmed_since=since,
            monitors=tuple(monitors),
        )

    def _basis(self) -> str:
        if not self.reference.grouped:
            return (
                f"the data tells no recordings apart: {self.size} windows of a source are taken for as many independent ones; where they are alike, alarms "
                "without a change are more frequent than stated"
            )
        held = {
            "calibration": "that nothing was fitted to",
            "validation": "that exits were chosen on",
            "traffic": "that the task was recalibrated with",
        }[self.reference.held_out]
        return (
            f"recordings of {self.size} windows are compared with {self._recordings} {held}; the rate holds where recordings come as those did, "
            "independently of each other"
        )
