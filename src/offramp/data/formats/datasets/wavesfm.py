"""What the HDF5 caches of WavesFM's tasks need beyond the layout of :mod:`offramp.data.formats.generic.hdf5`.

Source: the preprocessing scripts and data sets of github.com/AhmedTarek62/wavesfm (``preprocessing/preprocess_*.py``, ``dataset_classes``,
``data.py``); there is no other description. One dataset has a row per window, most are already normalised, the others are columns:

======================  ==========================================  ===================================================================
cache                   windows, float32                            columns; attributes
======================  ==========================================  ===================================================================
RML 2016, 2022          ``sample (N, 2, 1, 128)``                   ``label``, ``snr``, ``modulation``; ``labels``, ``mu``, ``std`` in JSON
RadCom                  ``sample (N, 2, 1, 128)``                   ``label``, ``modulation``, ``signal_type``, ``snr``; ``label_pairs``
RF fingerprinting       ``sample (N, 2, 1, 512)``                   ``label``, ``source_file`` (recording), ``start``, ``sample_rate``; ``mean`` array
Icarus                  ``sample (N, 2, 1, 4096)``                  ``label``, ``band``, ``fs``, ``source_file`` (one each); no ``labels``
DeepMIMO                ``sample (N, 2, H, W)``                     ``label_los``, ``label_beam_B`` ..., ``scenario``; ``labels_los``
CSI sensing             ``csi (N, 3, H, W)``                        ``label``, ``source_file``; ``labels``
RF spectrograms         ``image (N, 1, H, W)``                      ``label``, ``source_file``; ``labels``
5G NR positioning       ``features (N, C, H, W)``                   ``label (N, 3)`` in [-1, 1], ``source_file``; ``coord_nominal_min/max``
UWB indoor              ``cir (N, 2, anchors, taps)``, raw          ``location (N, 3)`` m, ``channel``; ``mean_real`` ...
UWB industrial          ``cir (N, 2, anchors, taps)``, raw          ``location (N, 2)`` m, ``anchor_mask``, ``rec_time``, ``burst_id``; ``fill_missing``
======================  ==========================================  ===================================================================

Two caches are not used as stored. Impulse responses are normalised as WavesFM's loader does, so that its encoder sees what it was
pretrained on: ``(real - mean_real) / std_real``, the same for the imaginary part, NaN of missing anchors set to 0 where ``fill_missing`` is
``nan``, zeros behind the last tap up to the next power of two. Positions in [-1, 1] become metres again; where one occurs several times, it is the
group. ``location`` stays as it is, in metres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.formats.arrays import is_shared
from offramp.data.formats.windows import Fetch
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.opening import parse_json


def adapt(table: Table, field: str, attributes: Mapping[str, Any]) -> Table:
    """Windows and targets of an HDF5 file as its attributes ask; a file that has none of WavesFM's is left as it is.

    Args:
        table: As :func:`offramp.data.formats.arrays.table_from_arrays` gives it.
        field: Name of the array of windows.
        attributes: Those of the file.

    Raises:
        DataError: An attribute is not a number, or not as many as there are coordinates.
    """
    name = table.windows.name
    shape = table.windows.shape
    if field == "cir" and "mean_real" in attributes and len(shape) == 3 and shape[0] == 2:
        taps = 1 << (shape[2] - 1).bit_length()
        fetch = _normalised(table.windows.fetch, name, attributes, taps)
        table = replace(table, windows=replace(table.windows, shape=(*shape[:2], taps), fetch=fetch))
    if "coord_nominal_min" in attributes and "label" in table.columns:
        low, high = (_numbers(name, attributes, f"coord_nominal_{end}") for end in ("min", "max"))
        label = np.asarray(table.columns["label"], dtype=np.float32).reshape(table.windows.count, -1)
        if label.shape[1:] != low.shape or low.shape != high.shape:
            raise DataError(
                f"{name}: 'label' is {label.shape} and coord_nominal_min/max have {len(low)} and {len(high)} values; "
                "make the cache again"
            )
        places = low + (label + 1) / 2 * (high - low)
        group = "label" if is_shared(places) else None
        table = replace(table, columns={**table.columns, "label": places}, default_group=group)
    return table


def _normalised(fetch: Fetch, name: str, attributes: Mapping[str, Any], taps: int) -> Fetch:
    parts = ("real", "imag")
    mean, std = (
        np.concatenate([_numbers(name, attributes, f"{what}_{part}", default) for part in parts])
        for what, default in (("mean", 0.0), ("std", 1.0))
    )
    if mean.shape != (2,) or std.shape != (2,):
        raise DataError(
            f"{name}: mean_real, mean_imag, std_real and std_imag are one number each; make the cache again"
        )
    std = np.where(std > 0, std, np.float32(1))
    fill = attributes.get("fill_missing", "zero")
    missing_is_nan = (fill.decode() if isinstance(fill, bytes) else str(fill)) == "nan"

    def normalised(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        stored = np.asarray(fetch(indices), dtype=np.float32)
        out = np.zeros((*stored.shape[:3], taps), dtype=np.float32)
        windows = out[..., : stored.shape[3]]
        windows[...] = (stored - mean[:, None, None]) / std[:, None, None]
        if missing_is_nan:
            windows[np.isnan(windows)] = 0
        return out

    return normalised


def _numbers(name: str, attributes: Mapping[str, Any], key: str, default: float | None = None) -> NDArray[np.float32]:
    """An attribute that is a number, an array or a list in JSON, float32 ``(n,)``."""
    value = attributes.get(key, default)
    try:
        text = value.decode() if isinstance(value, bytes) else value
        listed = parse_json(text) if isinstance(text, str) else value
        numbers = np.atleast_1d(np.asarray(listed, dtype=np.float32))
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: attribute {key!r} must be numbers; make the cache again") from error
    if not np.isfinite(numbers).all():
        raise DataError(f"{name}: attribute {key!r} must be finite; make the cache again")
    return numbers
