"""What the drift monitors say, to be shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["learning", "steady", "alarm", "uncalibrated"]

BLIND_TO = (
    "changes that leave confidence, predicted classes, exits and early features as they are, such as new meanings of the same signals: only labels "
    "show them",
    "changes within what the reference's recordings already differ by, until many recordings were seen",
    "a source alone: each counts once at a time, so that at least four different ones are needed",
    "recordings that are shorter than a block",
)


@dataclass(frozen=True)
class MonitorStatus:
    """One thing that is watched of a task's answers under one policy.

    Attributes:
        name: ``confidence``, ``classes``, ``values``, ``exits``, ``features`` or ``feature spread``.
        policy: Name of the policy.
        statistic: The largest shift of any of its numbers from the reference, in standard deviations of what chance gives.
        number: Which number that is.
        recordings: How many of the last recordings show it; 0 before there are four.
        p_value: How probable it is at any one recording that some monitor of the task shows as much without a change, all of them together; an alarm
            is a value below the task's ``level``.
        threshold: Of the statistic.
        alarmed_since: Unix time in seconds of the alarm; None without one.
    """

    name: str
    policy: str
    statistic: float
    number: str
    recordings: int
    p_value: float
    threshold: float
    alarmed_since: float | None


@dataclass(frozen=True)
class TaskDriftStatus:
    """All monitors of one task.

    Attributes:
        task: Its name.
        state: ``learning`` before four recordings, ``steady``, ``alarm``, or ``uncalibrated``, where there never is an alarm.
        why: A sentence: what the state rests on.
        block_windows: Windows of one source that count as a recording.
        reference_recordings: Recordings that are compared with.
        recordings: Seen so far.
        windows: Seen so far, in whole recordings or not.
        waiting: Of these, in recordings that are not whole yet.
        ignored: Windows that were answered at other exits than any policy of the reference, as under load; they are not compared.
        level: A p value below it is an alarm: false alarms per recording.
        average_run_length: Recordings to a false alarm, on average at least; None where nothing can be calibrated.
        alarmed_since: Unix time in seconds of the first alarm; None without one.
        monitors: Those of every policy that a recording was answered with; none where nothing can be calibrated.
    """

    task: str
    state: State
    why: str
    block_windows: int
    reference_recordings: int
    recordings: int
    windows: int
    waiting: int
    ignored: int
    level: float
    average_run_length: float | None
    alarmed_since: float | None
    monitors: tuple[MonitorStatus, ...]

    @property
    def p_values(self) -> dict[str, float]:
        """The smallest of each monitor over the policies."""
        found: dict[str, float] = {}
        for monitor in self.monitors:
            found[monitor.name] = min(monitor.p_value, found.get(monitor.name, 1.0))
        return found


@dataclass(frozen=True)
class DriftStatus:
    """All tasks.

    Attributes:
        false_alarms_per_1000_recordings: At most, over all tasks together.
        tasks: By name.
        blind_to: What no monitor can see.
    """

    false_alarms_per_1000_recordings: float
    tasks: dict[str, TaskDriftStatus]
    blind_to: tuple[str, ...] = BLIND_TO

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)
