"""Encoders on disk: a folder with config.json and model.safetensors, and foreign checkpoints, never a free pickle."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from offramp.encoders.base import StagedEncoder
from offramp.errors import EncoderError
from offramp.files import atomic_path, write_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_encoder(encoder: StagedEncoder, folder: Path, provenance: dict[str, Any] | None = None) -> None:
    """Write an encoder folder: ``config.json`` (architecture, constructor arguments, provenance) and ``model.safetensors``."""
    if not encoder.rebuildable:
        raise EncoderError(
            f"{encoder.architecture!r} cannot be saved: a folder says how to build an encoder by a registered name, so derive "
            f"a class of yours from ModuleEncoder and register it"
        )
    # Clones, for stages may share tensors, and the format stores each name's own.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in encoder.state_dict().items()
    }
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    config = {
        "schema": 1,
        "architecture": encoder.architecture,
        "config": encoder.config,
        "sha256": encoder.fingerprint(),
        "provenance": provenance or {},
    }
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of an encoder folder: ``architecture`` and ``config`` at least.

    That of a folder written by the Transformers library comes as it is: it has ``model_type`` and no ``config``.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if "model_type" in config and "config" not in config:
            return {**config, "model_type": str(config["model_type"])}
        if "pretrained_cfg" in config:
            raise EncoderError(
                f"{folder} belongs to timm: build the model with timm.create_model and cut it with "
                f"offramp.encoders.from_module"
            )
        return {**config, "architecture": str(config["architecture"]), "config": dict(config["config"])}
    except OSError:
        raise EncoderError(f"{folder} is not an encoder folder: it has no {CONFIG}") from None
    except (ValueError, KeyError, TypeError):
        raise EncoderError(f"{path} is not an encoder's configuration: it needs 'architecture' and 'config'") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a PyTorch checkpoint read with ``weights_only=True``.

    A checkpoint ``{"model": state_dict}`` is unwrapped. Raises :class:`EncoderError` for a missing or damaged file, and for a
    pickle that holds anything but tensors and plain containers.
    """
    if not path.is_file():
        raise EncoderError(f"no such checkpoint: {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
    except (SafetensorError, ValueError, OSError) as error:
        raise EncoderError(f"{path} is not a readable checkpoint: {first_line(error)}") from None
    loaded = read_pickle(path)
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(f"{path} is not a state dict: expected names with tensors")
    return {str(name): tensor for name, tensor in state.items()}


def read_pickle(path: Path, device: str = "cpu") -> Any:
    """Tensors, numbers, strings and plain containers that ``torch.save`` wrote; anything else is refused, and nothing is run.

    Raises :class:`EncoderError` for a damaged file and for one that holds more than that.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that weights_only knows in part
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise EncoderError(
            f"{path} is damaged or holds more than tensors, which could run code, and was not loaded: save the state_dict alone"
        ) from None
    # What torch.load was seen to raise on files with flipped, missing and foreign bytes.
    except (
        RuntimeError,
        ValueError,
        EOFError,
        OSError,
        LookupError,
        AttributeError,
        TypeError,
        AssertionError,
        struct.error,
    ) as error:
        raise EncoderError(f"{path} is not a readable checkpoint: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """What is wrong, on one line."""
    return f"{type(error).__name__} {error}".splitlines()[0].strip()[:200]


def fill(encoder: StagedEncoder, tensors: dict[str, Tensor], source: str) -> None:
    """Load tensors into an encoder; names or shapes that do not fit are an :class:`EncoderError` that lists the first three."""
    own = encoder.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is unknown" for name in tensors if name not in own]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    check_fit(wrong, source, encoder.architecture)
    encoder.load_state_dict(tensors)


def check_fit(wrong: list[str], source: str, what: str) -> None:
    """Raise :class:`EncoderError` with the first three of what is wrong with weights, if anything is."""
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise EncoderError(f"{source} does not fit {what}: {'; '.join(wrong[:3])}{more}")
