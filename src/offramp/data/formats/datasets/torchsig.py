"""TorchSig 2: the HDF5 files of its ``DatasetCreator``, ``data.h5`` in a folder with ``dataset_info.yaml``, or the file alone.

Source: ``torchsig/utils/file_handlers/hdf5.py`` of github.com/TorchDSP/torchsig. The attribute ``created_by`` is ``TorchSig HDF5FileHandler``.

- From version 2.1 on: ``index/I`` holds the key of window I, ``data/KEY`` its samples, ``component_signals/KEY`` the keys of the signals in it and
  ``metadata/KEY/NAME`` a value of a window or signal. What a signal does not say itself it inherits from ``metadata/KEY/parent_metadata_id``.
- Version 2.0: ``I/data``, and ``I/metadata/J/NAME`` of signal J in window I.

Samples are complex ``(samples,)``, or real ``(2, samples)`` of I and Q; spectrograms are refused. Sig53 and other LMDB and Zarr files of version 1 and before
are another layout, which is not read.

Windows are float32 ``(2, 1, samples)``. Columns: ``signals``, how many there are in a window, and where each has one signal: ``class_name`` (the
target), ``class_index``, ``snr_db``, ``center_freq`` and ``bandwidth`` (Hz), as far as all say it. Windows are drawn independently: there are no groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.hdf5_checks import attributes, dataset
from offramp.data.containers.hdf5_files import OpenFile, holds, opened, readable
from offramp.data.formats.windows import digest, numbered, one_by_one
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

Read = Callable[[h5py.Group, str], h5py.Dataset]
"""A dataset of a group by its name, checked."""
NUMBERS = ("class_index", "snr_db", "center_freq", "bandwidth")
MAX_ANCESTORS = 16
"""Longest chain of parents that is followed."""


def recognise(path: Path) -> bool:
    """By the attribute that TorchSig writes."""
    return holds(_file(path), lambda file: str(attributes(path, file).get("created_by")).startswith("TorchSig"))


def read(spec: DataSpec) -> Table:
    """Open the file; windows are read later.

    Raises:
        DataError: Not this layout, truncated, or spectrograms instead of samples.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, digest("torchsig", [_file(spec.path)]), spec.allow_outside)


def summarise(path: Path) -> FileSummary:
    """Windows and classes."""
    return summarise_table(_table(path, fingerprint=""), str(path), "torchsig")


def _file(path: Path) -> Path:
    return path / "data.h5" if path.is_dir() else path


def _table(path: Path, fingerprint: str, allow_outside: bool = False) -> Table:
    place = _file(path)
    with opened(place, allow_outside) as file, _well_formed(place):
        read = partial(dataset, place, allow_outside=allow_outside)
        places = [*_windows(file, read)]
        if not places:
            raise DataError(f"{place} has no windows in TorchSig's layout: set data.format, or write it again")
        signals = [[*_signals(file, key, read)] for key in places]
        shape = _samples(place, places[0], read(file, places[0])).shape
        columns: dict[str, NDArray[np.generic]] = {"signals": np.array([len(of_one) for of_one in signals])}
        names = {}
        if (columns["signals"] == 1).all():
            one = [found[0] for found in signals]
            if all("class_name" in found for found in one):
                columns["class_name"], names["class_name"] = numbered([str(found["class_name"]) for found in one])
            columns |= {
                name: np.array([found[name] for found in one]) for name in NUMBERS if all(name in f for f in one)
            }
    return Table(
        windows=WindowSource(
            str(path),
            len(places),
            shape,
            fingerprint,
            one_by_one(_SignalReader(place, places, shape, allow_outside), shape),
        ),
        columns=columns,
        label_names=names,
        default_target="class_name" if "class_name" in columns else "signals",
    )


@contextmanager
def _well_formed(path: Path) -> Iterator[None]:
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not as TorchSig writes it ({error}): write it again") from error


def _windows(file: h5py.File, read: Read) -> Iterator[str]:
    """Paths of the samples of all windows."""
    if "index" in file:
        index = file["index"]
        yield from (f"data/{read(index, str(number)).asstr()[()]}" for number in range(len(index)))
    else:
        yield from (f"{number}/data" for number in range(len(file)))


def _signals(file: h5py.File, place: str, read: Read) -> Iterator[dict[str, Any]]:
    """What is known of the signals in a window."""
    first, last = place.split("/")
    if last == "data":
        yield from (_values(group, read) for group in file[first]["metadata"].values())
        return
    if last in file["component_signals"]:
        yield from (
            _inherited(file["metadata"], str(key), read) for key in read(file["component_signals"], last).asstr()[()]
        )
    elif "class_name" in (own := _inherited(file["metadata"], last, read)):
        yield own


def _inherited(metadata: h5py.Group, key: str, read: Read) -> dict[str, Any]:
    """Values of a signal, and of its parents what it does not say itself."""
    values: dict[str, Any] = {}
    for _ in range(MAX_ANCESTORS):
        if key not in metadata:
            break
        values = _values(metadata[key], read) | values
        if "parent_metadata_id" not in metadata[key]:
            break
        key = read(metadata[key], "parent_metadata_id").asstr()[()]
    return values


def _values(group: h5py.Group, read: Read) -> dict[str, Any]:
    """The values of a window or signal that become columns."""
    values: dict[str, Any] = {}
    for name in (*NUMBERS, "class_name"):
        if name not in group or (stored := read(group, name)).shape != ():
            continue
        if name == "class_name":
            values[name] = stored.asstr()[()]
        elif stored.dtype.kind in "iuf":
            values[name] = stored[()]
    return values


def _samples(path: Path, place: str, dataset: h5py.Dataset) -> NDArray[Any]:
    """One window, real ``(2, 1, samples)``."""
    stored = np.asarray(dataset)
    if stored.dtype.kind == "c" and stored.ndim == 1 and stored.size:
        return np.stack((stored.real, stored.imag))[:, None]
    if stored.dtype.kind == "f" and stored.ndim == 2 and len(stored) == 2 and stored.size:
        return stored[:, None]
    raise DataError(
        f"{path}: {place} is {stored.dtype} {stored.shape}; I/Q is complex (samples,) or real (2, samples): "
        "write the data set without spectrograms"
    )


class _SignalReader:
    """One window by its number."""

    def __init__(self, path: Path, places: list[str], shape: tuple[int, ...], allow_outside: bool) -> None:
        self._path = path
        self._places = places
        self._shape = shape
        self._file = OpenFile(path, allow_outside)

    def __call__(self, index: int) -> NDArray[Any]:
        place = self._places[index]
        with readable(self._path):
            window = _samples(self._path, place, self._file(place))
        if window.shape != self._shape:
            raise DataError(
                f"{self._path}: window {index} has {window.shape[2]} samples and the first {self._shape[2]}; "
                "put windows of different length into separate files"
            )
        return window
