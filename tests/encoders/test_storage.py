"""Encoder folders and foreign checkpoints: what goes in comes out, and a bad file is one line and runs nothing."""

from __future__ import annotations

import json
import os
import pickle
import random
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import CONFIG, tiny_encoder

from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import fill, read_config, read_tensors, save_encoder
from offramp.errors import EncoderError


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in tiny_encoder(1).state_dict().items()}


def refused(path: Path) -> str:
    with pytest.raises(EncoderError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_folder_gives_back_the_encoder(tmp_path: Path) -> None:
    encoder = tiny_encoder(5)
    encoder.stages[0][1].running_mean.normal_()  # type: ignore[index, union-attr]
    save_encoder(encoder, tmp_path / "e", {"data": "simulated"})
    loaded = load_encoder(tmp_path / "e")
    assert loaded.fingerprint() == encoder.fingerprint()
    assert loaded.exits == encoder.exits
    config = read_config(tmp_path / "e")
    assert config["config"] == CONFIG
    assert config["sha256"] == encoder.fingerprint()
    assert config["provenance"] == {"data": "simulated"}
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["config.json", "model.safetensors"]


def test_an_encoder_saves_itself(tmp_path: Path) -> None:
    encoder = tiny_encoder(5)
    encoder.save(str(tmp_path / "a" / "e"), {"data": "simulated"})
    save_encoder(encoder, tmp_path / "b", {"data": "simulated"})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / "e" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_stages_that_share_tensors_are_saved(tmp_path: Path) -> None:
    encoder = tiny_encoder(5)
    encoder.stages[2] = encoder.stages[1] = encoder.stages[2]
    encoder.save(tmp_path)
    read = read_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in encoder.state_dict().items())


def test_saving_again_replaces_the_old_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_encoder(tiny_encoder(seed), tmp_path)
    assert load_encoder(tmp_path).fingerprint() == tiny_encoder(2).fingerprint()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pytorch_checkpoint_is_read_and_unwrapped(
    tmp_path: Path, tensors: dict[str, torch.Tensor], wrapped: bool
) -> None:
    path = tmp_path / "c.pth"
    torch.save({"model": tensors, "epoch": 3} if wrapped else tensors, path)
    read = read_tensors(path)
    assert list(read) == list(tensors)
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


class Hostile:
    """Makes a file when it is unpickled freely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("format", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, format: str, wrapped: bool) -> None:
    path, mark = tmp_path / "hostile.pth", tmp_path / "mark"
    content: object = {"model": {"a": torch.zeros(2), "b": Hostile(mark)}} if wrapped else Hostile(mark)
    if format == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=format == "zip")
    assert "could run code, and was not loaded" in refused(path)
    assert "could run code" in _load_error("iq-shufflenet", path)
    assert not mark.exists()
    with suppress(RuntimeError):  # a bare pickle is no checkpoint, but torch finds out too late
        torch.load(path, weights_only=False)
    assert mark.exists(), "the test's pickle is not hostile"


def _load_error(name: str, path: Path) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name, checkpoint=path)
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"Not a checkpoint.\n", b"hello, world", b"\x80\x02", b"\x80\x02}.", bytes(500)]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_truncated_file_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], kind: str, kept: float) -> None:
    path = tmp_path / ("t.safetensors" if kind == "safetensors" else "t.pth")
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_flipped_bytes_are_refused_or_read_but_never_crash(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("f.safetensors" if kind == "safetensors" else "f.pth")
    if kind == "safetensors":
        save_file({"a": torch.zeros(3)}, path)
    else:
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=kind == "zip")
    content, rng = path.read_bytes(), random.Random(0)
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
            outcomes.add("read")
        except EncoderError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("content", [[1, 2], {"a": torch.zeros(2), "epoch": 3}, {"model": 3}, torch.zeros(2)])
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "c.pt"
    torch.save(content, path)
    assert "is not a state dict: expected names with tensors" in refused(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such checkpoint" in refused(tmp_path / "absent.pth")
    assert "no such checkpoint" in refused(tmp_path)


def test_weights_that_do_not_fit_are_listed_up_to_three(tensors: dict[str, torch.Tensor]) -> None:
    encoder = tiny_encoder()
    before = encoder.fingerprint()
    names = list(tensors)
    wrong = dict(tensors)
    del wrong[names[0]], wrong[names[2]]
    wrong["extra"] = torch.zeros(1)
    wrong[names[6]] = torch.zeros(7)
    with pytest.raises(EncoderError) as caught:
        fill(encoder, wrong, "c.pth")
    assert str(caught.value) == (
        f"c.pth does not fit iq-shufflenet: {names[0]} is missing; {names[2]} is missing; extra is unknown and 1 more"
    )
    with pytest.raises(EncoderError, match=rf"{names[6]} is \(7,\) instead of \("):
        fill(encoder, tensors | {names[6]: torch.zeros(7)}, "c.pth")
    assert encoder.fingerprint() == before


def test_a_checkpoint_of_another_architecture_names_the_first_three_keys(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    torch.save({"conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}, tmp_path / "resnet.pth")
    message = _load_error("iq-shufflenet", tmp_path / "resnet.pth")
    first = list(load_encoder("iq-shufflenet", weights="random").state_dict())[:3]
    assert "resnet.pth does not fit iq-shufflenet" in message
    assert all(f"{name} is missing" in message for name in first)
    assert message.count("missing") == 3
    torch.save(tensors, tmp_path / "iq.pth")
    assert "not an LWM 1.0 checkpoint: it lacks embedding.proj.weight, " in _load_error("lwm", tmp_path / "iq.pth")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"architecture": "lwm"}', '{"architecture": "lwm", "config": 3}'])
def test_a_broken_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(EncoderError, match="is not an encoder's configuration: it needs 'architecture' and 'config'"):
        read_config(tmp_path)


def test_a_folder_of_something_else_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"is not an encoder folder: it has no config\.json"):
        load_encoder(tmp_path)


def test_constructor_arguments_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    save_encoder(tiny_encoder(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["depth"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=r"iq-shufflenet cannot be built: .*'depth'"):
        load_encoder(tmp_path)
