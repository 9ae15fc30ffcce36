"""What a suite can ask the generator for: each scenario has its own windows, labels and groups.

A scenario is a function ``(spec, count, block) -> Scene``; window i of a data set does not depend on how many there are.
"""

from __future__ import annotations

from offramp.simulation.scenarios.arrays import DIRECTIONS, SIGNALS
from offramp.simulation.scenarios.beam import BEAM
from offramp.simulation.scenarios.fingerprint import FINGERPRINT
from offramp.simulation.scenarios.interference import INTERFERENCE
from offramp.simulation.scenarios.rml2016 import RML2016
from offramp.simulation.scenarios.scene import Scenario, Scene

SCENARIOS: dict[str, Scenario] = {
    "signals": SIGNALS,
    "directions": DIRECTIONS,
    "rml2016": RML2016,
    "fingerprint": FINGERPRINT,
    "interference": INTERFERENCE,
    "beam": BEAM,
}

__all__ = ["SCENARIOS", "Scenario", "Scene"]
