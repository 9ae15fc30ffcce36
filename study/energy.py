"""Energy of a call from the counters of the processor package, where the system lets us read them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
SECONDS = 2.0


def package_counters(root: Path = POWERCAP) -> list[Path]:
    """Readable energy counters of processor packages (Linux powercap, ``intel-rapl:N/energy_uj``), perhaps none."""
    found = []
    for path in sorted(root.glob("intel-rapl:?/energy_uj")):
        try:
            path.read_text()
        except OSError:
            continue
        found.append(path)
    return found


def joules_per_call(call: Callable[[], object], root: Path = POWERCAP, seconds: float = SECONDS) -> float | None:
    """Energy of all packages while ``call`` is repeated, per call; None where no counter can be read.

    It is the energy of the whole package, idle power and neighbours included: an upper estimate. Counters that wrap around are
    corrected by ``max_energy_range_uj``.
    """
    counters = package_counters(root)
    if not counters:
        return None
    before = [int(path.read_text()) for path in counters]
    calls, deadline = 0, time.perf_counter() + seconds
    while calls == 0 or time.perf_counter() < deadline:
        call()
        calls += 1
    used = 0
    for path, start in zip(counters, before, strict=True):
        difference = int(path.read_text()) - start
        used += difference if difference >= 0 else difference + int((path.parent / "max_energy_range_uj").read_text())
    return used * 1e-6 / calls
