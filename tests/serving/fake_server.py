"""A tiny server of the Open Inference Protocol that is right, or wrong in one way: its mistakes are named after the checks that must find them.

Written with numpy and the standard library alone, apart from what it tests.
"""

from __future__ import annotations

import gzip
import json
import ssl
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import numpy as np
from fake_reader import KINDS, LENGTH, MODELS, FakeModel, FakeReader, Refused, raw_of

EXTENSIONS = (
    "binary_tensor_data",
    "model_repository",
    "statistics",
    "model_configuration",
    "infer_stream",
    "generate",
)


@dataclass
class Fake(FakeReader):
    """A server that makes one mistake, if any."""

    extensions: tuple[str, ...] = EXTENSIONS
    key: str = ""
    """What the Authorization header must be."""
    gone: set[str] = field(default_factory=set)
    successes: dict[str, int] = field(default_factory=dict)
    failed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

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
        document, raw = self.parsed(headers, body)
        inputs = self.inputs(model, document, raw)
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


def _document(found: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"content-type": "application/json"}, json.dumps(found).encode()


@contextmanager
def served(fake: Fake, protocol: str = "HTTP/1.1", tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The fake behind HTTP, at a URL of this machine alone. With HTTP/1.0 each connection ends with its answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = protocol

        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            cut = length > 50_000 and fake.allows("inference.kept-connection")
            body = self.rfile.read(min(length, 10) if cut else length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, more, sent = fake.answer(self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            if protocol == "HTTP/1.1":
                self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = _do

        def log_message(self, *_: object) -> None:
            pass

    with running(Handler, tls) as url:
        yield url


@contextmanager
def running(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A handler on a port of this machine alone, through TLS or without."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
