"""What a task's held-out windows looked like when it was fitted: the reference that a server compares its traffic with.

::

    reference.safetensors   optional; tasks, policies and how windows were held out as JSON in its metadata, and
        TASK/groups                   int32 (N,): the recording of each window, 0, 1, ... one after the other
        TASK/features                 float32 (N, d): the tap at one exit, projected
        TASK/projection/mean          float32 (width,) and TASK/projection/components, float32 (d, width)
        TASK/values/mean              the same of the answers of a regression, and TASK/values/components
        TASK/policies/POLICY/left     uint8 (N,): index into the policy's exits
        TASK/policies/POLICY/confidence   float32 (N,), and /predicted, int32 (N,): of a classification
        TASK/policies/POLICY/values   float32 (N, v): the projected answer of a regression
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.numpy import save_file

from offramp.errors import BundleError
from offramp.files import atomic_path
from offramp.opening import parse_json, regular_file
from offramp.schema.bundle import ReferenceDocument, ReferenceEntry
from offramp.schema.problems import first_problem

REFERENCE = "reference.safetensors"
SCHEMA = 1
KEY = "offramp"
"""Of the metadata; one key alone, since several are written in any order."""

HeldOut = Literal["calibration", "validation", "traffic", "trained"]
"""Which windows these are: those set aside for guarantees; those that exits were chosen on; labelled traffic that the task was recalibrated
with; or windows of recordings that heads were trained on, too."""


@dataclass(frozen=True, eq=False)
class Projection:
    """From rows to few numbers: ``(rows - mean) @ components.T``.

    Attributes:
        mean: float32 ``(width,)``.
        components: float32 ``(d, width)``.
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows ``(N, width)`` to float32 ``(N, d)``; raises :class:`BundleError` where they have another width."""
        if rows.ndim != 2 or rows.shape[1] != len(self.mean):
            raise BundleError(
                f"rows of shape {rows.shape} cannot be compared with the reference's, which are {len(self.mean)} wide"
            )
        return np.asarray((rows - self.mean) @ self.components.T, np.float32)


@dataclass(frozen=True, eq=False)
class PolicyAnswers:
    """What a task answered to N windows under one policy.

    Attributes:
        exits: That the policy consults, in order of depth.
        left: Which of them each window left at, uint8 ``(N,)``.
        confidence: Probability of the answer, float32 ``(N,)``; None for regression.
        predicted: The class, int32 ``(N,)``; None for regression.
        values: The projected answer of a regression, float32 ``(N, v)``; None for classification.
    """

    exits: tuple[str, ...]
    left: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None
    predicted: NDArray[np.int32] | None = None
    values: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class TaskReference:
    """Held-out windows of one task.

    Attributes:
        kind: ``classification`` or ``regression``.
        classes: How many there are; 0 for regression.
        exit: Where the features were taken.
        grouped: Whether the data told recordings apart; where not, every window is one of its own.
        held_out: Which windows these are.
        groups: The recording of each window, int32 ``(N,)``: 0, 1, ... one after the other; windows of one are in order.
        features: What the task's head sees at ``exit``, the mean over positions where these are tokens, projected: float32 ``(N, d)``.
        projection: Of the features; fitted to windows that are not among these.
        value_projection: Of the answers of a regression; None for classification.
        policies: PolicyAnswers by name of the policy; ``fixed`` is the task's chosen exit.
    """

    kind: str
    classes: int
    exit: str
    grouped: bool
    held_out: HeldOut
    groups: NDArray[np.int32]
    features: NDArray[np.float32]
    projection: Projection
    value_projection: Projection | None
    policies: Mapping[str, PolicyAnswers]


def save_reference(tasks: Mapping[str, TaskReference], folder: Path) -> None:
    """Write the references of a bundle's tasks, by name; where there are none, take away what lies there."""
    path = folder / REFERENCE
    if not tasks:
        path.unlink(missing_ok=True)
        return
    tensors: dict[str, NDArray[Any]] = {}
    for name, task in tasks.items():
        tensors |= {f"{name}/{part}": np.ascontiguousarray(array) for part, array in _arrays_of(task).items()}
    described = {
        "schema": SCHEMA,
        "tasks": {
            name: {
                "kind": task.kind,
                "classes": task.classes,
                "exit": task.exit,
                "grouped": task.grouped,
                "held_out": task.held_out,
                "policies": {policy: list(answers.exits) for policy, answers in task.policies.items()},
            }
            for name, task in tasks.items()
        },
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {KEY: json.dumps(described)})


def load_reference(folder: Path) -> dict[str, TaskReference]:
    """References by task; empty where the bundle has none, as those of earlier versions.

    Raises:
        BundleError: The file is damaged or of another version.
    """
    path = folder / REFERENCE
    if not path.exists():
        return {}
    regular_file(path, BundleError)
    try:
        with safe_open(path, "np") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        document = parse_json(metadata[KEY])
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError(f"it has another schema than {SCHEMA}, which this version of offramp reads")
        entries = ReferenceDocument.model_validate(document).tasks
        return {name: _task_of(name, entry, tensors) for name, entry in entries.items()}
    except ValidationError as error:
        problem = first_problem(error)
    except KeyError as missing:
        problem = f"it lacks {missing}"
    except Exception as error:  # whatever the reader raises on bytes of others
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise BundleError(f"{path} is damaged: {problem}; save the bundle again, or delete the file")


def _arrays_of(task: TaskReference) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any] | None] = {
        "groups": task.groups,
        "features": task.features,
        "projection/mean": task.projection.mean,
        "projection/components": task.projection.components,
    }
    if task.value_projection is not None:
        arrays |= {"values/mean": task.value_projection.mean, "values/components": task.value_projection.components}
    for name, answers in task.policies.items():
        place = f"policies/{name}"
        arrays |= {
            f"{place}/left": answers.left,
            f"{place}/confidence": answers.confidence,
            f"{place}/predicted": answers.predicted,
            f"{place}/values": answers.values,
        }
    return {name: array for name, array in arrays.items() if array is not None}


def _task_of(name: str, entry: ReferenceEntry, tensors: Mapping[str, NDArray[Any]]) -> TaskReference:
    """Raises KeyError or ValueError where arrays are missing or do not fit each other."""

    def array(part: str, dtype: type[np.generic], *shape: int | None) -> NDArray[Any]:
        found = tensors[f"{name}/{part}"]
        fits = found.ndim == len(shape) and all(
            size in (None, given) for size, given in zip(shape, found.shape, strict=True)
        )
        if found.dtype != dtype or not fits:
            raise ValueError(f"{name}/{part} is {found.dtype} {found.shape}")
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise ValueError(f"{name}/{part} holds NaN or infinity")
        return found

    def projection(part: str) -> Projection:
        mean = array(f"{part}/mean", np.float32, None)
        return Projection(mean, array(f"{part}/components", np.float32, None, len(mean)))

    groups = array("groups", np.int32, None)
    count, classification = len(groups), entry.kind == "classification"
    if not np.isin(np.diff(groups, prepend=-1), (0, 1)).all() or (count and groups[0] != 0):
        raise ValueError(f"{name}/groups does not count recordings one after the other")
    features = projection("projection")
    values = None if classification else projection("values")
    policies = {}
    for policy, exits in entry.policies.items():
        place = f"policies/{policy}"
        left = array(f"{place}/left", np.uint8, count)
        if count and left.max() >= len(exits):
            raise ValueError(f"{name}/{place}/left names an exit that the policy lacks")
        if values is not None:
            given = array(f"{place}/values", np.float32, count, len(values.components))
            policies[policy] = PolicyAnswers(tuple(exits), left, values=given)
            continue
        predicted = array(f"{place}/predicted", np.int32, count)
        if count and not 0 <= predicted.min() <= predicted.max() < entry.classes:
            raise ValueError(f"{name}/{place}/predicted holds a class that there is none of")
        policies[policy] = PolicyAnswers(tuple(exits), left, array(f"{place}/confidence", np.float32, count), predicted)
    return TaskReference(
        kind=entry.kind,
        classes=entry.classes,
        exit=entry.exit,
        grouped=entry.grouped,
        held_out=entry.held_out,
        groups=groups,
        features=array("features", np.float32, count, len(features.components)),
        projection=features,
        value_projection=values,
        policies=policies,
    )
