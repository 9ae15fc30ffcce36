"""What the operating system says about a server: memory, open files, threads of all its processes."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Footprint:
    """Of a process and all that it started.

    Attributes:
        memory_mb: Resident, what processes share counted in each.
        files: Open descriptors.
        threads: Of all.
        processes: How many there are.
    """

    memory_mb: float
    files: int
    threads: int
    processes: int


def footprint(process: int) -> Footprint:
    """Now."""
    pages = files = threads = 0
    family = _family(process)
    for each in family:
        place = Path("/proc") / str(each)
        try:
            pages += int((place / "statm").read_text().split()[1])
            files += len(os.listdir(place / "fd"))
            threads += len(os.listdir(place / "task"))
        except OSError:
            continue  # it has just ended
    return Footprint(round(pages * resource.getpagesize() / 1e6, 1), files, threads, len(family))


def processor_seconds(process: int) -> float:
    """That a process and all that it started have computed so far, those of them that still live."""
    ticks = 0
    for each in _family(process):
        try:
            fields = (Path("/proc") / str(each) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(process: int) -> list[int]:
    found, parents = [process], {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                parents[int(each.name)] = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found
