"""Configurations that are not to be built: one line, before anything is allocated."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_models import MODELS, save
from tiny import CONFIG, tiny_encoder
from torch import Tensor, nn

from offramp.encoders.base import StagedEncoder, State
from offramp.encoders.building import check_arguments, random_encoder
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM, LWM11
from offramp.encoders.registry import list_encoders, load_encoder
from offramp.encoders.wavesfm import WavesFM
from offramp.errors import EncoderError


def memory() -> int:
    """Peak so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path) -> str:
    """The line that a folder is refused with; it takes no memory to speak of."""
    before = memory()
    with pytest.raises(EncoderError) as caught:
        load_encoder(folder)
    assert memory() - before < 200
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every architecture, and one that the Transformers library wrote."""
    made = tmp_path_factory.mktemp("folders")
    for name in set(list_encoders()) - {"huggingface"}:
        load_encoder(name, weights="random").save(made / name)
    save(MODELS["vit"](), made / "vit")
    load_encoder(made / "vit").save(made / "huggingface")
    return made


@pytest.fixture
def folder(folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of them, to spoil."""

    def copy(name: str) -> Path:
        for path in (folders / name).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return copy


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("iq-resnet", {"repeats": [2, 2]}, "channels for stem, mixing and 3 stages, and repeats for 2"),
        ("iq-resnet", {"channels": [24, 32, 64, float("-inf"), 160]}, "-Infinity is no number"),
        ("iq-resnet", {"channels": [24, 32, 64, 96.5, 160]}, "channels: 3: input should be a valid integer"),
        ("iq-resnet", {"channels": "abcde"}, r"channels: input should be a valid array \(given: 'abcde'\)"),
        ("iq-resnet", {"channels": [24, 32, 64, 96, "160"]}, "channels: 4: input should be a valid integer"),
        ("iq-resnet", {"channels": [65536] * 5}, r"stages.0.0.weight is \(24, 2, 1, 7\) instead of \(65536, "),
        ("iq-resnet", {"channels": [10**12] * 5}, "channels: 0: input should be less than or equal to 65536"),
        ("iq-resnet", {"repeats": [1024] * 3}, "asks for more than [0-9,]+ tensors, and there are 102"),
        ("iq-resnet", {"channels": [8] * 9002, "repeats": [1] * 9000}, "asks for more than"),
        ("iq-shufflenet", {"channels": [24, 47, 96, 192, 1024]}, "47 is odd"),
        ("iq-shufflenet", {"channels": []}, "and repeats for 3"),
        ("lwm", {"heads": 65}, "width=64, heads=65"),
        ("lwm", {"layers": 0}, "layers: input should be greater than or equal to 1"),
        ("lwm", {"layers": True}, "layers: input should be a valid integer"),
        ("lwm", {"width": None}, "width: input should be a valid integer"),
        ("lwm-1.1", {"positions": 10**9}, "positions: input should be less than or equal to 65536"),
        ("lwm-1.1", {"positions": 1}, "positions: input should be greater"),
        ("wavesfm", {"width": "128"}, "width: input should be a valid integer"),
        ("wavesfm", {"width": 16384, "heads": 4}, r"cls_token is \(1, 1, 128\) instead of \(1, 1, 16384\)"),
        ("wavesfm", {"modality": "csi"}, "modality: input should be 'iq' or 'vision'"),
        ("wavesfm", {"depth": 1024}, "asks for more than"),
        ("wavesfm", {"film": True}, "film_scale is missing"),
        ("channel-transformer", {"heads": 5}, "width=144, heads=5"),
        ("channel-transformer", {"depth": 10**9}, "depth: input should be less than or equal to 1024"),
        ("huggingface", {"model_type": ["vit"]}, "model_type: input should be a valid string"),
        ("huggingface", {"config": 3}, "config: input should be an object"),
        ("huggingface", {"pooling": "max"}, "pooling: input should be 'cls' or 'mean'"),
        ("huggingface", {"surprise": 1}, "unexpected keyword argument 'surprise'"),
    ],
)
def test_arguments_that_do_not_fit(folder: Callable[[str], Path], name: str, arguments: Any, message: str) -> None:
    spoilt = folder(name)
    change(spoilt, lambda config: config["config"].update(arguments))
    assert re.search(message, refused(spoilt))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 10**6}, r"takes \(N, 1000000, 8, 12\): more than 67,108,864 values"),
        ({"hidden_size": 10**6}, "asks for [0-9,]+ values, and there are"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is more than 1024"),
        ({"num_hidden_layers": 1000}, "asks for more than [0-9,]+ tensors"),
        ({"image_size": 10**6}, "more than 67,108,864 values"),
        ({"hidden_size": "wide"}, "vit cannot be built"),
        ({"hidden_size": 10**18}, "cannot be built"),
        ({"patch_size": 0}, "cannot be built"),
    ],
)
@pytest.mark.parametrize("name", ["vit", "huggingface"])
def test_sizes_of_foreign_models(
    folder: Callable[[str], Path], name: str, changes: dict[str, Any], message: str
) -> None:
    spoilt = folder(name)
    change(spoilt, lambda config: (config if name == "vit" else config["config"]["config"]).update(changes))
    in_detail = name == "huggingface" and "values, and there" in message
    assert re.search("instead of" if in_detail else message, refused(spoilt))


@pytest.mark.parametrize("name", ["iq-resnet", "vit"])
def test_random_weights_for_a_folder_are_of_its_sizes(folder: Callable[[str], Path], name: str) -> None:
    assert load_encoder(folder(name), weights="random", seed=1).exits == load_encoder(folder(name)).exits


def test_what_a_checkpoint_asks_for_is_compared_before_it_is_built(tmp_path: Path) -> None:
    encoder = load_encoder("lwm-1.1", weights="random", layers=1, width=16, hidden=16)
    names = {"stages.0.": "embedding.", "stages.1.": "layers.0.", "masked_patch_head.decoder.bias": "decoder_bias"}
    published = {}
    for name, tensor in encoder.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        published[name.removeprefix("masked_patch_head.").replace(".fc", ".pos_ffn.fc")] = tensor
    torch.save(published, tmp_path / "c.pth")
    again = load_encoder("lwm-1.1", checkpoint=tmp_path / "c.pth")
    assert again.config == encoder.config
    published["embedding.proj.weight"] = torch.zeros(16384, 32)  # the width is read from it
    torch.save(published, tmp_path / "c.pth")
    before = memory()
    with pytest.raises(EncoderError, match=r"c\.pth does not fit lwm-1\.1: .* instead of \(.*16384"):
        load_encoder("lwm-1.1", checkpoint=tmp_path / "c.pth")
    assert memory() - before < 200


@pytest.mark.parametrize("architecture", [IQResNet, IQShuffleNet, LWM, LWM11, WavesFM])
def test_defaults_and_none_fit(architecture: type[StagedEncoder]) -> None:
    encoder = random_encoder(architecture, {}, seed=0)
    check_arguments(architecture, encoder.config, "what")


class Foreign(StagedEncoder):
    """Its annotations are not ours to judge where they are no types of JSON."""

    architecture = "foreign"

    def __init__(self, widths: tuple[int, ...] = (4,), scale: float = 1.0, norm: nn.Module | None = None) -> None:
        super().__init__()
        if scale < 0:
            raise ZeroDivisionError("below\nzero")
        self.config = {"widths": list(widths), "scale": scale}

    def begin(self, x: Tensor) -> State:
        return (x,)

    def advance(self, stage: int, state: State) -> State:
        return state

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        return state[0]


def test_constructors_of_others() -> None:
    assert random_encoder(Foreign, {"widths": [1, 2], "scale": 3}, 0).config == {"widths": [1, 2], "scale": 3}
    random_encoder(Foreign, {"norm": nn.Identity()}, 0)
    with pytest.raises(EncoderError, match=r"^foreign cannot be built: widths: 1: input should be a valid integer"):
        random_encoder(Foreign, {"widths": [1, "2"]}, 0)
    with pytest.raises(EncoderError, match=r"^here: foreign cannot be built: ZeroDivisionError below$"):
        random_encoder(Foreign, {"scale": -1}, 0, "here")


def test_the_tiny_encoder_is_still_a_function_of_its_seed() -> None:
    assert random_encoder(IQShuffleNet, CONFIG, 3).fingerprint() == tiny_encoder(3).fingerprint()
