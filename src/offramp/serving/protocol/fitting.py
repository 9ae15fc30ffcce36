"""Whether tensors and names fit a model, and what the classification extension makes of an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.serving.protocol.datatypes import datatype_of
from offramp.serving.protocol.faults import BadRequest, Broken
from offramp.serving.protocol.requests import ModelSpec, TensorSpec


def checked_inputs(spec: ModelSpec, given: Sequence[tuple[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Inputs by name: all that the model takes and no others, of its datatypes and shapes."""
    expected = {each.name: each for each in spec.inputs}
    found: dict[str, NDArray[Any]] = {}
    for name, array in given:
        if name not in expected:
            raise BadRequest(f"unknown input {name!r}: model {spec.name!r} expects {_listing(spec.inputs)}")
        if name in found:
            raise BadRequest(f"input {name!r} is given twice")
        _check(expected[name], array)
        found[name] = array
    for name in expected:
        if name not in found:
            raise BadRequest(f"input {name!r} is missing: model {spec.name!r} expects {_listing(spec.inputs)}")
    return found


def checked_outputs(spec: ModelSpec, names: Sequence[str] | None, classes: Mapping[str, int]) -> tuple[str, ...] | None:
    """Names of outputs that the model has, each once; None for all."""
    if names is None:
        return None
    known = {each.name: each for each in spec.outputs}
    for place, name in enumerate(names):
        if name not in known:
            raise BadRequest(f"unknown output {name!r}: model {spec.name!r} gives {', '.join(known)}")
        if name in names[:place]:
            raise BadRequest(f"output {name!r} is asked for twice")
        if name in classes and (known[name].datatype in ("BYTES", "BOOL") or len(known[name].shape) < 1):
            raise BadRequest(f"output {name!r} is {known[name].datatype}: classification needs numbers")
    return tuple(names)


def classified(spec: ModelSpec, name: str, array: NDArray[Any], count: int) -> NDArray[Any]:
    """The best classes along the last axis, as texts ``value:index`` or ``value:index:label`` (Triton's classification extension)."""
    labels = next(each.labels for each in spec.outputs if each.name == name)
    count = min(count, array.shape[-1]) if array.ndim else 0
    best = np.argsort(-array, axis=-1, kind="stable")[..., :count]
    texts = np.empty(best.shape, dtype=object)
    for place in np.ndindex(best.shape):
        index = int(best[place])
        value = array[(*place[:-1], index)]
        label = f":{labels[index]}" if index < len(labels) else ""
        texts[place] = f"{float(value):f}:{index}{label}".encode()
    return texts


def written_datatype(array: NDArray[Any]) -> str:
    """The datatype of an output; a model that gives what the protocol cannot carry has failed."""
    try:
        return datatype_of(array)
    except TypeError as error:
        raise Broken(f"the model gave {array.dtype}: {error}") from None


def _check(expected: TensorSpec, array: NDArray[Any]) -> None:
    datatype = datatype_of(array)
    if datatype != expected.datatype:
        raise BadRequest(f"input {expected.name!r} is {datatype}: {expected.datatype} is expected")
    fits = len(array.shape) == len(expected.shape) and all(
        want in (-1, size) for want, size in zip(expected.shape, array.shape, strict=True)
    )
    if not fits:
        raise BadRequest(
            f"input {expected.name!r} has shape {list(array.shape)}: {list(expected.shape)} is expected, with any size for -1"
        )


def _listing(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{each.name} ({each.datatype} {list(each.shape)})" for each in specs)
