"""Which of the quantities that the generator draws are labels of pretraining, and on what scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

from offramp.simulation.signal_types import FAMILIES, SIGNAL_TYPES
from offramp.simulation.windows import MAX_ANGLE

SECTORS = 24


@dataclass(frozen=True)
class Quantity:
    """A field of :class:`~offramp.simulation.views.Drawn` as a target.

    Attributes:
        field: Its name.
        classes: How many there are; 0 for a number.
        logarithmic: Whether its logarithm to base 2 is the target.
        centre: Subtracted from a number (from its logarithm): about the mean of what is drawn; where the number is divided into
            classes, its smallest value.
        spread: Divides the rest: about the standard deviation of what is drawn; of classes, the width of one.
    """

    field: str
    classes: int = 0
    logarithmic: bool = False
    centre: float = 0.0
    spread: float = 1.0


def _uniform(field: str, low: float, high: float, logarithmic: bool = False) -> Quantity:
    if logarithmic:
        low, high = math.log2(low), math.log2(high)
    return Quantity(field, 0, logarithmic, (low + high) / 2, (high - low) / math.sqrt(12))


QUANTITIES: dict[str, Quantity] = {
    "signal_type": Quantity("signal_type", classes=len(SIGNAL_TYPES)),
    "family": Quantity("family", classes=len(FAMILIES)),
    "angle": _uniform("angle", -MAX_ANGLE, MAX_ANGLE),
    "sector": Quantity("angle", classes=SECTORS, centre=-MAX_ANGLE, spread=2 * MAX_ANGLE / SECTORS),
    "transmitter_gain_db": _uniform("transmitter_gain_db", -1, 1),
    "transmitter_skew": _uniform("transmitter_skew", -math.radians(5), math.radians(5)),
    "saturation_db": _uniform("saturation_db", 2, 12),
    "antennas": _uniform("antennas", 1, 8, logarithmic=True),
    "snr_db": _uniform("snr_db", -6, 20),
    "samples_per_symbol": Quantity("samples_per_symbol", logarithmic=True, centre=2.8, spread=1.4),
    "rolloff": _uniform("rolloff", 0.15, 0.5),
    "carrier_offset": _uniform("carrier_offset", -0.02, 0.02),
    "delay_spread": Quantity("delay_spread", centre=0.74, spread=0.5),
    "k_factor_db": Quantity("k_factor_db", centre=13.8, spread=5.1),
    "phase_noise": _uniform("phase_noise", 1e-3, 2e-2, logarithmic=True),
    "receiver_gain_db": _uniform("receiver_gain_db", -1, 1),
    "receiver_skew": _uniform("receiver_skew", -math.radians(5), math.radians(5)),
}
"""In order: what the embedded suite's ID tasks ask for, what makes a transmitter's fingerprint, and the rest. The angle is a number
and, finer than any task asks for it, a class: from one number a linear head cannot tell sectors."""

FINGERPRINT = ("transmitter_gain_db", "transmitter_skew", "saturation_db")
ID_TASKS = ("signal_type", "family", "angle", "sector")

LABELS: dict[str, tuple[str, ...]] = {
    "all": tuple(QUANTITIES),
    "general": tuple(name for name in QUANTITIES if name not in FINGERPRINT),
    "non-task": tuple(name for name in QUANTITIES if name not in (*FINGERPRINT, *ID_TASKS)),
}
"""Choices of labels. ``all``: every quantity. ``general``: without a transmitter's own imperfections, so that no OOD task of the
embedded suite has its label among them. ``non-task``: also without what its ID tasks ask for."""
