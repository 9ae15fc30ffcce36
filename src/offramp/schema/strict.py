"""The base of documents that programs write and read: every key known, every type exact."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Unknown keys and values of another type are refused; what was read does not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
