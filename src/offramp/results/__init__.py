"""The schema of results.json. `offramp schema results` prints it as JSON Schema; fields are added, none changes meaning."""

from offramp.results.document import (
    EncoderInfo,
    ExitControl,
    ExitInfo,
    ExitRow,
    FeatureRow,
    GroupScore,
    Measured,
    Results,
    SnrScores,
    TaskResult,
)
from offramp.results.policies import (
    Arrivals,
    BudgetRow,
    Certified,
    Instability,
    MeasuredPolicies,
    MeasuredRow,
    PolicyComparison,
    PolicyRow,
    ReliabilityRow,
    ShiftRow,
)
from offramp.results.scores import Gain, Latency, Part, Score

__all__ = [
    "Arrivals",
    "BudgetRow",
    "Certified",
    "EncoderInfo",
    "ExitControl",
    "ExitInfo",
    "ExitRow",
    "FeatureRow",
    "Gain",
    "GroupScore",
    "Instability",
    "Latency",
    "Measured",
    "MeasuredPolicies",
    "MeasuredRow",
    "Part",
    "PolicyComparison",
    "PolicyRow",
    "ReliabilityRow",
    "Results",
    "Score",
    "ShiftRow",
    "SnrScores",
    "TaskResult",
]
