"""DeepBeam: I/Q samples at 60 GHz, each with the beams it was sent and received with.

One HDF5 file per configuration, with one row per sample: ``iq (M, 2)``, I and Q; ``tx_beam (M,)``, ``rx_beam (M,)``, ``gain (M,)`` and in files for
angles of arrival ``angle (M,)``, degrees. Source: README and ``keras_code/DataGenerator*.py`` of github.com/wineslab/deepbeam; Polese, Restuccia
and Melodia, "DeepBeam: Deep Waveform Learning for Coordination-Free Beam Management in mmWave Networks", MobiHoc 2021.

Samples lie in frames of blocks of 2,048; all samples of a frame have the same labels. A frame has 15 blocks in files of the NI transceivers
(``srf-*.h5``) and 5 in that of Pi-Radio (``mrf-*.h5``), which the file itself does not say: the reader takes 5 where the name begins with
``mrf``, else 15, and begins a new frame where a label changes. Labels may also be stored once per block or once per frame; a label that changes
inside a block is an error.

Windows are float32 ``(2, 1, 2048)``, one per block. Columns: ``tx_beam``, ``rx_beam``, ``gain``, ``angle`` as text, ``frame``. The target is ``angle`` where
there is one, else ``tx_beam``; ``frame`` is the group.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.hdf5_checks import dataset
from offramp.data.containers.hdf5_files import RowReader, holds, opened, value_type
from offramp.data.formats.columns import text
from offramp.data.formats.windows import Fetch, digest
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

SAMPLES = 2048
LABELS = ("tx_beam", "rx_beam", "gain", "angle")
BLOCKS_AT_ONCE = 1024
"""Blocks whose labels are read at a time."""


def recognise(path: Path) -> bool:
    """By its datasets."""
    return holds(
        path, lambda file: {"iq", "tx_beam", "gain"} <= set(file) and dataset(path, file, "iq").shape[1:] == (2,)
    )


def read(spec: DataSpec) -> Table:
    """Open the file; windows are read later.

    Raises:
        DataError: Not this layout, truncated, or a label changes inside a block.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, digest("deepbeam", [spec.path]), spec.allow_outside)


def summarise(path: Path) -> FileSummary:
    """Windows, beams, gains, angles and frames."""
    return summarise_table(_table(path, fingerprint=""), str(path), "deepbeam")


def _table(path: Path, fingerprint: str, allow_outside: bool = False) -> Table:
    with opened(path, allow_outside) as file:
        iq = dataset(path, file, "iq", allow_outside)
        if iq.shape[1:] != (2,) or value_type(iq).kind not in "iuf":
            raise DataError(f"{path} has no array 'iq' (samples, 2) of numbers: set data.format")
        count, left = divmod(iq.shape[0], SAMPLES)
        if left or not count:
            raise DataError(
                f"{path}: iq has {iq.shape[0]:,} samples, which is not a whole number of blocks of {SAMPLES}; copy it again"
            )
        labels = {name: dataset(path, file, name, allow_outside) for name in LABELS if name in file}
        columns = {name: _per_block(path, name, stored, count) for name, stored in labels.items()}
        stored_per_frame = max((iq.shape[0] // len(stored) for stored in labels.values()), default=0) // SAMPLES
    if "tx_beam" not in columns:
        raise DataError(f"{path} has no array 'tx_beam': set data.format")
    if "angle" in columns:
        columns["angle"] = columns["angle"].astype(np.str_)
    blocks_per_frame = stored_per_frame if stored_per_frame > 1 else 5 if path.name.startswith("mrf") else 15
    columns["frame"] = _frames(list(columns.values()), blocks_per_frame)
    shape = (2, 1, SAMPLES)
    return Table(
        windows=WindowSource(
            str(path), count, shape, fingerprint, _iq_first(RowReader(path, "iq", SAMPLES, allow_outside=allow_outside))
        ),
        columns=columns,
        default_target="angle" if "angle" in columns else "tx_beam",
        default_group="frame",
    )


def _per_block(path: Path, name: str, stored: Any, count: int) -> NDArray[Any]:
    """One label per block, from labels per sample, per block or per frame."""
    samples = count * SAMPLES
    rows = stored.shape[0] if len(stored.shape) == 1 else 0
    if not rows or samples % rows or (samples // rows) not in (1, *range(SAMPLES, samples + 1, SAMPLES)):
        raise DataError(
            f"{path}: {name!r} must have one label per sample, block or frame of {samples} samples: copy it again"
        )
    if (kind := value_type(stored)).kind not in "biufSUO":
        raise DataError(f"{path}: {name!r} is {kind}, neither numbers nor text: copy it again")
    if rows < samples:
        return np.repeat(_labels(stored[()]), count // rows)
    firsts = []
    for first in range(0, count, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, count)
        labels = stored[first * SAMPLES : last * SAMPLES].reshape(last - first, SAMPLES)
        changing = (labels != labels[:, :1]).any(axis=1)
        if changing.any():
            raise DataError(f"{path}: {name!r} changes inside block {first + int(np.argmax(changing))}: copy it again")
        firsts.append(labels[:, 0])
    return _labels(np.concatenate(firsts))


def _labels(values: NDArray[Any]) -> NDArray[Any]:
    """Text or, where all are whole, int64."""
    if values.dtype.kind in "SUO":
        return text(values)
    with np.errstate(invalid="ignore"):  # what int64 cannot hold differs, and stays as it is
        whole = values.astype(np.int64)
    return whole if (whole == values).all() else values


def _frames(labels: list[NDArray[Any]], blocks_per_frame: int) -> NDArray[np.int64]:
    """Number of the frame of each block: so many blocks in a row with the same labels."""
    count = len(labels[0])
    is_new = np.zeros(count, dtype=bool)
    is_new[0] = True
    for values in labels:
        is_new[1:] |= values[1:] != values[:-1]
    starts = np.flatnonzero(is_new)
    since = np.arange(count) - np.repeat(starts, np.diff([*starts, count]))
    return np.cumsum(is_new | (since % blocks_per_frame == 0)) - 1


def _iq_first(fetch: Fetch) -> Fetch:
    """``(n, 2048, 2)`` -> ``(n, 2, 1, 2048)``."""
    return lambda indices: fetch(indices).transpose(0, 2, 1)[:, :, None]
