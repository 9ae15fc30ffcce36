"""What a score has to be held against: features without a pretrained encoder, put through the same heads.

``raw_input`` is the flattened window as the encoder takes it. ``handmade``, ``handmade_level_free``, ``power_only`` and ``dft_power`` are the side
features of :mod:`offramp.encoders.side`, of the window as it was recorded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from offramp.data.table import WindowSource
from offramp.encoders.base import StagedEncoder
from offramp.encoders.recalibration import recalibrated
from offramp.encoders.side import SIDES
from offramp.encoders.taps import freeze
from offramp.experiment.features import TapMatrix, digest, encoder_inputs, fill_rows, fill_side
from offramp.heads.rows import FeatureRows
from offramp.progress import OnProgress
from offramp.transforms import Transform

MOST_RAW_FEATURES = 1024
PCA_VALUES = 1 << 27
"""The principal components of raw windows are fitted on at most this many input values (512 MB)."""
MOST_PCA_ROWS = 20000
"""Those of taps on about this many rows."""
VERSION = 2
"""Part of the key under which raw inputs are kept."""

Batch = NDArray[np.float32]


DESCRIPTIONS = {
    "raw_input": "the window itself, flattened, at most 1,024 principal components",
    **{name: side.description for name, side in SIDES.items()},
}


def control_features(
    name: str,
    windows: WindowSource,
    transform: Transform,
    fit_on: NDArray[np.int64],
    root: Path,
    on_progress: OnProgress,
) -> TapMatrix:
    """A control's feature row for all windows, ``(N, width)``, on disk under ``root``, resumable.

    ``raw_input`` takes the transformed windows, reduced to at most 1,024 principal components that are fitted on the windows
    ``fit_on``. The others take the windows as they were recorded, or degraded where the task degrades them: what the encoder is
    not shown, no control sees.
    """
    if name in SIDES:
        observed = transform if transform.name == "degrade" else Transform()
        return fill_side(name, windows, observed, root, on_progress)
    reduce = _raw_input(windows, transform, fit_on)
    width = reduce(encoder_inputs(windows, transform, np.arange(1))).shape[1]
    outside = hashlib.sha256(fit_on.tobytes()).hexdigest()
    key = [name, VERSION, windows.fingerprint, windows.shape, transform.to_dict(), outside]
    folder = root / digest(key)
    fill_rows(windows, transform, lambda batch: {name: reduce(batch)}, {name: (width,)}, folder, on_progress)
    return TapMatrix(folder / f"{name}.npy")


def _raw_input(windows: WindowSource, transform: Transform, fit_on: NDArray[np.int64]) -> Callable[[Batch], Batch]:
    width = int(np.prod(transform.output_shape(windows.shape)))
    if width <= MOST_RAW_FEATURES:
        return lambda batch: batch.reshape(len(batch), width)
    sample = fit_on[np.linspace(0, len(fit_on) - 1, min(len(fit_on), max(64, PCA_VALUES // width))).astype(np.int64)]
    components = min(MOST_RAW_FEATURES, len(sample), width)
    solver = "covariance_eigh" if width <= 4096 else "randomized"
    analysis = PCA(components, svd_solver=solver, random_state=0)
    analysis.fit(encoder_inputs(windows, transform, sample).reshape(len(sample), width))
    return lambda batch: np.asarray(analysis.transform(batch.reshape(len(batch), width)), dtype=np.float32)


def reduced_taps(taps: FeatureRows, width: int, fit_on: NDArray[np.int64]) -> FeatureRows:
    """Taps cut to their first principal components, ``(N, width)`` float32, fitted on the windows ``fit_on``.

    Token taps ``(N, positions, width)`` are cut position by position to the components of all positions, as they are read.
    """
    analysis = PCA(min(width, taps.shape[-1]), svd_solver="covariance_eigh")
    rows = math.prod(taps.shape[1:-1])
    sample = taps[fit_on[:: max(1, len(fit_on) * rows // MOST_PCA_ROWS)]]
    analysis.fit(sample.reshape(-1, taps.shape[-1]))
    if len(taps.shape) == 3:
        return _ReducedTokens(taps, analysis)
    count = taps.shape[0]
    return np.concatenate(
        [analysis.transform(taps[np.arange(at, min(at + 8192, count))]) for at in range(0, count, 8192)]
    ).astype(np.float32)


class _ReducedTokens:
    """Token taps of fewer features, ``(N, positions, components)`` float32, computed anew whenever they are read."""

    def __init__(self, taps: FeatureRows, analysis: PCA) -> None:
        self._taps, self._analysis = taps, analysis
        self.shape: tuple[int, ...] = (*taps.shape[:2], analysis.n_components_)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        taps = self._taps[indices]
        reduced = self._analysis.transform(taps.reshape(-1, taps.shape[-1]))
        return np.asarray(reduced, dtype=np.float32).reshape(len(indices), *self.shape[1:])


def random_twin(encoder: StagedEncoder, batches: Iterable[Tensor], draw: int) -> StagedEncoder:
    """The same architecture with random weights, its BatchNorm statistics measured without labels on some batches."""
    twin = encoder.reinitialised(seed=1000 + draw).to(next(encoder.parameters()).device)
    return freeze(recalibrated(twin, batches))
