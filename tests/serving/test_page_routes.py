"""The routes of the page: what is sent with them, what they refuse, and that the page needs nothing from elsewhere."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from moving_page import LABELS, MovingServer, Scene, made_answer, made_application, made_task, served
from starlette.applications import Starlette

from offramp.errors import DeadlinePassed, EngineClosed, EngineError, Overloaded
from offramp.runtime.predictor import Prediction
from offramp.serving.page import routes as routes_module
from offramp.serving.page.routes import AT_ONCE, BATCH, PageContext, page_routes

PAGE = Path(routes_module.__file__).parent
BINARY = {"Content-Type": "application/octet-stream"}
MOST = 100_000
META = {
    "global": {"core:datatype": "cf32_le", "core:version": "1.2.0", "core:sample_rate": 1e6},
    "captures": [{"core:sample_start": 0}],
    "annotations": [],
}


def recorded(samples: int = 64 * 150) -> tuple[bytes, dict[str, str]]:
    """A body and its query."""
    meta = json.dumps(META).encode()
    values = np.random.default_rng(0).standard_normal((samples, 2)).astype("<f4")
    return meta + values.tobytes(), {"task": "modulation", "slice": "embb", "metadata": str(len(meta))}


async def answers(windows: np.ndarray, task: str, slice: str | None) -> Prediction:
    return made_answer(windows, task)


def application(ask: Callable[..., Awaitable[Prediction]] = answers) -> Starlette:
    context = PageContext(lambda: {"schema": 1}, lambda name: made_task(str(name)), ask, MOST)
    return Starlette(routes=page_routes(context))


@dataclass(frozen=True)
class Found:
    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def error(self) -> str:
        return str(json.loads(self.text)["error"])


@dataclass(frozen=True)
class Client:
    """Asks a server; paths go out as they are."""

    address: str

    def get(self, path: str) -> Found:
        return self.ask("GET", path)

    def post(
        self, path: str, query: Mapping[str, str], content: bytes | Iterable[bytes], headers: Mapping[str, str]
    ) -> Found:
        return self.ask("POST", f"{path}?{urlencode(query)}", content, headers)

    def ask(
        self, method: str, path: str, content: bytes | Iterable[bytes] = b"", headers: Mapping[str, str] | None = None
    ) -> Found:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(
                method, path, content, dict(headers or {}), encode_chunked=not isinstance(content, bytes)
            )
            answer = connection.getresponse()
            return Found(answer.status, answer.headers, answer.read().decode())
        finally:
            connection.close()


@contextmanager
def asking(application: Starlette) -> Iterator[Client]:
    with served(application) as url:
        yield Client(url.removeprefix("http://"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with asking(made_application(MovingServer(Scene()))) as client:
        yield client


def files() -> list[str]:
    return sorted(path.name for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js", ".svg"))


def test_everything_is_sent_with_what_keeps_it_safe(client: Client) -> None:
    paths = ["/", "/status", "/page/none.js", *(f"/page/{name}" for name in files())]
    for found in [*(client.get(path) for path in paths), client.ask("POST", "/recording", b"x")]:
        policy = found.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in found.headers
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/page/page.js").headers["content-type"].startswith("text/javascript")


def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    text = client.get("/").text
    assert re.findall(r"\bon\w+\s*=|\bstyle\s*=|javascript:", text) == []
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style", text) == []
    every = "\n".join((PAGE / name).read_text() for name in files())
    elsewhere = set(re.findall(r"https?://[^\s\"')]+|@import|//[a-z]+\.[a-z]", every))
    assert elsewhere == {"http://www.w3.org/2000/svg"}
    # markup is never made of text
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", every) == []
    wanted = set(re.findall(r"(?:src|href)=\"(page/[^\"]+)\"", text))
    wanted |= {
        f"page/{name}"
        for script in PAGE.glob("*.js")
        for name in re.findall(r"from \"\./([^\"]+)\"", script.read_text())
    }
    assert {f"page/{name}" for name in files()} == wanted | {"page/page.html"}
    assert all(client.get(f"/{path}").status == 200 for path in wanted)


@pytest.mark.parametrize(
    "path",
    [
        "/page/..%2froutes.py",
        "/page/routes.py",
        "/page/%2e%2e/routes.py",
        "/page//etc/passwd",
        "/page/",
        "/page/page.js/x",
    ],
)
def test_no_other_file_is_given(client: Client, path: str) -> None:
    found = client.get(path)
    assert found.status == 404
    assert "import" not in found.text


def test_status(client: Client) -> None:
    document = json.loads(client.get("/status").text)
    assert [task["name"] for task in document["tasks"]] == list(Scene().tasks)
    assert client.ask("POST", "/status").status == 405


def test_a_recording_is_asked_in_parts(client: Client) -> None:
    asked: list[tuple[int, str, str | None]] = []

    async def ask(windows: np.ndarray, task: str, slice: str | None) -> Prediction:
        asked.append((len(windows), task, slice))
        return made_answer(windows, task)

    body, query = recorded()
    with asking(application(ask)) as own:
        found = own.post("/recording", query, body, BINARY)
    assert found.status == 200
    answer = json.loads(found.text)
    assert asked == [
        (BATCH, "modulation", "embb"),
        (BATCH, "modulation", "embb"),
        (150 - 2 * BATCH, "modulation", "embb"),
    ]
    assert (answer["task"], answer["slice"], answer["cut"], answer["labels"]) == (
        "modulation",
        "embb",
        150,
        list(LABELS),
    )
    assert answer["windows"]["start"] == [64 * number for number in range(150)]
    assert answer["windows"]["stop"][-1] == 64 * 150


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 415, "application/octet-stream"),
        ({"headers": {}}, 415, "application/octet-stream"),
        ({"task": "nothing"}, 404, "unknown task 'nothing': the bundle has modulation"),
        ({"metadata": "-1"}, 400, "metadata='-1'"),
        ({"metadata": "ten"}, 400, "metadata='ten'"),
        ({"metadata": "٣"}, 400, "metadata="),
        ({"metadata": "9" * 5000}, 400, "metadata="),
        ({"metadata": "99999999"}, 400, "99999999"),
        ({"metadata": "4"}, 400, "not JSON"),
        ({"metadata": None}, 400, "no SigMF archive"),
        ({"content": b""}, 400, "bytes"),
    ],
)
def test_what_is_no_recording(client: Client, change: dict[str, Any], status: int, word: str) -> None:
    body, query = recorded()
    query = {
        key: value
        for key, value in (query | {k: v for k, v in change.items() if k in query}).items()
        if value is not None
    }
    found = client.post("/recording", query, change.get("content", body), change.get("headers", BINARY))
    assert found.status == status
    assert word in found.error
    assert "\n" not in found.error


def test_a_recording_that_is_too_large() -> None:
    body, query = recorded(MOST // 8 + 1)

    def streamed() -> Iterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    with asking(application()) as own:
        for content in (body, streamed()):
            found = own.post("/recording", query, content, BINARY)
            assert found.status == 413
            assert f"{MOST:,}" in found.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("too much to do: ask again later"), 429),
        (DeadlinePassed("too late"), 504),
        (EngineClosed("the engine is closed"), 503),
        (EngineError("there is no slice 'embb'"), 400),
    ],
)
def test_what_the_engine_refuses(error: EngineError, status: int) -> None:
    async def ask(windows: np.ndarray, task: str, slice: str | None) -> Prediction:
        raise error

    body, query = recorded()
    with asking(application(ask)) as own:
        found = own.post("/recording", query, body, BINARY)
    assert (found.status, found.error) == (status, str(error))
    assert ("retry-after" in found.headers) == (status in (429, 503))


def test_few_recordings_are_in_memory_at_a_time() -> None:
    """Those beyond are refused at once, and there is room again when one is answered."""

    go, begun = threading.Event(), threading.Semaphore(0)

    async def ask(windows: np.ndarray, task: str, slice: str | None) -> Prediction:
        begun.release()
        await asyncio.to_thread(go.wait)
        return made_answer(windows, task)

    body, query = recorded(64 * 4)
    with asking(application(ask)) as own, ThreadPoolExecutor(AT_ONCE) as pool:
        first = [pool.submit(own.post, "/recording", query, body, BINARY) for _ in range(AT_ONCE)]
        for _ in range(AT_ONCE):
            assert begun.acquire(timeout=30)
        assert own.post("/recording", query, body, BINARY).status == 429
        go.set()
        assert [each.result().status for each in first] == [200] * AT_ONCE
        assert own.post("/recording", query, body, BINARY).status == 200
