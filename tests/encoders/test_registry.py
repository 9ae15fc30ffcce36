"""Encoders by name: random weights that are a function of the seed alone, and one clear line for every wrong request."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest
import torch
from tiny import CONFIG, tiny_encoder

import offramp.encoders
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

PATH = offramp.encoders.__path__


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


class TestInstalledPackages:
    """Entry points of the group ``offramp.encoders``, in packages made up on the search path."""

    MODULE = """
from offramp.encoders.iq_shufflenet import IQShuffleNet
class Theirs(IQShuffleNet):
    architecture = "their-net"
class Shadow(IQShuffleNet):
    architecture = "lwm"
FUNCTION = print
"""

    @pytest.fixture
    def install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        (tmp_path / "their_package.py").write_text(self.MODULE)
        monkeypatch.syspath_prepend(tmp_path)

        def write(package: str, **points: str) -> None:
            folder = tmp_path / f"{package}-1.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
            lines = [f"{name} = {value}" for name, value in points.items()]
            (folder / "entry_points.txt").write_text("\n".join(["[offramp.encoders]", *lines]))

        yield write
        sys.modules.pop("their_package", None)

    def test_their_encoders_have_names(self, install: Callable[..., None], tmp_path: Path) -> None:
        assert "their-net" not in list_encoders()
        install("theirs", **{"their-net": "their_package:Theirs", "lwm": "their_package:Shadow"})
        assert "their-net" in list_encoders()
        assert "their-net" in known_names()
        assert "their_package" not in sys.modules  # a name costs no import
        encoder = load_encoder("their-net", weights="random", **CONFIG)
        encoder.save(tmp_path / "saved")
        assert load_encoder(tmp_path / "saved").fingerprint() == encoder.fingerprint()
        assert type(load_encoder("lwm", weights="random")).__name__ == "LWM"  # names of ours stay ours

    @pytest.mark.parametrize(
        ("point", "message"),
        [
            ("no_such_module:Net", "cannot be imported: ModuleNotFoundError .*; correct or uninstall the package"),
            ("their_package:Missing", "cannot be imported: AttributeError"),
            ("their_package:FUNCTION", "is no class derived from offramp.StagedEncoder"),
            ("their_package:Theirs", "has the architecture name 'their-net'"),
        ],
    )
    def test_one_that_cannot_be_used_is_one_line(self, install: Callable[..., None], point: str, message: str) -> None:
        install("theirs", broken=point)
        assert "broken" in list_encoders()
        load_encoder("iq-shufflenet", weights="random", **CONFIG)  # the others are not touched by it
        with pytest.raises(EncoderError, match=f"^encoder 'broken' of an installed package .*{message}") as caught:
            load_encoder("broken", weights="random")
        assert "\n" not in str(caught.value)

    def test_a_name_that_two_packages_give_is_nobodys(self, install: Callable[..., None]) -> None:
        install("theirs", **{"their-net": "their_package:Theirs"})
        install("others", **{"their-net": "other_package:Net"})
        with pytest.raises(
            EncoderError, match=r"several installed packages have an encoder 'their-net' \(.*other_package"
        ):
            load_encoder("their-net", weights="random")


class TestFoldersOfTheSameName:
    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("name", ["lwm", "iq-resnet", "iq-resnet-exit-aware", "mine"])
    def test_an_encoder_folder_comes_before_the_name(self, name: str) -> None:
        save_encoder(tiny_encoder(), Path(name))
        assert load_encoder(name).fingerprint() == tiny_encoder().fingerprint()
        assert load_encoder(name, weights="random", seed=4).fingerprint() == tiny_encoder(4).fingerprint()

    def test_another_folder_does_not(self) -> None:
        Path("iq-resnet").mkdir()
        assert load_encoder("iq-resnet").architecture == "iq-resnet"
        Path("iq-resnet/config.json").write_text('{"tasks": {}}')  # a bundle
        assert load_encoder("iq-resnet").architecture == "iq-resnet"
        assert type(load_encoder("lwm", weights="random")).__name__ == "LWM"
        Path("mine").mkdir()
        with pytest.raises(EncoderError, match="mine is not an encoder folder"):
            load_encoder("mine")

    def test_one_that_cannot_be_read_is_not_passed_over(self) -> None:
        Path("iq-resnet").mkdir()
        Path("iq-resnet/config.json").write_text('{"architecture": "iq-resnet", "con')
        with pytest.raises(EncoderError, match=r"iq-resnet/config\.json is not JSON"):
            load_encoder("iq-resnet")
        Path("iq-resnet/config.json").unlink()
        os.mkfifo("iq-resnet/config.json")
        with pytest.raises(EncoderError, match=r"iq-resnet/config\.json is a FIFO"):
            load_encoder("iq-resnet")

    def test_a_checkpoint_is_for_the_architecture(self) -> None:
        save_encoder(tiny_encoder(), Path("iq-shufflenet"))
        with pytest.raises(EncoderError, match=r"model\.safetensors does not fit iq-shufflenet"):
            load_encoder("iq-shufflenet", checkpoint="iq-shufflenet/model.safetensors")

    def test_where_names_are_looked_up_can_be_said(self, tmp_path: Path) -> None:
        save_encoder(tiny_encoder(), tmp_path / "below" / "iq-resnet")
        assert load_encoder("iq-resnet").config != CONFIG
        assert load_encoder("iq-resnet", within="below").config == CONFIG
        assert load_encoder(tmp_path / "below" / "iq-resnet", within="nowhere").config == CONFIG


def test_every_architecture_lies_in_a_module_of_its_own() -> None:
    named = {module: importlib.import_module(f"offramp.encoders.{module}") for _, module, _ in iter_modules(PATH)}
    offered = {kind.architecture for module in named.values() for kind in getattr(module, "ARCHITECTURES", ())}
    ours = {"iq-resnet", "iq-resnet-small", "iq-resnet-base", "iq-shufflenet", "channel-transformer"}
    assert offered == ours | {"amc-ssl", "huggingface", "lwm", "lwm-1.1", "wavesfm"}
    assert offered <= set(list_encoders())


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "..", "/", "~"])
def test_names_that_are_none(name: str) -> None:
    for options in ({}, {"weights": "random"}, {"checkpoint": "absent.pth"}, {"checkpoint": name}):
        with pytest.raises(EncoderError):
            load_encoder(name, **options)


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


@pytest.mark.parametrize("device", ["cuda:99", "mps", "hpu", "gpu", "meta", ""])
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
