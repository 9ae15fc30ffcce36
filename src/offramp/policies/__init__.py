"""Per-sample exits: a policy decides at every exit that it consults which windows leave there."""

from offramp.policies.criteria import CRITERIA, Criterion
from offramp.policies.policy import Memory, Policy
from offramp.policies.simulation import Decisions, simulate

__all__ = ["CRITERIA", "Criterion", "Decisions", "Memory", "Policy", "simulate"]
