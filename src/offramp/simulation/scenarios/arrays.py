"""The kind of windows that encoders are pretrained on: any signal type, any radio, a linear array.

``signals`` asks for the signal type, noise included; ``directions`` for the direction of the line of sight, where noise alone has
none and is left out.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from offramp.schema.tasks import SyntheticSpec
from offramp.simulation.scenarios.scene import Scenario, Scene
from offramp.simulation.signal_types import SIGNAL_TYPES
from offramp.simulation.windows import ANGLE_SECTORS, MAX_ANGLE, synthetic_windows


def _signals(spec: SyntheticSpec, count: int, block: int) -> Scene:
    """Columns: ``modulation`` (int64), ``snr_db`` (float32)."""
    made = synthetic_windows(count, spec.antennas, spec.samples, spec.snr_db, spec.seed, block)
    return Scene(made.iq, {"modulation": made.modulation.numpy(), "snr_db": made.snr_db.numpy()})


def _directions(spec: SyntheticSpec, count: int, block: int) -> Scene:
    """Columns: ``sector`` (int64), ``angle`` (float32, degrees from broadside), ``modulation`` (int64), ``snr_db`` (float32)."""
    made = synthetic_windows(count, spec.antennas, spec.samples, spec.snr_db, spec.seed, block, with_noise=False)
    return Scene(
        made.iq,
        {
            "sector": made.sector.numpy(),
            "angle": made.angle.numpy(),
            "modulation": made.modulation.numpy(),
            "snr_db": made.snr_db.numpy(),
        },
    )


def _sector_names() -> tuple[str, ...]:
    edges = np.linspace(-MAX_ANGLE, MAX_ANGLE, ANGLE_SECTORS + 1)
    return tuple(f"{low:g}..{high:g}" for low, high in pairwise(edges))


SIGNALS = Scenario(_signals, "modulation", {"modulation": SIGNAL_TYPES})
DIRECTIONS = Scenario(_directions, "sector", {"sector": _sector_names(), "modulation": SIGNAL_TYPES[:-1]})
