"""What a score has to be held against: features without a pretrained encoder, put through the same heads.

Every control maps transformed windows to a feature row. ``raw_input`` is the flattened window. The others compute what an
engineer would compute by hand: ``handmade`` for I/Q (log power spectrum, cumulants, antenna covariance), ``power_only`` (a
level per antenna, per time block and overall, no phase) and ``dft_power`` (power behind a discrete Fourier transform over antennas).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from offramp.data.table import WindowSource
from offramp.encoders.base import StagedEncoder
from offramp.encoders.taps import freeze
from offramp.errors import DataError
from offramp.experiment.features import TapMatrix, batch_size, digest, encoder_inputs, fill_rows
from offramp.heads.rows import FeatureRows
from offramp.progress import OnProgress
from offramp.transforms import Transform

MOST_RAW_FEATURES = 1024
PCA_VALUES = 1 << 27
"""The principal components of raw windows are fitted on at most this many input values (512 MB)."""
MOST_PCA_ROWS = 20000
"""Those of taps on about this many rows."""
CALIBRATION_WINDOWS = 1024
VERSION = 1
"""Of the features computed by hand; part of the key under which they are kept."""
SPECTRUM_BINS = 64
TIME_BLOCKS = 16

Batch = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureControl:
    """A feature row that needs no encoder.

    Attributes:
        description: For the report.
        compute: float32 windows ``(n, 2, antennas, time)`` to float32 ``(n, width)``.
    """

    description: str
    compute: Callable[[Batch], Batch]


def _complex(windows: Batch) -> NDArray[np.complex64]:
    """Windows ``(n, antennas, time)``; of channels over time, the slots stand one after another along the last axis."""
    if windows.ndim == 5 and windows.shape[1] == 2:
        windows = windows.swapaxes(2, 3).reshape(*windows.shape[:2], windows.shape[3], -1)
    if windows.ndim != 4 or windows.shape[1] != 2:
        raise DataError(f"this control takes I/Q windows (N, 2, antennas, time), not {windows.shape}: leave it out")
    return np.asarray(windows[:, 0] + 1j * windows[:, 1], dtype=np.complex64)


def _unit_power(signal: NDArray[np.complex64]) -> NDArray[np.complex64]:
    power = np.square(np.abs(signal)).mean((1, 2), keepdims=True)
    return np.asarray(signal / np.sqrt(np.maximum(power, np.finfo(np.float32).tiny)), dtype=np.complex64)


def log_level(windows: Batch) -> Batch:
    """Log mean power of each window ``(n, 1)``."""
    power = np.square(windows).sum(1).reshape(len(windows), -1).mean(1)
    return np.asarray(np.log(np.maximum(power, 1e-20))[:, None], dtype=np.float32)


def handmade(windows: Batch) -> Batch:
    """Level, log power spectrum, cumulants of amplitude and phase, antenna covariance of unit-power windows.

    Cumulants: Swami and Sadler, "Hierarchical digital modulation classification using cumulants" (IEEE Trans. Comm. 2000):
    magnitudes of C20, C40, C41, C42, C60 and C63, averaged over antennas, and the magnitude spectra's peaks of the squared
    and fourth-power signal. The antenna covariance keeps at most the first eight lags.
    """
    signal = _unit_power(_complex(windows))
    n, antennas, time = signal.shape
    bins = min(SPECTRUM_BINS, time)
    usable = time // bins * bins
    spectrum = np.square(np.abs(np.fft.fft(signal[..., :usable].reshape(n, antennas, -1, bins), axis=-1))).mean((1, 2))
    features = [log_level(windows), np.log(spectrum / bins + 1e-4)]
    features.append(_cumulants(signal).mean(1))
    for power in (2, 4):
        line = np.abs(np.fft.fft(signal**power, axis=-1)) / time
        features.append(
            np.stack([line.max(-1).mean(1), np.log(line.max(-1) / (line.mean(-1) + 1e-9) + 1e-9).mean(1)], 1)
        )
    features.append(
        np.stack(
            [np.abs(signal).std(-1).mean(1), np.abs(np.angle(signal[..., 1:] * signal[..., :-1].conj())).mean((1, 2))],
            axis=1,
        )
    )
    for lag in range(1, min(antennas, 9)):
        product = (signal[:, lag:] * signal[:, :-lag].conj()).mean((1, 2))
        features.append(
            np.stack([product.real, product.imag, np.cos(np.angle(product)), np.sin(np.angle(product))], axis=1)
        )
    for lag in (1, 2, 4, 8):
        product = (signal[..., lag:] * signal[..., :-lag].conj()).mean((1, 2))
        features.append(np.stack([product.real, product.imag, np.abs(product)], axis=1))
    return np.concatenate(features, axis=1).astype(np.float32)


def _cumulants(signal: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Magnitudes of normalised cumulants per antenna, ``(n, antennas, 6)``."""
    c21 = np.square(np.abs(signal)).mean(-1)
    m20, m40 = np.square(signal).mean(-1), (signal**4).mean(-1)
    m41 = (signal**3 * signal.conj()).mean(-1)
    m42, m63 = (np.abs(signal) ** 4).mean(-1), (np.abs(signal) ** 6).mean(-1)
    m60 = (signal**6).mean(-1)
    c40 = m40 - 3 * m20**2
    c41 = m41 - 3 * m20 * c21
    c42 = m42 - np.abs(m20) ** 2 - 2 * c21**2
    c60 = m60 - 15 * m20 * m40 + 30 * m20**3
    c63 = m63 - 9 * c42 * c21 - 6 * c21**3
    scale = np.maximum(c21, 1e-12)
    parts = [np.abs(m20) / scale, np.abs(c40) / scale**2, np.abs(c41) / scale**2, c42 / scale**2]
    parts += [np.abs(c60) / scale**3, c63 / scale**3]
    return np.stack([np.real(part) for part in parts], axis=-1).astype(np.float64)


def power_only(windows: Batch) -> Batch:
    """Log power: overall, in 16 blocks along the last axis, and in at most 32 blocks of antennas. No phase, no frequency."""
    power = np.square(np.abs(_complex(windows)))
    along_time = _block_means(power.mean(1), TIME_BLOCKS)
    along_antennas = _block_means(power.mean(2), 32)
    return np.concatenate([log_level(windows), np.log(along_time + 1e-12), np.log(along_antennas + 1e-12)], 1).astype(
        np.float32
    )


def dft_power(windows: Batch) -> Batch:
    """Log power of every discrete-Fourier beam over the antennas, mean over the last axis: ``(n, antennas)``."""
    beams = np.fft.fft(_complex(windows), axis=1)
    return np.asarray(np.log(np.square(np.abs(beams)).mean(2) + 1e-12), dtype=np.float32)


def _block_means(values: NDArray[np.float32], blocks: int) -> NDArray[np.float32]:
    parts = np.array_split(values, min(blocks, values.shape[1]), axis=1)
    return np.stack([part.mean(1) for part in parts], axis=1)


FEATURE_CONTROLS: dict[str, FeatureControl] = {
    "handmade": FeatureControl("log power spectrum, cumulants and antenna covariance, computed by hand", handmade),
    "power_only": FeatureControl("log power overall, over time and over antennas: no phase, no frequency", power_only),
    "dft_power": FeatureControl("log power of each discrete-Fourier beam over the antennas", dft_power),
}
DESCRIPTIONS = {
    "raw_input": "the window itself, flattened, at most 1,024 principal components",
    **{name: control.description for name, control in FEATURE_CONTROLS.items()},
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
    raw = name == "raw_input"
    reduce = _raw_input(windows, transform, fit_on) if raw else FEATURE_CONTROLS[name].compute
    transform = transform if raw or transform.name == "degrade" else Transform()
    width = reduce(encoder_inputs(windows, transform, np.arange(1))).shape[1]
    key = [name, VERSION, windows.fingerprint, windows.shape, transform.to_dict()]
    if raw:
        key.append(hashlib.sha256(fit_on.tobytes()).hexdigest())
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


def reduced_taps(taps: TapMatrix, width: int, fit_on: NDArray[np.int64]) -> FeatureRows:
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

    def __init__(self, taps: TapMatrix, analysis: PCA) -> None:
        self._taps, self._analysis = taps, analysis
        self.shape: tuple[int, ...] = (*taps.shape[:2], analysis.n_components_)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        taps = self._taps[indices]
        reduced = self._analysis.transform(taps.reshape(-1, taps.shape[-1]))
        return np.asarray(reduced, dtype=np.float32).reshape(len(indices), *self.shape[1:])


def random_twin(
    encoder: StagedEncoder, windows: WindowSource, transform: Transform, draw: int, device: str
) -> StagedEncoder:
    """The same architecture with random weights, its BatchNorm statistics measured without labels on 1,024 windows.

    The windows are spread over the whole source, whatever the split, so that tasks on one source share the random encoder's
    features as they share the encoder's.
    """
    twin = encoder.reinitialised(seed=1000 + draw).to(device)
    norms = [module for module in twin.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        twin.train()
        sample = np.unique(np.linspace(0, windows.count - 1, CALIBRATION_WINDOWS).astype(np.int64))
        size = batch_size(windows.shape)
        with torch.no_grad():
            for start in range(0, len(sample), size):
                batch = encoder_inputs(windows, transform, sample[start : start + size])
                twin.taps(torch.from_numpy(batch).to(device), [twin.exits[-1].name])
    return freeze(twin)
