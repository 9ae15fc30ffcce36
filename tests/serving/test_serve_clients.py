"""Unmodified Triton clients against ``offramp serve``: what they get is what the predictor says."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from served import WINDOWS, Made, Served
from tritonclient.utils import InferenceServerException

from offramp.runtime import Prediction, load


@pytest.fixture(scope="session")
def expected(made: Made) -> dict[str, Prediction]:
    return load(made.segments).predict(WINDOWS)


@pytest.fixture(params=["http", "grpc"])
def client(server: Served, request: pytest.FixtureRequest) -> Iterator[tuple[ModuleType, Any]]:
    module, port = (over_http, server.http) if request.param == "http" else (over_grpc, server.rpc)
    with module.InferenceServerClient(f"127.0.0.1:{port}") as connected:
        yield module, connected


def given(module: ModuleType, windows: np.ndarray = WINDOWS, binary: bool = True) -> list[Any]:
    tensor = module.InferInput("windows", list(windows.shape), "FP32")
    if module is over_http:
        tensor.set_data_from_numpy(windows, binary_data=binary)
    else:
        tensor.set_data_from_numpy(windows)
    return [tensor]


def test_a_task_answers_as_the_predictor_does(client: tuple[ModuleType, Any], expected: dict[str, Prediction]) -> None:
    module, connected = client
    found = connected.infer("plain", given(module), request_id="17")
    assert np.allclose(found.as_numpy("probabilities"), expected["plain"].outputs, atol=1e-6)
    assert [each.decode() for each in found.as_numpy("label")] == expected["plain"].labels
    assert set(found.as_numpy("exit")) == {b"stage2.1"}
    assert set(found.as_numpy("reason")) == {b"fixed"}
    assert np.allclose(
        connected.infer("angle", given(module)).as_numpy("values"), expected["angle"].outputs, rtol=1e-5, atol=1e-5
    )


def test_json_and_binary_give_the_same(server: Served, expected: dict[str, Prediction]) -> None:
    with over_http.InferenceServerClient(f"127.0.0.1:{server.http}") as connected:
        for binary_in in (True, False):
            for binary_out in (True, False):
                wanted = [over_http.InferRequestedOutput("probabilities", binary_data=binary_out)]
                found = connected.infer("deep", given(over_http, binary=binary_in), outputs=wanted)
                assert np.allclose(found.as_numpy("probabilities"), expected["deep"].outputs, atol=1e-6)
                assert found.as_numpy("label") is None
        for compression in ("gzip", "deflate"):
            many = np.repeat(WINDOWS, 40, axis=0)
            found = connected.infer(
                "deep",
                given(over_http, many),
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            assert np.allclose(found.as_numpy("probabilities")[::40], expected["deep"].outputs, atol=1e-5)


def test_shared_answers_the_tasks_whose_outputs_are_wanted(
    client: tuple[ModuleType, Any], expected: dict[str, Prediction]
) -> None:
    module, connected = client
    wanted = [module.InferRequestedOutput(name) for name in ("angle.values", "plain.label")]
    found = connected.infer("shared", given(module), outputs=wanted)
    assert np.allclose(found.as_numpy("angle.values"), expected["angle"].outputs, rtol=1e-5, atol=1e-5)
    assert [each.decode() for each in found.as_numpy("plain.label")] == expected["plain"].labels
    assert found.as_numpy("deep.probabilities") is None
    everything = connected.infer("shared", given(module))
    assert np.allclose(everything.as_numpy("deep.probabilities"), expected["deep"].outputs, atol=1e-6)


def test_a_request_says_how_it_wants_to_be_answered(client: tuple[ModuleType, Any], made: Made) -> None:
    module, connected = client
    predictor = load(made.segments)
    by_policy = predictor.predict(WINDOWS, ["plain"], policy="p")["plain"]
    for said, exits, reason in (
        ({"exit": "stem"}, ["stem"] * 5, b"request"),
        ({"policy": "p"}, by_policy.exits, b"policy"),
        ({"slice": "early"}, ["stem"] * 5, b"budget"),
        ({"slice": "picky", "deadline_ms": 30000}, by_policy.exits, b"policy"),
    ):
        found = connected.infer("plain", given(module), parameters=said)
        assert [each.decode() for each in found.as_numpy("exit")] == exits
        assert set(found.as_numpy("reason")) == {reason}


def test_best_classes_by_name(client: tuple[ModuleType, Any], expected: dict[str, Prediction]) -> None:
    module, connected = client
    wanted = [module.InferRequestedOutput("probabilities", class_count=2)]
    found = connected.infer("deep", given(module), outputs=wanted).as_numpy("probabilities")
    assert found.shape == (5, 2)
    for row, outputs in zip(found, expected["deep"].outputs, strict=True):
        order = np.argsort(-outputs)[:2]
        parts = [each.decode().split(":") for each in row]
        assert [int(index) for _, index, _ in parts] == order.tolist()
        assert [label for _, _, label in parts] == [("x", "y", "z")[index] for index in order]
        assert [float(value) for value, _, _ in parts] == pytest.approx(outputs[order], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "windows", "said", "status", "words"),
    [
        ("plain", WINDOWS[:, :1], {}, "400", ("windows", "[-1, 2, 2, 96]")),
        ("plain", np.full_like(WINDOWS, np.nan), {}, "400", ("windows", "NaN")),
        ("plain", WINDOWS[:0], {}, "400", ("no windows",)),
        ("plain", WINDOWS, {"exit": "stage9"}, "400", ("stage9", "stem")),
        ("plain", WINDOWS, {"policy": "q"}, "400", ("'q'", "fixed, p")),
        ("plain", WINDOWS, {"slice": "gold"}, "400", ("gold", "urllc")),
        ("plain", WINDOWS, {"slise": "urllc"}, "400", ("slise", "slice")),
        ("plain", WINDOWS, {"exit": "stem", "policy": "p"}, "400", ("one of them",)),
        ("plain", WINDOWS, {"deadline_ms": -1}, "504", ("deadline",)),
        ("nothing", WINDOWS, {}, "404", ("nothing", "angle, deep, plain, shared")),
    ],
)
def test_what_cannot_be_answered(
    client: tuple[ModuleType, Any],
    model: str,
    windows: np.ndarray,
    said: dict[str, Any],
    status: str,
    words: tuple[str, ...],
) -> None:
    module, connected = client
    codes = {"400": "INVALID_ARGUMENT", "404": "NOT_FOUND", "504": "DEADLINE_EXCEEDED"}
    with pytest.raises(InferenceServerException) as caught:
        connected.infer(model, given(module, windows), parameters=said)
    assert caught.value.status() == (status if module is over_http else f"StatusCode.{codes[status]}")
    for word in words:
        assert word in caught.value.message()


def test_another_version_is_not_there(client: tuple[ModuleType, Any]) -> None:
    module, connected = client
    assert connected.is_model_ready("plain", "1")
    with pytest.raises(InferenceServerException, match="version '2'"):
        connected.infer("plain", given(module), model_version="2")


def test_what_the_server_says_of_itself(client: tuple[ModuleType, Any], server: Served) -> None:
    module, connected = client
    plain = {} if module is over_http else {"as_json": True}
    assert connected.is_server_live()
    assert connected.is_server_ready()
    assert connected.get_server_metadata(**plain)["name"] == "offramp"
    told = connected.get_model_metadata("deep", **plain)
    assert told["platform"] == "offramp"
    assert [int(size) for size in told["inputs"][0]["shape"]] == [-1, 2, 2, 96]
    assert [each["name"] for each in told["outputs"]] == ["probabilities", "label", "exit", "reason"]
    config = connected.get_model_config("shared", **plain)
    config = config.get("config", config)
    assert config["model_transaction_policy"]["decoupled"] is True
    index = connected.get_model_repository_index(**plain)
    names = [each["name"] for each in (index if isinstance(index, list) else index["models"])]
    assert names == ["angle", "deep", "plain", "shared"]


def test_statistics_count_windows_and_requests(client: tuple[ModuleType, Any]) -> None:
    module, connected = client
    plain = {} if module is over_http else {"as_json": True}

    def counted() -> tuple[int, int, int]:
        (found,) = connected.get_inference_statistics("deep", **plain)["model_stats"]
        failed = found["inference_stats"]["fail"].get("count", 0)
        return int(found.get("inference_count", 0)), int(found.get("execution_count", 0)), int(failed)

    before = counted()
    connected.infer("deep", given(module))
    with pytest.raises(InferenceServerException):
        connected.infer("deep", given(module, WINDOWS[:, :1]))
    assert np.subtract(counted(), before).tolist() == [5, 1, 1]


def test_answers_come_one_by_one(server: Served, expected: dict[str, Prediction]) -> None:
    found: queue.Queue[Any] = queue.Queue()
    with over_grpc.InferenceServerClient(f"127.0.0.1:{server.rpc}") as connected:
        connected.start_stream(lambda result, error: found.put((result, error)))
        connected.async_stream_infer("shared", given(over_grpc), request_id="first")
        parts = [found.get(timeout=20) for _ in range(3)]
        connected.async_stream_infer("nothing", given(over_grpc), request_id="second")
        _, error = found.get(timeout=20)
        assert "angle, deep, plain, shared" in str(error)
        connected.async_stream_infer("plain", given(over_grpc))
        last, _ = found.get(timeout=20)
        assert last.get_response().parameters["final"].bool_param
        connected.stop_stream()
    tasks = {}
    for place, (result, error) in enumerate(parts):
        assert error is None
        response = result.get_response()
        assert response.id == "first"
        assert response.parameters["final"].bool_param == (place == 2)
        assert response.parameters["age_ms"].double_param > 0
        tasks[response.parameters["task"].string_param] = result
    assert set(tasks) == {"plain", "angle", "deep"}
    assert np.allclose(tasks["deep"].as_numpy("deep.probabilities"), expected["deep"].outputs, atol=1e-6)


def test_clients_that_wait_for_many(server: Served, expected: dict[str, Prediction]) -> None:
    async def ask(module: ModuleType, port: int, tensors: ModuleType) -> None:
        async with module.InferenceServerClient(f"127.0.0.1:{port}") as connected:
            asked = [connected.infer("plain", given(tensors, WINDOWS[i % 5 : i % 5 + 1])) for i in range(40)]
            for number, found in enumerate(await asyncio.gather(*asked)):
                assert np.allclose(found.as_numpy("probabilities")[0], expected["plain"].outputs[number % 5], atol=1e-5)

    asyncio.run(ask(over_http_aio, server.http, over_http))
    asyncio.run(ask(over_grpc_aio, server.rpc, over_grpc))
