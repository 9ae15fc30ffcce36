"""What ``offramp inspect`` finds behind a name or a path."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from bundles import small_lwm
from rich.console import Console
from tiny import noise, tiny_encoder, write_hdf5

from offramp import costs
from offramp.cli.inspection import BundleInspection, EncoderInspection, FileInspection, Inspection, inspect_target
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import save_encoder
from offramp.errors import EncoderError, OfframpError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = costs.Latency(p50=1, p95=2, p99=3)
    monkeypatch.setattr(costs, "exit_latencies", lambda encoder, *_: {exit.name: latency for exit in encoder.exits})


def shown(inspection: Inspection, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(inspection.table())
    return stream.getvalue()


def test_encoder_folder(tmp_path: Path):
    save_encoder(tiny_encoder(), tmp_path / "mine")
    found = inspect_target(str(tmp_path / "mine"), shape="2,1,64")
    assert isinstance(found, EncoderInspection)
    content = json.loads(json.dumps(found.to_dict()))
    assert content["kind"] == "encoder"
    assert content["sha256"] == tiny_encoder().fingerprint()
    expected = costs.exit_costs(tiny_encoder(), (2, 1, 64), measure=False)
    assert {exit["name"]: exit["macs"] for exit in content["exits"]} == {n: c.macs for n, c in expected.items()}
    text = shown(found)
    assert "takes (N, 2, antennas >= 1, time >= 64); costs at (2, 1, 64)" in " ".join(text.split())
    assert "0.0%" in text


def test_the_folder_of_a_run_names_its_bundle(tmp_path: Path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "config.json").write_text("{}")
    with pytest.raises(OfframpError, match=r"is not a bundle: it has no config.json; give .*/bundle$"):
        inspect_target(str(tmp_path))


def test_registered_names_without_weights(monkeypatch: pytest.MonkeyPatch):
    found = inspect_target("lwm")
    assert isinstance(found, EncoderInspection)
    assert found.name == "lwm (random weights)"
    assert found.sha256 == load_encoder("lwm", weights="random").fingerprint()
    assert found.input_shape == (2, 32, 32)


def test_a_path_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    save_encoder(small_lwm(), tmp_path / "iq-shufflenet")
    found = inspect_target("./iq-shufflenet")
    assert isinstance(found, EncoderInspection)
    assert found.input_shape == (2, 32, 32)
    write_hdf5(tmp_path / "lwm.h5", sample=noise(3))
    assert isinstance(inspect_target("lwm.h5"), FileInspection)


def test_bundle(iq_folder: Path):
    found = inspect_target(str(iq_folder))
    assert isinstance(found, BundleInspection)
    tasks = {task["name"]: task for task in json.loads(json.dumps(found.to_dict()))["tasks"]}
    assert tasks["modulation"]["labels"] == ["bpsk", "qpsk", "noise"]
    assert tasks["device"]["transform"] == "standardize"
    text = shown(found, 80)
    assert "3 classes" in text
    assert "2 values" in text
    assert "…" not in text


def test_file(tmp_path: Path):
    cities = np.array([f"[red]city_{number}" for number in range(20)])
    path = write_hdf5(
        tmp_path / "d.h5",
        sample=noise(40),
        label=np.arange(40) % 2,
        city=np.repeat(cities, 2),
        level=np.linspace(-1, 1, 40),
        constant=np.full(40, 2.5),
        other=np.zeros((3, 5)),
    )
    found = inspect_target(str(path))
    assert found.to_dict()["kind"] == "data"
    text = shown(found)
    assert "hdf5, 40 windows of shape (2, 1, 64)" in text
    assert "0 (20), 1 (20)" in text
    assert "[red]city_0 (2)" in text
    assert "8 more" in " ".join(text.replace("│", " ").split())
    assert "-1 to 1" in text
    assert "│ 2.5 " in text
    assert "(3, 5)" in text
    path = write_hdf5(tmp_path / "e.h5", x=noise(1))
    assert "(1, 2, 1, 64)" in shown(inspect_target(str(path)))


def test_how_windows_are_read(tmp_path: Path):
    waves = noise(4, (3, 16)) + 1j * noise(4, (3, 16))
    text = shown(inspect_target(str(write_hdf5(tmp_path / "d.h5", sample=waves.astype(np.complex64)))))
    assert "sample is complex64 and read as I/Q (N, 2, 3, 16)" in text
    text = shown(inspect_target(str(write_hdf5(tmp_path / "e.h5", sample=waves[:, None]))))
    assert "windows are real (N, ...) or complex (N, antennas, time)" in " ".join(text.split())
    assert "complex" in text


def test_every_group_once(tmp_path: Path):
    path = write_hdf5(tmp_path / "d.h5", sample=noise(1), city=np.array(["rome"]))
    text = shown(inspect_target(str(path)))
    assert "1 window of shape" in text
    assert "rome (1)" not in text


def test_nothing_there(tmp_path: Path):
    with pytest.raises(OfframpError, match="nope is neither a file nor a folder"):
        inspect_target("nope")
    save_encoder(tiny_encoder(), tmp_path / "mine")
    for shape in ("", "2;1;64", "2,1,63", "2,64", "2,1,-64", "0,0,0"):
        with pytest.raises(EncoderError):
            inspect_target(str(tmp_path / "mine"), shape=shape)
    with pytest.raises(OfframpError, match="unknown encoder"):
        inspect_target(str(tmp_path / "mine"), checkpoint=tmp_path / "x.pth")


def test_a_folder_with_weights_says_what_is_wrong_with_its_configuration(tmp_path: Path):
    save_encoder(tiny_encoder(), tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text('{"architecture": ')
    with pytest.raises(OfframpError, match=r"mine/config\.json is not JSON"):
        inspect_target(str(tmp_path / "mine"))
