"""Which of the quantities that the generator draws are labels of pretraining, and on what scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

from offramp.simulation.signal_types import FAMILIES, SIGNAL_TYPES


@dataclass(frozen=True)
class Quantity:
    """A field of :class:`~offramp.simulation.views.Drawn` as a target.

    Attributes:
        classes: How many there are; 0 for a number.
        logarithmic: Whether its logarithm to base 2 is the target.
        centre: Subtracted from a number (from its logarithm), about the mean of what is drawn.
        spread: Divides the rest, about the standard deviation of what is drawn.
    """

    classes: int = 0
    logarithmic: bool = False
    centre: float = 0.0
    spread: float = 1.0


def _uniform(low: float, high: float, logarithmic: bool = False) -> Quantity:
    if logarithmic:
        low, high = math.log2(low), math.log2(high)
    return Quantity(0, logarithmic, (low + high) / 2, (high - low) / math.sqrt(12))


QUANTITIES: dict[str, Quantity] = {
    "signal_type": Quantity(classes=len(SIGNAL_TYPES)),
    "family": Quantity(classes=len(FAMILIES)),
    "angle": _uniform(-60, 60),
    "transmitter_gain_db": _uniform(-1, 1),
    "transmitter_skew": _uniform(-math.radians(5), math.radians(5)),
    "saturation_db": _uniform(2, 12),
    "antennas": _uniform(1, 8, logarithmic=True),
    "snr_db": _uniform(-6, 20),
    "samples_per_symbol": Quantity(logarithmic=True, centre=2.8, spread=1.4),
    "rolloff": _uniform(0.15, 0.5),
    "carrier_offset": _uniform(-0.02, 0.02),
    "delay_spread": Quantity(centre=0.74, spread=0.5),
    "k_factor_db": Quantity(centre=13.8, spread=5.1),
    "phase_noise": _uniform(1e-3, 2e-2, logarithmic=True),
    "receiver_gain_db": _uniform(-1, 1),
    "receiver_skew": _uniform(-math.radians(5), math.radians(5)),
}
"""In order: what the embedded suite's ID tasks ask for, what makes a transmitter's fingerprint, and the rest."""

FINGERPRINT = ("transmitter_gain_db", "transmitter_skew", "saturation_db")
ID_TASKS = ("signal_type", "family", "angle")

LABELS: dict[str, tuple[str, ...]] = {
    "all": tuple(QUANTITIES),
    "general": tuple(name for name in QUANTITIES if name not in FINGERPRINT),
    "non-task": tuple(name for name in QUANTITIES if name not in (*FINGERPRINT, *ID_TASKS)),
}
"""Choices of labels. ``all``: every quantity. ``general``: without a transmitter's own imperfections, so that no OOD task of the
embedded suite has its label among them. ``non-task``: also without what its ID tasks ask for."""
