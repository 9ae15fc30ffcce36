"""Encoders by name: random weights that are a function of the seed alone, and one clear line for every wrong request."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CONFIG, tiny_encoder

from offramp.encoders import registry
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.registry import (
    checkpoint_options,
    known_names,
    list_encoders,
    load_encoder,
    packaged_weights,
    register_encoder,
)
from offramp.encoders.storage import save_encoder
from offramp.errors import EncoderError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_encoder(tiny_encoder(), tmp_path / "encoder")
    return tmp_path / "encoder"


def test_the_shipped_architectures_are_listed() -> None:
    assert {"iq-resnet", "iq-shufflenet", "lwm", "lwm-1.1", "wavesfm"} <= set(list_encoders())
    assert list_encoders() == sorted(list_encoders())


def test_a_registered_architecture_is_loadable_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))

    @register_encoder
    class Mine(IQShuffleNet):
        architecture = "mine"

    assert "mine" in list_encoders()
    assert type(load_encoder("mine", weights="random", **CONFIG)) is Mine
    with pytest.raises(
        EncoderError, match=r"no weights of 'mine' ship with offramp: give checkpoint=PATH, or weights='random'"
    ):
        load_encoder("mine")


def test_known_are_the_architectures_and_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"iq-resnet", *list_encoders()} <= set(known_names())
    save_encoder(tiny_encoder(), tmp_path / "tiny")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(registry, "PACKAGED", tmp_path)
    assert known_names() == sorted([*list_encoders(), "tiny"])
    assert load_encoder("tiny").fingerprint() == tiny_encoder().fingerprint()
    assert packaged_weights("tiny") == tmp_path / "tiny"
    assert (
        packaged_weights("empty") is packaged_weights(f"../{tmp_path.name}/tiny") is packaged_weights("absent") is None
    )
    monkeypatch.setattr(registry, "PACKAGED", tmp_path / "absent")
    assert known_names() == list_encoders()


def test_an_architecture_may_give_a_checkpoint_to_another_and_take_options_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))

    class Wide(IQShuffleNet):
        architecture = "family-2"

    @register_encoder
    class Family(IQShuffleNet):
        architecture = "family"
        checkpoint_options = ("channels", "repeats")

        @classmethod
        def for_checkpoint(cls, tensors: dict[str, torch.Tensor]) -> type[StagedEncoder]:
            return Wide if "stages.0.0.weight" in tensors else cls

    save_encoder(tiny_encoder(), tmp_path)
    path = tmp_path / "model.safetensors"
    assert type(load_encoder("family", checkpoint=path, **CONFIG)) is Wide
    assert checkpoint_options("family") == ("channels", "repeats")
    with pytest.raises(EncoderError, match=r"^depth: .*; with a checkpoint family takes channels, repeats$"):
        load_encoder("family", checkpoint=path, depth=1, **CONFIG)
    with pytest.raises(EncoderError, match=r"^channels, repeats: .*others bring their own$"):
        load_encoder("family", **CONFIG)


def test_options_of_checkpoints() -> None:
    assert checkpoint_options("wavesfm") == ("modality", "pool")
    assert checkpoint_options("lwm") == checkpoint_options("absent") == ()
    with pytest.raises(EncoderError, match=r"^modality: .*others bring their own$"):
        load_encoder("lwm", checkpoint="absent.pth", modality="iq")


def test_random_weights_are_a_function_of_the_seed() -> None:
    def fingerprint(seed: int) -> str:
        return load_encoder("iq-shufflenet", weights="random", seed=seed, **CONFIG).fingerprint()

    assert fingerprint(3) == fingerprint(3)
    assert fingerprint(3) != fingerprint(4)
    torch.manual_seed(99)
    assert fingerprint(3) == tiny_encoder(3).fingerprint()


def test_loading_leaves_the_global_random_state_alone(folder: Path) -> None:
    torch.manual_seed(5)
    before, before_numpy = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    load_encoder("iq-shufflenet", weights="random", **CONFIG)
    load_encoder(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before_numpy)


def test_a_folder_gives_its_architecture_with_random_weights_too(folder: Path) -> None:
    twin = load_encoder(folder, weights="random", seed=7)
    assert twin.config == CONFIG
    assert twin.fingerprint() == tiny_encoder(7).fingerprint()


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(EncoderError, match=r"unknown encoder 'iq-shuflenet': .*iq-resnet, .*iq-shufflenet, .*lwm"):
        load_encoder("iq-shuflenet")


def test_a_checkpoint_needs_a_registered_name(folder: Path) -> None:
    with pytest.raises(EncoderError, match="unknown encoder"):
        load_encoder(folder, checkpoint=folder / "model.safetensors")


def test_an_unknown_kind_of_weights_is_named() -> None:
    with pytest.raises(EncoderError, match="weights='imagenet': choose 'pretrained' or 'random'"):
        load_encoder("lwm", weights="imagenet")  # type: ignore[arg-type]


def test_an_unknown_constructor_argument_is_named() -> None:
    with pytest.raises(EncoderError, match=r"lwm cannot be built: .*'depth'"):
        load_encoder("lwm", weights="random", depth=3)


def test_constructor_arguments_do_not_vanish_silently(folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"repeats: .*weights='random'"):
        load_encoder(folder, repeats=[1, 1, 1])


@pytest.mark.parametrize("device", ["cuda:99", "mps", "hpu", "gpu", ""])
def test_a_device_that_is_not_there_is_named(folder: Path, device: str) -> None:
    with pytest.raises(EncoderError, match=f"device '{device}' cannot be used here: try --device cpu"):
        load_encoder(folder, device=device)


def test_a_folder_of_an_unknown_architecture_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "resnet"}))
    with pytest.raises(EncoderError, match=r"holds a 'resnet': known are .*lwm"):
        load_encoder(folder)


def test_a_folder_without_its_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"no such checkpoint: .*model\.safetensors"):
        load_encoder(folder)
