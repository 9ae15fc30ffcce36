"""`offramp serve --ray`: what a replica does is tested without Ray; where Ray is installed, a whole application on this machine is asked too."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import grpc
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from hypothesis import given
from hypothesis import strategies as st
from served import WINDOWS, Made, Served, serving
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

from offramp.errors import SuiteError
from offramp.runtime import Prediction, load
from offramp.runtime.engine import ServiceLevel
from offramp.serving import ray as on_ray
from offramp.serving import replica as in_replica
from offramp.serving.keys import NO_KEYS, Keys, load_keys
from offramp.serving.protocol import inference_pb2 as pb
from offramp.serving.ray import RayOptions, ScaleByWaiting, speaks_rpc, wanted_replicas
from offramp.serving.replica import RayReplica, bury_dead, replica_app
from offramp.serving.rpc.server import generic_handler
from offramp.serving.settings import ServerSettings

KEYS = """keys:
  app: {key: an-application-key, scopes: [infer]}
  boss: {key: an-administrators-key, scopes: [admin]}
"""
APP = {"Authorization": "Bearer an-application-key"}
BOSS = {"Authorization": "Bearer an-administrators-key"}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def expected(made: Made) -> dict[str, Prediction]:
    return load(made.segments).predict(WINDOWS)


def settings_of(made: Made, **others: Any) -> ServerSettings:
    return ServerSettings(bundle=made.segments, folder=made.segments, **others)


# --- how many replicas


@given(st.lists(st.floats(0, 1e4), max_size=8), st.integers(1, 64), st.floats(0.1, 1e3))
def test_replicas_follow_what_waits(waiting: list[float], now: int, queue_ms: float) -> None:
    found = wanted_replicas(waiting, now, queue_ms)
    mean = sum(waiting) / len(waiting) if waiting else queue_ms
    assert 1 <= found <= 2 * now
    assert (found > now) == (mean > queue_ms)
    assert (found < now) == (mean < queue_ms / 10 and now > 1)
    assert found >= now - 1


def test_replicas_are_added_in_proportion() -> None:
    assert wanted_replicas([15.0, 15.0, 15.0, 15.0], 4, 10.0) == 6
    assert wanted_replicas([1000.0], 3, 10.0) == 6
    assert wanted_replicas([], 3, 10.0) == 3


def test_the_policy_reads_what_replicas_record() -> None:
    context = SimpleNamespace(aggregated_metrics={"waiting_ms": {"a": 30.0, "b": 10.0}}, target_num_replicas=2)
    assert ScaleByWaiting(10.0)(context) == (4, {})
    assert ScaleByWaiting(20.0)(context) == (2, {})
    assert ScaleByWaiting(10.0)(SimpleNamespace(aggregated_metrics=None, target_num_replicas=2)) == (2, {})


def test_a_replica_says_how_much_waits() -> None:
    replica = RayReplica()
    process = SimpleNamespace(service=SimpleNamespace(backlog=lambda: 0.25, ready=True))
    replica.app = SimpleNamespace(state=SimpleNamespace(process=process))  # type: ignore[assignment]
    assert replica.record_autoscaling_stats() == {"waiting_ms": 250.0}
    replica.check_health()
    process.service.ready = False
    with pytest.raises(RuntimeError, match="ready"):
        replica.check_health()


# --- who may come in


@pytest.mark.parametrize(
    ("others", "open_to_rpc"),
    [
        ({}, False),
        ({"insecure": True}, True),
        ({"keys": Path("keys.yaml")}, True),
        ({"keys": Path("keys.yaml"), "certificate": Path("a.pem"), "private_key": Path("b.pem")}, False),
    ],
)
def test_rpc_which_ray_opens_everywhere_needs_keys(made: Made, others: dict[str, Any], open_to_rpc: bool) -> None:
    assert speaks_rpc(settings_of(made, **others)) == open_to_rpc


@pytest.mark.parametrize(
    ("workers", "options", "words"),
    [
        (2, RayOptions(), "--replicas says how many"),
        (1, RayOptions(replicas=3, most_replicas=2), "--replicas 3 are more than --most-replicas 2"),
    ],
)
def test_what_makes_no_sense(
    made: Made, monkeypatch: pytest.MonkeyPatch, workers: int, options: RayOptions, words: str
) -> None:
    monkeypatch.setattr(on_ray, "_ray", lambda: (Mock(), Mock()))
    with pytest.raises(SuiteError, match=words):
        on_ray.run_on_ray(settings_of(made, workers=workers), options, print)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_one_line_says_what_to_install(made: Made) -> None:
    words = [sys.executable, "-m", "offramp", "serve", str(made.segments), "--ray"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install offramp[ray]" in done.stderr
    assert "Traceback" not in done.stderr


# --- a replica


class Context:
    """Of a call, as Ray hands it to a replica."""

    def __init__(self, **metadata: str) -> None:
        self._metadata, self.said = list(metadata.items()), dict[str, Any]()

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.said["code"] = code

    def set_details(self, details: str) -> None:
        self.said["details"] = details

    def set_trailing_metadata(self, trailing: list[tuple[str, str]]) -> None:
        self.said["trailing"] = dict(trailing)


def call(replica: RayReplica, name: str, request: Any, context: Context) -> Any:
    """What a replica's method of that name gives, as Ray calls it."""

    async def asked() -> Any:
        return await getattr(replica, name)(request, grpc_context=context)

    return asyncio.run(asked())


def message(model: str, windows: np.ndarray = WINDOWS, **parameters: str) -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name=model, raw_input_contents=[windows.tobytes()])
    asked.inputs.add(name="windows", datatype="FP32", shape=windows.shape)
    for name, value in parameters.items():
        asked.parameters[name].string_param = value
    return asked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In which replicas of this machine meet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "offramp-ray-server"


@pytest.fixture
def replica(made: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayReplica]:
    with TestClient(
        replica_app(settings_of(made), {"early": ServiceLevel(exit="stem")}, NO_KEYS, "server", 0)
    ) as client:
        found = RayReplica()
        found.app = client.app  # type: ignore[assignment]
        found.client = client  # type: ignore[attr-defined]
        yield found


def test_a_replica_has_every_call_of_the_service(replica: RayReplica) -> None:
    servicer = Mock()
    handlers = generic_handler(servicer)._method_handlers  # type: ignore[attr-defined]
    assert {name.rpartition("/")[2] for name in handlers} == {*in_replica.CALLS, in_replica.STREAM}
    server = Mock()
    in_replica.add_inference_service(servicer, server)
    (given_handlers,) = server.add_generic_rpc_handlers.call_args.args
    assert set(given_handlers[0]._method_handlers) == set(handlers)
    context = Context()
    assert call(replica, "ServerReady", pb.ServerReadyRequest(), context).ready
    assert context.said == {}


def test_a_replica_answers_calls(replica: RayReplica, expected: dict[str, Prediction]) -> None:
    context = Context()
    answer = call(replica, "ModelInfer", message("plain"), context)
    found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(len(WINDOWS), -1)
    assert np.allclose(found, expected["plain"].outputs, atol=1e-6)
    assert context.said == {}


def test_what_a_replica_refuses_is_said_in_the_context(replica: RayReplica) -> None:
    context = Context()
    answer = call(replica, "ModelInfer", message("attic"), context)
    assert context.said["code"] is grpc.StatusCode.NOT_FOUND
    assert "attic" in context.said["details"]
    assert answer.SerializeToString() == b""


def test_a_replica_streams(replica: RayReplica) -> None:
    async def requests() -> Any:
        yield message("shared", slice="early")

    async def asked() -> list[Any]:
        return [each async for each in replica.ModelStreamInfer(requests(), grpc_context=Context())]  # type: ignore[attr-defined]

    answers = asyncio.run(asked())
    tasks = [each.infer_response.parameters["task"].string_param for each in answers]
    assert sorted(tasks) == ["angle", "deep", "plain"]
    assert [each.infer_response.parameters["final"].bool_param for each in answers] == [False, False, True]


def test_keys_hold_for_calls_too(made: Made, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(KEYS)
    keys: Keys = load_keys(tmp_path / "keys.yaml")
    replica = RayReplica()
    replica.app = replica_app(settings_of(made), {}, keys, "server", 0)
    context = Context()
    call(replica, "ModelInfer", message("plain"), context)
    assert context.said["code"] is grpc.StatusCode.UNAUTHENTICATED
    context = Context(authorization=APP["Authorization"])
    assert call(replica, "ModelInfer", message("plain"), context).model_name == "plain"
    call(replica, "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="plain"), context)
    assert context.said["code"] is grpc.StatusCode.PERMISSION_DENIED

    async def streamed(context: Context) -> list[Any]:
        async def requests() -> Any:
            yield message("plain")

        return [each async for each in replica.ModelStreamInfer(requests(), grpc_context=context)]  # type: ignore[attr-defined]

    context = Context()
    assert asyncio.run(streamed(context)) == []
    assert context.said["code"] is grpc.StatusCode.UNAUTHENTICATED


def test_counts_of_replicas_that_died_are_kept_once(
    replica: RayReplica, folder: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: TestClient = replica.client  # type: ignore[attr-defined]

    def counted() -> tuple[float, float]:
        lines = client.get("/metrics").text.splitlines()
        answered = [line for line in lines if line.startswith("offramp_requests_total{")]
        workers = next(line for line in lines if line.startswith("offramp_workers "))
        return sum(float(line.split()[-1]) for line in answered), float(workers.split()[-1])

    call(replica, "ModelInfer", message("plain"), Context())
    assert counted() == (1.0, 1.0)
    document = replica.app.state.process.overview._own()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (folder / "worker-7.json").write_text(json.dumps(document | {"number": 7, "pid": int(ended.stdout)}))
    (folder / "worker-8.json").write_text(json.dumps(document | {"number": 8, "pid": os.getppid()}))
    assert counted() == (3.0, 3.0)
    for _ in range(2):
        bury_dead(folder)
        assert counted() == (3.0, 2.0)
    bury_dead(folder, gone=os.getppid())
    assert counted() == (3.0, 1.0)


def test_the_last_replica_takes_the_folder_with_it(made: Made, folder: Path) -> None:
    with TestClient(replica_app(settings_of(made), {}, NO_KEYS, "server", 0)) as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        assert folder.is_dir()
    assert not folder.exists()


# --- the whole of it


@pytest.fixture(scope="module")
def application(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("ray")
    (place / "keys.yaml").write_text(KEYS)
    (place / "slices.yaml").write_text("slices:\n  early: {exit: stem}\n")
    options = ("--ray", "--replicas", "2", "--keys", str(place / "keys.yaml"), "--slices", str(place / "slices.yaml"))
    with serving(made.segments, place, *options) as running:
        yield running


@needs_ray
class TestOnRay:
    def test_http(self, application: Served, expected: dict[str, Prediction]) -> None:
        with over_http.InferenceServerClient(f"127.0.0.1:{application.http}") as client:
            assert client.is_server_ready()
            tensor = over_http.InferInput("windows", list(WINDOWS.shape), "FP32")
            tensor.set_data_from_numpy(WINDOWS)
            for _ in range(8):  # of both replicas
                found = client.infer("plain", [tensor], headers=dict(APP))
                assert np.allclose(found.as_numpy("probabilities"), expected["plain"].outputs, atol=1e-6)
            found = client.infer("deep", [tensor], headers=dict(APP), parameters={"slice": "early"})
            assert set(found.as_numpy("exit")) == {b"stem"}
            with pytest.raises(InferenceServerException, match="attic"):
                client.infer("attic", [tensor], headers=dict(APP))
            with pytest.raises(InferenceServerException, match="key"):
                client.infer("plain", [tensor])

    def test_grpc(self, application: Served, expected: dict[str, Prediction]) -> None:
        key = {name.lower(): value for name, value in APP.items()}
        with over_grpc.InferenceServerClient(f"127.0.0.1:{application.rpc}") as client:
            assert client.is_server_ready()
            assert client.get_model_metadata("angle", headers=key).outputs[0].name == "values"
            tensor = over_grpc.InferInput("windows", list(WINDOWS.shape), "FP32")
            tensor.set_data_from_numpy(WINDOWS)
            found = client.infer("angle", [tensor], headers=key)
            assert np.allclose(found.as_numpy("values"), expected["angle"].outputs, rtol=1e-5, atol=1e-5)
            with pytest.raises(InferenceServerException, match="NOT_FOUND"):
                client.infer("attic", [tensor], headers=key)
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("angle", [tensor])
            answers: queue.Queue[Any] = queue.Queue()
            client.start_stream(lambda result, error: answers.put((result, error)), headers=key)
            client.async_stream_infer("shared", [tensor])
            came = [answers.get(timeout=30) for _ in range(3)]
            client.stop_stream()
        assert [error for _, error in came] == [None] * 3
        assert [each.get_response().parameters["final"].bool_param for each, _ in came] == [False, False, True]

    def test_streamed_events(self, application: Served) -> None:
        asked = {
            "inputs": [
                {"name": "windows", "datatype": "FP32", "shape": [1, 2, 2, 96], "data": WINDOWS[0].ravel().tolist()}
            ]
        }
        status, content, _ = application.ask("POST", "/v2/models/shared/infer_stream", asked, APP)
        assert status == 200
        events = [json.loads(line[5:]) for line in content.decode().splitlines() if line.startswith("data:")]
        assert sorted(each["parameters"]["task"] for each in events) == ["angle", "deep", "plain"]

    def test_changes_and_counts_are_those_of_all_replicas(self, application: Served) -> None:
        assert application.ask("PUT", "/slices/gold", {"exit": "stem"}, APP)[0] == 403
        assert application.ask("PUT", "/slices/gold", {"exit": "stem"}, BOSS)[0] == 200
        ends = time.monotonic() + 30
        while not all("gold" in application.ask("GET", "/slices", None, APP)[1]["slices"] for _ in range(8)):
            assert time.monotonic() < ends
            time.sleep(0.2)
        while b"offramp_workers 2.0" not in application.ask("GET", "/metrics", None, APP)[1]:
            assert time.monotonic() < ends
            time.sleep(0.2)
