"""Encoders named by where they are: ``hf-hub:org/name``, ``hf-hub:org/name@revision`` and ``local-dir:PATH``.

Of a repository on the Hugging Face Hub, ``config.json`` and ``model.safetensors`` are fetched and nothing else. They stay in the
Hub's own cache (``HF_HOME``), which is used where the Hub cannot be reached or ``HF_HUB_OFFLINE=1`` is set.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from offramp.encoders.storage import CONFIG, WEIGHTS, first_line
from offramp.errors import EncoderError
from offramp.schema.suite import LOCAL

HUB = "hf-hub:"


def is_source(name: str) -> bool:
    """Whether a name says where its encoder is."""
    return name.startswith((HUB, LOCAL))


def source_folder(name: str) -> Path:
    """The folder with the files of a named source, fetched if it is on the Hub.

    Raises:
        EncoderError: There is no such folder or repository, or it is not in the cache and the Hub cannot be reached.
    """
    if name.startswith(HUB):
        return _fetched(name)
    folder = Path(name.removeprefix(LOCAL))
    if not folder.is_dir():
        raise EncoderError(f"{name}: there is no folder {folder}")
    return folder


def _fetched(name: str) -> Path:
    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        hub, errors, constants = (import_module(f"huggingface_hub{part}") for part in ("", ".errors", ".constants"))
    except ImportError:
        raise EncoderError(f"{name} needs the package huggingface_hub: pip install offramp[hub]") from None
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS]))
    except errors.LocalEntryNotFoundError:  # that of an incomplete snapshot, too
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        raise EncoderError(
            f"{name} is not in the cache, and {why}: go online once, or put its {CONFIG} and {WEIGHTS} into a folder and give "
            f"{LOCAL}FOLDER"
        ) from None
    except errors.GatedRepoError:
        raise EncoderError(
            f"{name} is open to those alone who were let in: ask there, then log in with hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise EncoderError(f"{name}: the repository has no revision {revision!r}") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise EncoderError(
            f"{name}: there is no such repository; the form is {HUB}org/name or {HUB}org/name@revision"
        ) from None
    except Exception as error:  # what the network raises
        raise EncoderError(f"{name} cannot be fetched: {first_line(error)}") from None
