"""What lies in `deploy/`: the manifests fit each other, the command line and the server; the image has all that serving needs, and no torch."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from served import WINDOWS, Made
from starlette.testclient import TestClient

from offramp.cli.app import app
from offramp.runtime.engine import load_slices
from offramp.serving.keys import load_keys
from offramp.serving.process import Place, assembled
from offramp.serving.settings import ServerSettings, check_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KEYS = "keys: {app: {key: an-application-key, scopes: [infer]}}"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    return next(each for each in documents(name) if each["kind"] == kind)


KUBERNETES = of_kind("kubernetes.yaml", "Deployment")["spec"]["template"]["spec"]
KSERVE = of_kind("inference-service.yaml", "ServingRuntime")["spec"]
PODS = pytest.mark.parametrize("pod", [KUBERNETES, KSERVE], ids=["kubernetes", "kserve"])


def parameters_of(arguments: list[str]) -> dict[str, Any]:
    """What `offramp serve` makes of them."""
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    return command.make_context("serve", list(arguments)).params  # type: ignore[no-any-return]


# --- the image


def dockerfile() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_copies_what_there_is_and_runs_as_nobody():
    steps = dockerfile()
    copied = [shlex.split(rest)[:-1] for word, rest in steps if word == "COPY" and "--from" not in rest]
    sources = [source for each in copied for source in each]
    assert all((ROOT / source).exists() for source in sources)
    allowed = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert set(sources) == allowed
    user = next(rest for word, rest in steps if word == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert next(json.loads(rest) for word, rest in steps if word == "ENTRYPOINT") == ["offramp", "serve"]
    bundle = parameters_of(["bundle"])
    assert next(rest for word, rest in steps if word == "EXPOSE") == f"{bundle['port']} {bundle['grpc_port']}"


def requirements() -> list[Requirement]:
    lines = (DEPLOY / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_image_has_what_the_lock_file_has_and_what_that_needs():
    lock = set((ROOT / "requirements.lock").read_text().splitlines())
    lines = [line for line in (DEPLOY / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert set(lines) <= lock
    named = {canonicalize_name(each.name) for each in requirements()}
    assert "torch" not in named
    for name in named:
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert canonicalize_name(needed.name) in named, f"{name} needs {needed}"


def test_serving_needs_nothing_else(made: Made):
    """As it would be in the image: whatever belongs to another package cannot be imported."""
    named = {canonicalize_name(each.name) for each in requirements()} | {"offramp"}
    code = f"""
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions

known = packages_distributions()

class Others(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        owners = known.get(name.partition(".")[0], [])
        if owners and not any(owner.lower().replace("_", "-").replace(".", "-") in {named!r} for owner in owners):
            raise ModuleNotFoundError(f"{{name}} is not in the image", name=name)

sys.meta_path.insert(0, Others())

import os, signal, threading, urllib.request
from pathlib import Path
from offramp.serving.server import serve
from offramp.serving.settings import ServerSettings

def ready(http, rpc):
    def ask():
        address = f"http://127.0.0.1:{{http}}"
        body = {json.dumps({"inputs": [{"name": "windows", "datatype": "FP32", "shape": [1, *WINDOWS.shape[1:]], "data": WINDOWS[0].ravel().tolist()}]})!r}
        answer = urllib.request.urlopen(urllib.request.Request(f"{{address}}/v2/models/shared/infer", body.encode()))
        pages = [urllib.request.urlopen(f"{{address}}{{path}}").status for path in ("/", "/metrics", "/status", "/openapi.json")]
        print(answer.status, pages, "torch" in sys.modules, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=ask).start()

folder = Path({str(made.segments)!r})
serve(ServerSettings(folder, folder, port=0, grpc_port=0), [], ready, print)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "200 [200, 200, 200, 200] False", done.stderr


# --- the manifests


@pytest.mark.parametrize("name", ["kubernetes.yaml", "inference-service.yaml"])
def test_every_object_has_a_name_of_its_own(name: str):
    found = [(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in documents(name)]
    assert len(set(found)) == len(found)


def test_who_selects_whom():
    deployment = of_kind("kubernetes.yaml", "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert "replicas" not in deployment["spec"]  # whoever applies it again would undo what the autoscaler did
    for service in (each for each in documents("kubernetes.yaml") if each["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= labels
        ports = {each["name"] for each in KUBERNETES["containers"][0]["ports"]}
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports
    assert of_kind("kubernetes.yaml", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    scaled = of_kind("kubernetes.yaml", "HorizontalPodAutoscaler")["spec"]
    target = {key: deployment[key] for key in ("apiVersion", "kind")} | {"name": deployment["metadata"]["name"]}
    assert scaled["scaleTargetRef"] == target
    assert of_kind("kubernetes.yaml", "PodDisruptionBudget")["spec"]["minAvailable"] < scaled["minReplicas"]


def test_the_service_of_kserve_names_its_runtime():
    runtime, service = (of_kind("inference-service.yaml", kind) for kind in ("ServingRuntime", "InferenceService"))
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [{"name": each["name"], "version": each["version"]} for each in runtime["spec"]["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert runtime["spec"]["containers"][0]["name"] == "kserve-container"
    assert KSERVE["containers"][0]["args"][0] == "/mnt/models"


@PODS
def test_the_command_line_takes_the_arguments(pod: dict[str, Any], tmp_path: Path):
    (container,) = pod["containers"]
    taken = parameters_of(container["args"])
    ports = [each["containerPort"] for each in container["ports"]]
    assert set(ports) <= {taken["port"], taken["grpc_port"]}
    check_settings(ServerSettings(taken["bundle"], taken["bundle"], host=taken["host"], keys=taken["keys"]))
    assert taken["keys"] is not None
    slept = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = (
        pod.get("terminationGracePeriodSeconds")
        or of_kind("inference-service.yaml", "InferenceService")["spec"]["predictor"]["terminationGracePeriodSeconds"]
    )
    assert slept + taken["drain"] < grace


@PODS
def test_probes_need_no_key(pod: dict[str, Any], made: Made, tmp_path: Path):
    (tmp_path / "keys.yaml").write_text(KEYS)
    (container,) = pod["containers"]
    named = {each["name"]: each["containerPort"] for each in container["ports"] if "name" in each}
    port = parameters_of(container["args"])["port"]
    settings = ServerSettings(made.segments, made.segments)
    with assembled(settings, Place(), {}, load_keys(tmp_path / "keys.yaml")) as process:
        client = TestClient(process.app())
        assert client.get("/v2/models/plain").status_code == 401
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert named.get(asked["port"], asked["port"]) == port
            assert client.get(asked["path"]).status_code == 200
        process.service.draining = True
        assert client.get(container["readinessProbe"]["httpGet"]["path"]).status_code == 503
        assert client.get(container["livenessProbe"]["httpGet"]["path"]).status_code == 200


@PODS
def test_every_file_that_is_named_is_mounted(pod: dict[str, Any], tmp_path: Path):
    (container,) = pod["containers"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    assert len(mounts) == len(volumes)
    taken = parameters_of(container["args"])
    for path in (taken["keys"], taken["slices"], None if pod is KSERVE else taken["bundle"]):
        if path is not None:
            assert any(PurePosixPath(path).is_relative_to(mount) for mount in mounts)
    assert "secret" in mounts[str(PurePosixPath(taken["keys"]).parent)]
    writable = [each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")]
    assert writable == ["/tmp"]
    if taken["slices"] is not None:
        stored = of_kind("kubernetes.yaml", "ConfigMap")
        assert mounts[str(PurePosixPath(taken["slices"]).parent)]["configMap"]["name"] == stored["metadata"]["name"]
        path = tmp_path / "slices.yaml"
        path.write_text(stored["data"][PurePosixPath(taken["slices"]).name])
        assert load_slices(path)


@PODS
def test_a_pod_may_do_nothing_but_serve(pod: dict[str, Any]):
    (container,) = pod["containers"]
    allowed = {**pod.get("securityContext", {}), **container["securityContext"]}
    user = next(rest for word, rest in dockerfile() if word == "USER")
    assert allowed["runAsNonRoot"] is True
    assert allowed["runAsUser"] == int(user.split(":")[0])
    assert allowed["readOnlyRootFilesystem"] is True
    assert allowed["allowPrivilegeEscalation"] is False
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    assert allowed["seccompProfile"] == {"type": "RuntimeDefault"}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
