"""OWL interference: snapshots of 12.8 microseconds of the 2.4 GHz band, each with one of 15 emitters, at 21 SNRs.

Data: CRAWDAD data set ``owl/interference`` (version 2019-02-12) of the Institute Industrial IT in Lemgo, Ostwestfalen-Lippe; Schmidt, Block, Meier,
"Wireless Interference Identification with Convolutional Neural Networks" (IEEE INDIN 2017, arXiv 1703.00737). The archive's own
description could not be had; this layout is what public code reads (``create_dataset.py`` of github.com/iamnewneo/Interference_identification), and is
checked at the door::

    FOLDER/data_iq.p   pickled array (15, 21, 715, 128, 2): emitter, SNR from -20 to 20 dB in steps of 2, snapshot, sample at 10 MHz, I and Q
    FOLDER/labels.p    pickled array (15, 21, 715): class of each snapshot, 0, 1, 2, ...

of Python 2 or 3, read as data (:mod:`offramp.data.containers.pickles`), not as programs, and rows at a time. Emitters, snapshots and samples may be
fewer or more; SNRs may not. Other arrays of the archive (``data_fft.p`` ...) are spectra of the same snapshots and not read.

Windows are float32 ``(2, 1, 128)``, axis 0 = I, Q, not scaled. Columns: ``label`` (no file says which number is which emitter: set
``data.labels``), ``snr`` in dB, ``snapshot`` (the group if none is named). The paper adds noise to what was recorded, and public code draws one
division of the 715 for all SNRs: so this reader takes snapshot n of an emitter for the same signal at every SNR and never lets it cross.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.companions import check_inside
from offramp.data.containers.pickled_arrays import PickledArray
from offramp.data.containers.pickles import read_pickle
from offramp.data.formats.windows import digest
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

DATA, LABELS = "data_iq.p", "labels.p"
SNRS_DB = np.arange(-20, 21, 2)


def recognise(path: Path) -> bool:
    """A folder with both files, or the one with samples, if the other stands beside it."""
    folder = path if path.is_dir() else path.parent
    return (path.is_dir() or path.name == DATA) and (folder / DATA).is_file() and (folder / LABELS).is_file()


def read(spec: DataSpec) -> Table:
    """Open both files.

    Raises:
        DataError: One is missing, damaged, holds anything but an array of numbers, or they do not fit together.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, allow_outside=spec.allow_outside)


def summarise(path: Path) -> FileSummary:
    """Snapshots, classes and SNRs."""
    return summarise_table(_table(path, hashed=False), str(path), "owl")


def _table(path: Path, hashed: bool = True, allow_outside: bool = False) -> Table:
    folder = path if path.is_dir() else path.parent
    check_inside(path, folder / LABELS, allow_outside)
    stored = _array(folder / DATA, "fiu")
    if len(stored.shape) != 5 or stored.shape[-1] != 2 or 0 in stored.shape:
        raise DataError(f"{folder / DATA} is {stored.shape}: snapshots are (emitters, SNRs, snapshots, samples, 2)")
    _, levels, snapshots, samples, _ = stored.shape
    if levels != len(SNRS_DB):
        raise DataError(f"{folder / DATA} has {levels} SNRs: they are the {len(SNRS_DB)} from -20 to 20 dB")
    labels = _array(folder / LABELS, "iuf")
    if labels.shape != stored.shape[:3]:
        raise DataError(f"{folder / LABELS} is {labels.shape} and {DATA} {stored.shape}: copy both again")
    count = math.prod(stored.shape[:3])
    emitter, level, number = np.unravel_index(np.arange(count), stored.shape[:3])
    rows = replace(stored, shape=(count, samples, 2))

    def fetch(indices: NDArray[np.int64]) -> NDArray[Any]:
        return rows.rows(indices).transpose(0, 2, 1)[:, :, None]

    return Table(
        windows=WindowSource(
            name=str(path),
            count=count,
            shape=(2, 1, samples),
            fingerprint=digest("owl", [folder / DATA, folder / LABELS]) if hashed else "",
            fetch=fetch,
        ),
        columns={
            "label": _classes(folder / LABELS, labels.values().reshape(count)),
            "snr": SNRS_DB[level],
            "snapshot": emitter * snapshots + number,
        },
        default_target="label",
        default_group="snapshot",
    )


def _array(path: Path, kinds: str) -> PickledArray:
    array = read_pickle(path)
    if not isinstance(array, PickledArray) or array.dtype.kind not in kinds or array.fortran:
        raise DataError(f"{path} holds no array of numbers, row by row: copy it again")
    return array


def _classes(path: Path, labels: NDArray[Any]) -> NDArray[np.int64]:
    if (labels != np.round(labels)).any() or (labels < 0).any():
        raise DataError(f"{path} holds labels that are not 0, 1, 2, ...: copy it again")
    return labels.astype(np.int64)
