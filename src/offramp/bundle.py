"""The folder that a suite leaves for deployment: read and written with numpy alone, so that a server starts without torch.

::

    config.json            schema, encoder, tasks; written last, so that a folder that has it is complete
    heads.safetensors      TASK/EXIT/LAYER/weight and TASK/EXIT/LAYER/bias, float32; of heads on tokens TASK/EXIT/positions, int64, or
                           TASK/EXIT/query, float32
    examples.safetensors   optional: some raw windows per task, to compare an exported graph with the bundle
    statistics.safetensors optional: SET/BUFFER, float32: BatchNorm's statistics of tasks that do not use the encoder's own
    README.md              the model card
    encoder/               the encoder folder, unless ``encoder_path`` points elsewhere
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from offramp.errors import BundleError
from offramp.files import atomic_path, output_folder, write_text
from offramp.opening import read_json, regular_file
from offramp.schema.bundle import BundleDocument
from offramp.schema.problems import first_problem
from offramp.schema.tasks import BEFORE_ENCODER
from offramp.transforms import Transform

SCHEMA = 1
CONFIG, HEADS, EXAMPLES, STATISTICS, CARD, ENCODER = (
    "config.json",
    "heads.safetensors",
    "examples.safetensors",
    "statistics.safetensors",
    "README.md",
    "encoder",
)
MAX_EXAMPLES = 16

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Head:
    """A head's weights. One layer is linear; between two layers stands a ReLU.

    Attributes:
        layers: Weight float32 ``(outputs, inputs)`` and bias float32 ``(outputs,)`` of each layer.
        positions: For a head on tokens, which all positions share: the entries of the flattened target that it gives at each
            position, int64 ``(positions, values)``. None for a head on a default tap.
        query: For a head that pools tokens by attention, float32 ``(inputs,)``: the softmax over positions of its products with the
            tokens weighs them, and the layers take the weighted mean. None for any other.
    """

    layers: tuple[Layer, ...]
    positions: NDArray[np.int64] | None = None
    query: NDArray[np.float32] | None = None

    @property
    def inputs(self) -> int:
        """Width of the tap that the head takes, at each position if it has them."""
        return int(self.layers[0][0].shape[1])

    @property
    def outputs(self) -> int:
        """Number of classes, or of target dimensions."""
        return int(self.layers[-1][0].shape[0]) if self.positions is None else self.positions.size

    def __call__(self, taps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Taps float32 ``(N, inputs)``, or ``(N, positions, inputs)``, to logits or values, float32 ``(N, outputs)``."""
        if self.query is not None:
            scores = taps @ self.query
            share = np.exp(scores - scores.max(1, keepdims=True))
            taps = np.einsum("np,npw->nw", share / share.sum(1, keepdims=True), taps)
        first, *others = self.layers
        hidden = taps.reshape(-1, taps.shape[-1]) @ first[0].T + first[1]
        for weight, bias in others:
            hidden = np.maximum(hidden, 0) @ weight.T + bias
        if self.positions is None:
            return hidden
        outputs = np.empty((len(taps), self.positions.size), dtype=hidden.dtype)
        outputs[:, self.positions] = hidden.reshape(len(taps), *self.positions.shape)
        return outputs


@dataclass(frozen=True, eq=False)
class BundleTask:
    """One task of a bundle.

    Attributes:
        name: Unique within the bundle.
        kind: ``classification`` or ``regression``.
        metric: Name of the metric in ``val``.
        exit: The chosen exit.
        label_names: Names of the classes 0, 1, ...; empty for regression.
        transform: What the windows go through before the encoder.
        window_shape: Shape of one raw window, without batch axis.
        heads: A head for every exit, in order of depth.
        val: Validation score of every exit.
        data: How windows were read (format, input, window, hop, cut ...), JSON types only.
        target_shape: Shape of one window's target before it was flattened: ``outputs.reshape(-1, *target_shape)``. Empty for
            classification.
        policies: By name, what :meth:`offramp.policies.Policy.to_dict` gives: which windows leave at which exit.
        temperatures: Per exit, by which its logits are divided before they become probabilities; 1 where none is stored.
        poolings: By exit, how the tap is pooled: ``default``, ``statistics``, ``quantiles`` or ``tokens``; ``default`` where an exit is
            left out. At ``input`` it says whether the side features are ``tokens``.
        side: Name of the side features in front of every tap, which are a tap by themselves at the exit ``input``; None without.
        statistics: Name of the set of BatchNorm statistics that the encoder runs with; None for its own.
    """

    name: str
    kind: str
    metric: str
    exit: str
    label_names: tuple[str, ...]
    transform: Transform
    window_shape: tuple[int, ...]
    heads: dict[str, Head]
    val: dict[str, float]
    data: dict[str, Any] = field(default_factory=dict)
    target_shape: tuple[int, ...] = ()
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    temperatures: dict[str, float] = field(default_factory=dict)
    poolings: dict[str, str] = field(default_factory=dict)
    side: str | None = None
    statistics: str | None = None

    @property
    def temperature(self) -> float:
        """Of the chosen exit."""
        return self.temperatures.get(self.exit, 1.0)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A frozen encoder and its tasks.

    Attributes:
        encoder: ``architecture``, ``config`` (constructor arguments), ``sha256`` (its fingerprint) and ``exits``: a list of
            ``{"name", "index", "width", "params"}`` in order of depth.
        tasks: By name.
        encoder_path: Where the weights are if not in the bundle's ``encoder`` folder: an encoder folder or a checkpoint,
            absolute or relative to the bundle.
        statistics: BatchNorm's statistics by set, float32 by the name of the encoder's buffer.
    """

    encoder: dict[str, Any]
    tasks: dict[str, BundleTask]
    encoder_path: str | None = None
    statistics: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)

    def choose(self, name: str | None) -> BundleTask:
        """A task by name; without a name the only one. Raises :class:`BundleError` that lists the tasks otherwise."""
        if name is None and len(self.tasks) > 1:
            raise BundleError(f"the bundle has several tasks: choose one with --task ({', '.join(self.tasks)})")
        return self.task(next(iter(self.tasks)) if name is None else name)

    def task(self, name: str) -> BundleTask:
        """A task by name; raises :class:`BundleError` that lists the tasks if there is none."""
        if not isinstance(name, str) or name not in self.tasks:
            raise BundleError(f"unknown task {name!r}: the bundle has {', '.join(self.tasks)}")
        return self.tasks[name]


def save_bundle(bundle: Bundle, folder: Path, card: str) -> None:
    """Write everything but the encoder's weights and the examples. ``card`` is the text of the model card, Markdown.

    Raises:
        BundleError: The heads do not fit the encoder or hold NaN.
        OfframpError: The folder cannot be written.
    """
    _check(bundle, str(folder))
    output_folder(folder)
    tensors: dict[str, NDArray[Any]] = {
        f"{task.name}/{exit}/{index}/{part}": np.ascontiguousarray(array, dtype=np.float32)
        for task in bundle.tasks.values()
        for exit, head in task.heads.items()
        for index, layer in enumerate(head.layers)
        for part, array in zip(("weight", "bias"), layer, strict=True)
    }
    positions = {
        f"{task.name}/{exit}/positions": np.ascontiguousarray(head.positions)
        for task in bundle.tasks.values()
        for exit, head in task.heads.items()
        if head.positions is not None
    }
    queries = {
        f"{task.name}/{exit}/query": np.ascontiguousarray(head.query)
        for task in bundle.tasks.values()
        for exit, head in task.heads.items()
        if head.query is not None
    }
    _save_tensors(tensors | positions | queries, folder / HEADS)
    if bundle.statistics:
        named = {f"{name}/{buffer}": values for name, of in bundle.statistics.items() for buffer, values in of.items()}
        _save_tensors(named, folder / STATISTICS)
    write_text(folder / CARD, card)
    config = {
        "schema": SCHEMA,
        "encoder": bundle.encoder,
        "encoder_path": bundle.encoder_path,
        "tasks": {name: _task_to_dict(task) for name, task in bundle.tasks.items()},
    }
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle, without its encoder's weights.

    Types and sizes of ``config.json`` are checked before anything else is read.

    Raises:
        BundleError: A file is missing or damaged, the schema is another, or heads do not fit.
    """
    config = _read_config(folder)
    tensors = _load_tensors(folder / HEADS)
    try:
        tasks = {name: _task_from_dict(name, stored, tensors) for name, stored in config["tasks"].items()}
    except KeyError as missing:
        raise BundleError(f"{folder} is not a complete bundle: {missing} is missing; save it again") from None
    bundle = Bundle(config["encoder"], tasks, config["encoder_path"], _load_statistics(folder, tasks.values()))
    _check(bundle, str(folder))
    return bundle


def save_examples(examples: Mapping[str, NDArray[np.float32]], folder: Path) -> None:
    """Store up to 16 raw windows per task, float32 ``(n, *window_shape)``."""
    tensors = {name: np.ascontiguousarray(windows[:MAX_EXAMPLES], np.float32) for name, windows in examples.items()}
    _save_tensors(tensors, folder / EXAMPLES)


def load_examples(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Raw windows per task, float32 ``(n, *window_shape)``; empty where the bundle has none."""
    path = folder / EXAMPLES
    return dict(_load_tensors(path)) if path.exists() else {}


def _load_statistics(folder: Path, tasks: Iterable[BundleTask]) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Those that tasks name; a file that none of them needs is not opened."""
    wanted = {task.statistics: task.name for task in tasks if task.statistics is not None}
    if not wanted:
        return {}
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key, values in _load_tensors(folder / STATISTICS).items():
        name, _, buffer = key.partition("/")
        found.setdefault(name, {})[buffer] = values
    for name, task in wanted.items():
        if name not in found:
            raise BundleError(f"{folder}: task {task!r} names the statistics {name!r}, which {STATISTICS} lacks")
        for buffer, values in found[name].items():
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise BundleError(f"{folder / STATISTICS}: {name}/{buffer} is not float32, or holds NaN or infinity")
    return {name: found[name] for name in wanted}


def _task_to_dict(task: BundleTask) -> dict[str, Any]:
    return {
        "kind": task.kind,
        "metric": task.metric,
        "exit": task.exit,
        "label_names": list(task.label_names),
        "transform": task.transform.to_dict(),
        "window_shape": list(task.window_shape),
        "target_shape": list(task.target_shape),
        "poolings": task.poolings,
        "side": task.side,
        "statistics": task.statistics,
        "layers": {exit: len(head.layers) for exit, head in task.heads.items()},
        "val": task.val,
        "data": task.data,
        "policies": task.policies,
        "temperatures": task.temperatures,
    }


def _task_from_dict(name: str, stored: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> BundleTask:
    # bundles from before there were poolings, policies and temperatures of fixed exits do not name them
    poolings = stored.get("poolings") or {exit: stored.get("pooling", "default") for exit in stored["layers"]}
    heads = {
        exit: Head(
            tuple((tensors[f"{name}/{exit}/{i}/weight"], tensors[f"{name}/{exit}/{i}/bias"]) for i in range(count)),
            tensors.get(f"{name}/{exit}/positions"),
            tensors.get(f"{name}/{exit}/query"),
        )
        for exit, count in stored["layers"].items()
    }
    return BundleTask(
        name=name,
        kind=stored["kind"],
        metric=stored["metric"],
        exit=stored["exit"],
        label_names=tuple(stored["label_names"]),
        transform=Transform.from_dict(stored["transform"]),
        window_shape=tuple(stored["window_shape"]),
        heads=heads,
        val=dict(stored["val"]),
        data=dict(stored["data"]),
        target_shape=tuple(stored.get("target_shape", ())),
        policies={policy: dict(parts) for policy, parts in stored.get("policies", {}).items()},
        temperatures={exit: float(value) for exit, value in stored.get("temperatures", {}).items()},
        poolings=dict(poolings),
        side=stored.get("side"),
        statistics=stored.get("statistics"),
    )


def _check(bundle: Bundle, source: str) -> None:
    """Every task needs, for every exit, a head of finite numbers that takes its tap."""
    if not bundle.tasks:
        raise BundleError(f"{source}: the bundle has no tasks")
    encoder = {exit["name"]: exit["width"] for exit in bundle.encoder["exits"]}
    for task in bundle.tasks.values():
        widths = encoder if task.side is None else {BEFORE_ENCODER: 0, **encoder}
        if missing := [exit for exit in (task.exit, *widths) if exit not in task.heads]:
            raise BundleError(f"{source}: task {task.name!r} has no head at exit {missing[0]!r}")
        if task.exit not in task.val:
            raise BundleError(f"{source}: task {task.name!r} has no validation score of its exit {task.exit!r}")
        if odd := [exit for exit in task.poolings if exit not in widths]:
            raise BundleError(
                f"{source}: task {task.name!r} has a pooling at {odd[0]!r}, an exit that the encoder lacks"
            )
        if task.statistics is not None and task.statistics not in bundle.statistics:
            raise BundleError(
                f"{source}: task {task.name!r} names the statistics {task.statistics!r}, which there are none of"
            )
        for exit, temperature in task.temperatures.items():
            if exit not in widths or not 0 < temperature < math.inf:
                raise BundleError(f"{source}: task {task.name!r} has the temperature {temperature:g} at exit {exit!r}")
        outputs = task.heads[task.exit].outputs
        if task.label_names or task.target_shape:
            outputs = len(task.label_names) or math.prod(task.target_shape)
        for exit, head in task.heads.items():
            if exit not in widths:
                raise BundleError(
                    f"{source}: task {task.name!r} has a head at {exit!r}, an exit that the encoder lacks"
                )
            pooling = task.poolings.get(exit, "default")
            known = widths[exit] if task.side is None and pooling == "default" else None
            problem = _problem(head, pooling, known, outputs)
            if problem:
                raise BundleError(f"{source}: head of task {task.name!r} at exit {exit!r} {problem}")
        for name, policy in task.policies.items():
            problem = _problem_of_policy(policy, task, list(widths))
            if problem:
                raise BundleError(f"{source}: policy {name!r} of task {task.name!r} {problem}")


def _problem(head: Head, pooling: str, inputs: int | None, outputs: int) -> str | None:
    """What is wrong with a head, in words. ``inputs`` is the width of its tap, None where the bundle does not hold it."""
    if not 1 <= len(head.layers) <= 2:
        return f"has {len(head.layers)} layers instead of 1 or 2"
    if (head.positions is not None or head.query is not None) != (pooling == "tokens"):
        what = "positions" if head.query is None else "a query"
        return f"has {'no ' if pooling == 'tokens' else ''}{what}, and the task's heads take {pooling} taps"
    if head.query is not None and (head.positions is not None or not _is_query(head)):
        return f"has a query {head.query.shape} of {head.query.dtype} that does not fit its layers, or holds NaN or infinity"
    width = math.prod(head.layers[0][0].shape[1:]) if inputs is None else inputs
    if (positions := head.positions) is not None:
        if positions.ndim != 2 or positions.dtype != np.int64 or not is_permutation(positions, outputs):
            return (
                f"has positions {positions.shape} of {positions.dtype} that do not hold each of {outputs} values once"
            )
        outputs = positions.shape[1]
    for weight, bias in head.layers:
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            return f"has weights {weight.shape} and bias {bias.shape} where {width} inputs arrive"
        if weight.dtype != np.float32 or bias.dtype != np.float32:
            return f"has weights of {weight.dtype} and bias of {bias.dtype} instead of float32"
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            return "holds NaN or infinity"
        width = weight.shape[0]
    return None if width == outputs else f"gives {width} outputs instead of {outputs}"


def _is_query(head: Head) -> bool:
    query = head.query
    fits = query is not None and query.dtype == np.float32 and query.shape == head.layers[0][0].shape[1:]
    return fits and bool(np.isfinite(query).all())  # type: ignore[arg-type]


def _problem_of_policy(policy: Mapping[str, Any], task: BundleTask, depths: Sequence[str]) -> str | None:
    """What does not fit between a policy and its task, in words. Whether it is whole is found out where it is run."""
    exits = policy.get("exits")
    if policy.get("kind") != task.kind:
        return f"is for {policy.get('kind')}, and the task is a {task.kind}"
    if not isinstance(exits, list | tuple) or not exits or not all(isinstance(exit, str) for exit in exits):
        return "does not name the exits that it consults"
    if missing := [exit for exit in exits if exit not in task.heads]:
        return f"consults exit {missing[0]!r}, which has no head"
    places = [depths.index(exit) for exit in exits]
    return None if places == sorted(set(places)) else f"consults {', '.join(exits)}, which is not the order of depth"


def is_permutation(indices: NDArray[np.int64], count: int) -> bool:
    """Whether an array of any shape holds each of 0, 1, ..., ``count - 1`` exactly once."""
    return indices.size == count and bool((np.sort(indices, axis=None) == np.arange(count)).all())


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise BundleError(f"no such bundle: {folder} is not a folder")
    if not os.path.lexists(path):
        inner = folder / "bundle"
        advice = f"; give {inner}" if os.path.lexists(inner / CONFIG) else ""  # the folder of a run
        raise BundleError(f"{folder} is not a bundle: it has no {CONFIG}{advice}")
    config = read_json(path, BundleError, "save the bundle again")
    schema = config.get("schema") if isinstance(config, dict) else None
    if type(schema) is not int or schema != SCHEMA:  # True is 1, too
        raise BundleError(f"{path} has schema {reprlib.repr(schema)}: this version of offramp reads schema {SCHEMA}")
    try:
        BundleDocument.model_validate(config)
    except ValidationError as error:
        (*place, key), kind = error.errors()[0]["loc"], error.errors()[0]["type"]
        if kind == "missing":
            where = f"{'.'.join(map(str, place))}: " if place else ""
            raise BundleError(f"{folder} is not a complete bundle: {where}{key!r} is missing; save it again") from None
        raise BundleError(f"{path} is damaged: {first_problem(error)}; save the bundle again") from None
    return dict(config)


def _save_tensors(tensors: dict[str, NDArray[Any]], path: Path) -> None:
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)


def _load_tensors(path: Path) -> Mapping[str, NDArray[Any]]:
    if not os.path.lexists(path):
        raise BundleError(f"{path.parent} is not a complete bundle: it has no {path.name}")
    regular_file(path, BundleError)
    try:
        return load_file(path)
    except Exception as error:  # whatever the reader raises on bytes of others
        raise BundleError(f"{path} is damaged: {str(error).splitlines()[0]}; save the bundle again") from None
