"""RadioML 2018.01A: ``GOLD_XYZ_OSC.0001_1024.hdf5`` of DeepSig.

``X (N, 1024, 2)`` float32, the last axis I and Q; ``Y (N, 24)``, one-hot; ``Z (N, 1)``, SNR in dB, -20 to 30. N is 2,555,904: 24 modulations x 26 SNRs
x 4,096 windows.

The file has no class names and the ``classes.txt`` beside it lists them in a wrong order (github.com/radioML/dataset/issues/25). The order here is that of
the paper's table (O'Shea, Roy and Clancy, "Over-the-Air Deep Learning Based Radio Signal Classification", 2018), of the
``classes-fixed.json`` in the mirror of the data set (kaggle.com/datasets/pinxau1000/radioml2018) and of TorchSig 0.5
(``torchsig/datasets/radioml.py``, "corrected from classes.txt").

Windows are float32 ``(2, 1, 1024)``, read on demand. Columns: ``modulation`` (the target) and ``snr``. Nothing says which windows belong together:
the file has no groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.hdf5_checks import dataset
from offramp.data.containers.hdf5_files import RowReader, holds, opened, value_type
from offramp.data.formats.windows import Fetch, digest
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

MODULATIONS = (
    *("OOK", "4ASK", "8ASK", "BPSK", "QPSK", "8PSK", "16PSK", "32PSK", "16APSK", "32APSK", "64APSK", "128APSK"),
    *("16QAM", "32QAM", "64QAM", "128QAM", "256QAM", "AM-SSB-WC", "AM-SSB-SC", "AM-DSB-WC", "AM-DSB-SC", "FM"),
    *("GMSK", "OQPSK"),
)
"""Names of the columns of ``Y``."""
BLOCK = 65536
"""Labels that are read at a time."""


def recognise(path: Path) -> bool:
    """By the three datasets."""
    return holds(
        path, lambda file: {"X", "Y", "Z"} <= set(file) and dataset(path, file, "Y").shape[1:] == (len(MODULATIONS),)
    )


def read(spec: DataSpec) -> Table:
    """Open the file; windows are read later.

    Raises:
        DataError: Not this layout, truncated, or a row of ``Y`` is not one-hot.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, digest("rml2018", [spec.path]), spec.allow_outside)


def summarise(path: Path) -> FileSummary:
    """Windows, modulations and SNRs."""
    return summarise_table(_table(path, fingerprint=""), str(path), "rml2018")


def _table(path: Path, fingerprint: str, allow_outside: bool = False) -> Table:
    with opened(path, allow_outside) as file:
        iq, one_hot, snr = (_dataset(path, file, name, allow_outside) for name in "XYZ")
        count = iq.shape[0] if iq.ndim else 0
        if iq.ndim != 3 or iq.shape[2] != 2 or 0 in iq.shape or one_hot.shape != (count, len(MODULATIONS)):
            raise DataError(
                f"{path}: X is {iq.shape} and Y is {one_hot.shape}; rml2018 has X (N, samples, 2) and "
                f"Y (N, {len(MODULATIONS)}): set data.format"
            )
        if snr.shape not in ((count,), (count, 1)):
            raise DataError(f"{path}: Z is {snr.shape} and X has {count} windows; both must be as long: copy it again")
        return Table(
            windows=WindowSource(
                str(path),
                count,
                (2, 1, iq.shape[1]),
                fingerprint,
                _iq_first(RowReader(path, "X", allow_outside=allow_outside)),
            ),
            columns={"modulation": _classes(path, one_hot), "snr": snr[()].reshape(count)},
            label_names={"modulation": MODULATIONS},
            default_target="modulation",
        )


def _dataset(path: Path, file: h5py.File, name: str, allow_outside: bool) -> Any:
    found = dataset(path, file, name, allow_outside)
    if value_type(found).kind not in "iuf":
        raise DataError(f"{path} has no array {name!r} of numbers: set data.format, or copy it again")
    return found


def _classes(path: Path, one_hot: h5py.Dataset) -> NDArray[np.int64]:
    classes = np.empty(one_hot.shape[0], dtype=np.int64)
    for start in range(0, len(classes), BLOCK):
        block = one_hot[start : start + BLOCK]
        wrong = ((block != 0).sum(axis=1) != 1) | (block.max(axis=1) != 1)
        if wrong.any():
            raise DataError(f"{path}: Y is not one-hot at window {start + int(np.argmax(wrong))}: copy it again")
        classes[start : start + BLOCK] = block.argmax(axis=1)
    return classes


def _iq_first(fetch: Fetch) -> Fetch:
    """``(n, samples, 2)`` -> ``(n, 2, 1, samples)``."""
    return lambda indices: fetch(indices).transpose(0, 2, 1)[:, :, None]
