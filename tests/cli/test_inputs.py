"""What no command reads: pipes and devices in place of any input, files that lead elsewhere, sizes that nothing can hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from laboratory import Call, Lab, arrays, task

Refused = Callable[..., str]


@pytest.fixture(params=["FIFO", "device"])
def endless(request: pytest.FixtureRequest) -> Callable[[Path], Path]:
    """Put what has no end in the place of a file."""

    def put(path: Path) -> Path:
        path.unlink(missing_ok=True)
        if request.param == "FIFO":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        return path

    return put


@pytest.mark.parametrize("name", ["x", "x.h5", "x.npz", "x.pkl", "x.mat", "x.sigmf-meta", "x.sigmf", "x.json", "x.dat"])
def test_data(lab: Lab, finished: Path, refused: Refused, endless: Callable[[Path], Path], name: str) -> None:
    path = endless(lab / name)
    for command in (
        ("inspect", path),
        ("data", "convert", path, "--out", lab / "out.h5"),
        ("predict", finished / "bundle", path, "--task", "los"),
    ):
        refused(*command, words=[name, "not a regular file"])
    assert not (lab / "out.h5").exists()


def test_suites(lab: Lab, refused: Refused, endless: Callable[[Path], Path]) -> None:
    suite = lab.suite(task(split={"file": "split.json"}))
    endless(lab / "split.json")
    refused("run", suite, "--out", lab / "out", words=["split.json", "not a regular file"])
    endless(suite)
    refused("run", suite, "--out", lab / "out", words=["suite.yaml", "not a regular file"])
    refused("train", suite, "--task", "los", "--out", lab / "out", words=["suite.yaml", "not a regular file"])


@pytest.mark.parametrize(
    "name", ["config.json", "heads.safetensors", "encoder/config.json", "encoder/model.safetensors"]
)
def test_bundles(lab: Lab, finished: Path, refused: Refused, endless: Callable[[Path], Path], name: str) -> None:
    shutil.copytree(finished / "bundle", lab / "bundle")
    endless(lab / "bundle" / name)
    refused("predict", lab / "bundle", lab / "data.h5", "--task", "los", words=[name, "not a regular file"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_encoder_folders(lab: Lab, refused: Refused, endless: Callable[[Path], Path], name: str) -> None:
    endless(lab / "encoder" / name)
    refused("inspect", lab / "encoder", words=[name, "not a regular file"])
    refused("run", lab.suite(), "--out", lab / "out", words=[name, "not a regular file"])


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_checkpoints(lab: Lab, refused: Refused, endless: Callable[[Path], Path], name: str) -> None:
    refused("inspect", "lwm", "--checkpoint", endless(lab / name), words=[name, "not a regular file"])


def test_results(lab: Lab, refused: Refused, endless: Callable[[Path], Path]) -> None:
    (lab / "run").mkdir()
    path = endless(lab / "run" / "results.json")
    for given in (path, lab / "run"):
        refused("report", given, "--out", lab / "o.html", words=["results.json", "not a regular file"])
    assert not (lab / "o.html").exists()


def test_files_that_lead_elsewhere(lab: Lab, finished: Path, call: Call, refused: Refused) -> None:
    """Refused everywhere, with the option that the command has; with it, read."""
    windows = arrays()["sample"]
    (lab / "in").mkdir()
    layout = h5py.VirtualLayout(windows.shape, "f4")
    layout[:] = h5py.VirtualSource("../data.h5", "sample", windows.shape)
    with h5py.File(lab / "in" / "a.h5", "w") as file:
        file.create_virtual_dataset("sample", layout)
        for name in ("los", "city"):
            file[name] = h5py.SoftLink("/sample") if name == "city" else np.arange(len(windows)) % 2
    path = lab / "in" / "a.h5"
    predict = ("predict", finished / "bundle", path, "--task", "los")
    convert = ("data", "convert", path, "--out", lab / "out.h5")
    for command, advice in (
        (predict, "set --allow-outside"),
        (convert, "set --allow-outside"),
        (("inspect", path), "data.allow_outside in a suite"),
        (
            ("run", lab.suite(task(data={"path": "in/a.h5", "group": None})), "--out", lab / "out"),
            "data.allow_outside: true",
        ),
    ):
        refused(*command, words=["data.h5, which is outside of its folder", advice])
    expected = call("predict", finished / "bundle", lab / "data.h5", "--task", "los")
    assert call(*predict, "--allow-outside")[:2] == expected[:2]
    assert call(*convert, "--allow-outside")[0] == 0
    with h5py.File(lab / "out.h5") as file:
        np.testing.assert_array_equal(file["sample"][()], windows)
    allowed = lab.suite(task(data={"path": "in/a.h5", "group": None, "allow_outside": True}, split={"test": 0.5}))
    assert call("run", allowed, "--out", lab / "out", "--dry-run")[0] == 0


@pytest.mark.parametrize("option", ["--window", "--hop"])
@pytest.mark.parametrize("number", [10**15, 10**30])
def test_windows_that_no_memory_holds(lab: Lab, refused: Refused, option: str, number: int) -> None:
    line = refused("data", "convert", lab / "data.h5", "--out", lab / "out.h5", option, number)
    assert option in line


def test_names_that_are_too_long(lab: Lab, finished: Path, refused: Refused) -> None:
    name = "a" * 5000
    for command in (
        ("inspect", name),
        ("data", "convert", name, "--out", lab / "out.h5"),
        ("predict", finished / "bundle", name, "--task", "los"),
        ("predict", name, lab / "data.h5"),
        ("run", name, "--out", lab / "out"),
        ("report", name, "--out", lab / "o.html"),
        ("inspect", "lwm", "--checkpoint", name),
    ):
        assert len(refused(*command)) < 520
