"""Encoders by name: which there are, and how to get one with its weights."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from offramp.encoders import storage
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM
from offramp.errors import EncoderError

_ARCHITECTURES: dict[str, type[StagedEncoder]] = {}


def register_encoder(encoder: type[StagedEncoder]) -> type[StagedEncoder]:
    """Make an architecture loadable by its ``architecture`` name. Usable as a class decorator."""
    _ARCHITECTURES[encoder.architecture] = encoder
    return encoder


register_encoder(LWM)
register_encoder(IQShuffleNet)
register_encoder(IQResNet)


def list_encoders() -> list[str]:
    """Names of the registered architectures."""
    return sorted(_ARCHITECTURES)


def packaged_weights(name: str) -> Path | None:
    """The encoder folder that ships with the package for a registered name, if there is one."""
    folder = Path(str(files("offramp"))) / "suites" / "weights" / name
    return folder if (folder / storage.CONFIG).is_file() else None


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
        name: A registered architecture (see :func:`list_encoders`) or an encoder folder.
        checkpoint: A foreign checkpoint for a registered architecture, ``.safetensors`` or PyTorch.
        weights: ``"pretrained"``, or ``"random"`` for the architecture's own initialisation from ``seed``.
        seed: Seed of random weights.
        device: Where to put it, e.g. ``"cpu"`` or ``"cuda"``.
        **config: Constructor arguments of the architecture, for random weights.

    Raises:
        EncoderError: Unknown name, missing or unfit weights.
    """
    if weights not in ("pretrained", "random"):
        raise EncoderError(f"weights={weights!r}: choose 'pretrained' or 'random'")
    if config and weights != "random":
        raise EncoderError(
            f"{', '.join(config)}: constructor arguments are for weights='random', others bring their own"
        )
    folder = Path(name)
    if str(name) in _ARCHITECTURES:
        architecture = _ARCHITECTURES[str(name)]
        if weights == "random":
            return random_encoder(architecture, config, seed).to(_usable(device))
        if checkpoint is not None:
            converted, tensors = architecture.convert_checkpoint(storage.read_tensors(Path(checkpoint)))
            return _filled(architecture, converted, tensors, str(checkpoint)).to(_usable(device))
        packaged = packaged_weights(str(name))
        if packaged is None:
            raise EncoderError(f"no weights of {name!r} ship with offramp: give checkpoint=PATH, or weights='random'")
        folder = packaged
    elif checkpoint is not None or not folder.is_dir():
        raise EncoderError(
            f"unknown encoder {str(name)!r}: give an encoder folder or one of {', '.join(list_encoders())}"
        )
    stored = storage.read_config(folder)
    if stored["architecture"] not in _ARCHITECTURES:
        raise EncoderError(f"{folder} holds a {stored['architecture']!r}: known are {', '.join(list_encoders())}")
    architecture = _ARCHITECTURES[stored["architecture"]]
    if weights == "random":
        return random_encoder(architecture, stored["config"] | config, seed).to(_usable(device))
    tensors = storage.read_tensors(folder / storage.WEIGHTS)
    return _filled(architecture, stored["config"], tensors, str(folder)).to(_usable(device))


def random_encoder(architecture: type[StagedEncoder], config: dict[str, Any], seed: int) -> StagedEncoder:
    """An encoder with its architecture's own random initialisation; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set the accelerators' states too
        try:
            return architecture(**config)
        except TypeError as error:
            raise EncoderError(f"{architecture.architecture} cannot be built: {error}") from None


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
