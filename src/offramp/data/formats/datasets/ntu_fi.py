"""NTU-Fi, activities (HAR) and people (Human-ID): amplitudes of Wi-Fi channels, one ``.mat`` file per window.

Data: Yang, Chen, Zou, Wang, Xu, Xie, "EfficientFi: Toward Large-Scale Lightweight WiFi Sensing via CSI Compression" (IEEE Internet of Things
Journal, 2022). Layouts, both from public code: SenseFi (README and ``dataset.py`` of github.com/xyanchen/WiFi-CSI-Sensing-Benchmark) and flat
folders, as ``preprocess_csi_sensing.py`` of github.com/AhmedTarek62/wavesfm takes them::

    FOLDER/train_amp/CLASS/NAME.mat   FOLDER/test_amp/CLASS/NAME.mat     or train and test, where there is no *_amp
    FOLDER/CLASS/NAME.mat                                               one part
    FOLDER/CLASS12.mat                                                  flat: the letters before the number are the class

Each file (MATLAB 4 to 7.2) holds ``CSIamp``, real ``(342, time)``: 3 receive antennas x 114 subcarriers, by 2,000 packets in the published files.

A window is float32 ``(3, 114, time)``, all of it and not scaled; SenseFi keeps every fourth packet and scales by ``(x - 42.32) / 4.98``. Windows
are read on demand. Columns: ``label`` (the class: an activity in HAR, a person in Human-ID), ``part`` (``train``, ``test``, or ``all`` where there
are no parts), ``recording`` (path below the folder without suffix). File names do not say who acts, so there is nothing to group by in HAR:
windows of one person stand in train and test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.matlab import is_matlab_hdf5, list_mat, read_mat
from offramp.data.formats.windows import digest, name_below, one_by_one
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

ANTENNAS, SUBCARRIERS = 3, 114
ARRAY = "CSIamp"
PARTS = (("train_amp", "test_amp"), ("train", "test"))
FLAT_NAME = re.compile(r"([A-Za-z]+)[ _-]?\d+")


@dataclass(frozen=True)
class Window:
    """One file."""

    path: Path
    label: str
    part: str


def recognise(path: Path) -> bool:
    """A folder of ``.mat`` files: of its own, in folders of classes, or in those of its parts."""
    return path.is_dir() and any(next(path.glob(depth + "*.mat"), None) for depth in ("", "*/", "*/*/"))


def read(spec: DataSpec) -> Table:
    """Open a folder.

    Raises:
        DataError: A file is no MATLAB file or has no amplitudes; they have another shape than those of the first; a flat file
            names no class.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path)


def summarise(path: Path) -> FileSummary:
    """Files with their columns."""
    return summarise_table(_table(path, hashed=False), str(path), "ntu-fi")


def _table(path: Path, hashed: bool = True) -> Table:
    windows = _windows(path)
    shape = _shape(windows)
    files = [window.path for window in windows]
    names = [name_below(file, path) for file in files]
    return Table(
        windows=WindowSource(
            name=str(path),
            count=len(windows),
            shape=shape,
            fingerprint=digest(names, files) if hashed else "",
            fetch=one_by_one(lambda index: _amplitudes(files[index], shape), shape),
        ),
        columns={
            "label": np.array([window.label for window in windows]),
            "part": np.array([window.part for window in windows]),
            "recording": np.array(names),
        },
        default_target="label",
    )


def _windows(path: Path) -> list[Window]:
    parts = next((names for names in PARTS if any((path / name).is_dir() for name in names)), None)
    folders = [("all", path)] if parts is None else [(name.removesuffix("_amp"), path / name) for name in parts]
    windows = [
        Window(file, file.parent.name if by_folder else _class_of(file), part)
        for part, folder in folders
        for files, by_folder in _found(folder)
        for file in files
    ]
    if not windows:
        raise DataError(
            f"{path} holds no .mat files: give the folder with train_amp and test_amp, or with one per class"
        )
    return windows


def _found(folder: Path) -> list[tuple[list[Path], bool]]:
    """Files of the folder itself, and those in folders of classes."""
    return [(sorted(folder.glob("*.mat")), False), (sorted(folder.glob("*/*.mat")), True)]


def _class_of(path: Path) -> str:
    matched = FLAT_NAME.match(path.stem)
    if matched is None:
        raise DataError(f"{path} names no class such as walk12.mat: put it into a folder named by its class")
    return matched[1]


def _shape(windows: list[Window]) -> tuple[int, ...]:
    """Shape of a window, from the headers of all files."""
    times = [_time(window.path) for window in windows]
    for window, time in zip(windows, times, strict=True):
        if time != times[0]:
            raise DataError(
                f"{window.path} has {time} packets and {windows[0].path} has {times[0]}: put them into separate folders"
            )
    return (ANTENNAS, SUBCARRIERS, times[0])


def _time(path: Path) -> int:
    if is_matlab_hdf5(path):
        raise DataError(f"{path} is of MATLAB 7.3: save it with -v7")
    found = list_mat(path).get(ARRAY)
    if found is None:
        raise DataError(f"{path} has no array {ARRAY}: NTU-Fi files hold amplitudes of that name")
    shape = found.shape
    if len(shape) != 2 or shape[0] != ANTENNAS * SUBCARRIERS or shape[1] == 0:
        raise DataError(f"{path}: {ARRAY} is {shape}, not ({ANTENNAS * SUBCARRIERS}, time): save it so")
    return int(shape[1])


def _amplitudes(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    values = read_mat(path, [ARRAY]).arrays.get(ARRAY)
    if values is None:
        raise DataError(f"{path}: {ARRAY} is no array of numbers: copy it again")
    if values.dtype.kind not in "iuf" or values.size != np.prod(shape):
        raise DataError(f"{path}: {ARRAY} is {values.dtype} {values.shape}, not real {shape}: copy it again")
    return values.reshape(shape)
