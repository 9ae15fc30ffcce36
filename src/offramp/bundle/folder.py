"""The folder of a bundle, read and written."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from offramp.bundle.checks import check_bundle
from offramp.bundle.parts import Bundle, BundleTask, Head
from offramp.errors import BundleError
from offramp.files import atomic_path, output_folder, write_text
from offramp.opening import read_json, regular_file
from offramp.schema.bundle import BundleDocument
from offramp.schema.problems import first_problem
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


def save_bundle(bundle: Bundle, folder: Path, card: str) -> None:
    """Write everything but the encoder's weights and the examples. ``card`` is the text of the model card, Markdown.

    Raises:
        BundleError: The heads do not fit the encoder or hold NaN.
        OfframpError: The folder cannot be written.
    """
    check_bundle(bundle, str(folder))
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
    check_bundle(bundle, str(folder))
    return bundle


def change_task(folder: Path, task: BundleTask, encoder_path: str | None) -> None:
    """Write a task's temperatures and policies into a bundle that is there, and where its encoder is; all else stays as it is.

    Raises:
        BundleError: The bundle cannot be read, or lacks the task.
        OfframpError: It cannot be written.
    """
    config = _read_config(folder)
    if task.name not in config["tasks"]:
        raise BundleError(f"{folder} has no task {task.name!r}")
    config["encoder_path"] = encoder_path
    config["tasks"][task.name] |= {"temperatures": task.temperatures, "policies": task.policies}
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


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
