"""The name that :mod:`offramp.schema.tasks` had, for code that was written against it."""

from offramp.schema.tasks import DataSpec, HeadSpec, LabelSpec, SplitSpec, SyntheticSpec, TaskSpec

__all__ = ["DataSpec", "HeadSpec", "LabelSpec", "SplitSpec", "SyntheticSpec", "TaskSpec"]
