"""SigMF metadata and archives, checked before the ``sigmf`` library takes them: numbers that can be, and samples that are where they may be."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
from pathlib import Path
from typing import IO, Any

import sigmf

from offramp.data.containers.companions import companion
from offramp.errors import DataError
from offramp.opening import TEXT_BYTES, open_file, parse_json, read_json, regular_file

META, DATA, ARCHIVE = ".sigmf-meta", ".sigmf-data", ".sigmf"
MAX_CHANNELS = 2**16
MAX_MEMBERS = 4096
"""Most files in an archive."""
ADVICE = "correct the metadata, or copy it again"
COUNTS = {
    "global": ("core:offset", "core:trailing_bytes"),
    "captures": ("core:sample_start", "core:header_bytes"),
    "annotations": ("core:sample_start", "core:sample_count"),
}
"""What must be a whole number that is not negative, where it is said."""


def open_sigmf(path: Path, allow_outside: bool = False) -> Any:
    """A ``sigmf.SigMFFile`` of a ``.sigmf-meta`` or an archive; without samples where there are none beside it.

    Raises:
        DataError: Metadata or archive are broken, or the samples lie neither beside nor below the metadata.
        Exception: Whatever the library raises at the rest.
    """
    with warnings.catch_warnings():
        # what the library only warns of is checked by whoever reads the recording
        warnings.simplefilter("ignore")
        if path.suffix == ARCHIVE:
            return _from_archive(path)
        metadata = checked_metadata(path, read_json(path, DataError, ADVICE))
        data = _data_file(path, metadata["global"].get("core:dataset"), allow_outside)
        return sigmf.SigMFFile(metadata=metadata, data_file=data, skip_checksum=True)


def sigmf_in_memory(name: Path, metadata: bytes | None, content: bytes) -> Any:
    """A ``sigmf.SigMFFile`` of bytes, for which no file is opened, whatever the metadata name.

    Args:
        name: What messages call the recording.
        metadata: Of a ``.sigmf-meta``; None if ``content`` is an archive, which holds it.
        content: Of a ``.sigmf-data``, or of an archive.

    Raises:
        DataError: As :func:`open_sigmf`.
        Exception: Whatever the library raises at the rest.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO(content)
        if metadata is None:
            parsed, held = _parts(name, buffer, len(content))
            if held is None:
                return sigmf.SigMFFile(metadata=parsed)
            place = {"offset": held.offset_data, "size_bytes": held.size}
        else:
            if len(metadata) > TEXT_BYTES:
                raise DataError(
                    f"{name} has more than {TEXT_BYTES:,} bytes, the most that is read as metadata: {ADVICE}"
                )
            try:
                parsed = checked_metadata(name, parse_json(metadata.decode("utf-8-sig")))
            except ValueError as error:
                raise DataError(f"{name} is not JSON ({error}): {ADVICE}") from None
            parsed["global"].pop("core:dataset", None)
            place = {}
        signal = sigmf.SigMFFile(metadata=parsed)
        signal.set_data_file(data_buffer=buffer, skip_checksum=True, **place)
        return signal


def checked_metadata(path: Path, metadata: Any) -> dict[str, Any]:
    """Metadata of SigMF's form, with its lists, and with numbers that a recording can have.

    Raises:
        DataError: The message names the key.
    """
    if not isinstance(metadata, dict) or not isinstance(metadata.get("global"), dict):
        raise DataError(f"{path} is no SigMF metadata, which is an object with 'global': {ADVICE}")
    parts = {"global": [metadata["global"]]}
    for name in ("captures", "annotations"):
        parts[name] = listed = metadata.setdefault(name, [])
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise DataError(f"{path}: {name} must be a list of objects: {ADVICE}")
    for name, keys in COUNTS.items():
        for number, entry in enumerate(parts[name]):
            for key in keys:
                if key in entry and not _is_count(entry[key]):
                    where = key if name == "global" else f"{key} of {name[:-1]} {number}"
                    raise DataError(f"{path}: {where} is {_shown(entry[key])}, not 0, 1, 2, ...: {ADVICE}")
    said = metadata["global"]
    channels, rate = said.get("core:num_channels", 1), said.get("core:sample_rate", 1)
    if not (_is_count(channels) and 0 < channels <= MAX_CHANNELS):
        raise DataError(f"{path}: core:num_channels is {_shown(channels)}: correct it to the number of channels")
    if not (isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0):
        raise DataError(f"{path}: {_shown(rate)} samples per second cannot be: correct core:sample_rate")
    return metadata


def _is_count(value: object) -> bool:
    return (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
        and value >= 0
    )


def _shown(value: object) -> str:
    return repr(value)[:40]


def _data_file(path: Path, named: object, allow_outside: bool) -> Path | None:
    if named:
        if not isinstance(named, str) or "\0" in named:
            raise DataError(f"{path}: core:dataset is {_shown(named)}, no name of a file: {ADVICE}")
        return companion(path, path.parent / named, allow_outside)
    beside = path.with_suffix(DATA)
    return companion(path, beside, allow_outside) if os.path.lexists(beside) else None


def _from_archive(path: Path) -> Any:
    """The one recording of an archive, whose samples stay in it."""
    with open_file(path, DataError) as file:
        metadata, held = _parts(path, file, regular_file(path, DataError))
    signal = sigmf.SigMFFile(metadata=metadata)
    if held is not None:
        signal.set_data_file(data_file=path, skip_checksum=True, offset=held.offset_data, size_bytes=held.size)
        # the library takes the archive for foreign samples
        signal.get_global_info().pop("core:dataset", None)
    return signal


def _parts(path: Path, file: IO[bytes], size: int) -> tuple[dict[str, Any], tarfile.TarInfo | None]:
    """Metadata of the one recording of an archive, and where its samples are, if it has any."""
    try:
        # not compressed, for samples are read where they lie
        with tarfile.open(fileobj=file, mode="r:") as archive:
            members = _members(path, archive, size)
            metas = [member for name, member in members.items() if name.endswith(META)]
            if len(metas) != 1:
                raise DataError(f"{path} holds {len(metas)} recordings: unpack it into a folder")
            content = archive.extractfile(metas[0])
            if content is None or metas[0].size > TEXT_BYTES:
                raise DataError(f"{path} holds metadata of more than {TEXT_BYTES:,} bytes: unpack it into a folder")
            metadata = checked_metadata(path, parse_json(content.read().decode("utf-8-sig")))
    except (tarfile.TarError, OSError, EOFError, LookupError, OverflowError, ValueError) as error:
        raise DataError(f"{path} is no SigMF archive, or damaged: unpack it, or copy it again") from error
    named = metadata["global"].pop("core:dataset", None)
    ends = (DATA, named) if isinstance(named, str) and named else (DATA,)
    return metadata, next((member for end in ends for name, member in members.items() if name.endswith(end)), None)


def _members(path: Path, archive: tarfile.TarFile, size: int) -> dict[str, tarfile.TarInfo]:
    """The regular files of an archive, each whole in it."""
    members: dict[str, tarfile.TarInfo] = {}
    for number, member in enumerate(archive):
        if number >= MAX_MEMBERS:
            raise DataError(f"{path} holds more than {MAX_MEMBERS:,} files: unpack it into a folder")
        if member.isreg():
            if member.issparse() or member.offset_data + member.size > size:
                raise DataError(f"{path} ends before {member.name!r} does: copy it again")
            members[member.name] = member
    return members
