"""Encoders by name: which there are, and how to get one with its weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from offramp.encoders import hub, storage
from offramp.encoders.base import StagedEncoder, seeded
from offramp.encoders.channel_transformer import ChannelTransformer
from offramp.encoders.huggingface import HuggingFace
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM, LWM11
from offramp.encoders.wavesfm import WavesFM
from offramp.errors import EncoderError

_ARCHITECTURES: dict[str, type[StagedEncoder]] = {}


def register_encoder(encoder: type[StagedEncoder]) -> type[StagedEncoder]:
    """Make an architecture loadable by its ``architecture`` name. Usable as a class decorator."""
    _ARCHITECTURES[encoder.architecture] = encoder
    return encoder


register_encoder(ChannelTransformer)
register_encoder(HuggingFace)
register_encoder(LWM)
register_encoder(LWM11)
register_encoder(WavesFM)
register_encoder(IQShuffleNet)
register_encoder(IQResNet)


def list_encoders() -> list[str]:
    """Names of the registered architectures."""
    return sorted(_ARCHITECTURES)


def known_names() -> list[str]:
    """What :func:`load_encoder` takes as a name: registered architectures, and encoders that ship with the package."""
    folder = _packaged_folder()
    shipped = (
        {entry.name for entry in folder.iterdir() if (entry / storage.CONFIG).is_file()} if folder.is_dir() else set()
    )
    return sorted(shipped | set(_ARCHITECTURES))


def packaged_weights(name: str) -> Path | None:
    """The encoder folder of this name that ships with the package, if there is one."""
    folder = _packaged_folder() / name
    return folder if Path(name).name == name and (folder / storage.CONFIG).is_file() else None


def _packaged_folder() -> Path:
    return Path(str(files("offramp"))) / "suites" / "weights"


def load_encoder(
    name: str | Path,
    *,
    checkpoint: str | Path | None = None,
    weights: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
    device: str = "cpu",
    **config: Any,
) -> StagedEncoder:
    """Get an encoder.

    Args:
        name: A registered architecture (see :func:`list_encoders`), an encoder that ships with the package (see
            :func:`known_names`), an encoder folder, or where one is: ``hf-hub:org/name`` (see :mod:`offramp.encoders.hub`),
            ``local-dir:PATH``. A folder may also be one that the Transformers library wrote.
        checkpoint: A foreign checkpoint for a registered architecture, ``.safetensors`` or PyTorch.
        weights: ``"pretrained"``, or ``"random"`` for the architecture's own initialisation from ``seed``.
        seed: Seed of random weights.
        device: Where to put it, e.g. ``"cpu"`` or ``"cuda"``.
        **config: Constructor arguments of the architecture, for random weights; or what its checkpoints leave open, such as
            ``modality=`` of ``wavesfm``.

    Raises:
        EncoderError: Unknown name, missing or unfit weights.
    """
    if weights not in ("pretrained", "random"):
        raise EncoderError(f"weights={weights!r}: choose 'pretrained' or 'random'")
    if config and weights != "random":
        _check_options(str(name), checkpoint, config)
    if hub.is_source(str(name)) and checkpoint is None:
        folder = hub.source_folder(str(name))
    else:
        folder = packaged_weights(str(name)) or Path(name)
    if str(name) in _ARCHITECTURES:
        architecture = _ARCHITECTURES[str(name)]
        if weights == "random":
            return random_encoder(architecture, config, seed).to(_usable(device))
        if checkpoint is not None:
            stored_tensors = storage.read_tensors(Path(checkpoint))
            architecture = architecture.for_checkpoint(stored_tensors)
            converted, tensors = architecture.convert_checkpoint(stored_tensors, **config)
            return _filled(architecture, converted, tensors, str(checkpoint)).to(_usable(device))
        if packaged_weights(str(name)) is None:
            twins = [twin for twin in known_names() if twin.startswith(f"{name}-") and twin not in _ARCHITECTURES]
            also = f" (of our own there are {', '.join(twins)})" if twins else ""
            raise EncoderError(
                f"no weights of {name!r} ship with offramp{also}: give checkpoint=PATH, or weights='random'"
            )
    elif checkpoint is not None or not folder.is_dir():
        raise EncoderError(
            f"unknown encoder {str(name)!r}: give an encoder folder or one of {', '.join(known_names())}"
        )
    stored = storage.read_config(folder)
    if "model_type" in stored:
        if weights == "random":
            return random_encoder(HuggingFace, HuggingFace.read_config(stored) | config, seed).to(_usable(device))
        return HuggingFace.from_folder(folder, stored).to(_usable(device))
    if stored["architecture"] not in _ARCHITECTURES:
        raise EncoderError(f"{folder} holds a {stored['architecture']!r}: known are {', '.join(list_encoders())}")
    architecture = _ARCHITECTURES[stored["architecture"]]
    if weights == "random":
        return random_encoder(architecture, stored["config"] | config, seed).to(_usable(device))
    tensors = storage.read_tensors(folder / storage.WEIGHTS)
    return _filled(architecture, stored["config"], tensors, str(folder)).to(_usable(device))


def random_encoder(architecture: type[StagedEncoder], config: dict[str, Any], seed: int) -> StagedEncoder:
    """An encoder with its architecture's own random initialisation; the global random state is left as it was."""
    with seeded(seed):
        try:
            return architecture(**config)
        except TypeError as error:
            raise EncoderError(f"{architecture.architecture} cannot be built: {error}") from None


def checkpoint_options(name: str) -> tuple[str, ...]:
    """What :func:`load_encoder` takes beside a checkpoint of this architecture; nothing for an unknown one."""
    return _ARCHITECTURES[name].checkpoint_options if name in _ARCHITECTURES else ()


def _check_options(name: str, checkpoint: str | Path | None, options: dict[str, Any]) -> None:
    known = checkpoint_options(name) if checkpoint is not None else ()
    unknown = [option for option in options if option not in known]
    if unknown:
        also = f"; with a checkpoint {name} takes {', '.join(known)}" if known else ""
        raise EncoderError(
            f"{', '.join(unknown)}: constructor arguments are for weights='random', others bring their own{also}"
        )


def _filled(architecture: type[StagedEncoder], config: dict[str, Any], tensors: Any, source: str) -> StagedEncoder:
    encoder = random_encoder(architecture, config, seed=0)
    storage.fill(encoder, tensors, source)
    return encoder


def _usable(device: str) -> torch.device:
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, ImportError):
        raise EncoderError(f"device {device!r} cannot be used here: try --device cpu") from None
    return wanted
