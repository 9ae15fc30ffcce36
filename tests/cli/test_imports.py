"""Encoders of one's own on the command line: ``--import``, entry points, ``python -m offramp``, and one line without them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from laboratory import Call, Lab, task

import offramp
from offramp.encoders import registry

MODULE = """
import offramp
from offramp.encoders.iq_shufflenet import IQShuffleNet

@offramp.register_encoder
class Own(IQShuffleNet):
    architecture = "own-net"
"""
PACKAGE = MODULE.replace("@offramp.register_encoder", "")


@pytest.fixture
def own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A laboratory whose encoder is of a class of its own, in the module ``own_net`` of the current folder."""
    config = json.loads((lab / "encoder" / "config.json").read_text())
    (lab / "encoder" / "config.json").write_text(json.dumps(config | {"architecture": "own-net"}))
    (lab / "own_net.py").write_text(MODULE)
    monkeypatch.chdir(lab.folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))
    known = set(sys.modules)
    yield lab
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(lab.folder)):
            del sys.modules[name]


def test_every_command_takes_a_bundle_of_ones_own(own: Lab, call: Call) -> None:
    given = ("--import", "own_net")
    suite = own.suite(task())
    assert call(*given, "run", suite, "--out", own / "run")[0] == 0
    bundle = own / "run" / "bundle"
    code, out, _ = call("predict", bundle, own / "data.h5", *given)  # behind the command, too
    assert (code, out.count("\n")) == (0, 121)
    assert call(*given, "export", bundle, "--out", own / "t.onnx")[0] == 0
    code, out, _ = call(*given, "inspect", own / "encoder", "--json")
    assert (code, json.loads(out)["exits"][0]["name"]) == (0, "stem")


def test_without_it_one_line_says_what_to_do(own: Lab, refused: Callable[..., str]) -> None:
    words = ["encoder holds a 'own-net'", "register one of yours", "--import MODULE", "installing its package"]
    refused("inspect", own / "encoder", words=words)
    refused("run", own.suite(task()), "--out", own / "run", words=words)
    (own / "suite.yaml").write_text(yaml.safe_dump({"encoder": "own-net", "tasks": [task()]}))
    refused("run", own / "suite.yaml", "--out", own / "run", words=["unknown encoder 'own-net'", "--import MODULE"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent", None, "there is no such module, neither installed nor in the current folder"),
        ("absent.part", None, "there is no such module"),
        ("own_net.py", None, "give the name of a module, as in 'import own_net'"),
        ("../own_net", None, "give the name of a module, as in 'import own_net'"),
        ("", None, "give the name of a module"),
        ("broken", "raise ValueError('one\\ntwo')", "it stops with ValueError one two"),
        ("broken", "import absent", "it stops with ModuleNotFoundError No module named 'absent'"),
        ("broken", "raise SystemExit(0)", "it stops with SystemExit 0"),
        ("broken", "def", "it stops with SyntaxError"),
    ],
)
def test_modules_that_cannot_be_imported(
    own: Lab, refused: Callable[..., str], name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (own / "broken.py").write_text(content)
    refused("inspect", own / "encoder", "--import", name, words=[f"--import {name}:", words])
    refused("--import", name, "inspect", own / "encoder", words=words)


def run_python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    given = [sys.executable, "-m", "offramp", *map(str, arguments)]
    search = os.pathsep.join([str(Path(offramp.__file__).parents[1]), *environment.values()])
    return subprocess.run(given, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": search})


def test_python_runs_the_package(own: Lab) -> None:
    done = run_python("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{offramp.__version__}\n", "")
    done = run_python("inspect", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("offramp: nowhere is neither")


def test_an_installed_package_is_found(own: Lab, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "own_package-1.0.dist-info").mkdir(parents=True)
    (site / "own_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n"
    )
    (site / "own_package-1.0.dist-info" / "entry_points.txt").write_text(
        "[offramp.encoders]\nown-net = own_package:Own\n"
    )
    (site / "own_package.py").write_text(PACKAGE)
    done = run_python("inspect", own / "encoder", "--json", SITE=str(site))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["params"] > 0
    shutil.rmtree(site)
    assert "holds a 'own-net'" in run_python("inspect", own / "encoder").stderr
