"""One SigMF recording: its metadata, checked, through the ``sigmf`` library (SigMF 1.2, https://sigmf.org)."""

from __future__ import annotations

import re
import tarfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sigmf
from jsonschema import ValidationError  # type: ignore[import-untyped]
from sigmf.error import SigMFError

from offramp.errors import DataError

DATATYPE = re.compile(r"[cr](f32|f64|i32|i16|u32|u16|i8|u8)(_le|_be)?")
"""Datatypes of the specification. The library itself takes any name with a number in it for one."""
META, DATA, ARCHIVE = ".sigmf-meta", ".sigmf-data", ".sigmf"


@dataclass(frozen=True)
class Annotation:
    """A labelled stretch: first sample, end (exclusive), label. Samples count from the first in the file."""

    start: int
    stop: int
    label: str


@dataclass(frozen=True)
class Recording:
    """Metadata of one recording.

    Attributes:
        path: The ``.sigmf-meta`` file or the archive.
        name: Unique name.
        files: All files that belong to it.
        datatype: As the metadata says, e.g. ``cu8``.
        channels: Number of channels.
        samples: Samples per channel.
        sample_rate: Samples per second; NaN where it is not said.
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
    collection: str
    label: str
    annotations: tuple[Annotation, ...]


def find_recordings(path: Path) -> list[tuple[str, Path]]:
    """Names and metadata files (or archives) of all recordings at or below ``path``, sorted.

    Raises:
        DataError: There is none, or a data file has no metadata beside it.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: correct data.path")
    if path.is_dir():
        found = sorted(place for place in path.rglob("*") if place.suffix in (META, ARCHIVE) and place.is_file())
        if not found:
            raise DataError(f"{path} holds no SigMF recordings (*.sigmf-meta)")
        return [(place.relative_to(path).with_suffix("").as_posix(), place) for place in found]
    if path.suffix == DATA:
        path = path.with_suffix(META)
        if not path.exists():
            raise DataError(f"{path} is missing: a {DATA} file needs its metadata beside it")
    return [(path.stem, path)]


def open_signal(path: Path) -> Any:
    """A ``sigmf.SigMFFile`` that reads samples on demand.

    Raises:
        DataError: Metadata or archive cannot be parsed, or the samples are missing.
    """
    try:
        with warnings.catch_warnings():
            # what the library only warns of is checked in read_recording
            warnings.simplefilter("ignore")
            signal = sigmf.fromfile(path, skip_checksum=True)
    except (
        SigMFError,
        ValidationError,
        tarfile.TarError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OSError,
    ) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(
            f"{path} cannot be read as SigMF ({reason}): mend its metadata, or copy both files again"
        ) from error
    if signal.data_file is None and signal.data_buffer is None:
        raise DataError(f"{path} has no samples: put the {DATA} file beside it")
    return signal


def read_recording(path: Path, name: str) -> Recording:
    """Parse and check the metadata of one recording.

    Raises:
        DataError: The file is broken, its datatype unknown, its samples missing or fewer than its annotations need.
    """
    if path.suffix == ARCHIVE:
        _check_archive(path)
    signal = open_signal(path)
    information = signal.get_global_info()
    datatype = str(information.get("core:datatype"))
    if not DATATYPE.fullmatch(datatype):
        raise DataError(f"{path} has the unknown datatype {datatype!r}: correct core:datatype")
    samples = int(signal.sample_count)
    if samples == 0:
        raise DataError(f"{path} has no samples: copy its {DATA} file again")
    try:
        captures = [dict(capture) for capture in signal.get_captures()]
        _check_headers(path, captures, "core:dataset" in information)
        offset = int(information.get("core:offset", 0))
        starts = sorted(int(capture["core:sample_start"]) - offset for capture in captures)
        stretches = [_stretch(annotation, offset, starts, samples) for annotation in signal.get_annotations()]
        sample_rate = float(information.get("core:sample_rate", "nan"))
    except (LookupError, ValueError, TypeError, AttributeError) as error:
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
        files=(path,) if path.suffix == ARCHIVE else (path, Path(signal.data_file)),
        datatype=datatype,
        channels=int(information["core:num_channels"]),
        samples=samples,
        sample_rate=sample_rate,
        collection=str(collection or name),
        label=label,
        annotations=tuple(Annotation(start, stop, label if own is None else own) for start, stop, own in stretches),
    )


def _stretch(annotation: dict[str, Any], offset: int, captures: list[int], samples: int) -> tuple[int, int, str | None]:
    start = int(annotation["core:sample_start"]) - offset
    label = annotation.get("core:label")
    if "core:sample_count" in annotation:
        stop = start + int(annotation["core:sample_count"])
    else:
        stop = min((capture for capture in captures if capture > start), default=samples)
    return start, stop, None if label is None else str(label)


def _check_headers(path: Path, captures: list[dict[str, Any]], foreign: bool) -> None:
    """The library skips a header at the start of a foreign data file, and none elsewhere: its bytes would be taken for samples."""
    headers = [int(capture.get("core:header_bytes", 0)) for capture in captures]
    if any(headers[1:]) or (any(headers) and not foreign):
        raise DataError(f"{path} has core:header_bytes between its samples, which is not supported: strip them")


def _check_archive(path: Path) -> None:
    """The library reads one recording of an archive, and mixes them up if there are several."""
    try:
        with tarfile.open(path) as archive:
            held = sum(name.endswith(META) for name in archive.getnames())
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} is not a SigMF archive: unpack it, or copy it again") from error
    if held != 1:
        raise DataError(f"{path} holds {held} recordings: unpack it into a folder")
