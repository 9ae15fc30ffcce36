"""Whether the parts of a bundle fit each other and its encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from offramp.bundle.parts import Bundle, BundleTask, Head, is_permutation
from offramp.errors import BundleError
from offramp.schema.tasks import BEFORE_ENCODER


def check_bundle(bundle: Bundle, source: str) -> None:
    """Every task needs, for every exit, a head of finite numbers that takes its tap.

    Raises:
        BundleError: It says where, beginning with ``source``.
    """
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
