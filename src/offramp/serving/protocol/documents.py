"""JSON documents of the protocol, with the binary tensor extension: a body to a request, and a part of an answer to a body."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from offramp.serving.protocol.datatypes import BYTES, DTYPES, MOST_DIMENSIONS, checked_shape, from_bytes, to_bytes
from offramp.serving.protocol.faults import BadRequest, TooLarge
from offramp.serving.protocol.fitting import checked_inputs, checked_outputs, classified, written_datatype
from offramp.serving.protocol.requests import AnswerPart, InferRequest, ModelSpec, Parameter, Parameters

DEEPEST = 32
"""Levels of a document beside its tensors."""
MOST_JSON_BYTES = 16 << 20
"""Of a request: while JSON is read, nobody else is answered. Tensors behind it come on top."""
MOST_LISTS = 1 << 18
"""Lists and objects of a document: each takes thirty times the memory of its text."""
MOST_TENSORS = 1024
_PLAIN: Mapping[str, frozenset[type]] = {
    "b": frozenset({bool}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "f": frozenset({int, float}),
}
"""What JSON has for a kind of dtype."""


@dataclass(frozen=True)
class OutputForm:
    """How outputs are to be written.

    Attributes:
        binary: By output, whether behind the document instead of in it.
        binary_else: For outputs that are not in ``binary``.
        classes: By output, how many of the best classes are to be named instead of all values.
    """

    binary: Mapping[str, bool] = field(default_factory=dict)
    binary_else: bool = False
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class AskedInference:
    """A request as it came: what the model is asked, and how the answer is to look."""

    request: InferRequest
    form: OutputForm
    id: str = ""


def read_json(content: bytes, what: str = "the body") -> dict[str, Any]:
    """A JSON object. Raises :class:`BadRequest` for anything else, for NaN, and for what is nested too deep; :class:`TooLarge` for too many lists."""
    if content.count(b"[") + content.count(b"{") > MOST_LISTS:
        raise TooLarge(f"{what} has more than {MOST_LISTS:,} lists: send data flat, or by the binary extension")
    try:
        document = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"{what} is no JSON: {error}"[:300]) from None
    if not isinstance(document, dict):
        raise BadRequest(f"{what} is a JSON {type(document).__name__}: an object is expected")
    return document


def read_request(spec: ModelSpec, content: bytes, header_length: str | None) -> AskedInference:
    """What the body of an inference request says.

    Args:
        spec: Of the model that is asked.
        content: The body.
        header_length: Of the header ``Inference-Header-Content-Length``: bytes of JSON, binary tensors follow; None without.

    Raises:
        BadRequest: It is not what the model or the protocol expects; names the input and the expectation.
        TooLarge: It has too much JSON.
    """
    end = _header_end(content, header_length)
    if end > MOST_JSON_BYTES:
        raise TooLarge(
            f"{end:,} bytes of JSON: at most {MOST_JSON_BYTES:,} are taken: send data by the binary extension"
        )
    document = read_json(content[:end])
    for key, value in document.items():
        if key not in ("inputs", "outputs"):
            _check_depth(value, key)
    id = document.get("id", "")
    if not isinstance(id, str):
        raise BadRequest(f"id is a {type(id).__name__}: a text is expected")
    parameters = read_parameters(document.get("parameters"), "parameters")
    inputs = _read_inputs(document, memoryview(content)[end:], spec)
    names, form = _read_outputs(document, parameters)
    own = {key: value for key, value in parameters.items() if key != "binary_data_output"}
    request = InferRequest(checked_inputs(spec, inputs), checked_outputs(spec, names, form.classes), own)
    return AskedInference(request, form, id)


def read_parameters(given: Any, where: str) -> dict[str, Parameter]:
    """Parameters, which are single values by name."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadRequest(f"{where} is a {type(given).__name__}: an object is expected")
    for key, value in given.items():
        if not isinstance(value, bool | int | float | str):
            raise BadRequest(f"{where}: {key!r} must be a single value")
    return given


def write_answer(
    spec: ModelSpec, part: AnswerPart, asked: AskedInference, parameters: Parameters | None = None
) -> tuple[bytes, int | None]:
    """The body of an answer, and the bytes of JSON in front of its binary tensors; None if there are none."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name in ordered(part.outputs, asked.request.outputs):
        array = part.outputs[name]
        if name in asked.form.classes:
            array = classified(spec, name, array, asked.form.classes[name])
        entry: dict[str, Any] = {"name": name, "datatype": written_datatype(array), "shape": array.shape}
        if asked.form.binary.get(name, asked.form.binary_else):
            raw = to_bytes(array)
            tail.append(raw)
            entry["parameters"] = {"binary_data_size": len(raw)}
        else:
            entry["data"] = _plain(array)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": spec.name, "model_version": spec.version}
    if asked.id:
        document["id"] = asked.id
    said = {**part.parameters, **(parameters or {})}
    if said:
        document["parameters"] = said
    document["outputs"] = outputs
    head = to_json(document, inf_nan_mode="null")
    return (head, None) if not tail else (b"".join([head, *tail]), len(head))


def ordered(given: Mapping[str, Any], wanted: Sequence[str] | None) -> list[str]:
    """Names of the outputs that are given and wanted, in the order in which they were asked for."""
    return list(given) if wanted is None else [name for name in wanted if name in given]


def _header_end(content: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(content)
    text = header_length.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > len(content):
        raise BadRequest(
            f"Inference-Header-Content-Length: {header_length[:40]!r}: give the bytes of JSON in the body, which has {len(content)}"
        )
    return int(text)


def _check_depth(value: Any, key: str) -> None:
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise BadRequest(f"{key[:40]!r} is nested more than {DEEPEST} deep")
        items = chain.from_iterable(each.values() if isinstance(each, dict) else each for each in level)
        level = [item for item in items if isinstance(item, dict | list)]


def _entries(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadRequest(f"{key!r} must be a list of objects")
    if len(entries) > MOST_TENSORS:
        raise BadRequest(f"{len(entries)} {key}: at most {MOST_TENSORS} are taken")
    for entry in entries:
        if not isinstance(entry.get("name"), str) or not entry["name"]:
            raise BadRequest(f"each of {key!r} needs a name")
        for part, value in entry.items():
            if part != "data":
                _check_depth(value, part)
    return entries


def _read_inputs(document: dict[str, Any], tail: memoryview, spec: ModelSpec) -> list[tuple[str, NDArray[Any]]]:
    if "inputs" not in document:
        expected = ", ".join(each.name for each in spec.inputs)
        raise BadRequest(f"the body has no inputs: model {spec.name!r} expects {expected}")
    found, at = [], 0
    for entry in _entries(document, "inputs"):
        name, datatype = entry["name"], entry.get("datatype")
        if not isinstance(datatype, str) or datatype not in DTYPES:
            raise BadRequest(f"input {name!r}: datatype {str(datatype)[:40]!r}: choose {', '.join(DTYPES)}")
        if not isinstance(entry.get("shape"), list):
            raise BadRequest(f"input {name!r} needs a shape: a list of whole numbers")
        shape = checked_shape(entry["shape"], name)
        parameters = read_parameters(entry.get("parameters"), f"input {name!r}: parameters")
        size = parameters.get("binary_data_size")
        if any(key.startswith("shared_memory") for key in parameters):
            raise BadRequest(f"input {name!r}: shared memory is not supported: send the data")
        if size is None:
            if "data" not in entry:
                raise BadRequest(f"input {name!r} has neither data nor binary_data_size")
            found.append((name, _read_data(entry["data"], datatype, shape, name)))
            continue
        if "data" in entry:
            raise BadRequest(f"input {name!r} has both data and binary_data_size: give one of them")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(tail) - at:
            raise BadRequest(
                f"input {name!r}: binary_data_size {size!r}, and {len(tail) - at} bytes follow the JSON"[:300]
            )
        found.append((name, from_bytes(tail[at : at + size], datatype, shape, name)))
        at += size
    if at != len(tail):
        raise BadRequest(f"{len(tail) - at} bytes follow the JSON that no input's binary_data_size accounts for")
    return found


def _read_data(data: Any, datatype: str, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    if not isinstance(data, list):
        raise BadRequest(f"input {name!r}: data is a {type(data).__name__}: a list is expected")
    if datatype == "FP16":
        raise BadRequest(f"input {name!r}: FP16 has no JSON form: send it by the binary extension")
    if datatype == BYTES:
        return _read_texts(data, shape, name)
    values, nesting = _leaves(data, name)
    dtype = DTYPES[datatype]
    if not _PLAIN[dtype.kind].issuperset(map(type, values)):
        raise BadRequest(f"input {name!r}: its data are no {datatype} values")
    _check_count(nesting, shape, name)
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype).reshape(shape)
    except OverflowError:
        limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        raise BadRequest(f"input {name!r}: {datatype} goes from {limits.min} to {limits.max}") from None


def _read_texts(data: list[Any], shape: tuple[int, ...], name: str) -> NDArray[Any]:
    values, nesting = _leaves(data, name)
    if not all(isinstance(each, str) for each in values):
        raise BadRequest(f"input {name!r}: its data are no texts")
    _check_count(nesting, shape, name)
    array = np.empty(len(values), dtype=object)
    array[:] = [each.encode() for each in values]
    return array.reshape(shape)


def _leaves(data: list[Any], name: str) -> tuple[list[Any], tuple[int, ...]]:
    """What lists hold that may hold lists, and the shape of these. (numpy would make texts of all of it if there is one among them.)"""
    values, shape = data, [len(data)]
    while list in (kinds := set(map(type, values))):
        lengths = set(map(len, values)) if len(kinds) == 1 else set()
        if len(lengths) != 1 or len(shape) == MOST_DIMENSIONS:
            raise BadRequest(f"input {name!r}: its lists are of unequal lengths or nested too deep")
        shape.append(lengths.pop())
        values = list(chain.from_iterable(values))
    return values, tuple(shape)


def _check_count(nesting: tuple[int, ...], shape: tuple[int, ...], name: str) -> None:
    if nesting != shape and nesting != (math.prod(shape),):
        raise BadRequest(
            f"input {name!r}: its data have shape {list(nesting)}, and {list(shape)} is said: give as many values, in a flat list or nested so"
        )


def _read_outputs(document: dict[str, Any], parameters: Parameters) -> tuple[list[str] | None, OutputForm]:
    otherwise = parameters.get("binary_data_output", False)
    if not isinstance(otherwise, bool):
        raise BadRequest(f"binary_data_output: {otherwise!r}: true or false is expected"[:200])
    binary, classes, names = {}, {}, []
    for entry in _entries(document, "outputs"):
        name = entry["name"]
        names.append(name)
        given = read_parameters(entry.get("parameters"), f"output {name!r}: parameters")
        if any(key.startswith("shared_memory") for key in given):
            raise BadRequest(f"output {name!r}: shared memory is not supported: take the data")
        if "binary_data" in given:
            if not isinstance(given["binary_data"], bool):
                raise BadRequest(f"output {name!r}: binary_data must be true or false")
            binary[name] = given["binary_data"]
        if "classification" in given:
            classes[name] = class_count(given["classification"], name)
    return names if "outputs" in document and names else None, OutputForm(binary, otherwise, classes)


def class_count(given: Parameter, name: str) -> int:
    """How many of the best classes an output names."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise BadRequest(f"output {name!r}: classification must be a whole number of at least 1")
    return given


def _plain(array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind in "OSU":
        return [
            each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in array.ravel().tolist()
        ]
    plain: list[Any] = array.ravel().tolist()
    return plain
