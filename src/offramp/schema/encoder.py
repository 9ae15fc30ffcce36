"""The ``config.json`` of an encoder folder. Its constructor arguments are checked where the architecture is known."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EncoderName = Annotated[str, Field(min_length=1, max_length=200)]


class EncoderDocument(BaseModel):
    """What says how an encoder is built.

    Attributes:
        architecture: Its registered name.
        config: Arguments of its constructor, JSON types.
        sha256: Of its weights, see :meth:`~offramp.encoders.base.StagedEncoder.fingerprint`; folders from elsewhere may lack it.
        provenance: Notes on where the weights come from.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    architecture: EncoderName
    config: dict[str, Any]
    sha256: str | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
