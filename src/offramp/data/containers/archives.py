"""npz archives, checked member by member before anything is unpacked: what they hold, and how much memory that takes."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.npy_headers import read_header
from offramp.errors import DataError
from offramp.opening import SURROGATE, plausible, regular_file

MAX_MEMBERS = 4096
NOT_PLAIN = 0x1 | 0x20 | 0x40
"""Flags of a member that is encrypted, a patch, or strongly encrypted."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The ways in which numpy packs."""
SUFFIX = ".npy"
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
)
"""What zipfile raises at damaged archives, by the place of the damage."""


def read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    """All arrays of an npz file by name. Python objects are never unpickled.

    Raises:
        DataError: The file is no zip archive, damaged, or a bomb; a member is encrypted, packed in a way that numpy does not use,
            no array of plain values, or of another size than its shape needs.
    """
    size = regular_file(path, DataError)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise DataError(
                    f"{path} holds {len(members):,} arrays, and at most {MAX_MEMBERS:,} are read: divide it"
                )
            if not plausible(sum(member.file_size for member in members), size):
                total = sum(member.file_size for member in members)
                raise DataError(f"{path} has {size:,} bytes and would unpack to {total:,}: it is damaged or a bomb")
            return {member.filename.removesuffix(SUFFIX): _array(path, archive, member) for member in members}
    except DAMAGED as error:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not an npz file: write it with numpy.savez") from error
        raise DataError(f"{path} is damaged: copy it again") from error


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[np.generic]:
    where = f"{path}: {member.filename!r}"
    if member.flag_bits & NOT_PLAIN:
        raise DataError(f"{where} is encrypted: write it anew with numpy.savez")
    if member.compress_type not in METHODS:
        raise DataError(f"{where} is packed in a way that numpy does not use: write it anew with numpy.savez")
    if not member.filename.endswith(SUFFIX) or SURROGATE.search(member.filename):
        raise DataError(f"{where} is no array: leave it out of the file")
    with archive.open(member) as file:
        shape, by_columns, dtype = header = read_header(file)
        if dtype.hasobject:
            raise DataError(f"{where} holds pickled Python objects, which are never loaded: save plain arrays")
        if header.bytes != member.file_size - file.tell():
            raise DataError(f"{where} is {dtype} {shape} but has other than {header.bytes:,} bytes: copy it again")
        values = np.frombuffer(file.read(), dtype=dtype) if header.bytes else np.empty(0, dtype)
    _check_text(where, values)
    return values.reshape(shape, order="F" if by_columns else "C")


def _check_text(where: str, values: NDArray[np.generic]) -> None:
    """numpy takes any four bytes for a letter until one is looked at."""
    if values.dtype.kind != "U" or not values.dtype.itemsize:
        return
    letters = values.view(np.dtype(np.uint32).newbyteorder(values.dtype.byteorder))
    if ((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters <= 0xDFFF))).any():
        raise DataError(f"{where} holds text that is not Unicode: save it again")
