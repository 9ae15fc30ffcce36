"""POWDER radio fingerprinting: recordings of radios, each a ``.json`` of metadata with a ``.bin`` of samples beside it.

Data: Reus-Muns, Jaisinghani, Sankhe, Chowdhury, "Trust in 5G Open RANs through Machine Learning: RF Fingerprinting on the POWDER PAWR
Platform" (IEEE Globecom 2020). The metadata borrows names from SigMF but is no SigMF: ``captures`` and ``annotations`` are objects where
SigMF has lists, the suffixes are others, ``cf32`` has no byte order. There is no official description; this layout is what public
code reads (``preprocess_rfp.py`` of github.com/AhmedTarek62/wavesfm), and is checked at the door::

    {"global": {"core:datatype": "cf32", "core:sample_rate": 5e6, ...},
     "captures": {"core:center_frequency": 2.685e9, ...},
     "annotations": {"transmitter": {"core:location": "bes", ...}, "receiver": {...}, ...}}

The ``.bin`` holds little-endian float32 I, Q, I, Q, ... A folder is searched to the bottom; either file of a pair stands for one recording.

Windows are float32 ``(2, 1, window)`` (axis 0 = I, Q; 512 samples if ``data.window`` is not set), every ``hop`` samples; what is left over at the
end of a recording is dropped. They are read on demand and not scaled. Columns: ``label`` (location of the transmitter, in lower
case), ``recording`` (path below the folder without suffix; the group if none is named), ``day`` where path or metadata say it (``day1``,
``Day_2``), and every other number or short text that all recordings have, without ``core:``, e.g. ``sample_rate``, ``center_frequency``, ``receiver_location``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.companions import check_inside
from offramp.data.formats.windows import (
    cut,
    digest,
    file_bytes,
    metadata_columns,
    name_below,
    numbered,
    one_by_one,
    read_interleaved,
)
from offramp.data.places import open_each, silent_note
from offramp.data.summary import FileSummary, summarise_column
from offramp.data.table import NoWindowsError, Positions, Table, WindowSource
from offramp.errors import DataError
from offramp.opening import read_json
from offramp.schema.tasks import DataSpec

WINDOW = 512
DATATYPES = ("cf32", "cf32_le", "complex64", "float32_complex")
SAMPLE = np.dtype("<f4")
DAY = re.compile(r"day[ _-]?(\d+)", re.IGNORECASE)
LONGEST_TEXT = 64
UNIMPORTANT = ("datatype", "version", "sha512", "author", "description", "license", "transmitter_location")
"""What says nothing about a window; the location of the transmitter is the label."""


@dataclass(frozen=True)
class Frames:
    """One pair of files: names, samples, transmitter, and what else the metadata says."""

    name: str
    meta: Path
    data: Path
    samples: int
    transmitter: str
    described: dict[str, object]


def recognise(path: Path) -> bool:
    """A ``.json`` and a ``.bin`` of one name, or a folder that has such a pair somewhere."""
    if path.suffix.lower() in (".json", ".bin") and path.is_file():
        return path.with_suffix(".json").is_file() and path.with_suffix(".bin").is_file()
    return path.is_dir() and any(meta.with_suffix(".bin").is_file() for meta in path.rglob("*.json"))


def read(spec: DataSpec) -> Table:
    """Open recordings and cut them into windows.

    Raises:
        DataError: A file of a pair is missing; metadata is broken, of another datatype or without a transmitter; samples are
            cut off; nothing is as long as a window.
    """
    assert isinstance(spec.path, Path)
    recordings, notes = _recordings(spec.path, spec.skip_bad, spec.allow_outside)
    window = spec.window or WINDOW
    hop = spec.hop or window
    origin, starts = cut([recording.samples for recording in recordings], window, hop, spec.windows_per_recording)
    if len(origin) == 0:
        raise NoWindowsError(f"{spec.path} gives no windows of {window} samples: choose a shorter data.window")
    labels, names = numbered([recording.transmitter for recording in recordings])
    columns: dict[str, NDArray[np.generic]] = {"label": labels[origin], "recording": origin}
    label_names = {"label": names, "recording": tuple(recording.name for recording in recordings)}
    for key, values in metadata_columns([recording.described for recording in recordings]).items():
        if values.dtype.kind == "U":
            values, label_names[key] = numbered([str(value) for value in values])
        columns[key] = values[origin]
    known = [recording.name for recording in recordings]
    cut_from = set(origin.tolist())
    silent = tuple(name for number, name in enumerate(known) if number not in cut_from)
    files = [file for recording in recordings for file in (recording.meta, recording.data)]
    about = [window, hop, spec.windows_per_recording, known]
    return Table(
        windows=WindowSource(
            name=str(spec.path),
            count=len(origin),
            shape=(2, 1, window),
            fingerprint=digest(about, files),
            fetch=one_by_one(
                lambda index: read_interleaved(recordings[origin[index]].data, int(starts[index]), window, SAMPLE)[
                    :, None
                ],
                (2, 1, window),
            ),
        ),
        columns=columns,
        label_names=label_names,
        default_target="label",
        default_group="recording",
        positions=Positions.of(known, origin, starts, window),
        silent=silent,
        notes=(*notes, *silent_note(silent, len(known))),
    )


def summarise(path: Path) -> FileSummary:
    """Recordings, before any window is cut."""
    recordings, _ = _recordings(path, skip_bad=False)
    columns = {
        "label": np.array([recording.transmitter for recording in recordings]),
        "recording": np.array([recording.name for recording in recordings]),
        "samples": np.array([recording.samples for recording in recordings]),
        **metadata_columns([recording.described for recording in recordings]),
    }
    summaries = tuple(summarise_column(name, "recording", values) for name, values in columns.items())
    return FileSummary(
        str(path), "powder", len(recordings), "recording", None, summaries, target="label", group="recording"
    )


def _recordings(path: Path, skip_bad: bool, allow_outside: bool = False) -> tuple[list[Frames], tuple[str, ...]]:
    if path.is_dir():
        metas = sorted({file.with_suffix(".json") for suffix in (".json", ".bin") for file in path.rglob("*" + suffix)})
    else:
        metas = [path.with_suffix(".json")]
        for other in (path.with_suffix(".json"), path.with_suffix(".bin")):
            check_inside(path, other, allow_outside)
    if not metas:
        raise DataError(f"{path} holds no POWDER recordings (*.json with *.bin)")
    named = [(name_below(meta, path), meta) for meta in metas if not meta.name.startswith("._")]
    return open_each(named, lambda name, meta: _recording(meta, name), skip_bad, "recordings")


def _recording(meta: Path, name: str) -> Frames:
    data = meta.with_suffix(".bin")
    for here, other in ((meta, data), (data, meta)):
        if not here.is_file():
            raise DataError(f"{here} is missing: {other.name} needs it beside it or does not belong here")
    size = file_bytes(data)
    if size % 8:
        raise DataError(f"{data} has {size} bytes, which is no whole number of samples of 8 bytes: copy it again")
    advice = "it is no metadata of POWDER, which are JSON objects: correct it or copy it again"
    content = read_json(meta, DataError, advice)
    try:
        sections = [content.get(section, {}) for section in ("global", "captures", "annotations")]
        said = {key: value for section in sections for key, value in _scalars(section)}
    except AttributeError as error:
        raise DataError(f"{meta}: {advice}") from error
    if said.get("datatype") not in DATATYPES:
        raise DataError(f"{meta} has the datatype {said.get('datatype')!r}: only cf32 is read, correct core:datatype")
    transmitter = str(said.get("transmitter_location", "")).strip().lower()
    if not transmitter:
        raise DataError(f"{meta} names no transmitter: add annotations.transmitter.core:location")
    day = DAY.search(name)
    described: dict[str, object] = {} if day is None else {"day": int(day[1])}
    described |= {
        key: value for key, value in said.items() if key not in UNIMPORTANT and len(str(value)) <= LONGEST_TEXT
    }
    return Frames(name, meta, data, size // 8, transmitter, described)


def _scalars(section: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Text and numbers at any depth, named by their path without namespaces, e.g. ``receiver_location``."""
    for key, value in section.items():
        name = prefix + key.rpartition(":")[2]
        if isinstance(value, dict):
            yield from _scalars(value, name + "_")
        elif isinstance(value, str | int | float):
            yield name, value
