"""Service levels: what a slice of the traffic is promised, and what it gives up under load. A YAML file, documented in docs/engine.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from offramp.errors import SuiteError
from offramp.schema.problems import first_problem
from offramp.schema.yaml_files import read_yaml

SLICE_BYTES = 1 << 20


class ServiceLevel(BaseModel):
    """What one slice is promised.

    Attributes:
        budget_ms: From arrival to answer, in milliseconds; None for whenever there is time.
        priority: The lower the more important.
        exit: Where its windows leave instead of each task's own exit.
        policy: By which its windows leave instead of a fixed exit.
        under_load: ``shallower``: leave earlier before refusing; ``refuse``: keep the exit.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    budget_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    priority: int = 0
    exit: str | None = None
    policy: str | None = None
    under_load: Literal["shallower", "refuse"] = "refuse"

    @model_validator(mode="after")
    def _one_way(self) -> ServiceLevel:
        if self.exit is not None and self.policy is not None:
            raise ValueError("give an exit or a policy, not both")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    slices: dict[str, ServiceLevel] = Field(min_length=1)


DEFAULT = "default"
Slices = Mapping[str, ServiceLevel]


def level_problem(error: ValidationError) -> str:
    """What is wrong with service levels, in a few words."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        return (
            f"{'.'.join(map(str, first['loc']))}: there is no such key: choose {', '.join(ServiceLevel.model_fields)}"
        )
    return first_problem(error)


def load_slices(path: str | Path) -> dict[str, ServiceLevel]:
    """Read ``slices:`` of a YAML file; a level called ``default`` is for requests that name none, and is there anyway.

    Raises:
        SuiteError: The file is missing or broken, or a level says something that cannot be.
    """
    path = Path(path)
    content = read_yaml(path, "slices are YAML", SLICE_BYTES)
    if content is None:
        raise SuiteError(
            f"{path} is empty: it needs slices:, and under it a name with budget_ms, priority, exit, policy or under_load"
        )
    try:
        found = _File.model_validate(content).slices
    except ValidationError as error:
        raise SuiteError(f"{path}: {level_problem(error)}") from None
    return {DEFAULT: ServiceLevel()} | found
