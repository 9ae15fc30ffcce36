"""Encoders by name: which there are, and how to get one with its weights.

A module of this room that has ``ARCHITECTURES``, a tuple of encoder classes, offers them under their ``architecture`` names. An installed
package adds its own by an entry point of the group ``offramp.encoders``, from that name to the class. :func:`register_encoder` adds a
class for as long as the process lasts. Where names meet, a class registered in the process comes first, then ours, then installed ones.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal

import torch

from offramp.encoders import hub, storage
from offramp.encoders.base import StagedEncoder
from offramp.encoders.building import check_sizes, random_encoder
from offramp.encoders.huggingface import HuggingFace
from offramp.errors import EncoderError

GROUP = "offramp.encoders"
YOURS = "register one of yours by importing its module (offramp --import MODULE) or installing its package"

REGISTERED: dict[str, type[StagedEncoder]] = {}
"""Architectures registered in this process, by name."""

PACKAGED = Path(str(files("offramp"))) / "suites" / "weights"
"""The folder of the encoders that ship with the package."""


def register_encoder(encoder: type[StagedEncoder]) -> type[StagedEncoder]:
    """Make an architecture loadable by its ``architecture`` name, in this process. Usable as a class decorator."""
    REGISTERED[encoder.architecture] = encoder
    return encoder


def list_encoders() -> list[str]:
    """Names of the architectures: ours, those of installed packages, and those registered in this process."""
    return sorted({*REGISTERED, *_ours(), *entry_points(group=GROUP).names})


def known_names() -> list[str]:
    """What :func:`load_encoder` takes as a name: registered architectures, and encoders that ship with the package."""
    entries = PACKAGED.iterdir() if PACKAGED.is_dir() else ()
    shipped = {entry.name for entry in entries if (entry / storage.CONFIG).is_file()}
    return sorted(shipped | set(list_encoders()))


def packaged_weights(name: str) -> Path | None:
    """The encoder folder of this name that ships with the package, if there is one."""
    folder = PACKAGED / name
    return folder if Path(name).name == name and os.path.isfile(folder / storage.CONFIG) else None


@cache
def _ours() -> dict[str, type[StagedEncoder]]:
    here = [str(Path(__file__).parent)]
    modules = (import_module(f"{__package__}.{name}") for _, name, _ in iter_modules(here))
    return {each.architecture: each for module in modules for each in getattr(module, "ARCHITECTURES", ())}


def _architecture(name: str) -> type[StagedEncoder] | None:
    """The class of a name, None if there is none.

    Raises:
        EncoderError: Installed packages have an encoder of this name that cannot be used.
    """
    known = REGISTERED.get(name) or _ours().get(name)
    if known is not None:
        return known
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if len(points) > 1:
        raise EncoderError(
            f"several installed packages have an encoder {name!r} ({', '.join(points)}): keep one of them"
        )
    return _imported(*points.values()) if points else None


def _imported(point: EntryPoint) -> type[StagedEncoder]:
    where = f"encoder {point.name!r} of an installed package ({point.value})"
    try:
        found = point.load()
    except Exception as error:  # whatever the packages of others raise
        raise EncoderError(
            f"{where} cannot be imported: {storage.first_line(error)}; correct or uninstall the package"
        ) from error
    if not isinstance(found, type) or not issubclass(found, StagedEncoder):
        raise EncoderError(f"{where} is no class derived from offramp.StagedEncoder: correct its entry point")
    if found.architecture != point.name:
        raise EncoderError(
            f"{where} has the architecture name {found.architecture!r}: its entry point must have the same name"
        )
    return found


def load_encoder(
    name: str | Path,
    *,
    checkpoint: str | Path | None = None,
    weights: Literal["pretrained", "random"] = "pretrained",
    seed: int = 0,
    device: str = "cpu",
    within: str | Path = "",
    **config: Any,
) -> StagedEncoder:
    """Get an encoder.

    Args:
        name: An encoder folder, an architecture (see :func:`list_encoders`), an encoder that ships with the package (see
            :func:`known_names`), or where one is: ``hf-hub:org/name`` (see :mod:`offramp.encoders.hub`), ``local-dir:PATH``. A folder
            may also be one that the Transformers library wrote. If an encoder folder has the name of an architecture or of an
            encoder that ships, it is the folder that is loaded; a folder that holds no encoder does not count.
        checkpoint: A foreign checkpoint for an architecture, ``.safetensors`` or PyTorch.
        weights: ``"pretrained"``, or ``"random"`` for the architecture's own initialisation from ``seed``.
        seed: Seed of random weights.
        device: Where to put it, e.g. ``"cpu"`` or ``"cuda"``.
        within: The folder that the name of a folder is relative to; the current one if empty.
        **config: Constructor arguments of the architecture, for random weights; or what its checkpoints leave open, such as
            ``modality=`` of ``wavesfm``.

    Raises:
        EncoderError: Unknown name, missing or unfit weights, or a configuration that cannot be built.
    """
    if weights not in ("pretrained", "random"):
        raise EncoderError(f"weights={weights!r}: choose 'pretrained' or 'random'")
    if config and weights != "random":
        _check_options(str(name), checkpoint, config)
    wanted = str(name)
    if checkpoint is not None:
        return _from_checkpoint(wanted, Path(checkpoint), weights, seed, config).to(_usable(device))
    if hub.is_source(wanted):
        return _from_folder(hub.source_folder(wanted), weights, seed, config).to(_usable(device))
    folder = Path(within) / name
    if not storage.is_encoder_folder(folder):
        architecture, shipped = _architecture(wanted), packaged_weights(wanted)
        if architecture is not None and weights == "random":
            return random_encoder(architecture, config, seed).to(_usable(device))
        if shipped is not None:
            folder = shipped
        elif architecture is not None:
            raise _no_weights(wanted)
        elif not os.path.isdir(folder):
            raise _unknown(wanted)
    return _from_folder(folder, weights, seed, config).to(_usable(device))


def checkpoint_options(name: str) -> tuple[str, ...]:
    """What :func:`load_encoder` takes beside a checkpoint of this architecture; nothing for an unknown one."""
    architecture = _architecture(name)
    return () if architecture is None else architecture.checkpoint_options


def _from_checkpoint(name: str, checkpoint: Path, weights: str, seed: int, options: dict[str, Any]) -> StagedEncoder:
    architecture = _architecture(name)
    if architecture is None:
        raise _unknown(name)
    if weights == "random":
        return random_encoder(architecture, options, seed)
    stored = storage.read_tensors(checkpoint)
    architecture = architecture.for_checkpoint(stored)
    config, tensors = architecture.convert_checkpoint(stored, **options)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if architecture in _ours().values():
        check_sizes(architecture, config, shapes, str(checkpoint))
    encoder = random_encoder(architecture, config, seed=0)
    storage.fill(encoder, tensors, str(checkpoint))
    return encoder


def _from_folder(folder: Path, weights: str, seed: int, changes: dict[str, Any]) -> StagedEncoder:
    stored = storage.read_config(folder)
    if "model_type" in stored:
        return _from_transformers(folder, stored, weights, seed, changes)
    architecture, path = _architecture(stored["architecture"]), folder / storage.WEIGHTS
    config = stored["config"] | changes
    if architecture is None:
        raise EncoderError(
            f"{folder} holds a {stored['architecture']!r}: known are {', '.join(list_encoders())}; {YOURS}"
        )
    if architecture in _ours().values() and not changes and (weights == "pretrained" or path.is_file()):
        check_sizes(architecture, config, storage.read_shapes(path), str(folder))
    encoder = random_encoder(architecture, config, seed if weights == "random" else 0, str(folder))
    if weights == "random":
        return encoder
    storage.fill(encoder, storage.read_tensors(path), str(folder))
    return encoder


def _from_transformers(
    folder: Path, stored: dict[str, Any], weights: str, seed: int, changes: dict[str, Any]
) -> StagedEncoder:
    if weights == "random":
        return random_encoder(HuggingFace, HuggingFace.read_config(stored) | changes, seed)
    return HuggingFace.from_folder(folder, stored)


def _unknown(name: str) -> EncoderError:
    return EncoderError(
        f"unknown encoder {name!r}: give an encoder folder or one of {', '.join(known_names())}; {YOURS}"
    )


def _no_weights(name: str) -> EncoderError:
    twins = [twin for twin in known_names() if twin.startswith(f"{name}-") and twin not in list_encoders()]
    also = f" (of our own there are {', '.join(twins)})" if twins else ""
    return EncoderError(f"no weights of {name!r} ship with offramp{also}: give checkpoint=PATH, or weights='random'")


def _check_options(name: str, checkpoint: str | Path | None, options: dict[str, Any]) -> None:
    known = checkpoint_options(name) if checkpoint is not None else ()
    unknown = [option for option in options if option not in known]
    if unknown:
        also = f"; with a checkpoint {name} takes {', '.join(known)}" if known else ""
        raise EncoderError(
            f"{', '.join(unknown)}: constructor arguments are for weights='random', others bring their own{also}"
        )


def _usable(device: str) -> torch.device:
    try:
        wanted = torch.device(device)
        torch.zeros((), device=wanted).item()  # there are devices that hold no values
    except (RuntimeError, AssertionError, ImportError):
        raise EncoderError(f"device {device!r} cannot be used here: try --device cpu") from None
    return wanted
