"""Messages of the protocol to requests, and answers to messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.serving.protocol import inference_pb2 as pb
from offramp.serving.protocol.datatypes import BYTES, DTYPES, checked_shape, from_bytes, to_bytes
from offramp.serving.protocol.documents import AskedInference, OutputForm, class_count, ordered
from offramp.serving.protocol.faults import BadRequest
from offramp.serving.protocol.fitting import checked_inputs, checked_outputs, classified, written_datatype
from offramp.serving.protocol.requests import AnswerPart, InferRequest, ModelSpec, Parameter, Parameters

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


def read_message(spec: ModelSpec, message: pb.ModelInferRequest) -> AskedInference:
    """What a request says. Raises :class:`BadRequest` as :func:`offramp.serving.protocol.documents.read_request` does."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadRequest(
            f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs: give one for each, or contents in all of them"
        )
    given = []
    for place, tensor in enumerate(message.inputs):
        name, datatype = tensor.name, tensor.datatype
        if datatype not in DTYPES:
            raise BadRequest(f"input {name!r}: datatype {datatype[:40]!r}: choose {', '.join(DTYPES)}")
        _no_shared_memory(tensor.parameters, f"input {name!r}")
        shape = checked_shape(list(tensor.shape), name)
        if raw:
            if tensor.HasField("contents"):
                raise BadRequest(f"input {name!r} has both contents and raw_input_contents: give one of them")
            given.append((name, from_bytes(raw[place], datatype, shape, name)))
        else:
            given.append((name, _contents(tensor, shape)))
    names, classes = [], {}
    for output in message.outputs:
        names.append(output.name)
        _no_shared_memory(output.parameters, f"output {output.name!r}")
        said = parameters_of(output.parameters)
        if "classification" in said:
            classes[output.name] = class_count(said["classification"], output.name)
    request = InferRequest(
        checked_inputs(spec, given),
        checked_outputs(spec, names or None, classes),
        parameters_of(message.parameters),
    )
    return AskedInference(request, OutputForm(classes=classes), message.id)


def write_message(
    spec: ModelSpec, part: AnswerPart, asked: AskedInference, parameters: Parameters | None = None
) -> pb.ModelInferResponse:
    """An answer; all tensors are raw."""
    message = pb.ModelInferResponse(model_name=spec.name, model_version=spec.version, id=asked.id)
    for name, value in {**part.parameters, **(parameters or {})}.items():
        _set(message.parameters[name], value)
    for name in ordered(part.outputs, asked.request.outputs):
        array = part.outputs[name]
        if name in asked.form.classes:
            array = classified(spec, name, array, asked.form.classes[name])
        message.outputs.add(name=name, datatype=written_datatype(array), shape=array.shape)
        message.raw_output_contents.append(to_bytes(array))
    return message


def parameters_of(given: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """Parameters as plain values."""
    found: dict[str, Parameter] = {}
    for name, parameter in given.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise BadRequest(f"parameter {name[:60]!r} has no value")
        found[name] = getattr(parameter, choice)
    return found


def _set(parameter: pb.InferParameter, value: Parameter) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _no_shared_memory(names: Iterable[str], where: str) -> None:
    if any(name.startswith("shared_memory") for name in names):
        raise BadRequest(f"{where}: shared memory is not supported: send the data")


def _contents(tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...]) -> NDArray[Any]:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequest(f"input {tensor.name!r}: {tensor.datatype} has no contents: send it as raw_input_contents")
    others = [each.name for each, _ in tensor.contents.ListFields() if each.name != field]
    if others:
        raise BadRequest(f"input {tensor.name!r}: {tensor.datatype} belongs into {field}, not into {others[0]}")
    values = getattr(tensor.contents, field)
    if len(values) != math.prod(shape):
        raise BadRequest(f"input {tensor.name!r} has {len(values)} values: its shape is {list(shape)}")
    dtype = DTYPES[tensor.datatype]
    if tensor.datatype == BYTES:
        array = np.empty(len(values), dtype=object)
        array[:] = list(values)
        return array.reshape(shape)
    found = np.array(values, dtype=np.int64 if field in ("int_contents", "uint_contents") else dtype)
    if found.dtype != dtype and found.size:
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise BadRequest(f"input {tensor.name!r}: {tensor.datatype} goes from {limits.min} to {limits.max}")
    return found.astype(dtype).reshape(shape)
