"""DeepMIMO channels as LWM keeps them: ``SCENARIO_antA_subS_bsB.npy``, or a folder of such files.

LWM 1.1 saves what ``DeepMIMOv3.generate_data`` gives for one base station with ``numpy.save``: a pickled dictionary ``location`` (of the base station) and
``user``, a dictionary of arrays with one row per user: ``channel (U, 1, antennas, subcarriers)`` complex64, ``LoS (U,)`` (1 line of sight, 0 none,
-1 no path at all), ``location (U, 3)`` m, ``distance`` m, ``pathloss`` dB, ``paths``. Sources: ``input_preprocess.py`` of LWM 1.1 (huggingface.co/wi-lab/lwm-v1.1),
``generator.py`` and ``raytracing_v3.py`` of github.com/DeepMIMO/DeepMIMO-python. Files are read as data, see
:mod:`offramp.data.containers.pickles`. The scenario folders themselves hold ray paths, not channels: generate channels from them first.

Windows are float32 ``(2, antennas, subcarriers)``, real and imaginary part times 1e6, without the users that no path reaches, as LWM takes
them. Columns: ``label_los`` (the target; NLoS, LoS), ``location``, ``distance``, ``pathloss``, ``scenario``, ``base_station``. Several scenarios are
the groups. WavesFM's DeepMIMO caches are HDF5, see :mod:`offramp.data.formats.datasets.wavesfm`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.npy_headers import read_header
from offramp.data.containers.pickled_arrays import PickledArray, StackedRows
from offramp.data.containers.pickles import read_pickle
from offramp.data.formats.windows import digest, numbered
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError, OfframpError
from offramp.opening import open_file
from offramp.schema.tasks import DataSpec

NAME = re.compile(r"(?P<scenario>.+)_ant\d+_sub\d+_bs(?P<base_station>\d+)")
SCALE = np.float32(1e6)
"""What LWM multiplies channels by."""
NO_PATH = -1


def recognise(path: Path) -> bool:
    """By what is pickled in the file, or in the first one of the folder."""
    files = _files(path)
    return bool(files) and _is_pickled_user(files[0])


def read(spec: DataSpec) -> Table:
    """Open the files; channels are read later.

    Raises:
        DataError: A file holds anything but data, is damaged or of another layout, or has channels of another shape than the first.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, digest("deepmimo", _files(spec.path)))


def summarise(path: Path) -> FileSummary:
    """Users with their line of sight, and scenarios."""
    return summarise_table(_table(path, fingerprint=""), str(path), "deepmimo")


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.npy")) if path.is_dir() else [path]


def _table(path: Path, fingerprint: str) -> Table:
    files = _files(path)
    if not files:
        raise DataError(f"{path} holds no .npy files: correct data.path")
    users = [_users(file) for file in files]
    channels = [_array(file, of_file, "channel", 4) for file, of_file in zip(files, users, strict=True)]
    for file, channel in zip(files, channels, strict=True):
        if channel.dtype.kind != "c" or channel.shape[1] != 1 or channel.shape[2:] != channels[0].shape[2:]:
            raise DataError(
                f"{file}: channel is {channel.dtype} {channel.shape}; all must be complex (users, 1, antennas, "
                "subcarriers) of one size: put others into another folder"
            )
    sights = [_array(file, of_file, "LoS", 1).values() for file, of_file in zip(files, users, strict=True)]
    kept = []
    for file, channel, sight in zip(files, channels, sights, strict=True):
        if len(sight) != channel.shape[0] or not np.isin(sight, (NO_PATH, 0, 1)).all():
            raise DataError(f"{file}: LoS must be 1, 0 or -1 for each of {channel.shape[0]} users: generate it again")
        kept.append(np.flatnonzero(sight != NO_PATH))
    counts = [len(rows) for rows in kept]
    if not sum(counts):
        raise DataError(f"{path} has no user that a path reaches: generate another scenario")
    names = [NAME.fullmatch(file.stem) for file in files]
    scenarios, scenario_names = numbered(
        [match["scenario"] if match else file.stem for match, file in zip(names, files, strict=True)]
    )
    stations = [int(match["base_station"]) if match else 0 for match in names]
    columns: dict[str, NDArray[np.generic]] = {
        "label_los": _joined(sights, kept).astype(np.int64),
        "scenario": np.repeat(scenarios, counts),
        "base_station": np.repeat(np.array(stations), counts),
    }
    for name, rank in (("location", 2), ("distance", 1), ("pathloss", 1)):
        if all(name in of_file for of_file in users):
            stored = [_array(file, of_file, name, rank).values() for file, of_file in zip(files, users, strict=True)]
            columns[name] = _joined(stored, kept)
    rows = StackedRows(channels, kept)
    return Table(
        windows=WindowSource(
            str(path),
            sum(counts),
            (2, *channels[0].shape[2:]),
            fingerprint,
            lambda indices: _scaled(rows(indices)[:, 0]),
        ),
        columns=columns,
        label_names={"label_los": ("NLoS", "LoS"), "scenario": scenario_names},
        default_target="label_los",
        default_group="scenario" if len(scenario_names) > 1 else None,
    )


def _is_pickled_user(path: Path) -> bool:
    try:
        offset = _pickle_offset(path)
        with open_file(path) as file:
            file.seek(offset or 0)
            return offset is not None and b"user" in file.read(4096)
    except (OSError, OfframpError):
        return False


def _pickle_offset(path: Path) -> int | None:
    """Where the pickle in a ``.npy`` file starts; None if it has none."""
    with open_file(path, DataError) as file:
        try:
            shape, _, dtype = read_header(file)
        except ValueError:
            return None
        return file.tell() if shape == () and dtype.kind == "O" else None


def _users(path: Path) -> dict[str, PickledArray]:
    try:
        offset = _pickle_offset(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; copy it again") from error
    if offset is None:
        raise DataError(f"{path} is no dictionary saved with numpy.save, as LWM writes it: set data.format")
    match read_pickle(path, offset):
        case PickledArray(items=[{"user": dict(users)}]):
            return users
    raise DataError(f"{path} holds no dictionary with the key 'user', as LWM writes it: set data.format")


def _array(path: Path, users: dict[str, PickledArray], name: str, rank: int) -> PickledArray:
    found = users.get(name)
    if not isinstance(found, PickledArray) or found.dtype.kind not in "iufc" or len(found.shape) != rank:
        raise DataError(f"{path}: {name!r} of 'user' is missing or no array of {rank} axes: generate it again")
    return found


def _joined(values: list[NDArray[np.generic]], kept: list[NDArray[np.int64]]) -> NDArray[np.generic]:
    return np.concatenate([of_file[rows] for of_file, rows in zip(values, kept, strict=True)])


def _scaled(channels: NDArray[np.complexfloating]) -> NDArray[np.float32]:
    return np.stack((channels.real, channels.imag), axis=1).astype(np.float32) * SCALE
