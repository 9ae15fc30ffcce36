"""Whether what is served still looks like what the bundle was fitted to; detectors see recordings, not windows. See ``docs/drift.md``."""

from offramp.serving.watching.drift.monitor import DriftMonitor
from offramp.serving.watching.drift.status import DriftStatus, MonitorStatus, TaskDriftStatus

__all__ = ["DriftMonitor", "DriftStatus", "MonitorStatus", "TaskDriftStatus"]
