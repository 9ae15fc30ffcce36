"""The ``config.json`` of a bundle: types and sizes, checked before anything is read or allocated for it.

What must fit together with the heads and the encoder is checked where these are at hand.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from offramp.schema.encoder import EncoderName
from offramp.schema.problems import first_problem
from offramp.schema.tasks import DataSpec, Pooling

MOST_VALUES = 2**26
"""In one window, or in one window's target."""

Size = Annotated[int, Field(ge=1, le=2**31)]
Shape = list[Size]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Entry(BaseModel):
    """Base of all parts: types as they stand, no text for a number. Keys that a later version adds are not looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class ExitEntry(Entry):
    """An exit of the encoder."""

    name: str
    width: Size


class EncoderEntry(Entry):
    """Which encoder the heads belong to."""

    architecture: EncoderName
    config: dict[str, Any]
    sha256: str
    exits: list[ExitEntry]

    @field_validator("exits")
    @classmethod
    def _names_once(cls, exits: list[ExitEntry]) -> list[ExitEntry]:
        names = [exit.name for exit in exits]
        if not names or len(set(names)) < len(names):
            raise ValueError("each exit needs a name of its own, and there must be one")
        return exits


class TransformEntry(Entry):
    """What the windows of a task go through first."""

    name: Literal["none", "standardize", "spectrogram", "degrade"]
    mean: list[Finite]
    scale: list[Finite]
    snr_db: Finite | None = None
    antennas: Size | None = None
    frames: Annotated[int, Field(ge=2)] | None = None


class TaskEntry(Entry):
    """One task."""

    kind: Literal["classification", "regression"]
    metric: str
    exit: str
    label_names: list[str]
    transform: TransformEntry
    window_shape: Annotated[Shape, Field(min_length=1)]
    layers: dict[str, Annotated[int, Field(ge=1, le=2)]]
    val: dict[str, float]
    data: dict[str, Any]
    pooling: Pooling = "default"
    poolings: dict[str, Pooling] = {}
    side: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    statistics: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    target_shape: Shape = []
    temperatures: dict[str, float] = {}
    policies: dict[str, dict[str, Any]] = {}

    @field_validator("window_shape", "target_shape")
    @classmethod
    def _not_too_large(cls, shape: Shape) -> Shape:
        if math.prod(shape) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        return shape

    @field_validator("data")
    @classmethod
    def _as_a_suite_says_it(cls, data: dict[str, Any]) -> dict[str, Any]:
        """It is read again with new files."""
        known = {key: value for key, value in data.items() if key in DataSpec.model_fields}
        try:
            DataSpec.model_validate(known | {"path": "windows", "synthetic": None})
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None
        return data

    @model_validator(mode="after")
    def _a_value_for_each_channel(self) -> TaskEntry:
        transform, channels = self.transform, self.window_shape[0]
        if transform.name == "standardize" and not len(transform.mean) == len(transform.scale) == channels:
            raise ValueError(f"transform: standardize needs mean and scale of {channels} channels")
        return self


class BundleDocument(Entry):
    """The whole of it."""

    encoder: EncoderEntry
    encoder_path: str | None
    tasks: dict[str, TaskEntry]

    @field_validator("encoder_path")
    @classmethod
    def _can_be_a_path(cls, path: str | None) -> str | None:
        if path is not None and ("\0" in path or any(len(part.encode()) > 255 for part in Path(path).parts)):
            raise ValueError("this is no path")
        return path


class ReferenceEntry(Entry):
    """What ``reference.safetensors`` says of one task beside its arrays."""

    kind: Literal["classification", "regression"]
    classes: Annotated[int, Field(ge=0, le=2**31)]
    exit: str
    grouped: bool
    held_out: Literal["calibration", "validation", "traffic", "trained"]
    policies: dict[str, Annotated[list[str], Field(min_length=1, max_length=256)]]


class ReferenceDocument(Entry):
    """The whole of it."""

    tasks: dict[str, ReferenceEntry]
