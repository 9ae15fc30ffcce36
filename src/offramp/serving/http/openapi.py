"""The OpenAPI description of a server's HTTP interface."""

from __future__ import annotations

from typing import Any

from offramp.serving.protocol.datatypes import DTYPES
from offramp.serving.service import Service

Document = dict[str, Any]


def openapi(service: Service) -> Document:
    """OpenAPI 3.1 of everything that a client may ask, with the names of the models that there are."""
    names = [entry.name for entry in service.repository.index]
    model = _in_path("model", {"type": "string", "examples": names})
    version = _in_path("version", {"type": "string", "examples": ["1"]})
    paths: dict[str, Any] = {
        "/v2/health/live": {"get": _operation("Whether the server lives", {"200": _LIVE})},
        "/v2/health/ready": {"get": _operation("Whether every model is ready", {"200": _READY, "503": _READY})},
        "/v2": {"get": _operation("What the server is", {"200": _object("name", "version", "extensions")})},
        "/v2/models": {"get": _operation("Names of the models", {"200": _object("models")})},
        "/v2/models/stats": {"get": _operation("How often models were asked", {"200": _object("model_stats")})},
        "/v2/repository/index": {
            "post": _operation("The models and their states", {"200": {"type": "array"}}, body=_INDEX)
        },
        "/slices": {"get": _operation("Service levels", {"200": _object("slices")})},
        "/slices/{slice}": {
            "parameters": [_in_path("slice", {"type": "string"})],
            "put": _operation("Add or change a service level", {"200": _object("slices")}, body=_SLICE),
            "delete": _operation("Take a service level away", {"200": _object("slices")}),
        },
        "/openapi.json": {"get": _operation("This document", {"200": {"type": "object"}})},
    }
    for action in ("load", "unload"):
        paths[f"/v2/repository/models/{{model}}/{action}"] = {
            "parameters": [model],
            "post": _operation(f"{action} a model".capitalize(), {"200": {"type": "object"}}, body={"type": "object"}),
        }
    for before, parameters in (
        ("/v2/models/{model}", [model]),
        ("/v2/models/{model}/versions/{version}", [model, version]),
    ):
        described = _object("name", "versions", "platform", "inputs", "outputs")
        asked = {"parameters": parameters}
        paths[before] = asked | {"get": _operation("What a model takes and gives", {"200": described})}
        paths[f"{before}/ready"] = asked | {
            "get": _operation("Whether a model is ready", {"200": _READY, "503": _READY})
        }
        paths[f"{before}/config"] = asked | {"get": _operation("Its configuration", {"200": _object("name")})}
        paths[f"{before}/stats"] = asked | {
            "get": _operation("How often it was asked", {"200": _object("model_stats")})
        }
        answer = _object("model_name", "model_version", "outputs")
        paths[f"{before}/infer"] = asked | {"post": _operation("Ask a model", {"200": answer}, body=_REQUEST)}
        streamed = _operation("Ask a model; each part of the answer as soon as it is there", {}, body=_REQUEST)
        streamed["responses"]["200"] = {
            "description": "events",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
        paths[f"{before}/infer_stream"] = asked | {"post": streamed}
    return {
        "openapi": "3.1.0",
        "info": {"title": service.name, "version": service.version or "0"},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": paths,
    }


def _operation(summary: str, answers: dict[str, Document], body: Document | None = None) -> Document:
    responses = {status: _json(schema, summary) for status, schema in answers.items()}
    refusals = {status: _json(_ERROR, text) for status, text in _REFUSALS.items() if status not in responses}
    operation: Document = {"summary": summary, "responses": {**responses, **refusals}}
    if body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation


def _json(schema: Document, description: str) -> Document:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(*required: str) -> Document:
    return {"type": "object", "required": list(required)}


def _in_path(name: str, schema: Document) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": schema}


_LIVE = {"type": "object", "properties": {"live": {"type": "boolean"}}}
_READY = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_INDEX = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
_SLICE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "budget_ms": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "priority": {"type": "integer"},
        "exit": {"type": ["string", "null"]},
        "policy": {"type": ["string", "null"]},
        "under_load": {"enum": ["shallower", "refuse"]},
    },
}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_NAME = {"type": "string", "minLength": 1}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": _NAME,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": list(DTYPES)},
        "parameters": _PARAMETERS,
        "data": {"type": "array"},
    },
}
_OUTPUT = {"type": "object", "required": ["name"], "properties": {"name": _NAME, "parameters": _PARAMETERS}}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _OUTPUT},
    },
}
_REFUSALS = {
    "400": "The request says what cannot be",
    "401": "There is no such key",
    "403": "The key is not for this",
    "404": "There is no such model, version or slice",
    "405": "Another method is expected",
    "413": "The body is too large",
    "429": "There is more to do than can be done in time; Retry-After says when to ask again",
    "503": "The server shuts down, or the model is not loaded",
    "504": "The deadline passed before the answer was there",
}
