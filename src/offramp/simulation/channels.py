"""Windows of channels over time: 16 past slots with noise, and the 4 slots that follow without.

A drop is one user on one track for 80 slots (40 ms); it gives 4 windows of 20 slots, one after another. Windows of a drop share its
paths, so that drops are the groups of a split. Drops take the models in turn, their speeds are log-uniform, so that slow and fast
users are about equally many. Every window is scaled so that its past has unit mean power before noise, with the same factor on its
future. SNRs then are those of the window, and errors do not depend on the path loss.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.schema.tasks import ChannelSpec
from offramp.scoring.beams import beam_powers, dft_codebook
from offramp.simulation.channel import to_iq
from offramp.simulation.draws import complex_normal, log_uniform, seeded, uniform
from offramp.simulation.scenarios.scene import Scene
from offramp.simulation.tr38901 import MODELS, SUBCARRIERS, simulate_drops

VERSION = 1
"""To be raised whenever the same specification gives other windows than before."""
PAST, FUTURE = 16, 4
WINDOWS_PER_DROP = 4
BLOCK_DROPS = 56
"""Drops that are drawn together: eight of each model, if all are asked for."""
BLOCK_WINDOWS = BLOCK_DROPS * WINDOWS_PER_DROP
SPEED_KMH = (3.0, 120.0)
BEAM_SNR_DB = 10.0
CHANNEL_STREAM = 1 << 44
"""Keeps the draws of channels apart from those of signals."""
DEFAULT_TARGET, DEFAULT_GROUP = "best_beam", "drop"
LABEL_NAMES: dict[str, tuple[str, ...]] = {"model": MODELS, "los": ("nlos", "los")}


def channel_windows(spec: ChannelSpec, block: int) -> Scene:
    """One block of windows, float32 ``(224, 2, 16, antennas, 32)``: real and imaginary, past slots, antennas, subcarriers.

    Columns:
        future: The 4 slots that follow, without noise, float32 ``(224, 2, 4, antennas, 32)``.
        beam_gains: Power of the last of them on each beam of a DFT codebook with as many beams as antennas, mean over subcarriers,
            times an SNR of 10 dB; float32 ``(224, antennas)``. best_beam: The largest, int64.
        speed_kmh, snr_db: float32. The SNR is that of the past, per antenna and subcarrier.
        model, los: int64, see ``LABEL_NAMES``.
        drop: int64.
        location: Only if all models are UMi, since CDL models have no geometry: metres ahead of the array and to its left, float32
            ``(224, 2)``.

    Raises:
        DataError: sionna is not installed.
    """
    generator = seeded(spec.seed, block + CHANNEL_STREAM)
    drop = block * BLOCK_DROPS + torch.arange(BLOCK_DROPS)
    model = torch.tensor([MODELS.index(name) for name in spec.models])[drop % len(spec.models)]
    speed = log_uniform(*SPEED_KMH, (BLOCK_DROPS,), generator)
    channel = torch.empty(
        BLOCK_DROPS, WINDOWS_PER_DROP * (PAST + FUTURE), spec.antennas, SUBCARRIERS, dtype=torch.complex64
    )
    location = torch.empty(BLOCK_DROPS, 2)
    for number in sorted(set(model.tolist())):
        rows = model == number
        drops = simulate_drops(MODELS[number], speed[rows] / 3.6, spec.antennas, channel.shape[1], generator)
        channel[rows], location[rows] = drops.channel, drops.location
    windows = _scaled(channel.reshape(BLOCK_WINDOWS, PAST + FUTURE, spec.antennas, SUBCARRIERS))
    past, future = windows[:, :PAST], windows[:, PAST:]
    snr = uniform(*spec.snr_db, (BLOCK_WINDOWS,), generator)
    noise = complex_normal(tuple(past.shape), generator) * torch.pow(10.0, -snr / 20)[:, None, None, None]
    gains = 10 ** (BEAM_SNR_DB / 10) * beam_powers(future[:, -1].numpy(), dft_codebook(spec.antennas, spec.antennas))
    of_window = torch.arange(BLOCK_DROPS).repeat_interleave(WINDOWS_PER_DROP)
    columns: dict[str, NDArray[np.generic]] = {
        "future": to_iq(future).numpy(),
        "beam_gains": gains,
        "best_beam": gains.argmax(1),
        "speed_kmh": speed[of_window].numpy(),
        "model": model[of_window].numpy(),
        "los": np.array([name in ("cdl-d", "cdl-e", "umi-los") for name in MODELS], np.int64)[model[of_window]],
        "snr_db": snr.numpy(),
        "drop": drop[of_window].numpy(),
    }
    if all(name.startswith("umi") for name in spec.models):
        columns["location"] = location[of_window].numpy()
    return Scene(to_iq(past + noise), columns)


def _scaled(windows: Tensor) -> Tensor:
    power = windows[:, :PAST].abs().square().mean((1, 2, 3), keepdim=True)
    return windows * power.rsqrt()
