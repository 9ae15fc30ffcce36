"""Simulated windows as a table, made block by block when they are read."""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from offramp.data.synthesis.modulations import SIGNAL_TYPES
from offramp.data.synthesis.windows import ANGLE_SECTORS, MAX_ANGLE, SyntheticWindows, synthetic_windows
from offramp.data.table import Table, WindowSource
from offramp.tasks import SyntheticSpec

GENERATOR_VERSION = 2
"""To be raised whenever the same specification gives other windows than before."""
BLOCK_WINDOWS = 1024
BLOCK_VALUES = 2**22
"""Most complex samples of a block: fewer windows where they are long."""
MAX_CACHE_BYTES = 256 * 2**20
"""Sets up to this size stay in memory; of larger ones two blocks do."""


@lru_cache(2)
def read_synthetic(spec: SyntheticSpec) -> Table:
    """A table of simulated windows ``(2, antennas, samples)``.

    Columns: ``modulation`` and ``sector`` (int64 classes with names), ``angle`` (float32, degrees from broadside), ``snr_db``
    (float32, dB). Window i does not depend on how many windows there are. The last
    two tables are kept: tasks on the same windows share them.
    """
    size = max(1, min(BLOCK_WINDOWS, BLOCK_VALUES // (spec.antennas * spec.samples)))
    blocks = math.ceil(spec.windows / size)
    shape = (2, spec.antennas, spec.samples)
    in_memory = spec.windows * math.prod(shape) * 4 <= MAX_CACHE_BYTES

    @lru_cache(blocks if in_memory else 2)
    def block(number: int) -> SyntheticWindows:
        return synthetic_windows(size, spec.antennas, spec.samples, spec.snr_db, spec.seed, number)

    def fetch(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty((len(indices), *shape), dtype=np.float32)
        number = indices // size
        for wanted in np.unique(number):
            rows = number == wanted
            out[rows] = block(int(wanted)).iq.numpy()[indices[rows] % size]
        return out

    made = [_columns(block(number)) for number in range(blocks)]
    return Table(
        windows=WindowSource("simulated windows", spec.windows, shape, _fingerprint(spec), fetch),
        columns={name: np.concatenate([columns[name] for columns in made])[: spec.windows] for name in made[0]},
        label_names={"modulation": tuple(SIGNAL_TYPES), "sector": _sector_names()},
        default_target="modulation",
    )


def _columns(windows: SyntheticWindows) -> dict[str, NDArray[np.generic]]:
    return {
        "modulation": windows.modulation.numpy(),
        "sector": windows.sector.numpy(),
        "angle": windows.angle.numpy(),
        "snr_db": windows.snr_db.numpy(),
    }


def _sector_names() -> tuple[str, ...]:
    edges = np.linspace(-MAX_ANGLE, MAX_ANGLE, ANGLE_SECTORS + 1)
    return tuple(f"{low:g}..{high:g}" for low, high in pairwise(edges))


def _fingerprint(spec: SyntheticSpec) -> str:
    return hashlib.sha256(json.dumps([GENERATOR_VERSION, spec.model_dump(mode="json")]).encode()).hexdigest()
