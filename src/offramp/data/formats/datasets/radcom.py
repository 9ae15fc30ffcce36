"""RadCom (RadarCommDataset of ANDRO): an HDF5 file with one dataset per window, called by its labels.

A name is the text of a tuple, ``('AM-DSB', 'AM radio', '10', '0')``: modulation, signal type, SNR in dB, number of the snapshot. A dataset is
``(256,)`` or ``(256, 1)`` float: 128 I, then 128 Q, at 10 MS/s. Source: the README and ``load_dataset.py`` of
github.com/ANDROComputationalSolutions/RadarCommDataset (over the air ``RadComOta2.45GHz.hdf5``, simulated ``RadComDynamic.hdf5`` and ``RadComAWGN.hdf5``);
Jagannath and Jagannath, Computer Networks 199, 2021. There are 9 pairs of modulation and signal type, 20 SNRs from -20 to 18 dB and
700 snapshots of each.

Windows are float32 ``(2, 1, 128)`` in the order of the names. Columns: ``label`` (the target; classes ``modulation / signal type``),
``modulation``, ``signal_type``, ``snr``. Nothing says which windows belong together: the files have no groups.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offramp.data.containers.hdf5_files import OpenFile, holds, opened, readable
from offramp.data.formats.windows import digest, numbered, one_by_one
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

SAMPLES = 128
LONGEST_NAME = 256


def recognise(path: Path) -> bool:
    """By the name of the first dataset."""
    return holds(path, lambda file: _labels(file.id.get_objname_by_idx(0).decode()) is not None)


def read(spec: DataSpec) -> Table:
    """Open the file; windows are read later.

    Raises:
        DataError: Not this layout, or truncated.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, digest("radcom", [spec.path]), spec.allow_outside)


def summarise(path: Path) -> FileSummary:
    """Windows, modulations, signal types and SNRs."""
    return summarise_table(_table(path, fingerprint=""), str(path), "radcom")


def _table(path: Path, fingerprint: str, allow_outside: bool = False) -> Table:
    with opened(path, allow_outside) as file:
        names = list(file)
    labels = [_labels(name) for name in names]
    if not names or None in labels:
        wrong = names[labels.index(None)] if names else "(none)"
        raise DataError(
            f"{path} has the dataset {wrong}; in radcom names are "
            "('modulation', 'signal type', 'snr', 'snapshot'): set data.format"
        )
    modulations, signal_types, snrs = zip(*(label for label in labels if label is not None), strict=True)
    columns: dict[str, NDArray[np.generic]] = {"snr": np.array(snrs)}
    label_names = {}
    for column, values in (
        ("modulation", modulations),
        ("signal_type", signal_types),
        ("label", [" / ".join(pair) for pair in zip(modulations, signal_types, strict=True)]),
    ):
        columns[column], label_names[column] = numbered(values)
    return Table(
        windows=WindowSource(
            str(path),
            len(names),
            (2, 1, SAMPLES),
            fingerprint,
            one_by_one(_FrameReader(path, names, allow_outside), (2, 1, SAMPLES)),
        ),
        columns=columns,
        label_names=label_names,
        default_target="label",
    )


def _labels(name: str) -> tuple[str, str, float] | None:
    """Modulation, signal type and SNR from the name of a dataset; None if it is no such name."""
    if len(name) > LONGEST_NAME:
        return None
    try:
        modulation, signal_type, snr, _ = ast.literal_eval(name)
        return str(modulation), str(signal_type), float(snr)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


class _FrameReader:
    """One window by its number."""

    def __init__(self, path: Path, names: list[str], allow_outside: bool) -> None:
        self._path = path
        self._names = names
        self._file = OpenFile(path, allow_outside)

    def __call__(self, index: int) -> NDArray[np.generic]:
        name = self._names[index]
        with readable(self._path):
            values = np.asarray(self._file(name))
        if values.size != 2 * SAMPLES or values.dtype.kind not in "iuf":
            raise DataError(f"{self._path}: {name} is {values.dtype} {values.shape}; windows are 128 I, then 128 Q")
        return values.reshape(2, 1, SAMPLES)
