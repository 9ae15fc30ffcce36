"""The schema of a suite file, and its reading: one line that names the key and how to correct it, for everything that is wrong."""

from __future__ import annotations

import difflib
import glob
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from offramp.errors import SuiteError
from offramp.schema.metrics import METRIC_INFO
from offramp.schema.policies import PoliciesSpec
from offramp.schema.tasks import ONE_PATH, SEVERAL_PATHS, Spec, TaskSpec
from offramp.schema.yaml_files import read_yaml

LOCAL = "local-dir:"
"""Starts the name of an encoder that is a folder, relative to the suite file."""
CONTROLS = (
    "constant",
    "random_encoder",
    "raw_input",
    "equal_width",
    "tap_alone",
    "handmade",
    "handmade_level_free",
    "power_only",
    "dft_power",
)
"""Names that a suite's ``controls`` may hold."""
SUITE_BYTES = 2**18
"""Most bytes of a suite file."""
DEFAULT_SUITE = Path(__file__).parents[1] / "suites" / "default.yaml"


class EncoderSpec(Spec):
    """An encoder with a foreign checkpoint.

    Attributes:
        name: Registered name, encoder folder, ``local-dir:PATH`` (paths are relative to the suite file) or ``hf-hub:org/name``.
        checkpoint: Path relative to the suite file.
        modality: Which of a checkpoint's inputs is used, where it knows several (``wavesfm``).
        pool: How a checkpoint's tokens become a tap, where it leaves that open (``wavesfm``).
        scale: Whether windows are brought to unit power, where a checkpoint leaves that open (``amc-ssl``).
        recalibrate: Whether BatchNorm's statistics are measured anew, without labels, on windows outside the test set: ``auto`` decides
            on validation, once for all tasks that have the same windows; the weights never change.
    """

    name: str
    checkpoint: Path | None = None
    modality: Literal["iq", "vision"] | None = None
    pool: Literal["cls", "mean"] | None = None
    scale: Literal["unit_power", "none"] | None = None
    recalibrate: Literal["auto", "always", "never"] = "never"

    @property
    def options(self) -> dict[str, Any]:
        """What :func:`~offramp.encoders.registry.load_encoder` is told beside name and checkpoint."""
        named = (("modality", self.modality), ("pool", self.pool), ("scale", self.scale))
        return {key: value for key, value in named if value is not None}


class SelectionSpec(Spec):
    """How the one exit of each task is picked on validation data."""

    rule: Literal["non-inferior", "best", "budget"] = "non-inferior"
    tolerance: float | str = "1%"
    macs: Annotated[float, Field(gt=0)] | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None

    @field_validator("tolerance")
    @classmethod
    def _number_or_percentage(cls, value: float | str) -> float | str:
        number = value.removesuffix("%") if isinstance(value, str) else value
        try:
            amount = float(number)
        except ValueError:
            amount = -1.0
        if not (math.isfinite(amount) and amount >= 0):
            raise ValueError('give a number such as 0.01 or a percentage such as "1%"')
        return value if isinstance(value, str) and value.endswith("%") else amount

    @model_validator(mode="after")
    def _budget_complete(self) -> SelectionSpec:
        if self.rule == "budget" and (self.macs is None) == (self.latency_ms is None):
            raise ValueError("rule budget needs either macs or latency_ms")
        if self.rule != "budget" and (self.macs is not None or self.latency_ms is not None):
            raise ValueError("macs and latency_ms belong to rule budget")
        return self


class Suite(Spec):
    """One encoder, some tasks, how to split, fit, select and report."""

    encoder: str | EncoderSpec
    tasks: Annotated[tuple[TaskSpec, ...], Field(min_length=1)]
    selection: SelectionSpec = SelectionSpec()
    controls: tuple[Literal[CONTROLS], ...] = ("constant", "random_encoder", "raw_input")  # type: ignore[valid-type]
    policies: PoliciesSpec | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _tolerance_has_a_unit(self) -> Suite:
        tolerance = self.selection.tolerance
        if not isinstance(tolerance, str):
            for task in self.tasks:
                if not METRIC_INFO[task.metric_name].bounded:
                    raise ValueError(
                        f"task {task.name!r}: selection.tolerance: {tolerance:g} has no unit for {task.metric_name}; "
                        'give it relative to the full encoder, e.g. "1%"'
                    )
        return self

    @model_validator(mode="after")
    def _policies_fit(self) -> Suite:
        asked = self.policies
        if asked is None:
            return self
        routed = [task for task in self.tasks if asked.applies_to(task)]
        if not routed:
            kinds = " and ".join(sorted({task.kind for task in self.tasks}))
            raise ValueError(
                f"policies: no task has one answer per window and a criterion for its kind ({kinds}): correct policies.criteria"
            )
        for task in routed:
            if asked.guarantee is not None and task.split.calibration is None:
                raise ValueError(
                    f"task {task.name!r}: policies.guarantee needs windows of its own: add split.calibration, e.g. 0.2"
                )
            if asked.guarantee is not None and task.kind == "regression" and asked.guarantee.limit is None:
                raise ValueError(
                    f"task {task.name!r}: policies.guarantee.limit says how far off an answer is wrong: add it"
                )
        return self

    @model_validator(mode="after")
    def _names_once(self) -> Suite:
        for what, names in (
            ("task", [task.name for task in self.tasks]),
            ("seed", list(self.seeds)),
            ("control", list(self.controls)),
        ):
            twice = [name for number, name in enumerate(names) if name in names[:number]]
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is given twice: every {what} needs its own")
        return self


@dataclass(frozen=True)
class LoadedSuite:
    """A suite and where it stands.

    Attributes:
        suite: As written.
        folder: Paths in it are relative to this folder.
    """

    suite: Suite
    folder: Path

    def with_seed(self, seed: int | None) -> LoadedSuite:
        """The same suite with another seed of its splits; unchanged if None."""
        return self if seed is None else LoadedSuite(self.suite.model_copy(update={"seed": seed}), self.folder)

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks with absolute paths."""
        return tuple(_absolute(task, self.folder) for task in self.suite.tasks)

    @property
    def encoder(self) -> EncoderSpec:
        """The encoder, its checkpoint or folder made absolute where it is a path.

        A folder beside the suite that holds no encoder is not meant where its name is an encoder's too, so such a name stays as it is.
        """
        given = self.suite.encoder
        spec = given if isinstance(given, EncoderSpec) else EncoderSpec(name=given)
        local = spec.name.startswith(LOCAL)
        beside = self.folder / spec.name.removeprefix(LOCAL)
        return spec.model_copy(
            update={
                "name": str(beside) if local or os.path.isfile(beside / "config.json") else spec.name,
                "checkpoint": self.folder / spec.checkpoint if spec.checkpoint else None,
            }
        )


def load_suite(path: str | Path | None = None) -> LoadedSuite:
    """Read a suite file, or the embedded default.

    Raises:
        SuiteError: Missing file, broken YAML, unknown or missing key, value out of range; one line that says how to correct it.
    """
    path = Path(path or DEFAULT_SUITE)
    content = read_yaml(path, "a suite is YAML", SUITE_BYTES)
    if not isinstance(content, dict):
        raise SuiteError(f"{path} is not a suite: it needs at least the keys encoder and tasks")
    try:
        return LoadedSuite(Suite.model_validate(content), path.resolve().parent)
    except ValidationError as error:
        raise SuiteError(f"{path}: {explain(error, Suite)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, in one line: the key, what is wrong, and how to correct it."""
    first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", e["type"] != "missing"))
    inner = ("str", "float", "function-after", ONE_PATH, SEVERAL_PATHS, *model.model_json_schema().get("$defs", {}))
    key = ".".join(str(part) for part in first["loc"] if part not in inner)
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return f"unknown key {key!r}: {advice}"
    if first["type"] == "missing":
        return f"missing key {key!r}: add it"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = "" if isinstance(first["input"], dict | list) else f" (given: {first['input']!r})"
    return f"{key + ': ' if key else ''}{message}{given}"


def _known_keys(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Keys of the model at a location, found in its JSON Schema."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolve(node: dict[str, Any]) -> dict[str, Any]:
        for option in [node, *node.get("anyOf", [])]:
            if "$ref" in option:
                return dict(definitions[option["$ref"].rsplit("/", 1)[1]])
        return node

    node = schema
    for part in location:
        node = resolve(node) if part not in definitions else definitions[part]
        node = node.get("items", node) if isinstance(part, int) else node.get("properties", {}).get(part, node)
    return sorted(resolve(node).get("properties", {}))


def _absolute(task: TaskSpec, folder: Path) -> TaskSpec:
    data, split = task.data, task.split
    if isinstance(data.path, tuple):
        data = data.model_copy(update={"path": tuple(_beside(folder, path) for path in data.path)})
    elif data.path is not None:
        data = data.model_copy(update={"path": _beside(folder, data.path)})
    if split.file is not None:
        split = split.model_copy(update={"file": folder / split.file})
    return task.model_copy(update={"data": data, "split": split})


def _beside(folder: Path, path: Path) -> Path:
    """A path or pattern relative to the suite's folder, whose own name is never part of a pattern."""
    literal = folder / path
    if os.path.exists(literal) or not glob.has_magic(str(path)):
        return literal
    return Path(glob.escape(str(folder))) / path
