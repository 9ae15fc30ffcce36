"""What HDF5 files are looked at for before the library reads them, which trusts them: links, strings, and what datasets ask for.

- Links lead to nothing outside of the file's folder, and groups stand no deeper than ``MAX_DEPTH``.
- The collections in which strings of any length lie are whole. The library runs forever through a damaged one.
- A dataset takes no more memory than what is stored for it can fill, see :func:`offramp.opening.plausible`.
- A dataset that is put together from others (virtual), or lies in other files (external storage), has all its parts, and they stand beside or
  below the file. The library reads zeros for parts that are missing, waits for a FIFO, and follows a dataset that is a part of itself until the
  process dies.

Sources: "HDF5 File Format Specification" 4.0, III.E (global heap); the behaviour of HDF5 2.0.
"""

from __future__ import annotations

import math
import mmap
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5d, h5l, h5o, h5t

from offramp.data.containers.companions import companion
from offramp.errors import DataError
from offramp.opening import SURROGATE, plausible, regular_file

MAX_DEPTH = 16
"""Most groups inside each other."""
MAX_ARRAYS = 4096
"""Most arrays, and most attributes, of a file whose arrays are listed."""
MAX_ATTRIBUTE_BYTES = 2**24
MAX_SOURCES = 4096
"""Most parts of a virtual dataset."""
MAX_STEPS = 8
"""Most virtual datasets that are parts of each other."""
HEAP, HEAP_HEADER, OBJECT_HEADER = b"GCOL", 16, 16
REFERENCE = np.dtype([("length", "<u4"), ("collection", "<u8"), ("number", "<u4")])
"""What is stored of a string in its dataset."""
LIBRARY_ERRORS = (
    OSError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    SystemError,
)
"""What h5py raises at damaged files, by the place of the damage."""

Identity = tuple[int, int, int, int]


Above = tuple[tuple[str, int], ...]
"""Virtual datasets that a dataset is a part of: real path of the file, and address in it."""


class Asked(NamedTuple):
    """Bytes in memory, and bytes in files."""

    declared: int
    stored: int


def identity(path: Path) -> Identity:
    """What a file is known by as long as it does not change."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_file(path: Path, allow_outside: bool) -> None:
    """Look through links and strings of a file, once as long as it does not change; what is no HDF5 passes.

    Raises:
        DataError: A link leads outside or nowhere, groups stand too deep, or the file is damaged.
    """
    regular_file(path, DataError)
    problem = _problem_of_file(path, allow_outside, identity(path))
    if problem is not None:
        raise DataError(problem)


@lru_cache(256)
def _problem_of_file(path: Path, allow_outside: bool, known: Identity) -> str | None:
    try:
        file = h5py.File(path, "r")
    except LIBRARY_ERRORS:
        # whoever opens it says what is wrong
        return None
    try:
        with file:
            _check_strings(path)
            linked = _linked_files(path, file)
        for other in linked:
            _check_linked(path, companion(path, other, allow_outside))
    except DataError as error:
        return str(error)
    except LIBRARY_ERRORS:
        return f"{path} is damaged: copy it again"
    return None


def _check_linked(path: Path, other: Path) -> None:
    """A file that is linked has no links of its own, or they could lead in a circle."""
    if os.path.realpath(other) == os.path.realpath(path):
        return
    _check_strings(other)
    with h5py.File(other, "r") as file:
        if _linked_files(other, file):
            raise DataError(
                f"{path} is linked to {other}, which is linked to other files: copy the arrays into one file"
            )


def _check_strings(path: Path) -> None:
    """Whether all collections of strings can be walked through to their end."""
    size = os.path.getsize(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(HEAP)
        while start >= 0:
            length = int.from_bytes(content[start + 8 : start + 16], "little")
            # the library takes nothing else for a collection
            if content[start + 4 : start + 5] == b"\x01" and 4096 <= length <= size - start:
                _check_collection(path, content, start, start + length)
            start = content.find(HEAP, start + 1)


def _check_collection(path: Path, content: mmap.mmap, start: int, end: int) -> None:
    place = start + HEAP_HEADER
    while place + OBJECT_HEADER <= end:
        number = int.from_bytes(content[place : place + 2], "little")
        length = int.from_bytes(content[place + 8 : place + 16], "little")
        # number 0 is the free space at the end, whose length counts its header
        step = OBJECT_HEADER + -(-length // 8) * 8 if number else length
        if step <= 0 or place + step > end:
            raise DataError(f"{path} has damaged strings at byte {place}: copy it again")
        place += step


def _linked_files(path: Path, file: h5py.File) -> list[Path]:
    """Files that links lead to."""
    links = file.id.links
    external: list[bytes] = []

    def look(name: bytes, link: Any) -> str | None:
        if name.count(b"/") >= MAX_DEPTH:
            return f"{path} has groups more than {MAX_DEPTH} deep: write its arrays less deep"
        if link.type == h5l.TYPE_EXTERNAL:
            external.append(name)
        elif link.type not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
            return f"{path} has a link of an unknown kind: write it without"
        return None

    problem = links.visit(look, info=True)
    if problem is not None:
        raise DataError(problem)
    return list({_beside(path, links.get_val(name)[0]): None for name in external})


def _beside(path: Path, name: bytes) -> Path:
    """A file that ``path`` names, as the library looks for it first."""
    return Path(os.path.realpath(path)).parent / os.fsdecode(name)


def check_dataset(path: Path, dataset: h5py.Dataset, allow_outside: bool, above: Above = ()) -> Asked:
    """What a dataset asks for, and what is stored for it.

    Args:
        path: Its file.
        dataset: As it was opened; nothing of it is read.
        allow_outside: Whether its parts may lie outside of the folder of ``path``.
        above: The virtual datasets that it is a part of.

    Raises:
        DataError: A part is missing or outside; or the dataset asks for more than is stored.
    """
    plist, name = dataset.id.get_create_plist(), f"{path}: {dataset.name!r}"
    if plist.get_layout() == h5d.VIRTUAL:
        here = os.path.realpath(path), h5o.get_info(dataset.id).addr
        if here in above or len(above) >= MAX_STEPS:
            raise DataError(
                f"{name} is virtual and a part of itself, or of too many others: copy its values into one file"
            )
        stored = _check_sources(path, dataset, allow_outside, (*above, here))
    elif plist.get_external_count():
        stored = _check_external(path, dataset, plist, allow_outside)
    else:
        stored = min(dataset.id.get_storage_size(), os.path.getsize(path))
        kind = dataset.id.get_type()
        if kind.get_class() == h5t.VLEN or (kind.get_class() == h5t.STRING and kind.is_variable_str()):
            stored_text = _bytes_of_strings(path, dataset, plist)
            if not plausible(stored_text, os.path.getsize(path)):
                raise DataError(f"{name} holds strings of {stored_text:,} bytes, more than the file: copy it again")
    values = math.prod(dataset.shape or ())
    chunk = math.prod(dataset.chunks or (0,))
    declared = max(values, chunk) * dataset.id.get_type().get_size()
    if not plausible(declared, stored):
        raise DataError(
            f"{name} is {dataset.shape} and takes {declared:,} bytes, of which the file stores {stored:,}: it is damaged, or not all was written"
        )
    return Asked(declared, stored)


def _bytes_of_strings(path: Path, dataset: h5py.Dataset, plist: Any) -> int:
    """How long the values of a dataset of strings say that they are together; 0 where that is compressed or inside its header."""
    if dataset.id.get_offset() is not None:
        places = [(dataset.id.get_offset(), dataset.id.get_storage_size())]
    elif dataset.chunks is not None and not plist.get_nfilters():
        chunks = (dataset.id.get_chunk_info(number) for number in range(dataset.id.get_num_chunks()))
        places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    else:
        return 0
    total = 0
    with path.open("rb") as file:
        for start, length in places:
            file.seek(start)
            references = np.frombuffer(file.read(length // REFERENCE.itemsize * REFERENCE.itemsize), REFERENCE)
            total += int(references["length"].sum(dtype=np.uint64))
    return total


def _check_sources(path: Path, dataset: h5py.Dataset, allow_outside: bool, above: Above) -> int:
    """The parts of a virtual dataset; the bytes of their files."""
    plist = dataset.id.get_create_plist()
    name = f"{path}: {dataset.name!r}"
    count = plist.get_virtual_count()
    if count > MAX_SOURCES:
        raise DataError(
            f"{name} is made of {count:,} parts, and at most {MAX_SOURCES:,} are read: copy its values into one file"
        )
    parts: dict[tuple[str, str], None] = {}
    covered: float = 0
    for number in range(count):
        parts[plist.get_virtual_filename(number), plist.get_virtual_dsetname(number)] = None
        covered += _selected(plist.get_virtual_vspace(number))
    sizes: dict[str, int] = {}
    for file_name, part in parts:
        if "%b" in file_name + part:
            raise DataError(f"{name} names its parts by a pattern: copy its values into one file")
        other = path if file_name == "." else companion(path, _beside(path, os.fsencode(file_name)), allow_outside)
        sizes[os.path.realpath(other)] = os.path.getsize(other)
        _check_part(name, other, part, allow_outside, above)
    if covered < math.prod(dataset.shape):
        raise DataError(
            f"{name} has parts for {covered:,} of its {math.prod(dataset.shape):,} values: the others would read as made up, give all"
        )
    return sum(sizes.values())


def _selected(space: Any) -> float:
    """How many values a part gives."""
    try:
        return int(space.get_select_npoints())
    except RuntimeError:
        # the library does not count a part that grows with its source
        return math.inf


def _check_part(name: str, path: Path, part: str, allow_outside: bool, above: Above) -> None:
    check_file(path, allow_outside)
    try:
        with h5py.File(os.path.realpath(path), "r") as file:
            source = file.get(part)
            if not isinstance(source, h5py.Dataset):
                raise DataError(f"{name} is made of {part!r} in {path}, which is not there: copy that file again")
            check_dataset(path, source, allow_outside, above)
    except LIBRARY_ERRORS as error:
        raise DataError(f"{name} is made of {part!r} in {path}, which cannot be read: copy that file again") from error


def _check_external(path: Path, dataset: h5py.Dataset, plist: Any, allow_outside: bool) -> int:
    """The files that hold the values of a dataset; their bytes."""
    stored = 0
    for number in range(plist.get_external_count()):
        name, offset, size = plist.get_external(number)
        # the library takes these names from the folder that the process is in
        other = companion(path, Path(os.fsdecode(name)).absolute(), allow_outside)
        there = max(0, os.path.getsize(other) - offset)
        if size < 2**63 and size > there:
            raise DataError(f"{path}: {dataset.name!r} lies in {other}, which is too short: copy it again")
        stored += min(size, there)
    needed = math.prod(dataset.shape or ()) * dataset.id.get_type().get_size()
    if stored < needed:
        raise DataError(
            f"{path}: {dataset.name!r} needs {needed:,} bytes and its files hold {stored:,}: copy them again"
        )
    return stored


def dataset(path: Path, group: h5py.Group, name: str, allow_outside: bool = False) -> h5py.Dataset:
    """A dataset by its path in a group of a file, checked before anything of it is read.

    Raises:
        DataError: There is none of that name, or see :func:`check_dataset`.
    """
    try:
        found = group.get(name)
        if not isinstance(found, h5py.Dataset):
            raise DataError(f"{path} has no array {name!r}: set data.format, or copy it again")
        check_dataset(path, found, allow_outside)
    except LIBRARY_ERRORS as error:
        raise DataError(f"{path}: {name!r} cannot be read: copy the file again") from error
    return found


def stored_arrays(
    path: Path, file: h5py.File, allow_outside: bool = False, passed_over: tuple[str, ...] = ()
) -> dict[str, h5py.Dataset]:
    """All datasets of a file by their path in it, each checked as in :func:`dataset`.

    Args:
        path: The file.
        file: The file, open.
        allow_outside: Whether parts of a dataset may lie outside of the folder of ``path``.
        passed_over: Datasets whose path starts so are left out.

    Raises:
        DataError: There are too many, or together they ask for more than is stored.
    """
    arrays, asked = {}, Asked(0, os.path.getsize(path))
    for name in _names(path, file):
        if name.startswith(passed_over):
            continue
        arrays[name] = array = dataset(path, file, name, allow_outside)
        more = check_dataset(path, array, allow_outside)
        asked = Asked(asked.declared + more.declared, asked.stored + more.stored)
        if len(arrays) > MAX_ARRAYS:
            raise DataError(
                f"{path} holds more than {MAX_ARRAYS:,} arrays: set data.format, or write fewer and larger ones"
            )
        if not plausible(asked.declared, asked.stored):
            raise DataError(
                f"{path} holds arrays of {asked.declared:,} bytes and more, of which {asked.stored:,} are stored: it is damaged"
            )
    return {name: array for name, array in arrays.items() if array.shape is not None}


def attributes(path: Path, item: h5py.HLObject) -> dict[str, Any]:
    """The attributes of a file, group or dataset.

    Raises:
        DataError: They are damaged, too many or too large.
    """
    values: dict[str, Any] = {}
    try:
        for name in item.attrs:
            _check_name(path, name)
            held = item.attrs.get_id(name)
            if math.prod(held.shape or ()) * held.dtype.itemsize > MAX_ATTRIBUTE_BYTES or len(values) >= MAX_ARRAYS:
                raise DataError(f"{path} has attributes that are too large or too many: write their values as arrays")
            values[name] = item.attrs[name]
    except LIBRARY_ERRORS as error:
        raise DataError(f"{path} has damaged attributes: copy it again") from error
    return values


def _names(path: Path, file: h5py.File) -> list[str]:
    """Paths of all datasets, one where there are several of one dataset."""
    found: list[bytes] = []

    def look(name: bytes, item: Any) -> None:
        if item.type == h5o.TYPE_DATASET:
            found.append(name)

    try:
        h5o.visit(file.id, look, info=True)
        names = [name.decode("utf-8") for name in found]
    except LIBRARY_ERRORS as error:
        raise DataError(f"{path} is damaged, or has an array whose name is not UTF-8: copy it again") from error
    return names


def _check_name(path: Path, name: str | bytes) -> None:
    if isinstance(name, bytes) or SURROGATE.search(name):
        raise DataError(f"{path} has the name {name!r}, which is not UTF-8: rename it")
