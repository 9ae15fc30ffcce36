"""A server from start to end: keys, slices, loading anew, several processes, draining, and what is refused at the door."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
from served import WINDOWS, Made, Served, make, serving
from tritonclient.utils import InferenceServerException

from offramp.bundle import Head, load_bundle, save_bundle
from offramp.errors import BudgetTooSmall, Overloaded, SuiteError
from offramp.runtime import load
from offramp.serving.http.bodies import fault_headers
from offramp.serving.keys import load_keys
from offramp.serving.protocol.faults import fault_of
from offramp.serving.settings import ServerSettings, check_settings

KEYS = """keys:
  app: {key: an-application-key, scopes: [infer]}
  boss: {key: an-administrators-key, scopes: [admin]}
"""
APP, BOSS = {"Authorization": "Bearer an-application-key"}, {"Authorization": "Bearer an-administrators-key"}
REQUEST = {
    "inputs": [{"name": "windows", "datatype": "FP32", "shape": [1, 2, 2, 96], "data": WINDOWS[0].ravel().tolist()}]
}


def until(what: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether something becomes so."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            if what():
                return True
        except OSError:  # a connection of a process that died
            pass
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Made]]:
    """A server with keys that tests may change, and its folder."""
    folder = tmp_path_factory.mktemp("own")
    made = make(folder)
    (folder / "keys.yaml").write_text(KEYS)
    with serving(made.segments, folder, "--keys", str(folder / "keys.yaml"), "--log", "json") as running:
        yield running, made


class TestKeys:
    @pytest.mark.parametrize(
        ("method", "path", "key", "status"),
        [
            ("GET", "/v2/health/ready", {}, 200),
            ("GET", "/", {}, 200),
            ("GET", "/v2/models/plain", {}, 401),
            ("GET", "/metrics", {}, 401),
            ("GET", "/status", {}, 401),
            ("POST", "/v2/models/plain/infer", {}, 401),
            ("POST", "/v2/models/plain/infer", {"Authorization": "Bearer nonsense"}, 401),
            ("POST", "/v2/models/plain/infer", APP, 200),
            ("POST", "/v2/models/plain/infer", BOSS, 200),
            ("GET", "/metrics", APP, 200),
            ("PUT", "/slices/new", APP, 403),
            ("POST", "/v2/repository/models/plain/unload", APP, 403),
            ("POST", "/v2/repository/models/plain/unload", {}, 401),
        ],
    )
    def test_who_may_do_what(
        self, own: tuple[Served, Made], method: str, path: str, key: dict[str, str], status: int
    ) -> None:
        found, content, headers = own[0].ask(method, path, REQUEST if method == "POST" else None, key)
        assert found == status, content
        if status == 401:
            assert headers["www-authenticate"] == "Bearer"

    def test_over_grpc(self, own: tuple[Served, Made]) -> None:
        tensor = over_grpc.InferInput("windows", list(WINDOWS.shape), "FP32")
        tensor.set_data_from_numpy(WINDOWS)
        with over_grpc.InferenceServerClient(f"127.0.0.1:{own[0].rpc}") as client:
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                client.infer("plain", [tensor])
            key = {name.lower(): value for name, value in APP.items()}
            assert client.infer("plain", [tensor], headers=key).as_numpy("label") is not None
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                client.unload_model("plain", headers=key)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "keys"),
            ("keys: {}", "keys"),
            ("keys: {a: {key: short, scopes: [infer]}}", "16"),
            ("keys: {a: {key: long-enough-to-be-a-key, scopes: [all]}}", "infer"),
            ("keys: {a: {key: long-enough-to-be-a-key, scopes: []}}", "scopes"),
            (
                "keys: {a: {key: long-enough-to-be-a-key, scopes: [infer]}, b: {key: long-enough-to-be-a-key, scopes: [admin]}}",
                "same",
            ),
        ],
    )
    def test_a_file_that_makes_no_sense_never_shows_its_keys(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "keys.yaml").write_text(text)
        with pytest.raises(SuiteError) as caught:
            load_keys(tmp_path / "keys.yaml")
        assert words in str(caught.value)
        assert "long-enough" not in str(caught.value)
        assert "key short" not in str(caught.value)


class TestChanges:
    def test_slices_while_it_runs(self, own: tuple[Served, Made]) -> None:
        server, _ = own
        status, content, _ = server.ask("PUT", "/slices/gold", {"exit": "stem", "priority": -1}, BOSS)
        assert status == 200
        assert content["slices"]["gold"]["exit"] == "stem"
        asked = {**REQUEST, "parameters": {"slice": "gold"}, "outputs": [{"name": "exit"}, {"name": "reason"}]}
        _, answer, _ = server.ask("POST", "/v2/models/plain/infer", asked, APP)
        assert [each["data"] for each in answer["outputs"]] == [["stem"], ["budget"]]
        for unfit, words in (
            ({"exit": "attic"}, "attic"),
            ({"budget_ms": 1e-6}, "least possible"),
            ({"exit": "stem", "policy": "p"}, "not both"),
            ({"colour": "red"}, "colour"),
        ):
            status, content, _ = server.ask("PUT", "/slices/gold", unfit, BOSS)
            assert status == 400
            assert words in content["error"]
        assert server.ask("DELETE", "/slices/gold", None, BOSS)[0] == 200
        assert server.ask("DELETE", "/slices/gold", None, BOSS)[0] == 404
        assert server.ask("DELETE", "/slices/default", None, BOSS)[0] == 400
        assert server.ask("POST", "/v2/models/plain/infer", asked, APP)[0] == 400

    def test_a_task_is_loaded_anew_under_load(self, own: tuple[Served, Made]) -> None:
        server, made = own
        failures: list[Any] = []
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                status, content, _ = server.ask("POST", "/v2/models/shared/infer", REQUEST, APP)
                if status != 200:
                    failures.append(content)

        callers = [threading.Thread(target=ask) for _ in range(2)]
        for caller in callers:
            caller.start()
        try:
            bundle = load_bundle(made.segments)
            deep = bundle.tasks["deep"]
            turned = {
                exit: Head(tuple((w[::-1].copy(), b[::-1].copy()) for w, b in head.layers))
                for exit, head in deep.heads.items()
            }
            save_bundle(
                replace(bundle, tasks={**bundle.tasks, "deep": replace(deep, heads=turned)}),
                made.segments,
                "# A bundle\n",
            )
            before = load(made.segments).predict(WINDOWS[:1], ["deep"])["deep"].outputs[0]
            assert server.ask("POST", "/v2/repository/models/deep/load", {}, BOSS)[0] == 200
        finally:
            over.set()
            for caller in callers:
                caller.join()
        assert failures == []
        _, answer, _ = server.ask("POST", "/v2/models/deep/infer", REQUEST, APP)
        assert answer["model_version"] == "2"
        assert answer["outputs"][0]["data"] == pytest.approx(before.tolist(), abs=1e-5)
        _, answer, _ = server.ask("POST", "/v2/models/shared/infer", REQUEST, APP)
        found = next(each for each in answer["outputs"] if each["name"] == "deep.probabilities")
        assert found["data"] == pytest.approx(before.tolist(), abs=1e-5)

    def test_unload_and_load(self, own: tuple[Served, Made]) -> None:
        server, _ = own
        assert server.ask("POST", "/v2/repository/models/angle/unload", {}, BOSS)[0] == 200
        assert server.ask("GET", "/v2/models/angle/ready")[0] == 503
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        assert server.ask("POST", "/v2/models/angle/infer", REQUEST, APP)[0] == 503
        _, index, _ = server.ask("POST", "/v2/repository/index", {}, APP)
        assert {each["name"]: each["state"] for each in index}["angle"] == "UNAVAILABLE"
        _, index, _ = server.ask("POST", "/v2/repository/index", {"ready": True}, APP)
        assert "angle" not in {each["name"] for each in index}
        _, shared, _ = server.ask("GET", "/v2/models/shared", None, APP)
        assert not [each for each in shared["outputs"] if each["name"].startswith("angle.")]
        assert server.ask("POST", "/v2/repository/models/angle/load", {}, BOSS)[0] == 200
        assert server.ask("POST", "/v2/models/angle/infer", REQUEST, APP)[0] == 200
        _, shared, _ = server.ask("GET", "/v2/models/shared", None, APP)
        assert [each for each in shared["outputs"] if each["name"].startswith("angle.")]

    @pytest.mark.parametrize("name", ["nothing", "..%2f..%2fetc%2fpasswd", "%00"])
    def test_nothing_else_can_be_loaded(self, own: tuple[Served, Made], name: str) -> None:
        assert own[0].ask("POST", f"/v2/repository/models/{name}/load", {}, BOSS)[0] == 404
        said = {"parameters": {"config": "{}", "file:1/model.onnx": "AAAA"}}
        assert own[0].ask("POST", "/v2/repository/models/plain/load", said, BOSS)[0] == 400


class TestAtTheDoor:
    def test_larger_than_what_is_taken(self, made: Made, tmp_path: Path) -> None:
        with serving(made.segments, tmp_path, "--most-bytes", "20000", "--most-windows", "3") as server:
            assert server.ask("POST", "/v2/models/plain/infer", REQUEST)[0] == 200
            status, content, _ = server.ask("POST", "/v2/models/plain/infer", b" " * 20_001)
            assert (status, "20,000" in content["error"]) == (413, True)
            many = np.zeros((4, 2, 2, 96), np.float32)
            head = json.dumps(
                {
                    "inputs": [
                        {
                            "name": "windows",
                            "datatype": "FP32",
                            "shape": list(many.shape),
                            "parameters": {"binary_data_size": many.nbytes},
                        }
                    ]
                }
            ).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))}
            status, content, _ = server.ask("POST", "/v2/models/plain/infer", head + many.tobytes(), headers)
            assert (status, "at most 3" in content["error"]) == (400, True)
            bomb = __import__("gzip").compress(b" " * 10_000_000)
            assert server.ask("POST", "/v2/models/plain/infer", bomb, {"Content-Encoding": "gzip"})[0] == 413
            for broken, encoding in ((bomb[:-9], "gzip"), (b"{}", "gzip"), (b"{}", "br")):
                status, _, _ = server.ask("POST", "/v2/models/plain/infer", broken, {"Content-Encoding": encoding})
                assert status in (400, 413)

    def test_a_budget_that_the_request_alone_exceeds(self, made: Made, tmp_path: Path) -> None:
        (tmp_path / "slices.yaml").write_text("slices:\n  tight: {budget_ms: 5}\n")
        many = np.zeros((3000, 2, 2, 96), np.float32)
        with serving(made.segments, tmp_path, "--slices", str(tmp_path / "slices.yaml")) as server:
            asked = {**REQUEST, "parameters": {"slice": "tight"}}
            asked["inputs"] = [{**REQUEST["inputs"][0], "shape": list(many.shape), "data": many.ravel().tolist()}]
            status, content, headers = server.ask("POST", "/v2/models/deep/infer", asked)
            assert (status, "budget" in content["error"]) == (400, True), content
            assert "retry-after" not in headers

    def test_when_there_is_too_much_to_do(self) -> None:
        for waiting, said in ((0.2, "1"), (2.3, "3")):
            fault = fault_of(Overloaded("700 windows wait already"), waiting)
            assert (fault.status, fault.code) == (429, "RESOURCE_EXHAUSTED")
            assert fault_headers(fault)["Retry-After"] == said
        assert fault_of(BudgetTooSmall("it takes longer")).status == 400

    def test_unknown_places_and_methods(self, server: Served) -> None:
        assert server.ask("GET", "/v3")[0] == 404
        assert server.ask("DELETE", "/v2")[0] == 405
        assert server.ask("GET", "/v2/models/plain/infer")[0] == 405

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--host", "0.0.0.0"], "--insecure"),
            (["--host", "somewhere"], "address"),
            (["--certificate", "nothing.pem"], "--private-key"),
            (["--slices", "nothing.yaml"], "nothing.yaml"),
            (["--keys", "nothing.yaml"], "nothing.yaml"),
        ],
    )
    def test_options_that_make_no_sense(self, made: Made, options: list[str], words: str) -> None:
        words_of = [sys.executable, "-m", "offramp", "serve", str(made.segments), *options]
        done = subprocess.run(words_of, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

    def test_tls(self, made: Made, tmp_path: Path) -> None:
        pair = [str(tmp_path / "server.pem"), str(tmp_path / "server.key")]
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
        subprocess.run(
            [*words, "-addext", "subjectAltName=IP:127.0.0.1", "-out", pair[0], "-keyout", pair[1]],
            check=True,
            capture_output=True,
        )
        with serving(made.segments, tmp_path, "--certificate", pair[0], "--private-key", pair[1]) as server:
            trusted = ssl.create_default_context(cafile=pair[0])
            connection = http.client.HTTPSConnection("127.0.0.1", server.http, context=trusted, timeout=30)
            connection.request("GET", "/v2")
            assert json.loads(connection.getresponse().read())["name"] == "offramp"
            connection.close()
            with over_grpc.InferenceServerClient(
                f"127.0.0.1:{server.rpc}", ssl=True, root_certificates=pair[0]
            ) as client:
                assert client.is_server_ready()
        with pytest.raises(SuiteError, match="exchanged"):
            check_settings(ServerSettings(certificate=Path(pair[1]), private_key=Path(pair[0])))

    def test_a_port_that_is_taken(self, made: Made, server: Served) -> None:
        for option, port in (("--port", server.http), ("--grpc-port", server.rpc)):
            ports = {"--port": "0", "--grpc-port": "0", option: str(port)}
            words = [word for pair in ports.items() for word in pair]
            command = [sys.executable, "-m", "offramp", "serve", str(made.segments), *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 2
            assert f"choose another {option}" in done.stderr

    def test_loopback_is_known(self) -> None:
        for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
            check_settings(ServerSettings(host=host))
        for host in ("0.0.0.0", "::", "192.168.0.1"):
            with pytest.raises(SuiteError):
                check_settings(ServerSettings(host=host))
            check_settings(ServerSettings(host=host, insecure=True))


class TestTheEnd:
    def test_requests_under_way_are_answered(self, made: Made, tmp_path: Path) -> None:
        many = np.repeat(WINDOWS, 100, axis=0)
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "windows",
                        "datatype": "FP32",
                        "shape": list(many.shape),
                        "parameters": {"binary_data_size": many.nbytes},
                    }
                ]
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        statuses: list[int] = []
        with serving(made.segments, tmp_path) as server:

            def ask() -> None:
                for _ in range(300):
                    try:
                        statuses.append(server.ask("POST", "/v2/models/deep/infer", head + many.tobytes(), headers)[0])
                    except OSError:  # it listens no more
                        statuses.append(0)
                        return

            callers = [threading.Thread(target=ask) for _ in range(3)]
            for caller in callers:
                caller.start()
            assert until(lambda: len(statuses) > 5)
            server.process.send_signal(signal.SIGTERM)
            for caller in callers:
                caller.join()
            assert server.process.wait(20) == 0
        assert set(statuses) <= {200, 503, 0}
        assert 503 in statuses
        assert "Traceback" not in server.log.read_text()

    def test_control_c(self, made: Made, tmp_path: Path) -> None:
        with serving(made.segments, tmp_path) as server:
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(20) == 0
        assert "Traceback" not in server.log.read_text()

    def test_started_without_torch(self, made: Made, tmp_path: Path) -> None:
        with serving(made.segments, tmp_path) as server:
            maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "onnxruntime" in maps
        assert "libtorch" not in maps


class TestWorkers:
    def test_they_share_changes_and_counts_and_one_that_dies_is_replaced(self, made: Made, tmp_path: Path) -> None:
        with serving(made.segments, tmp_path, "--workers", "2") as server:

            def workers() -> list[dict[str, Any]]:
                return server.ask("GET", "/status")[1]["workers"]

            assert until(lambda: len(workers()) == 2)
            for _ in range(30):
                assert server.ask("POST", "/v2/models/plain/infer", REQUEST)[0] == 200
            assert server.ask("PUT", "/slices/gold", {"exit": "stem"})[0] == 200
            asked = {**REQUEST, "parameters": {"slice": "gold"}}
            assert until(
                lambda: all(server.ask("POST", "/v2/models/plain/infer", asked)[0] == 200 for _ in range(20))
            ), "each of them knows the slice"
            assert server.ask("POST", "/v2/repository/models/angle/unload", {})[0] == 200
            assert until(lambda: all(server.ask("GET", "/v2/models/angle/ready")[0] == 503 for _ in range(20)))

            def answered() -> float:
                text = server.ask("GET", "/metrics")[1].decode()
                lines = [line for line in text.splitlines() if line.startswith("offramp_requests_total{")]
                return sum(
                    float(line.rsplit(" ", 1)[1]) for line in lines if 'model="plain"' in line and '"200"' in line
                )

            assert until(lambda: answered() >= 50)
            before, victim = answered(), workers()[0]["pid"]
            os.kill(victim, signal.SIGKILL)
            assert until(lambda: len(workers()) == 2 and victim not in {each["pid"] for each in workers()})
            assert until(lambda: answered() >= before), "counters never go back"
            assert until(lambda: all(server.ask("POST", "/v2/models/plain/infer", asked)[0] == 200 for _ in range(20)))
        log = server.log.read_text()
        assert "Traceback" not in log
        assert "Fatal" not in log

    def test_they_end_with_their_parent(self, made: Made, tmp_path: Path) -> None:
        with serving(made.segments, tmp_path, "--workers", "2") as server:
            pids = [each["pid"] for each in server.ask("GET", "/status")[1]["workers"]]
            server.process.kill()
            server.process.wait()
            assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_connection_that_says_nothing_is_closed(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked on the class, since the time that it waits is long."""
    from offramp.serving import listening

    assert 0 < listening.FIRST_WORD_S < 60
    with socket.create_connection(("127.0.0.1", server.http)) as idle:
        idle.sendall(b"GET /v2 HTTP/1.1\r\n")
        idle.settimeout(listening.FIRST_WORD_S + 10)
        assert idle.recv(1) == b""


def test_a_connection_is_kept_alive(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=30)
    for _ in range(3):
        connection.request("POST", "/v2/models/plain/infer", json.dumps(REQUEST))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()
