"""Statistics, configuration, load and unload, and answers as they come."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from offramp.serving.conformance.checks.server import REPOSITORY
from offramp.serving.conformance.documents import (
    answer_of,
    list_of,
    object_of,
    parse_json,
    read_answer,
    read_json,
    request_document,
    shown,
    text_of,
)
from offramp.serving.conformance.http import Reply
from offramp.serving.conformance.probe import Check, Probe, refused
from offramp.serving.conformance.results import Fault, Level, NotRun
from offramp.serving.conformance.tensors import WireTensor

STATISTICS, CONFIGURATION = "statistics", "model_configuration"
STREAM, GENERATE = "infer_stream", "generate"
TIMED = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
LOAD_S = 10.0
"""Seconds that a model may take to be there again."""


def statistics(probe: Probe) -> str:
    """Counts of a model, which grow with its requests."""
    before = _successes(probe)
    probe.answer()
    for _ in range(3):
        read_answer(probe.infer())
    grown = _successes(probe) - before
    if grown < 3:
        raise Fault(f"success.count grew by {grown} over 3 requests or more that were answered")
    everything = read_json(probe.get("/v2/models/stats"))
    names = [text_of(object_of(entry, "an entry"), "name", "an entry") for entry in _entries(everything)]
    if probe.name not in names:
        raise Fault(f"GET v2/models/stats does not list {probe.name}")
    return f"success.count grew by {grown} over 3 requests"


def _entries(document: object) -> list[Any]:
    return list_of(object_of(document, "the answer"), "model_stats", "the answer")


def _successes(probe: Probe) -> int:
    """How often the model has answered, over all its versions."""
    entries = _entries(read_json(probe.present(probe.get("/stats"), STATISTICS)))
    total = 0
    for entry in entries:
        found = object_of(entry, "an entry")
        if text_of(found, "name", "an entry") != probe.name:
            raise Fault(f"statistics of {probe.name} name {str(found['name'])[:60]}")
        for key in ("inference_count", "execution_count"):
            _count(found, key)
        inferences = object_of(found.get("inference_stats"), "inference_stats")
        times = {key: object_of(inferences.get(key), f"inference_stats.{key}") for key in TIMED}
        for timed in times.values():
            _count(timed, "ns")
            _count(timed, "count")
        total += times["success"]["count"]
    if not entries:
        raise Fault("model_stats is empty")
    return total


def _count(found: dict[str, Any], key: str) -> int:
    value = found.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Fault(f"statistics: {key} is no count")
    return value


def statistics_unknown(probe: Probe) -> str:
    """There are none of a model that is not there."""
    probe.present(probe.get("/stats"), STATISTICS)
    return refused(probe.get("/v2/models/offramp-no-such-model/stats"))


def configuration(probe: Probe) -> str:
    """A configuration that is the model's."""
    found = object_of(read_json(probe.present(probe.get("/config"), CONFIGURATION)), "the configuration")
    if text_of(found, "name", "the configuration") != probe.name:
        raise Fault(f"the configuration of {probe.name} names {str(found['name'])[:60]}")
    named = {tensor["name"] for tensor in found.get("input") or [] if isinstance(tensor, dict) and "name" in tensor}
    wanted = {tensor.name for tensor in probe.model.inputs}
    if named and named != wanted:
        raise Fault(f"inputs {sorted(map(str, named))}; the metadata list {sorted(wanted)}")
    return f"{len(found)} fields"


def reload(probe: Probe) -> str:
    """A model that is unloaded does not answer, and answers again when it is loaded."""
    probe.answer()
    place = f"/v2/repository/models/{probe.path.rpartition('/')[2]}"
    left = probe.present(probe.post(f"{place}/unload", {}), REPOSITORY)
    if left.status != 200:
        raise Fault(f"unload was answered {shown(left)}")
    try:
        gone = probe.get("/ready")
        answered = probe.infer()
    finally:
        loaded = probe.post(f"{place}/load", {})
    if loaded.status != 200:
        raise Fault(f"load was answered {shown(loaded)}")
    until = time.monotonic() + LOAD_S
    while probe.get("/ready").status != 200 and time.monotonic() < until:
        time.sleep(0.05)
    probe.compare(read_answer(probe.infer()))
    if gone.status < 400 or answered.status < 400:
        raise Fault(f"unloaded, it was ready with {gone.status} and answered with {answered.status}")
    return f"unloaded: ready {gone.status}, infer {answered.status}; loaded: the same answer"


def events(probe: Probe) -> str:
    """Server-sent events, each an inference response or an error; together they hold the outputs."""
    probe.answer()
    reply = probe.present(probe.infer(id="stream", at="/infer_stream"), STREAM)
    if reply.status != 200 or "text/event-stream" not in reply.headers.get("content-type", ""):
        raise Fault(f"answered {shown(reply)}, as {reply.headers.get('content-type', 'no type')[:40]}")
    found = events_of(reply)
    outputs: dict[str, WireTensor] = {}
    for event in found:
        answer = answer_of(event, b"")
        if answer.id not in ("stream", ""):
            raise Fault(f"an event has the id {answer.id[:60]!r}")
        outputs |= {tensor.name: tensor for tensor in answer.outputs}
    probe.compare(replace(probe.answer(), outputs=tuple(outputs.values())))
    return f"{len(found)} events"


def events_of(reply: Reply) -> list[dict[str, Any]]:
    """The documents of a body of server-sent events; one at least."""
    text = reply.body.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    blocks = [[line for line in block.split("\n") if line.startswith("data:")] for block in text.split("\n\n")]
    found = [
        object_of(parse_json("\n".join(line[5:] for line in block).encode()), "an event") for block in blocks if block
    ]
    if not found:
        raise Fault("no events")
    return found


def events_refused(probe: Probe) -> str:
    """A mistake that is found before anything is answered gets an error status."""
    probe.answer()
    probe.present(probe.infer(at="/infer_stream"), STREAM)
    wrong = request_document(probe.inputs())
    wrong["inputs"][0]["name"] = "offramp-no-such-input"
    reply = probe.post("/infer_stream", wrong)
    if reply.status < 400 and "text/event-stream" in reply.headers.get("content-type", ""):
        return f"{reply.status}, and an event: {text_of(events_of(reply)[0], 'error', 'the event')}"
    return refused(reply)


def generate(probe: Probe) -> str:
    """Text in, text out."""
    if "text_input" not in {tensor.name for tensor in probe.model.inputs}:
        raise NotRun("the model has no input text_input")
    reply = probe.present(probe.post("/generate", {"text_input": "1"}), GENERATE)
    found = object_of(read_json(reply), "the answer")
    return f"model_name {text_of(found, 'model_name', 'the answer')[:60]}"


CHECKS = (
    Check(
        "statistics.model",
        "Statistics extension: GET v2/models/M/stats gives model_stats, whose counts grow",
        statistics,
        Level.EXTENSION,
        STATISTICS,
    ),
    Check(
        "statistics.unknown",
        "Statistics extension: a failed request is an HTTP error",
        statistics_unknown,
        Level.EXTENSION,
        STATISTICS,
    ),
    Check(
        "configuration.model",
        "Model configuration extension: GET v2/models/M/config gives an object",
        configuration,
        Level.EXTENSION,
        CONFIGURATION,
    ),
    Check(
        "streaming.events",
        "POST infer_stream, as in MLServer: server-sent events that hold the outputs together",
        events,
        Level.EXTENSION,
        STREAM,
    ),
    Check(
        "streaming.events-refused",
        "POST infer_stream, as in MLServer: a mistake gets an error status, or an event with an error",
        events_refused,
        Level.EXTENSION,
        STREAM,
    ),
    Check(
        "streaming.generate",
        "Generate extension, which is provisional: POST generate with text_input",
        generate,
        Level.EXTENSION,
        GENERATE,
    ),
    Check(
        "repository.reload",
        "Model repository extension: unload and load",
        reload,
        Level.EXTENSION,
        REPOSITORY,
        disturbs=True,
    ),
)
