"""Requests with one mistake. Each must be refused, in time, as the client's fault; before each a valid request was answered."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from offramp.serving.conformance.checks.server import UNKNOWN
from offramp.serving.conformance.documents import JSON_TYPE, as_json, error_message, read_answer, shown
from offramp.serving.conformance.http import Reply
from offramp.serving.conformance.probe import Check, Probe, refused
from offramp.serving.conformance.results import Fault, Level, NotRun

DEEP = 120
DEEPER = 100_000
"""More than any reader that calls itself goes down."""


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Probe], str]:
    """A check that changes the valid request and wants it refused."""

    def run(probe: Probe) -> str:
        document = copy.deepcopy(probe.document())
        change(document)
        return refused(probe.post("/infer", document))

    return run


def _wrong_datatype(document: dict[str, Any]) -> None:
    entry = document["inputs"][0]
    entry["datatype"] = "INT64" if entry["datatype"] != "INT64" else "FP64"
    entry["data"] = [1 for _ in entry["data"]]


def _no_datatype(document: dict[str, Any]) -> None:
    document["inputs"][0]["datatype"] = "FP33"


def _wrong_name(document: dict[str, Any]) -> None:
    document["inputs"][0]["name"] = "offramp-no-such-input"


def _missing_input(document: dict[str, Any]) -> None:
    del document["inputs"][0]


def _missing_field(document: dict[str, Any]) -> None:
    del document["inputs"][0]["shape"]


def _too_long(document: dict[str, Any]) -> None:
    data = document["inputs"][0]["data"]
    data.append(data[-1])


def _too_short(document: dict[str, Any]) -> None:
    del document["inputs"][0]["data"][-1]


def _unknown_output(document: dict[str, Any]) -> None:
    document["outputs"] = [{"name": "offramp-no-such-output"}]


def _fraction(document: dict[str, Any]) -> None:
    shape = document["inputs"][0]["shape"]
    shape[:] = [1.5, *shape[1:]]


def _huge_shape(document: dict[str, Any]) -> None:
    """Elements whose number is 0 in 64 bits."""
    entry = document["inputs"][0]
    entry["shape"] = [2**32, 2**32, *entry["shape"]]


def _wrong_element(document: dict[str, Any]) -> None:
    entry = document["inputs"][0]
    entry["data"][0] = {"not": "an element"}


def _nested_elements(document: dict[str, Any]) -> None:
    nest: Any = document["inputs"][0]["data"]
    for _ in range(DEEP):
        nest = [nest]
    document["inputs"][0]["data"] = nest


def _same_input_twice(document: dict[str, Any]) -> None:
    document["inputs"].append(copy.deepcopy(document["inputs"][0]))


def _extra_input(document: dict[str, Any]) -> None:
    document["inputs"].append({"name": "offramp-extra", "shape": [1], "datatype": "FP32", "data": [1.0]})


def wrong_shape(probe: Probe) -> str:
    """One dimension more, with the same elements; and another size where the metadata name one, with as many elements."""
    document = probe.document()
    first, said = document["inputs"][0], probe.model.inputs[0].shape
    forms = {"another dimension": _with_first(document, shape=[*first["shape"], 1])}
    fixed = next((axis for axis, size in enumerate(said) if size > 0), None)
    if fixed is not None:
        shape = [size + (axis == fixed) for axis, size in enumerate(first["shape"])]
        data = (first["data"] * 2)[: math.prod(shape)]
        forms[f"shape {shape}"] = _with_first(document, shape=shape, data=data)
    return _all_refused(probe, {form: as_json(sent) for form, sent in forms.items()})


def negative_dimension(probe: Probe) -> str:
    """One size below zero, which some libraries take for any; and two, whose product is right."""
    document = probe.document()
    shape = document["inputs"][0]["shape"]
    forms = {"one": [-1, *shape[1:]]}
    if len(shape) > 1:
        forms["two"] = [-shape[0], -shape[1], *shape[2:]]
    bodies = {f"shape {form}": as_json(_with_first(document, shape=form)) for form in forms.values()}
    return _all_refused(probe, bodies)


def _with_first(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The request with another first input."""
    first, *others = document["inputs"]
    return document | {"inputs": [first | changes, *others]}


def same_output_twice(probe: Probe) -> str:
    """An output is asked for twice."""
    document = probe.document()
    name = probe.model.outputs[0].name
    return refused(probe.post("/infer", document | {"outputs": [{"name": name}, {"name": name}]}))


def no_json(probe: Probe) -> str:
    """Bodies that are no JSON, or none at all."""
    cut = as_json(probe.document())[:-1]
    return _all_refused(probe, {"cut off": cut, "no body": b"", "not UTF-8": cut + b', "id": "\xff"}'})


def wrong_types(probe: Probe) -> str:
    """JSON of another form than a request has."""
    document = probe.document()
    forms: dict[str, Any] = {
        "an array": [document],
        "no inputs": {"id": "1"},
        "inputs an object": document | {"inputs": document["inputs"][0]},
        "a shape that is a string": _with_first(document, shape="1"),
        "a name that is a number": _with_first(document, name=1),
        "data that are null": _with_first(document, data=None),
        "outputs of strings": document | {"outputs": [probe.model.outputs[0].name]},
    }
    return _all_refused(probe, {form: as_json(sent) for form, sent in forms.items()})


def not_a_number(probe: Probe) -> str:
    """The word NaN, which JSON does not have."""
    document = copy.deepcopy(probe.document())
    if document["inputs"][0]["datatype"] not in ("FP32", "FP64"):
        raise NotRun("the first input holds no floats")
    document["inputs"][0]["data"][0] = float("nan")
    return refused(probe.post("/infer", document))


def very_deep(probe: Probe) -> str:
    """Brackets that no request needs."""
    probe.document()
    deep = b"[" * DEEPER + b"]" * DEEPER
    body = b'{"inputs": [], "parameters": {"deep": ' + deep + b"}}"
    return _all_refused(probe, {"brackets alone": deep, "in parameters": body})


def _all_refused(probe: Probe, bodies: dict[str, bytes]) -> str:
    evidence = ""
    for form, body in bodies.items():
        try:
            evidence = refused(probe.post("/infer", body, JSON_TYPE))
        except Fault as fault:
            raise Fault(f"{form}: {fault}", fault.level) from None
    return f"all {len(bodies)} refused; the last with {evidence}"


def error_document(probe: Probe) -> str:
    """What is refused is refused with a document."""
    document = probe.document()
    replies: dict[str, Reply] = {
        "unknown model": probe.get(f"/v2/models/{UNKNOWN}"),
        "infer, unknown model": probe.post(f"/v2/models/{UNKNOWN}/infer", document),
        "bad JSON": probe.post("/infer", as_json(document)[:-1]),
        "no inputs": probe.post("/infer", {"inputs": []}),
        "unknown name": probe.post("/infer", _with_first(document, name=UNKNOWN)),
        "no datatype": probe.post("/infer", _with_first(document, datatype="FP33")),
    }
    failed = {form: reply for form, reply in replies.items() if reply.status >= 400}
    if not failed:
        raise NotRun("nothing was refused")
    for form, reply in failed.items():
        try:
            if not error_message(reply):
                raise Fault("the message is empty")
        except Fault as fault:
            raise Fault(f"{form}, answered {shown(reply)}: {fault}") from None
    return f"{len(failed)} errors, each with a message"


def message_names_input(probe: Probe) -> str:
    """Whoever makes a mistake is told which."""
    document = copy.deepcopy(probe.document())
    name = document["inputs"][0]["name"]
    _too_short(document)
    reply = probe.post("/infer", document)
    refused(reply)
    message = error_message(reply)
    if name not in message:
        raise Fault(f"the data of {name} were too short; the message does not name it: {message[:120]}")
    return message


def still_serving(probe: Probe) -> str:
    """After all that, the valid request is answered as before."""
    probe.answer()
    probe.compare(read_answer(probe.infer()))
    return "the same answer"


REFUSED = "REST, Errors: a request that fails gets an HTTP error status"

CHECKS = (
    Check("errors.document", 'REST, Errors: the body must be {"error": string}', error_document),
    Check("errors.bad-json", f"{REFUSED}; requests are JSON", no_json),
    Check("errors.missing-input", f"{REFUSED}; the metadata list the inputs required", _changed(_missing_input)),
    Check("errors.wrong-name", f"{REFUSED}; the metadata list the inputs required", _changed(_wrong_name)),
    Check("errors.missing-field", f"{REFUSED}; an input has a shape", _changed(_missing_field)),
    Check("errors.no-datatype", f"{REFUSED}; datatypes are those of the table", _changed(_no_datatype)),
    Check("errors.data-too-long", f"{REFUSED}; data represent the full shape", _changed(_too_long)),
    Check("errors.data-too-short", f"{REFUSED}; data represent the full shape", _changed(_too_short)),
    Check("errors.negative-dimension", f"{REFUSED}; sizes are unsigned", negative_dimension),
    Check("errors.fractional-dimension", f"{REFUSED}; sizes are integers", _changed(_fraction)),
    Check("errors.unknown-output", f"{REFUSED}; outputs asked for must be returned", _changed(_unknown_output)),
    Check("errors.wrong-element", f"{REFUSED}; elements are numbers, strings or booleans", _changed(_wrong_element)),
    Check("errors.wrong-types", f"{REFUSED}; the form of a request", wrong_types),
    Check("errors.wrong-shape", "REST, Model Metadata: the tensor's shape", wrong_shape, Level.STRICT),
    Check(
        "errors.wrong-datatype", "REST, Model Metadata: the tensor's datatype", _changed(_wrong_datatype), Level.STRICT
    ),
    Check("errors.nan", "RFC 8259, 6: NaN is no number", not_a_number, Level.STRICT),
    Check("errors.huge-shape", f"{REFUSED}; data represent the full shape", _changed(_huge_shape)),
    Check("errors.deep-json", f"Data nested {DEEP} deep", _changed(_nested_elements), Level.STRICT),
    Check("errors.very-deep-json", f"{DEEPER} brackets", very_deep, Level.STRICT),
    Check("errors.same-input-twice", "The text is silent", _changed(_same_input_twice), Level.STRICT),
    Check("errors.same-output-twice", "The text is silent", same_output_twice, Level.STRICT),
    Check("errors.extra-input", "REST, Model Metadata: the inputs", _changed(_extra_input), Level.STRICT),
    Check("errors.names-input", "A message says which input is meant", message_names_input, Level.STRICT),
    Check("errors.still-serving", "REST, Inference: after all of these the valid request", still_serving),
)
