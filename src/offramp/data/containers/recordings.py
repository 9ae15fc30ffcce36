"""One SigMF recording: its metadata, checked, through the ``sigmf`` library (SigMF 1.2, https://sigmf.org)."""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sigmf.error import SigMFError

from offramp.data.containers.sigmf_files import ARCHIVE, DATA, META, open_sigmf, sigmf_in_memory
from offramp.errors import DataError

DATATYPE = re.compile(r"[cr](f32|f64|i32|i16|u32|u16|i8|u8)(_le|_be)?")
"""Datatypes of the specification. The library itself takes any name with a number in it for one."""
PLACE_IN_TIME = ("core:sample_start", "core:global_index", "core:datetime", "core:header_bytes")
"""What tells captures apart that were taken without a change: where each begins. Whatever else differs is another setting."""
UTC = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?)\d*Z?")
"""The form that the specification asks of ``core:datetime``."""


class MetadataOnlyError(DataError):
    """A recording that was distributed without its samples by design: ``core:metadata_only``."""


@dataclass(frozen=True)
class Annotation:
    """A labelled stretch: first sample, end (exclusive), label. Samples count from the first in the file."""

    start: int
    stop: int
    label: str


@dataclass(frozen=True)
class Capture:
    """A stretch recorded without a break: first sample, end (exclusive), and when it began, UTC, NaT where that is not known."""

    start: int
    stop: int
    time: np.datetime64


@dataclass(frozen=True)
class Recording:
    """Metadata of one recording.

    Attributes:
        path: The ``.sigmf-meta`` file or the archive.
        name: Unique name.
        files: All files that belong to it; none where it is in memory.
        datatype: As the metadata says, e.g. ``cu8``.
        channels: Number of channels.
        samples: Samples per channel.
        sample_rate: Samples per second; NaN where it is not said.
        captures: In the order of their samples.
        steady: First sample and end of every stretch in which no setting of the receiver changes. Samples before the first
            capture are in none.
        collection: ``core:collection``, or the name.
        label: Most frequent label of its annotations, else its collection, else ``none``.
        annotations: In the order of the file.
    """

    path: Path
    name: str
    files: tuple[Path, ...]
    datatype: str
    channels: int
    samples: int
    sample_rate: float
    captures: tuple[Capture, ...]
    steady: tuple[tuple[int, int], ...]
    collection: str
    label: str
    annotations: tuple[Annotation, ...]

    def unchanged(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of a stretch over which no setting changes: first sample and end of each."""
        parts = []
        for place in range(bisect_right(self.steady, start, key=lambda part: part[1]), len(self.steady)):
            first, end = self.steady[place]
            if first >= stop:
                break
            parts.append((max(start, first), min(stop, end)))
        return parts if start < stop else []

    def times(self, samples: NDArray[np.int64]) -> NDArray[np.datetime64]:
        """When samples were taken, ``datetime64[ns]``, UTC: the time of their capture and what has passed since; else NaT."""
        starts = np.array([capture.start for capture in self.captures], dtype=np.int64)
        number = np.searchsorted(starts, samples, side="right") - 1
        if math.isnan(self.sample_rate) or np.any(number < 0):
            return np.full(len(samples), np.datetime64("NaT", "ns"))
        began = np.array([capture.time for capture in self.captures], dtype="datetime64[ns]")
        passed = np.round((samples - starts[number]) * (1e9 / self.sample_rate))
        return np.asarray(began[number] + passed.astype("timedelta64[ns]"))


def find_recordings(places: Sequence[Path]) -> list[tuple[str, Path]]:
    """Names and metadata files (or archives) of all recordings at or below some places that exist.

    One place: names below the folder, sorted. Several: names below the deepest folder that all share, in the order of the places.
    Files that macOS leaves beside others (``._*``) are none.

    Raises:
        DataError: There is none.
    """
    found = {os.path.realpath(path): path for place in places for path in _recordings_at(place)}
    paths = list(found.values())
    if not paths:
        raise DataError(f"{places[0]} holds no SigMF recordings (*{META})")
    if len(places) == 1:
        root = places[0] if places[0].is_dir() else paths[0].parent
    else:
        paths = [path.absolute() for path in paths]
        root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [path.relative_to(root) for path in paths]
    taken = Counter(name.with_suffix("") for name in names)
    return [
        ((name.with_suffix("") if taken[name.with_suffix("")] == 1 else name).as_posix(), path)
        for name, path in zip(names, paths, strict=True)
    ]


def _recordings_at(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place.with_suffix(META) if place.suffix == DATA else place]
    files = [path for path in place.rglob("*") if path.is_file() and not path.name.startswith("._")]
    metas = {path for path in files if path.suffix in (META, ARCHIVE)}
    # samples without metadata must not be lost without a word: reading them says what is missing
    return sorted(metas | {path.with_suffix(META) for path in files if path.suffix == DATA})


def open_signal(path: Path, allow_outside: bool = False) -> Any:
    """A ``sigmf.SigMFFile`` that reads samples on demand.

    Raises:
        MetadataOnlyError: There are no samples, and there need be none.
        DataError: Metadata or archive cannot be parsed, or the samples are missing.
    """
    if path.suffix == META and not os.path.lexists(path):
        raise DataError(f"{path} is missing: a {DATA} file needs its metadata beside it")
    return _signal(path, lambda: open_sigmf(path, allow_outside))


def signal_in_memory(name: Path, metadata: bytes | None, content: bytes) -> Any:
    """The same of bytes that came without a file; see :func:`~offramp.data.containers.sigmf_files.sigmf_in_memory`. Raises as
    :func:`open_signal` does."""
    return _signal(name, lambda: sigmf_in_memory(name, metadata, content))


def _signal(path: Path, opened: Callable[[], Any]) -> Any:
    try:
        signal = opened()
    except (
        SigMFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        OSError,
    ) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"{path} cannot be read as SigMF ({reason}): correct its metadata, or copy both files again"
        ) from error
    if signal.data_file is None and signal.data_buffer is None:
        if signal.get_global_info().get("core:metadata_only"):
            raise MetadataOnlyError(f"{path} has no samples by design (core:metadata_only): there is nothing to cut")
        raise DataError(f"{path} has no samples: put the {DATA} file beside it")
    return signal


def read_recording(path: Path, name: str, allow_outside: bool = False) -> Recording:
    """Parse and check the metadata of one recording.

    Raises:
        DataError: The file is broken, its datatype unknown, its samples missing or fewer than its annotations need.
    """
    return describe(open_signal(path, allow_outside), path, name)


def describe(signal: Any, path: Path, name: str) -> Recording:
    """Check the metadata of a signal that is open; raises as :func:`read_recording` does."""
    information = signal.get_global_info()
    datatype = str(information.get("core:datatype"))
    if not DATATYPE.fullmatch(datatype):
        raise DataError(f"{path} has the unknown datatype {datatype!r}: correct core:datatype")
    samples = int(signal.sample_count)
    if samples == 0:
        raise DataError(f"{path} has no samples: copy its {DATA} file again")
    try:
        listed = [dict(capture) for capture in signal.get_captures()]
        _check_headers(path, listed, "core:dataset" in information)
        offset = int(information.get("core:offset", 0))
        captures, steady = _captures(listed, offset, samples)
        starts = [capture.start for capture in captures]
        stretches = [_stretch(annotation, offset, starts, samples) for annotation in signal.get_annotations()]
        sample_rate = float(information.get("core:sample_rate", "nan"))
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} has a broken capture or annotation: {error!r}") from error
    for number, (start, stop, _) in enumerate(stretches):
        if not 0 <= start <= stop <= samples:
            raise DataError(
                f"{path}: annotation {number} spans samples {start} to {stop} but there are {samples}; "
                "the data is truncated or the annotation is wrong"
            )
    counted = Counter(label for *_, label in stretches if label is not None)
    collection = information.get("core:collection")
    label = counted.most_common(1)[0][0] if counted else str(collection or "none")
    return Recording(
        path=path,
        name=name,
        files=_files(signal, path),
        datatype=datatype,
        channels=int(information["core:num_channels"]),
        samples=samples,
        sample_rate=sample_rate,
        captures=captures,
        steady=steady,
        collection=str(collection or name),
        label=label,
        annotations=tuple(Annotation(start, stop, label if own is None else own) for start, stop, own in stretches),
    )


def _files(signal: Any, path: Path) -> tuple[Path, ...]:
    """None where the samples are in memory."""
    if signal.data_file is None:
        return ()
    return (path,) if path.suffix == ARCHIVE else (path, Path(signal.data_file))


def _captures(
    listed: list[dict[str, Any]], offset: int, samples: int
) -> tuple[tuple[Capture, ...], tuple[tuple[int, int], ...]]:
    """The captures, and the stretches of them over which no setting changes."""
    if not listed:
        return (), ((0, samples),)
    starts = [int(capture["core:sample_start"]) - offset for capture in listed]
    captures: list[Capture] = []
    steady: list[tuple[int, int]] = []
    before: object = None
    order = sorted(range(len(listed)), key=lambda number: starts[number])
    for number, following in zip(order, [*order[1:], None], strict=True):
        start = max(starts[number], 0)
        stop = samples if following is None else min(max(starts[following], 0), samples)
        setting = _setting(listed[number])
        if start >= stop:
            continue
        captures.append(Capture(start, stop, _time(listed[number].get("core:datetime"))))
        if steady and setting == before:
            steady[-1] = (steady[-1][0], stop)
        else:
            steady.append((start, stop))
        before = setting
    return tuple(captures), tuple(steady)


def _setting(capture: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """What must be equal for samples of two captures to belong together; a jump of the index means that samples are missing."""
    index = capture.get("core:global_index")
    shift = None if index is None else int(index) - int(capture["core:sample_start"])
    return {key: value for key, value in capture.items() if key not in PLACE_IN_TIME}, shift


def _time(text: object) -> np.datetime64:
    found = UTC.fullmatch(text) if isinstance(text, str) else None
    try:
        time = np.datetime64(found[1], "ns") if found else np.datetime64("NaT", "ns")
    except ValueError:
        return np.datetime64("NaT", "ns")
    # nanoseconds reach from 1678 to 2261, and numpy wraps around beyond
    return time if found is None or 1678 <= int(found[1][:4]) <= 2261 else np.datetime64("NaT", "ns")


def _stretch(annotation: dict[str, Any], offset: int, captures: list[int], samples: int) -> tuple[int, int, str | None]:
    start = int(annotation["core:sample_start"]) - offset
    label = annotation.get("core:label")
    if "core:sample_count" in annotation:
        stop = start + int(annotation["core:sample_count"])
    else:
        following = bisect_right(captures, start)
        stop = captures[following] if following < len(captures) else samples
    return start, stop, None if label is None else str(label)


def _check_headers(path: Path, captures: list[dict[str, Any]], foreign: bool) -> None:
    """The library skips a header at the start of a foreign data file, and none elsewhere: its bytes would be taken for samples."""
    headers = [int(capture.get("core:header_bytes", 0)) for capture in captures]
    if any(headers[1:]) or (any(headers) and not foreign):
        raise DataError(f"{path} has core:header_bytes between its samples, which is not supported: strip them")
