"""Side features: what an engineer computes from a window by hand, cheap enough to stand beside a tap, or to leave before the encoder.

Written in torch on real numbers, so that one definition runs beside the encoder, is exported with it and is counted with it.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType

import numpy as np
import torch
from torch import Tensor

from offramp.encoders.storage import first_line
from offramp.errors import EncoderError, OfframpError

SPECTRUM_BINS = 64
TIME_BLOCKS = 16
ANTENNA_BLOCKS = 32
MOST_ANTENNA_LAGS = 8
TIME_LAGS = (1, 2, 4, 8)
TINY = 1e-12


@dataclass(frozen=True)
class Side:
    """Features of a window that need no encoder.

    Attributes:
        name: As a suite and a bundle have it.
        description: For the report.
        compute: float32 windows ``(n, *shape)`` to float32 ``(n, width)``, or for heads on tokens ``(n, positions, width)``.
        macs: Multiply-accumulate operations of one window of a shape, beside those of matrix products, which are counted.
        version: Changes whenever the features do: those that are kept on disk are theirs alone.
    """

    name: str
    description: str
    compute: Callable[[Tensor], Tensor]
    macs: Callable[[tuple[int, ...]], int] = lambda _: 0
    version: str = "1"


def side_features(name: str) -> Side:
    """Side features by name: ``handmade``, ``handmade_level_free``, ``power_only``, ``dft_power`` or ``MODULE:FUNCTION``.

    A function of the user's own takes and returns tensors as :attr:`Side.compute` does, by operations of torch alone, so that it can be
    counted and exported. Its module must be there already: a file never makes Offramp import code, nor run any that is not such a function.

    Raises:
        EncoderError: There are none of that name.
    """
    if name in SIDES:
        return SIDES[name]
    module, _, function = name.partition(":")
    if not function:
        raise EncoderError(f"unknown side features {name!r}: choose {', '.join(SIDES)} or my_module:function")
    if module not in sys.modules:
        raise EncoderError(f"side features {name!r}: import the module first, e.g. with --import {module}")
    compute = getattr(sys.modules[module], function, None)
    library = module.partition(".")[0] in sys.stdlib_module_names
    if library or not isinstance(compute, FunctionType) or compute.__module__ != module:
        raise EncoderError(f"side features {name!r}: {module} defines no function of its own called {function}")
    return Side(name, f"{function} of {module}", _guarded(name, compute), version=_source_hash(compute))


def _guarded(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of the user's own; whatever goes wrong in it becomes one line."""

    def compute(x: Tensor) -> Tensor:
        try:
            rows = function(x)
        except OfframpError:
            raise
        except Exception as error:  # whatever the code of others raises
            raise EncoderError(
                f"side features {name!r} stop at {tuple(x.shape)}: {first_line(error)}; they are made of operations of torch alone"
            ) from error
        fits = isinstance(rows, Tensor) and rows.dtype == torch.float32 and rows.ndim in (2, 3)
        if not fits or rows.shape[0] != x.shape[0]:
            given = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise EncoderError(
                f"side features {name!r} give {given} for windows {tuple(x.shape)}: return a float32 tensor (N, width), or (N, positions, width)"
            )
        return rows

    return compute


def _source_hash(function: FunctionType) -> str:
    try:
        source = inspect.getsource(sys.modules[function.__module__]).encode()
    except (OSError, TypeError):  # no file: a notebook, or a program given on the command line
        source = function.__code__.co_code + repr(function.__code__.co_consts).encode()
    return hashlib.sha256(source).hexdigest()


def _of_iq(x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part ``(n, antennas, time)``; of channels over time, the slots stand one after another along the last axis."""
    if x.ndim == 5 and x.shape[1] == 2:
        x = x.transpose(2, 3).flatten(3)
    if x.ndim != 4 or x.shape[1] != 2:
        raise EncoderError(
            f"these features take I/Q windows (N, 2, antennas, time), not {tuple(x.shape)}: leave them out"
        )
    return x[:, 0], x[:, 1]


def _log_level(x: Tensor) -> Tensor:
    """Log mean power of each window ``(n, 1)``."""
    return x.square().sum(1).flatten(1).mean(1, keepdim=True).clamp_min(1e-20).log()


def handmade(x: Tensor) -> Tensor:
    """Level, log power spectrum, cumulants of amplitude and phase, antenna covariance of unit-power windows.

    Cumulants: Swami and Sadler, "Hierarchical digital modulation classification using cumulants" (IEEE Trans. Comm. 2000):
    magnitudes of C20, C40, C41, C42, C60 and C63, averaged over antennas, and the magnitude spectra's peaks of the squared
    and fourth-power signal. The antenna covariance keeps at most the first eight lags.
    """
    return torch.cat([_log_level(x), handmade_level_free(x)], dim=1)


def handmade_level_free(x: Tensor) -> Tensor:
    """:func:`handmade` without the level, which says the SNR where the noise is known."""
    real, imaginary = _of_iq(x)
    scale = (real.square() + imaginary.square()).mean((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny).rsqrt()
    re, im = real * scale, imaginary * scale
    power = re.square() + im.square()
    second = (re.square() - im.square(), 2 * re * im)
    fourth = _product(second, second)
    features = [
        _log_spectrum(re, im),
        _cumulants(power, second, fourth).mean(1),
        _lines(*second),
        _lines(*fourth),
        torch.stack([power.sqrt().std(-1, correction=0).mean(1), _phase_step(re, im)], 1),
    ]
    antennas = re.shape[1]
    for lag in range(1, min(antennas, MOST_ANTENNA_LAGS + 1)):
        a, b = _mean_product(re[:, lag:], im[:, lag:], re[:, :-lag], im[:, :-lag])
        size = (a.square() + b.square()).sqrt().clamp_min(TINY)
        features.append(torch.stack([a, b, a / size, b / size], 1))
    for lag in TIME_LAGS:
        a, b = _mean_product(re[..., lag:], im[..., lag:], re[..., :-lag], im[..., :-lag])
        features.append(torch.stack([a, b, (a.square() + b.square()).sqrt()], 1))
    return torch.cat(features, 1)


def _product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _mean_product(re: Tensor, im: Tensor, other_re: Tensor, other_im: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of ``s conj(t)`` over antennas and time, real and imaginary, ``(n,)`` each."""
    return (re * other_re + im * other_im).mean((1, 2)), (im * other_re - re * other_im).mean((1, 2))


def _phase_step(re: Tensor, im: Tensor) -> Tensor:
    """Mean absolute phase step from one sample to the next, radians ``(n,)``."""
    a = re[..., 1:] * re[..., :-1] + im[..., 1:] * im[..., :-1]
    b = im[..., 1:] * re[..., :-1] - re[..., 1:] * im[..., :-1]
    return torch.atan2(b, a).abs().mean((1, 2))


def _log_spectrum(re: Tensor, im: Tensor) -> Tensor:
    """Log power in 64 bins, mean over antennas and blocks of 64 samples, ``(n, 64)``."""
    bins = min(SPECTRUM_BINS, re.shape[-1])
    usable = re.shape[-1] // bins * bins
    blocks = [part[..., :usable].reshape(part.shape[0], -1, bins) for part in (re, im)]
    return (_fourier_power(*blocks).mean(1) / bins + 1e-4).log()


def _lines(re: Tensor, im: Tensor) -> Tensor:
    """Strongest spectral line and its height above the mean, means over antennas, ``(n, 2)``."""
    line = _fourier_power(re, im).sqrt() / re.shape[-1]
    highest = line.amax(-1)
    return torch.stack([highest.mean(1), (highest / (line.mean(-1) + 1e-9) + 1e-9).log().mean(1)], 1)


def _cumulants(power: Tensor, second: tuple[Tensor, Tensor], fourth: tuple[Tensor, Tensor]) -> Tensor:
    """Magnitudes of normalised cumulants per antenna, ``(n, antennas, 6)``."""
    sixth, squared = _product(fourth, second), power.square()
    parts = [
        power,
        squared,
        squared * power,
        *second,
        *fourth,
        second[0] * power,
        second[1] * power,
        *sixth,
    ]
    c21, m42, m63, *rest = torch.stack(parts).mean(-1).unbind()
    m20, m40, m41, m60 = ((rest[i], rest[i + 1]) for i in range(0, 8, 2))
    square = _product(m20, m20)
    c40 = (m40[0] - 3 * square[0], m40[1] - 3 * square[1])
    c41 = (m41[0] - 3 * m20[0] * c21, m41[1] - 3 * m20[1] * c21)
    c42 = m42 - m20[0].square() - m20[1].square() - 2 * c21.square()
    mixed, cube = _product(m20, m40), _product(square, m20)
    c60 = (m60[0] - 15 * mixed[0] + 30 * cube[0], m60[1] - 15 * mixed[1] + 30 * cube[1])
    c63 = m63 - 9 * c42 * c21 - 6 * c21**3
    scale = c21.clamp_min(TINY)
    return torch.stack(
        [
            _size(m20) / scale,
            _size(c40) / scale**2,
            _size(c41) / scale**2,
            c42 / scale**2,
            _size(c60) / scale**3,
            c63 / scale**3,
        ],
        dim=-1,
    )


def _size(value: tuple[Tensor, Tensor]) -> Tensor:
    return (value[0].square() + value[1].square()).sqrt()


def power_only(x: Tensor) -> Tensor:
    """Log power: overall, in 16 blocks along the last axis, and in at most 32 blocks of antennas. No phase, no frequency."""
    re, im = _of_iq(x)
    power = re.square() + im.square()
    along_time = _block_means(power.mean(1), TIME_BLOCKS)
    along_antennas = _block_means(power.mean(2), ANTENNA_BLOCKS)
    return torch.cat([_log_level(x), (along_time + TINY).log(), (along_antennas + TINY).log()], 1)


def dft_power(x: Tensor) -> Tensor:
    """Log power of every discrete-Fourier beam over the antennas, mean over the last axis: ``(n, antennas)``."""
    re, im = _of_iq(x)
    return (_fourier_power(re.transpose(1, 2), im.transpose(1, 2)).mean(1) + TINY).log()


def _block_means(values: Tensor, blocks: int) -> Tensor:
    parts = torch.tensor_split(values, min(blocks, values.shape[1]), dim=1)
    return torch.stack([part.mean(1) for part in parts], dim=1)


def _fourier_power(re: Tensor, im: Tensor) -> Tensor:
    """Squared magnitude of the discrete Fourier transform over the last axis."""
    if torch.compiler.is_exporting():  # a graph has real numbers alone
        re, im = _fourier_in_two_steps(re, im)
        return re.square() + im.square()
    return torch.view_as_real(torch.fft.fft(torch.complex(re, im), dim=-1)).square().sum(-1)


def _fourier_in_two_steps(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """The transform as two small matrix products: Cooley and Tukey (Math. Comp. 1965), for the factors of the length nearest its root."""
    length = re.shape[-1]
    first = next(factor for factor in range(math.isqrt(length), 0, -1) if length % factor == 0)
    second = length // first
    re, im = (part.reshape(*part.shape[:-1], first, second).transpose(-1, -2) for part in (re, im))
    re, im = (part.transpose(-1, -2) for part in _turned(re, im, _roots(first, first, first), torch.matmul))
    re, im = _turned(re, im, _roots(first, second, length), torch.mul)
    re, im = _turned(re, im, _roots(second, second, second), torch.matmul)
    return re.transpose(-1, -2).flatten(-2), im.transpose(-1, -2).flatten(-2)


def _turned(
    re: Tensor, im: Tensor, roots: tuple[Tensor, Tensor], by: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    cosine, sine = roots
    return by(re, cosine) + by(im, sine), by(im, cosine) - by(re, sine)


def _roots(rows: int, columns: int, order: int) -> tuple[Tensor, Tensor]:
    """Real part and negated imaginary part of ``exp(-2 pi i row column / order)``, float32 ``(rows, columns)``."""
    product = np.outer(np.arange(rows), np.arange(columns)) % order
    angle = 2 * math.pi / order * product
    return torch.from_numpy(np.cos(angle).astype(np.float32)), torch.from_numpy(np.sin(angle).astype(np.float32))


def _fourier_macs(length: int) -> int:
    """Of one complex transform: ``length / 2 log2(length)`` butterflies of one complex product, four real ones, each."""
    return round(2 * length * math.log2(length)) if length > 1 else 0


def _sizes(shape: tuple[int, ...]) -> tuple[int, int]:
    """Antennas, and samples of each, of windows ``(2, antennas, time)`` or ``(2, slots, antennas, subcarriers)``."""
    return (shape[-2], shape[-1]) if len(shape) == 3 else (shape[2], shape[1] * shape[3])


def _handmade_macs(shape: tuple[int, ...]) -> int:
    """Those of :func:`handmade_level_free`, and two products per sample for the level."""
    antennas, time = _sizes(shape)
    return _level_free_macs(shape) + 2 * antennas * time


def _level_free_macs(shape: tuple[int, ...]) -> int:
    """Products per sample: level 2, scaling 2, power 2; s^2, s^4 and s^6 4 each; |s|^4, |s|^6 1 each; s^2 |s|^2 2; phase step 4; powers of the
    spectrum and of two line spectra 2 each; 4 per lag in time and, of those pairs of antennas there are, in antennas. And the Fourier transforms.
    """
    antennas, time = _sizes(shape)
    bins = min(SPECTRUM_BINS, time)
    fourier = antennas * (time // bins * _fourier_macs(bins) + 2 * _fourier_macs(time))
    pairs = sum(antennas - lag for lag in range(1, min(antennas, MOST_ANTENNA_LAGS + 1)))
    per_sample = 3 * 2 + 3 * 4 + 2 + 2 + 4 + 3 * 2 + 4 * len(TIME_LAGS)
    return fourier + time * (antennas * per_sample + 4 * pairs)


def _power_macs(shape: tuple[int, ...]) -> int:
    """Two products per sample, and as many again for the level."""
    antennas, samples = _sizes(shape)
    return 4 * antennas * samples


def _dft_macs(shape: tuple[int, ...]) -> int:
    antennas, samples = _sizes(shape)
    return samples * (_fourier_macs(antennas) + 2 * antennas)


SIDES: dict[str, Side] = {
    side.name: side
    for side in (
        Side(
            "handmade",
            "log power spectrum, cumulants and antenna covariance, computed by hand",
            handmade,
            _handmade_macs,
        ),
        Side(
            "handmade_level_free",
            "as handmade, of the window at unit mean power: without its level, which says the SNR where the noise is known",
            handmade_level_free,
            _level_free_macs,
        ),
        Side(
            "power_only",
            "log power overall, over time and over antennas: no phase, no frequency",
            power_only,
            _power_macs,
        ),
        Side("dft_power", "log power of each discrete-Fourier beam over the antennas", dft_power, _dft_macs),
    )
}
