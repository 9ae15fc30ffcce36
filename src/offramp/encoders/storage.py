"""Encoders on disk: a folder with config.json and model.safetensors, and foreign checkpoints, never a free pickle."""

from __future__ import annotations

import json
import os
import pickle
import reprlib
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from offramp.errors import EncoderError
from offramp.files import atomic_path, write_text
from offramp.opening import open_file, read_json, regular_file
from offramp.schema.encoder import EncoderDocument
from offramp.schema.problems import first_problem

CONFIG, WEIGHTS = "config.json", "model.safetensors"
NO_CONFIGURATION = "this is not an encoder's configuration: it needs 'architecture' and 'config'"
FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Taken as float32."""
COUNTING = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
"""Taken as they are, for buffers that count or choose."""
STORED_KINDS = ("F32", "F16", "BF16", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL")
"""The same in the words of a ``.safetensors`` header."""

Shapes = Mapping[str, tuple[int, ...]]


class StoredEncoder(Protocol):
    """What is asked of an encoder that is saved or filled; the class itself is written in terms of this module."""

    config: dict[str, Any]

    @property
    def architecture(self) -> str: ...

    @property
    def rebuildable(self) -> bool: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def fingerprint(self) -> str: ...


def save_encoder(encoder: StoredEncoder, folder: Path, provenance: dict[str, Any] | None = None) -> None:
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


def is_encoder_folder(path: Path) -> bool:
    """Whether a path is a folder whose ``config.json`` is an encoder's, ours or one that the Transformers library wrote.

    Raises:
        EncoderError: There is a ``config.json``, and it cannot be read.
    """
    if not os.path.lexists(path / CONFIG):
        return False
    content = read_json(path / CONFIG, EncoderError, NO_CONFIGURATION)
    return (
        isinstance(content, dict) and "tasks" not in content and not {"architecture", "model_type"}.isdisjoint(content)
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of an encoder folder: ``architecture`` and ``config`` at least.

    That of a folder written by the Transformers library comes as it is: it has ``model_type`` and no ``config``.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise EncoderError(f"{folder} is not an encoder folder: it has no {CONFIG}")
    config = read_json(path, EncoderError, NO_CONFIGURATION)
    if isinstance(config, dict) and "model_type" in config and "config" not in config:
        return {**config, "model_type": str(config["model_type"])}
    if isinstance(config, dict) and "pretrained_cfg" in config:
        raise EncoderError(
            f"{folder} belongs to timm: build the model with timm.create_model and cut it with offramp.encoders.from_module"
        )
    try:
        return EncoderDocument.model_validate(config).model_dump(by_alias=True)
    except ValidationError as error:
        raise EncoderError(f"{path}: {NO_CONFIGURATION}; {first_problem(error)}") from None


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a ``.safetensors`` file, from its header alone. Raises what :func:`read_tensors` raises."""
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            kinds = {name: str(slice.get_dtype()) for name, slice in slices.items()}
            shapes = {name: tuple(slice.get_shape()) for name, slice in slices.items()}
    except Exception as error:  # whatever the reader raises on bytes of others
        raise EncoderError(f"{path} is not a readable checkpoint: {first_line(error)}") from None
    for name, kind in kinds.items():
        if kind not in STORED_KINDS:
            raise _not_taken(path, name, kind)
    return shapes


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` file, or of a PyTorch checkpoint read with ``weights_only=True``.

    A checkpoint ``{"model": state_dict}`` is unwrapped. Values of float32, float16, bfloat16 and float64 come as float32, integers and
    booleans as they are.

    Raises:
        EncoderError: The file is missing or damaged; it is a pickle that holds anything but tensors and plain containers; or a tensor
            is of another dtype, or not a dense one with a value for each entry (sparse, quantised, nested, expanded, on ``meta``).
    """
    _require_file(path)
    if path.suffix == ".safetensors":
        try:
            state: Any = dict(load_file(path))
        except Exception as error:  # whatever the reader raises on bytes of others
            raise EncoderError(f"{path} is not a readable checkpoint: {first_line(error)}") from None
    else:
        loaded = read_pickle(path)
        state = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(f"{path} is not a state dict: expected names with tensors")
    return {str(name): _dense(str(name), tensor, path) for name, tensor in state.items()}


def _dense(name: str, tensor: Tensor, path: Path) -> Tensor:
    """A tensor as float32, or with its integers; an :class:`EncoderError` that names it if it is no plain array of numbers."""
    if tensor.is_quantized:
        kind = "quantised"
    elif tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
    elif tensor.is_nested:
        kind = "nested"
    elif tensor.device.type != "cpu":
        kind = f"on the device {tensor.device.type}"
    elif tensor.dtype not in FLOATING + COUNTING:
        kind = str(tensor.dtype).removeprefix("torch.")
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = "expanded from fewer values"
    else:
        return tensor.detach().to(torch.float32 if tensor.dtype in FLOATING else tensor.dtype)
    raise _not_taken(path, name, kind)


def _not_taken(path: Path, name: str, kind: str) -> EncoderError:
    return EncoderError(
        f"{path}: tensor {reprlib.repr(name)} is {kind}: store a dense one of float32, float16, bfloat16 or float64, or of integers"
    )


def read_pickle(path: Path, device: str = "cpu") -> Any:
    """Tensors, numbers, strings and plain containers that ``torch.save`` wrote; anything else is refused, and nothing is run.

    Raises :class:`EncoderError` for a damaged file and for one that holds more than that.
    """
    regular_file(path, EncoderError)
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that weights_only knows in part
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise EncoderError(
            f"{path} is damaged or holds more than tensors, which could run code, and was not loaded: save the state_dict alone"
        ) from None
    except Exception as error:  # whatever the reader raises on flipped, missing and foreign bytes
        raise EncoderError(f"{path} is not a readable checkpoint: {first_line(error)}") from None


def _check_archive(path: Path) -> None:
    """Refuse an archive whose members are larger than the file: torch stores them as they are, and a packed one could fill memory."""
    try:
        with open_file(path, EncoderError) as file:
            if file.read(4) != b"PK\x03\x04":
                return
        with zipfile.ZipFile(path) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # whatever the reader raises on bytes of others
        raise EncoderError(f"{path} is not a readable checkpoint: {first_line(error)}") from None
    if declared > path.stat().st_size:
        raise EncoderError(f"{path} declares {declared:,} bytes, more than it holds: save it with torch.save, unpacked")


def _require_file(path: Path) -> None:
    if not os.path.lexists(path) or os.path.isdir(path):
        raise EncoderError(f"no such checkpoint: {path}")
    regular_file(path, EncoderError)


def first_line(error: Exception) -> str:
    """What is wrong, on one line."""
    return f"{type(error).__name__} {error}".splitlines()[0].strip()[:200]


def fill(encoder: StoredEncoder, tensors: dict[str, Tensor], source: str) -> None:
    """Load tensors into an encoder; names, shapes or kinds that do not fit are an :class:`EncoderError` that lists the first three."""
    check_shapes(encoder, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    own = encoder.state_dict()
    wrong = [
        f"{name} is {tensor.dtype} where {own[name].dtype} belongs"
        for name, tensor in tensors.items()
        if tensor.is_floating_point() != own[name].is_floating_point()
    ]
    check_fit(wrong, source, encoder.architecture)
    encoder.load_state_dict(tensors)


def check_shapes(encoder: StoredEncoder, given: Shapes, source: str) -> None:
    """Raise :class:`EncoderError` unless given tensors have the names and shapes of an encoder's own; it may be on ``meta``."""
    own = encoder.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in given]
    wrong += [f"{name} is unknown" for name in given if name not in own]
    wrong += [
        f"{name} is {given[name]} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in given and given[name] != tuple(tensor.shape)
    ]
    check_fit(wrong, source, encoder.architecture)


def check_fit(wrong: list[str], source: str, what: str) -> None:
    """Raise :class:`EncoderError` with the first three of what is wrong with weights, if anything is."""
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        first = "; ".join(one if len(one) <= 150 else f"{one[:150]}..." for one in wrong[:3])
        raise EncoderError(f"{source} does not fit {what}: {first}{more}")
