"""All other places of a server, asked by all methods with names, headers and bodies that cannot be: administration, and recordings for the live page."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .pools import documents, in_json, nested, paths, scalars
from .target import Target, exchange, request
from .trials import Trials, each

Draw = Callable[[st.SearchStrategy[Any]], Any]
METHODS = ("GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "PROPFIND")
KNOWN = (
    b"/v2",
    b"/v2/models",
    b"/v2/models/stats",
    b"/v2/health/ready",
    b"/slices",
    b"/openapi.json",
    b"/metrics",
    b"/status",
    b"/",
    b"/page/page.js",
)
NAMED = (
    *(
        b"/v2/models/%s",
        b"/v2/models/%s/ready",
        b"/v2/models/%s/config",
        b"/v2/models/%s/stats",
        b"/v2/models/%s/infer",
    ),
    *(b"/v2/models/%s/versions/%s", b"/v2/repository/models/%s/load", b"/v2/repository/models/%s/unload"),
    *(b"/slices/%s", b"/page/%s", b"/%s", b"/v2/%s"),
)
LEVEL = {"budget_ms": 1000.0, "priority": 1, "exit": None, "policy": None, "under_load": "refuse"}
OCTETS = (b"Content-Type", b"application/octet-stream")


@st.composite
def _asked(draw: Draw) -> bytes:
    """A place, perhaps with a name that cannot be, asked somehow."""
    if draw(st.booleans()):
        path: bytes = draw(st.sampled_from(KNOWN)) + draw(
            st.sampled_from((b"", b"/", b"//", b"?", b"?a=%ff&&=", b"/.."))
        )
    else:
        pattern = draw(st.sampled_from(NAMED))
        path = pattern % tuple(draw(paths) for _ in range(pattern.count(b"%s")))
    odd = (
        (b"Host", b"["),
        (b"Accept-Encoding", b"gzip;q=x, *;q=-1, deflate"),
        (b"Authorization", b"Bearer " + b"k" * 5000),
        (b"Authorization", b"\xff\xfe"),
        (b"Content-Type", b"multipart/form-data; boundary="),
        (b"Cookie", b";" * 3000),
        (b"Range", b"bytes=5-1"),
        (b"X-Forwarded-For", b"::1, evil"),
        (b"Expect", b"100-continue"),
        (b"traceparent", b"00-" + b"f" * 200),
    )
    headers = draw(st.lists(st.sampled_from(odd), max_size=3))
    body = draw(st.none() | st.binary(max_size=50) | documents.map(in_json))
    return request(draw(st.sampled_from(METHODS)), path, body, headers)


@st.composite
def _slice(draw: Draw) -> bytes:
    """A service level that is put or taken away."""
    path = b"/slices/" + draw(st.sampled_from((b"a", b"b", b"default", b"shadow")) | paths)
    level = dict(LEVEL)
    for _ in range(draw(st.integers(0, 2))):
        level[draw(st.sampled_from((*LEVEL, "steps", "more")))] = draw(scalars | documents)
    body = draw(st.just(in_json(level)) | documents.map(in_json) | st.just(nested(100_000)) | st.just(b" " * 1_100_000))
    return request(draw(st.sampled_from(("PUT", "PUT", "PUT", "DELETE"))), path, body)


@st.composite
def _administered(draw: Draw, target: Target) -> bytes:
    """The repository: index, load, unload."""
    name = draw(st.sampled_from([each.encode() for each in target.models]) | paths)
    action = draw(
        st.sampled_from((b"index", b"models/%s/load", b"models/%s/load", b"models/%s/unload", b"models/%s/files"))
    )
    path = b"/v2/repository/" + (action % name if b"%s" in action else action)
    files = st.just({"parameters": {"config": "{}", "file:1/model.py": "aW1wb3J0IG9z"}})
    return request("POST", path, draw(st.just(b"") | documents.map(in_json) | files.map(in_json)))


@st.composite
def _recording(draw: Draw, target: Target) -> bytes:
    """A SigMF recording, changed in its metadata, its samples, its archive or its query."""
    fields: dict[str, Any] = {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:sample_rate": 1e6}
    meta: dict[str, Any] = {
        "global": {**fields, "core:num_channels": target.windows.shape[2] if target.windows.ndim == 4 else 1},
        "captures": [{"core:sample_start": 0, "core:frequency": 3.6e9, "core:datetime": "2026-01-01T00:00:00Z"}],
        "annotations": [{"core:sample_start": 5, "core:sample_count": 200, "core:label": "x"}],
    }
    for _ in range(draw(st.integers(0, 3))):
        part = draw(
            st.sampled_from((meta, meta["global"], *_entries(meta, "captures"), *_entries(meta, "annotations")))
        )
        known = sorted(part) or ["core:sample_rate"]
        more = (
            "core:offset",
            "core:trailing_bytes",
            "core:header_bytes",
            "core:dataset",
            "core:collection",
            "core:metadata_only",
        )
        if isinstance(part, dict):
            part[draw(st.sampled_from((*known, *more)))] = draw(scalars | documents)
        if not isinstance(meta.get("global"), dict):
            break
    samples = np.random.default_rng(1).standard_normal(draw(st.sampled_from((0, 7, 2000)))).astype(np.float32).tobytes()
    head = draw(st.just(json.dumps(meta).encode()) | st.just(nested(100_000)) | st.binary(max_size=30))
    query = b"task=" + draw(st.sampled_from([each.encode() for each in target.models]) | paths)
    query += draw(st.sampled_from((b"", b"", b"&slice=default", b"&slice=%00", b"&slice=nothing", b"&slice=")))
    if draw(st.integers(0, 3)) == 0:
        body = _changed(_archive(head, samples), draw)
    else:
        body = head + samples
        odd = (b"-1", b"1e3", b"9" * 11, b"9" * 40, b"%d" % (len(body) + 1), b"\xc2\xb2", b"")
        query += b"&metadata=" + draw(st.just(b"%d" % len(head)) | st.sampled_from(odd))
    kinds = st.sampled_from((OCTETS,) * 9 + ((b"Content-Type", b"text/plain"),))
    return request("POST", b"/recording?" + query, body, [draw(kinds)])


def _entries(meta: dict[str, Any], name: str) -> list[dict[str, Any]]:
    listed = meta.get(name)
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _archive(meta: bytes, data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in (("a/a.sigmf-meta", meta), ("a/a.sigmf-data", data)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _changed(content: bytes, draw: Draw) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        changed[draw(st.integers(0, min(1500, len(changed) - 1)))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.integers(1, len(changed)))] if draw(st.booleans()) else changed)


def attack(target: Target, count: int, number: int, trials: Trials) -> None:
    """Send so many."""
    recordings = st.tuples(st.just("recordings"), _recording(target))
    others = st.one_of(
        st.tuples(st.just("places"), _asked()),
        st.tuples(st.just("slices"), _slice()),
        st.tuples(st.just("repository"), _administered(target)),
        recordings,
        recordings,
    )

    def send(made: tuple[str, bytes]) -> None:
        kind, content = made
        # the name of a path may be no HTTP at all
        trials.note_reply(kind, exchange(target.http, content), content[:600])
        if kind == "repository" and b"/unload" in content[:200]:
            restore(target)

    each(others, count, number, send)


def restore(target: Target) -> None:
    """Load all models, and take all levels away that were put."""
    for name in target.models:
        exchange(target.http, request("POST", f"/v2/repository/models/{name}/load", b""))
    slices = json.loads(exchange(target.http, request("GET", "/slices")).content)["slices"]
    for name in slices:
        exchange(target.http, request("DELETE", b"/slices/" + b"".join(b"%%%02x" % each for each in name.encode())))
