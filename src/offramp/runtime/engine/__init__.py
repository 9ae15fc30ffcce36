"""Serves any set of tasks from shared passes: ``Engine(offramp.load(FOLDER)).submit(x, tasks=[...])``."""

from offramp.runtime.engine.counts import EngineCounts
from offramp.runtime.engine.engine import Engine
from offramp.runtime.engine.levels import DEFAULT, ServiceLevel, load_slices
from offramp.runtime.engine.requests import Answer, Submission

__all__ = ["DEFAULT", "Answer", "Engine", "EngineCounts", "ServiceLevel", "Submission", "load_slices"]
