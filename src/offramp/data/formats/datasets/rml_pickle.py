"""RadioML 2016.10a, 2016.10b and RML22.01A: a pickled dictionary ``(modulation, snr in dB) -> (n, 2, samples)`` of I and Q.

Sources: the generator of 2016.10a and b (github.com/radioML/dataset), public loaders of all three (``pickle.load(file, encoding="latin1")`` or
``numpy.load``, which falls back to a pickle), e.g. github.com/AhmedTarek62/wavesfm. ``RML2016.10a_dict.pkl`` has 11 modulations, 20 SNRs from
-20 to 18 dB and 1,000 windows of 128 float32 samples of each pair; ``RML2016.10b.dat`` 10 modulations and 6,000 windows; ``RML22.01A`` 11
modulations, 21 SNRs to 20 dB and 2,000 windows. The first two were written by Python 2. Files are read as data, see
:mod:`offramp.data.containers.pickles`.

Windows are float32 ``(2, 1, samples)`` in the order of the file. Columns: ``modulation`` (the target; classes in the order of the alphabet) and
``snr``. Nothing says which windows belong together: the files have no groups.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offramp.data.containers.pickled_arrays import PickledArray, StackedRows
from offramp.data.containers.pickles import read_pickle, starts_dictionary
from offramp.data.formats.windows import digest, numbered
from offramp.data.summary import FileSummary, summarise_table
from offramp.data.table import Table, WindowSource
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec

LAYOUT = "a dictionary (modulation, snr) -> array (n, 2, samples)"


def recognise(path: Path) -> bool:
    """By suffix, so that a hostile pickle is named as such, or by how the pickle of a dictionary begins."""
    return not path.is_dir() and (path.suffix.lower() in (".pkl", ".pickle", ".p") or starts_dictionary(path))


def read(spec: DataSpec) -> Table:
    """Open a pickle.

    Raises:
        DataError: It holds anything but data, is damaged, or is no dictionary of this layout.
    """
    assert isinstance(spec.path, Path)
    return _table(spec.path, digest("rml-pickle", [spec.path]))


def summarise(path: Path) -> FileSummary:
    """Windows, modulations and SNRs."""
    return summarise_table(_table(path, fingerprint=""), str(path), "rml-pickle")


def _table(path: Path, fingerprint: str) -> Table:
    arrays = _arrays(path)
    counts = [array.shape[0] for array in arrays.values()]
    modulations, names = numbered([modulation for modulation, _ in arrays])
    rows = StackedRows([*arrays.values()], [np.arange(count) for count in counts])
    return Table(
        windows=WindowSource(
            name=str(path),
            count=sum(counts),
            shape=(2, 1, rows.arrays[0].shape[2]),
            fingerprint=fingerprint,
            fetch=lambda indices: rows(indices)[:, :, None],
        ),
        columns={
            "modulation": np.repeat(modulations, counts),
            "snr": np.repeat(np.array([snr for _, snr in arrays]), counts),
        },
        label_names={"modulation": names},
        default_target="modulation",
    )


def _arrays(path: Path) -> dict[tuple[str, float], PickledArray]:
    content = read_pickle(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} holds no {LAYOUT}: set data.format, or save its windows with numpy.savez")
    for key, array in content.items():
        match key:
            case (str(), int() | float()):
                pass
            case _:
                raise DataError(
                    f"{path} has the key {key!r}, and is {LAYOUT} in the layout rml-pickle: set data.format"
                )
        if not isinstance(array, PickledArray) or array.dtype.kind not in "fiu" or len(array.shape) != 3:
            raise DataError(f"{path}: {key} is not an array (n, 2, samples): correct the file or data.format")
        if array.shape[1] != 2 or 0 in array.shape or array.shape[2] != next(iter(content.values())).shape[2]:
            raise DataError(f"{path}: {key} has the shape {array.shape}; all must be (n, 2, samples) of one length")
    return content
