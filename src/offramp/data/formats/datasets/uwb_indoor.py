"""UWB indoor positioning: channel impulse responses from a tag to fixed anchors, in one JSON file per environment.

Data: Bregar, "Indoor UWB positioning and position tracking data set" (Scientific Data, 2023; Zenodo, doi 10.5281/zenodo.7629141). This layout
is what public code reads (``preprocess_uwb_loc.py`` of github.com/AhmedTarek62/wavesfm), and is checked at the door::

    FOLDER/ENVIRONMENT/data.json
    {"measurements": {"1.20_3.40_0.95": {"A1": {"ch1": [{"cir": ["(12-3j)", ...], "x_tag": 1.2, "y_tag": 3.4, "z_tag": 0.95, ...}, ...],
                                                "ch2": [...], ...}, "A2": ..., ...}, ...}, ...}

that is location (x, y, z in metres), anchor, radio channel, measurements; the taps of a response are complex numbers as Python writes them. Give
one file, the folder of one environment, or that of several, if they have as many anchors and taps.

The n-th measurements of all anchors at one location in one channel make one window, float32 ``(2, anchors, taps)``: axis 0 = real, imaginary,
anchors in the order of their numbers, not scaled. Where an anchor has fewer measurements than others, or none, those of the others are left
out. Columns: ``location`` ``(N, 3)`` in metres, ``channel``, ``environment`` (name of its folder), ``place`` (the location as text, behind the
environment where there are several; the group if none is named, since measurements at one place resemble each other).

A file of hundreds of megabytes is read twice, one measurement at a time: once to find where each begins, then on demand.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.json_members import Member, members, read_member
from offramp.data.formats.windows import digest, one_by_one
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError, OfframpError
from offramp.opening import open_file
from offramp.schema.tasks import DataSpec

FILE = "data.json"
TOP = "measurements"
DEPTH = 5
"""Measurements, location, anchor, channel, number."""
TAG = ("x_tag", "y_tag", "z_tag")
NUMBER = re.compile(r"\d+")
Span = tuple[int, int]
"""First byte of a measurement in its file, and the byte after it."""


@dataclass(frozen=True)
class Environment:
    """One file: anchors in order, taps, and where the measurements are, anchor by anchor, by location and channel."""

    path: Path
    name: str
    anchors: tuple[str, ...]
    taps: int
    spans: dict[tuple[str, int], dict[str, list[Span]]]


def recognise(path: Path) -> bool:
    """A ``data.json`` or a ``.json`` that has measurements near its start; a folder with ``data.json``, or with such folders."""
    if path.is_dir():
        return (path / FILE).is_file() or any(path.glob("*/" + FILE))
    return path.name == FILE or (path.suffix.lower() == ".json" and f'"{TOP}"'.encode() in _beginning(path))


def read(spec: DataSpec) -> Table:
    """Find the measurements of all files.

    Raises:
        DataError: A file is no JSON or ends too early, has no measurements or one of another form, says two locations for
            one, or has other anchors or taps than the first.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path)


def summarise(path: Path) -> FileSummary:
    """Windows with their columns."""
    return summarise_table(_table(path, hashed=False), str(path), "uwb-indoor")


def _table(path: Path, hashed: bool = True) -> Table:
    environments = _environments(path)
    first = environments[0]
    for other in environments[1:]:
        if (len(other.anchors), other.taps) != (len(first.anchors), first.taps):
            raise DataError(
                f"{other.path} has {len(other.anchors)} anchors and {other.taps} taps, {first.path} has "
                f"{len(first.anchors)} and {first.taps}: read them one by one"
            )
    windows = [
        (environment, place, channel, [spans[anchor][number] for anchor in environment.anchors])
        for environment in environments
        for (place, channel), spans in environment.spans.items()
        for number in range(min(len(spans[anchor]) for anchor in environment.anchors))
    ]
    if not windows:
        raise DataError(f"{path} has no location at which all of {', '.join(first.anchors)} were heard in one channel")
    shape = (2, len(first.anchors), first.taps)

    def load(index: int) -> NDArray[np.float32]:
        environment, _, _, spans = windows[index]
        return np.stack([_response(environment, span) for span in spans], axis=1)

    several = len(environments) > 1
    names = [environment.name for environment in environments]
    return Table(
        windows=WindowSource(
            name=str(path),
            count=len(windows),
            shape=shape,
            fingerprint=digest(names, [environment.path for environment in environments]) if hashed else "",
            fetch=one_by_one(load, shape),
        ),
        columns={
            "location": np.array([_location(environment.path, place) for environment, place, *_ in windows]),
            "channel": np.array([channel for _, _, channel, _ in windows]),
            "environment": np.array([environment.name for environment, *_ in windows]),
            "place": np.array(
                [f"{environment.name}/{place}" if several else place for environment, place, *_ in windows]
            ),
        },
        default_target="location",
        default_group="place",
    )


def _environments(path: Path) -> list[Environment]:
    files = [path] if path.is_file() else [path / FILE] if (path / FILE).is_file() else sorted(path.glob("*/" + FILE))
    if not files:
        raise DataError(f"{path} has no {FILE}: give the folder of an environment, or of several")
    return [_environment(file.absolute()) for file in files]


def _environment(path: Path) -> Environment:
    spans: dict[tuple[str, int], dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    anchors: set[str] = set()
    taps = 0
    for member in members(path, DEPTH):
        if member.keys[:1] != (TOP,):
            continue
        place, anchor, channel, length = _checked(path, member)
        if taps not in (0, length):
            raise DataError(f"{_where(path, member)} has {length} taps and the first has {taps}: all must have as many")
        taps = length
        anchors.add(anchor)
        spans[place, channel][anchor].append((member.start, member.stop))
    if not anchors:
        raise DataError(f"{path} has no measurements: UWB data are an object with {TOP!r}, see the documentation")
    return Environment(path, path.parent.name, tuple(sorted(anchors, key=_by_number)), taps, spans)


def _checked(path: Path, member: Member) -> tuple[str, str, int, int]:
    """Location, anchor, channel and taps of a measurement."""
    keys, value = member.keys, member.value
    if len(keys) != DEPTH or not isinstance(value, dict) or not isinstance(value.get("cir"), list) or not value["cir"]:
        raise DataError(f"{_where(path, member)} is no measurement: it must be an object with the taps in 'cir'")
    place, anchor, channel = (str(key) for key in keys[1:4])
    number = NUMBER.search(channel)
    if number is None:
        raise DataError(f"{_where(path, member)}: the channel {channel!r} has no number, call it ch1, ch2, ...")
    expected = _location(path, place)
    told = [value.get(name) for name in TAG]
    if None not in told and not _agree(expected, told):
        raise DataError(f"{_where(path, member)} says {told} for its location: correct x_tag, y_tag, z_tag or its key")
    return place, anchor, int(number[0]), len(value["cir"])


def _agree(expected: tuple[float, float, float], told: list[Any]) -> bool:
    try:
        return all(math.isclose(mine, float(its), abs_tol=1e-6) for mine, its in zip(expected, told, strict=True))
    except (TypeError, ValueError):
        return False


def _location(path: Path, place: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(coordinate) for coordinate in place.split("_"))
    except ValueError as error:
        raise DataError(f"{path}: {place!r} is no location x_y_z in metres, correct its key in {TOP!r}") from error
    return x, y, z


def _response(environment: Environment, span: Span) -> NDArray[np.float32]:
    """Real and imaginary part, ``(2, taps)``."""
    stored = read_member(environment.path, *span)["cir"]
    try:
        taps = np.array([complex(tap) for tap in stored])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{environment.path}: the measurement at byte {span[0]} has taps that are no complex numbers: copy it again"
        ) from error
    return np.stack((taps.real, taps.imag)).astype(np.float32)


def _beginning(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(2**16)
    except (OSError, OfframpError):
        return b""


def _by_number(anchor: str) -> tuple[int, str]:
    number = NUMBER.search(anchor)
    return (int(number[0]) if number else 0, anchor)


def _where(path: Path, member: Member) -> str:
    return f"{path}: {'/'.join(str(key) for key in member.keys)} at byte {member.start}"
