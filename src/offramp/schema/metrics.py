"""What a suite and a report know of each metric: its kind of task, its direction, and whether its scores lie in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["classification", "regression"]


@dataclass(frozen=True)
class MetricInfo:
    """A metric without its formula, which is in :mod:`offramp.scoring.metrics`.

    Attributes:
        name: As suites name it.
        kind: The kind of task it scores.
        sign: 1 where higher is better, -1 where lower is.
        bounded: Whether scores lie in [0, 1], so that an absolute tolerance makes sense.
    """

    name: str
    kind: Kind
    sign: Literal[1, -1]
    bounded: bool

    @property
    def higher_is_better(self) -> bool:
        """Direction, as results.json has it."""
        return self.sign == 1


METRIC_INFO: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo("accuracy", "classification", 1, True),
        MetricInfo("balanced_accuracy", "classification", 1, True),
        MetricInfo("top3_accuracy", "classification", 1, True),
        MetricInfo("mean_error", "regression", -1, False),
        MetricInfo("rmse", "regression", -1, False),
        MetricInfo("median_error", "regression", -1, False),
        MetricInfo("p90_error", "regression", -1, False),
        MetricInfo("nmse_db", "regression", -1, False),
        MetricInfo("spectral_efficiency", "regression", 1, True),
        MetricInfo("mrt_efficiency", "regression", 1, True),
    )
}
