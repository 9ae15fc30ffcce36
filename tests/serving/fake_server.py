"""A tiny server of the Open Inference Protocol that is right, or wrong in one way: its mistakes are named after the checks that must find them.

Written with numpy and the standard library alone, apart from what it tests.
"""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from typing import Any
from urllib.parse import unquote

import numpy as np

KINDS = {
    "BOOL": np.bool_,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics", "model_configuration")
LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class FakeModel:
    inputs: dict[str, tuple[str, list[int]]]
    outputs: dict[str, tuple[str, list[int]]]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weighted sums along rows, so that every element of every input matters, and its place."""
        numbers = [np.vectorize(len)(x) if x.dtype == object else x.astype(np.float32) for x in inputs.values()]
        flat = [x.reshape(len(x), prod(x.shape[1:])) for x in numbers]
        rows = sum(x @ np.arange(1, x.shape[1] + 1) for x in flat)
        found: dict[str, np.ndarray] = {}
        for place, (name, (kind, shape)) in enumerate(self.outputs.items()):
            wide = rows.reshape([-1] + [1] * (len(shape) - 1)) + np.ones([1, *shape[1:]]) * (place + 1)
            found[name] = wide.astype(KINDS[kind]) if kind != "BYTES" else _texts(wide)
        return found


def _texts(numbers: np.ndarray) -> np.ndarray:
    found = np.empty(numbers.shape, object)
    found.flat = [f"<{number:g}>".encode() for number in numbers.flat]
    return found


MODELS = {
    "sum": FakeModel(
        {"x": ("FP32", [-1, 3]), "word": ("BYTES", [-1])}, {"total": ("FP32", [-1, 2]), "label": ("BYTES", [-1])}
    ),
    "narrow": FakeModel({"x": ("FP16", [2, 2])}, {"total": ("FP16", [2, 2])}),
    "writer": FakeModel({"text_input": ("BYTES", [1])}, {"text_output": ("BYTES", [1])}),
}


class Refused(Exception):
    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Fake:
    """A server that makes one mistake, if any."""

    wrong: str = ""
    extensions: tuple[str, ...] = EXTENSIONS
    bare: bool = False
    """Whether it has none of the extensions, whatever it announces."""
    key: str = ""
    """What the Authorization header must be."""
    gone: set[str] = field(default_factory=set)
    successes: dict[str, int] = field(default_factory=dict)
    failed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def allows(self, *checks: str) -> bool:
        """Whether this fake is to let such a mistake pass."""
        return self.wrong in checks

    def model(self, name: str, version: str = "") -> FakeModel:
        if name not in MODELS and not self.allows("errors.unknown-model", "grpc.unknown-model"):
            raise Refused(f"no model {name}; there are {', '.join(MODELS)}", 404)
        if version not in ("", "1") and not self.allows("errors.unknown-version", "grpc.unknown-version"):
            raise Refused(f"no version {version} of {name}", 404)
        return MODELS.get(name, MODELS["sum"])

    # HTTP

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        try:
            coding = headers.get("content-encoding", "")
            if coding == "gzip":
                if self.allows("compression.request"):
                    raise Refused("gzip", 500)
                body = gzip.decompress(body)
            elif coding == "deflate":
                body = zlib.decompress(body)
            if headers.get("authorization", "") != self.key:
                raise Refused("who are you?", 401)
            status, more, sent = self._route(method, path, headers, body)
        except Refused as refusal:
            status, more, sent = self._refusal(refusal, path)
        except (OSError, EOFError, zlib.error) as error:
            status, more, sent = self._refusal(Refused(str(error)), path)
        self.failed |= status >= 400 and path.endswith("/infer")
        if headers.get("accept-encoding") == "gzip":
            more = more | {"content-encoding": "gzip"}
            sent = sent if self.allows("compression.answer") else gzip.compress(sent)
        return status, more, sent

    def _refusal(self, refusal: Refused, path: str) -> tuple[int, dict[str, str], bytes]:
        key = "detail" if self.allows("errors.document") else "error"
        text = "mistaken" if self.allows("errors.names-input") else str(refusal)
        if self.allows("streaming.events-refused") and path.endswith("infer_stream"):
            return 200, {"content-type": "text/event-stream"}, b'data: {"outputs": []}\n\n'
        return refusal.status, {"content-type": "application/json"}, json.dumps({key: text}).encode()

    def _route(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        parts = path.strip("/").split("/")
        if path == "/v2/" and self.allows("server.metadata-slash"):
            raise Refused("not here", 404)
        if parts == ["v2"]:
            found: dict[str, Any] = {"name": "fake", "version": "1", "extensions": list(self.extensions)}
            return _document(found | ({"version": 1} if self.allows("server.metadata") else {}))
        if parts[1] == "health":
            return (503 if self.allows(f"health.{parts[2]}") else 200), {}, b""
        if self.bare and (parts[1] == "repository" or parts[-1] in ("stats", "config", "generate", "infer_stream")):
            raise Refused("not here", 404)
        if parts[1] == "repository":
            return self._repository(parts, body)
        if parts == ["v2", "models", "stats"]:
            return _document(self._stats(list(MODELS)))
        if parts[1] != "models":
            raise Refused("not here", 400 if self.allows("server.unknown-path") else 404)
        name = unquote(parts[2])
        version = unquote(parts[4]) if parts[3:4] == ["versions"] and len(parts) > 4 else ""
        action = (parts[5:] if version else parts[3:]) or [""]
        return self._of_model(name, version, action[0], headers, body)

    def _repository(self, parts: list[str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if parts[2] == "index":
            wanted = json.loads(body).get("ready", False)
            entries = [
                {"name": name, "version": "1", "state": "UNAVAILABLE" if name in self.gone else "READY", "reason": ""}
                for name in MODELS
            ]
            if not wanted or self.allows("repository.index-ready"):
                entries.append({"name": "old", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"})
            return _document({"models": entries} if self.allows("repository.index") else entries)
        name = unquote(parts[3])
        if name not in MODELS and not self.allows(f"repository.{parts[4]}-unknown"):
            raise Refused(f"no model {name}", 404)
        if parts[4] == "unload" and not self.allows("repository.reload"):
            self.gone.add(name)
        self.gone -= {name} if parts[4] == "load" else set()
        return 200, {}, b""

    def _of_model(
        self, name: str, version: str, action: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if action == "stats" and self.allows("statistics.unknown"):
            return _document(self._stats([name]))
        model = self.model(name, version)
        if action == "" and not (version and self.allows("model.versions")):
            return _document(self._metadata(name, model))
        if action == "ready":
            return (404 if name in self.gone or self.allows("model.ready") else 200), {}, b""
        if action == "stats":
            return _document(self._stats([name]))
        if action == "config":
            return _document({"name": "other" if self.allows("configuration.model") else name})
        if name in self.gone:
            raise Refused(f"{name} is not loaded")
        if action == "generate":
            wrong = self.allows("streaming.generate")
            return _document({"text_output": "1"} | ({} if wrong else {"model_name": name}))
        if action not in ("infer", "infer_stream"):
            raise Refused("not here", 404)
        if self.allows("inference.bare") and not headers.get("content-type"):
            raise Refused("no content type", 415)
        document, outputs, asked = self._infer(name, model, headers, body)
        document |= {"model_version": "" if self.allows("inference.version") else "1"}
        if action == "infer_stream":
            parts = [document | {"outputs": [output]} for output in self._packed(outputs, {}, False)[0]]
            parts = parts[1:] if self.allows("streaming.events") else parts
            sent = b"".join(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts)
            return 200, {"content-type": "text/event-stream"}, sent
        packed, raw = self._packed(outputs, asked[0], asked[1])
        head = json.dumps(document | {"outputs": packed}).encode()
        if not raw:
            return (
                200,
                {"content-type": "text/plain" if self.allows("inference.content-type") else "application/json"},
                head,
            )
        kind = "application/json" if self.allows("binary.content-type") else "application/octet-stream"
        return 200, {"content-type": kind, LENGTH: str(len(head))}, head + raw

    def _metadata(self, name: str, model: FakeModel) -> dict[str, Any]:
        def told(tensors: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
            return [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in tensors.items()]

        found = {"name": name, "versions": ["1"], "platform": "fake_fake"}
        found |= {"inputs": told(model.inputs), "outputs": told(model.outputs)}
        if self.allows("model.metadata"):
            found["inputs"][0]["shape"] = [-2, 3]
        return found

    def _stats(self, names: list[str]) -> dict[str, Any]:
        entries = []
        for name in names:
            count = 0 if self.allows("statistics.model") else self.successes.get(name, 0)
            kinds = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
            times = {kind: {"count": count, "ns": 1} for kind in kinds}
            entries.append(
                {"name": name, "version": "1", "last_inference": 0, "inference_count": count, "execution_count": count}
                | {"inference_stats": times, "batch_stats": []}
            )
        return {"model_stats": entries}

    def _infer(
        self, name: str, model: FakeModel, headers: dict[str, str], body: bytes
    ) -> tuple[dict[str, Any], dict[str, np.ndarray], tuple[dict[str, bool], bool]]:
        document, raw = self._parsed(headers, body)
        inputs = self._inputs(model, document, raw)
        outputs = self.run(name, model, inputs)
        asked, all_raw = self._asked(model, document, outputs)
        found: dict[str, Any] = {"model_name": "?" if self.allows("inference.json") else name}
        if "id" in document and not self.allows("inference.id"):
            found["id"] = document["id"]
            if self.allows("inference.unicode-id"):
                found["id"] = found["id"].encode("ascii", "replace").decode()
        if self.allows("inference.at-once") and document.get("id", "").endswith("7"):
            found["id"] = document["id"][:-1] + "1"
        kept = {name: outputs[name] for name in (asked or outputs)}
        if self.allows("inference.requested-outputs"):
            kept = outputs
        return found, kept, (asked, all_raw)

    def _parsed(self, headers: dict[str, str], body: bytes) -> tuple[dict[str, Any], bytes]:
        length = None if self.bare else headers.get(LENGTH)
        head = body
        if length is not None:
            if not length.isdecimal() or int(length) > len(body):
                if not self.allows("binary.header-length"):
                    raise Refused(f"{LENGTH} {length} of {len(body)}")
                length = str(body.rindex(b"]}") + 2)
            head = body[: int(length)]
        try:
            document = json.loads(head, parse_constant=None if self.allows("errors.nan") else _no_constant)
        except RecursionError:
            raise Refused("too deep", 500 if self.allows("errors.very-deep-json") else 400) from None
        except ValueError as error:
            raise Refused(str(error), 500 if self.allows("errors.bad-json") else 400) from None
        if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
            raise Refused("no inputs", 500 if self.allows("errors.wrong-types") else 400)
        return document, body[len(head) :]

    def _inputs(self, model: FakeModel, document: dict[str, Any], raw: bytes) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        place = 0
        for entry in document["inputs"]:
            name, shape, size = self._entry(model, entry, found)
            if name not in model.inputs:
                continue
            kind = model.inputs[name][0]
            if size is None:
                found[name] = self._from_json(name, kind, shape, entry.get("data"))
            else:
                if ("data" in entry or place + size > len(raw)) and not self.allows("binary.sizes"):
                    raise Refused(f"{name}: {size} bytes are not there")
                if (
                    len(document["inputs"]) > 1
                    and place == 0
                    and len(raw) == size
                    and self.allows("binary.mixed-inputs")
                ):
                    raise Refused("all or none")
                found[name] = self._from_bytes(name, kind, shape, raw[place : place + size])
                place += size
        if place < len(raw) and not self.allows("binary.sizes"):
            raise Refused(f"{len(raw) - place} bytes are left over")
        if place and self.allows("binary.inputs"):
            raise Refused("no binary inputs")
        missing = model.inputs.keys() - found.keys()
        if missing:
            if not self.allows("errors.missing-input", "errors.wrong-name"):
                raise Refused(f"no {', '.join(missing)}")
            found |= {name: np.zeros([1, *model.inputs[name][1][1:]], np.float32) for name in missing}
        return {name: found[name] for name in model.inputs}

    def _entry(self, model: FakeModel, entry: Any, found: dict[str, Any]) -> tuple[str, list[int], int | None]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise Refused("an input has no name")
        name, kind = entry["name"], entry.get("datatype")
        shape = entry.get("shape", model.inputs.get(name, ("", []))[1] if self.allows("errors.missing-field") else None)
        if name in found and not self.allows("errors.same-input-twice"):
            raise Refused(f"{name} comes twice")
        if name not in model.inputs:
            if not self.allows("errors.wrong-name", "errors.extra-input"):
                raise Refused(f"no input {name}; there are {', '.join(model.inputs)}")
            return name, [1], None
        said, sizes = model.inputs[name]
        if kind != said and not self.allows("errors.wrong-datatype" if kind in KINDS else "errors.no-datatype"):
            raise Refused(f"{name} is {said}")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            if not (
                isinstance(shape, list) and self.allows("errors.negative-dimension", "errors.fractional-dimension")
            ):
                raise Refused(f"shape of {name}: {shape}")
            shape = [abs(int(size)) for size in shape]
        if len(shape) != len(sizes) or any(size not in (given, -1) for size, given in zip(sizes, shape, strict=True)):
            if not self.allows("errors.wrong-shape", "errors.huge-shape"):
                raise Refused(f"{name} has shape {shape}, not {sizes}")
            shape = [1 if size < 0 else size for size in sizes]
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is not None and (type(size) is not int or size < 0):
            raise Refused(f"size of {name}")
        return name, shape, size

    def _from_json(self, name: str, kind: str, shape: list[int], data: Any) -> np.ndarray:
        if not isinstance(data, list):
            raise Refused(f"{name} has no data")
        flat, depth = data, 0
        while any(isinstance(part, list) for part in flat) and (depth < len(shape) or self.allows("errors.deep-json")):
            flat = [element for part in flat for element in (part if isinstance(part, list) else [part])]
            depth += 1
        if depth and self.allows("inference.nested"):
            flat = flat[::-1]
        if len(flat) != prod(shape):
            slack = ("errors.data-too-long", "errors.data-too-short", "errors.wrong-shape", "errors.huge-shape")
            if not self.allows(*slack):
                raise Refused(f"{name} has {len(flat)} elements for {shape}")
            flat = ((flat or ["1" if kind == "BYTES" else 1]) * prod(shape))[: prod(shape)]
        wanted = str if kind == "BYTES" else (int, float)
        if not all(isinstance(element, wanted) for element in flat):
            if not self.allows("errors.wrong-element", "errors.wrong-datatype"):
                raise Refused(f"{name} holds what is no {kind}")
            flat = ["1" if kind == "BYTES" else 1 for _ in flat]
        found = np.array([element.encode() if kind == "BYTES" else element for element in flat], KINDS[kind])
        if self.allows("inference.batch") and shape[:1] == [2]:
            raise Refused("one row at a time")
        return found.reshape(shape)

    def _from_bytes(self, name: str, kind: str, shape: list[int], raw: bytes) -> np.ndarray:
        if kind != "BYTES":
            wide = np.dtype(KINDS[kind]).itemsize
            if len(raw) != prod(shape) * wide:
                if not self.allows("binary.sizes", "grpc.raw-too-short"):
                    raise Refused(f"{name} has {len(raw)} bytes for {shape}")
                raw = raw.ljust(prod(shape) * wide)[: prod(shape) * wide]
            return np.frombuffer(raw, KINDS[kind]).reshape(shape)
        found = []
        while raw and len(found) < prod(shape):
            length = int.from_bytes(raw[:4], "big" if self.allows("binary.strings") else "little")
            if length > len(raw) - 4:
                raise Refused(f"{name}: {length} bytes are not there")
            found.append(raw[4 : 4 + length])
            raw = raw[4 + length :]
        if len(found) != prod(shape) or raw:
            raise Refused(f"{name} has another number of elements")
        array = np.empty(len(found), object)
        array[:] = found
        return array.reshape(shape)

    def run(self, name: str, model: FakeModel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            outputs = model(inputs)
        except ValueError as error:  # inputs of different lengths
            raise Refused(str(error)) from None
        with self.lock:
            self.successes[name] = self.successes.get(name, 0) + 1
        if self.allows("inference.outputs"):
            outputs = {name: output[..., None] for name, output in outputs.items()}
        if self.allows("errors.still-serving") and self.failed:
            outputs = {name: output if output.dtype == object else output + 1 for name, output in outputs.items()}
        return outputs

    def _asked(
        self, model: FakeModel, document: dict[str, Any], outputs: dict[str, np.ndarray]
    ) -> tuple[dict[str, bool], bool]:
        parameters = document.get("parameters") or {}
        asked: dict[str, Any] = {}
        for entry in document.get("outputs") or []:
            if not isinstance(entry, dict):
                raise Refused("an output is no object")
            name = entry["name"]
            if name in asked and not self.allows("errors.same-output-twice"):
                raise Refused(f"{name} is asked for twice")
            if name in model.outputs:
                asked[name] = (entry.get("parameters") or {}).get("binary_data")
            elif not self.allows("errors.unknown-output"):
                raise Refused(f"no output {name}")
        everything = parameters.get("binary_data_output") is True and not self.allows("binary.all-outputs")
        if not any(entry.get("parameters") for entry in document["inputs"]) and self.allows("binary.outputs-of-json"):
            everything = False
        if self.allows("binary.override"):
            asked = {name: chosen or everything for name, chosen in asked.items()}
        if self.allows("binary.outputs"):
            asked = {name: any(asked.values()) for name in asked}
        return {name: everything if chosen is None else chosen for name, chosen in asked.items()}, everything

    def _packed(
        self, outputs: dict[str, np.ndarray], asked: dict[str, bool], everything: bool
    ) -> tuple[list[dict[str, Any]], bytes]:
        entries, raw = [], b""
        for name, output in outputs.items():
            kind = next(kind for kind, dtype in KINDS.items() if output.dtype == dtype)
            entry: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(output.shape)}
            if asked.get(name, everything):
                wide = kind == "FP16" and everything and self.allows("binary.16-bit-floats")
                sent = raw_of(output.astype(np.float32) if wide else output)
                if kind == "BYTES" and self.allows("binary.strings"):
                    sent = b"".join(output.flat)
                entry["parameters"] = {"binary_data_size": len(sent)}
                raw += sent
            else:
                flat = [x.decode() if kind == "BYTES" else x.item() for x in output.reshape(-1)]
                if not self.allows("binary.nan"):
                    flat = [None if x != x else x for x in flat]
                entry["data"] = flat
            entries.append(entry)
        return entries, raw


def raw_of(array: np.ndarray) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    return b"".join(len(element).to_bytes(4, "little") + element for element in array.flat)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _document(found: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"content-type": "application/json"}, json.dumps(found).encode()


@contextmanager
def served(fake: Fake) -> Iterator[str]:
    """The fake behind HTTP, at a URL of this machine alone."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            cut = length > 50_000 and fake.allows("inference.kept-connection")
            body = self.rfile.read(min(length, 10) if cut else length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more, sent = fake.answer(self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = _do

        def log_message(self, *_: object) -> None:
            pass

    with running(Handler) as url:
        yield url


@contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A handler on a port of this machine alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
