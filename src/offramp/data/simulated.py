"""Simulated windows as a table, made block by block when they are read, or written as a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.data.cache import write_blocks
from offramp.data.table import Table, WindowSource
from offramp.progress import OnProgress, silent
from offramp.schema.tasks import ChannelSpec, SyntheticSpec
from offramp.simulation import channels
from offramp.simulation.scenarios import SCENARIOS, Scene
from offramp.simulation.tr38901 import SUBCARRIERS

GENERATOR_VERSION = 3
"""To be raised whenever the same specification gives other windows than before."""
BLOCK_WINDOWS = 1024
BLOCK_VALUES = 2**22
"""Most complex samples of a block: fewer windows where they are long."""
SAMPLE = "sample"
"""What windows are called beside their columns, here as in files."""
MAX_CACHE_BYTES = 256 * 2**20
"""Sets up to this size stay in memory; of larger ones two blocks do."""


@lru_cache(2)
def read_synthetic(spec: SyntheticSpec | ChannelSpec) -> Table:
    """A table of simulated windows with the columns of its scenario: signals ``(2, antennas, samples)``, or channels
    ``(2, slots, antennas, subcarriers)``.

    Window i does not depend on how many windows there are. The last two tables are kept: tasks on the same windows share them.

    Raises:
        DataError: Channels are asked for and sionna is not installed.
    """
    if isinstance(spec, ChannelSpec):
        shape: tuple[int, ...] = (2, channels.PAST, spec.antennas, SUBCARRIERS)
        table = _lazy_table(spec, partial(channels.channel_windows, spec), channels.BLOCK_WINDOWS, shape)
        return replace(
            table,
            label_names=channels.LABEL_NAMES,
            default_target=channels.DEFAULT_TARGET,
            default_group=channels.DEFAULT_GROUP,
        )
    scenario = SCENARIOS[spec.scenario]
    shape = (2, spec.antennas, spec.samples)
    size = max(1, min(BLOCK_WINDOWS, BLOCK_VALUES // (spec.antennas * spec.samples)))
    table = _lazy_table(spec, partial(scenario.make, spec, size), size, shape)
    return replace(
        table, label_names=scenario.label_names, default_target=scenario.target, default_group=scenario.group
    )


def _lazy_table(
    spec: SyntheticSpec | ChannelSpec, make: Callable[[int], Scene], size: int, shape: tuple[int, ...]
) -> Table:
    """Windows of one shape, and columns, from blocks of ``size`` windows that are made by number.

    Columns with more than two axes are made when they are read, as the windows are.
    """
    blocks = math.ceil(spec.windows / size)
    in_memory = spec.windows * math.prod(shape) * 4 <= MAX_CACHE_BYTES

    @lru_cache(blocks if in_memory else 2)
    def block(number: int) -> dict[str, NDArray[Any]]:
        scene = make(number)
        return scene.columns | {SAMPLE: scene.iq.numpy()}

    def fetch(name: str, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty((len(indices), *block(0)[name].shape[1:]), dtype=np.float32)
        number = indices // size
        for wanted in np.unique(number):
            rows = number == wanted
            out[rows] = block(int(wanted))[name][indices[rows] % size]
        return out

    parts: dict[str, list[NDArray[Any]]] = {}
    large: dict[str, WindowSource] = {}
    for number in range(blocks):
        for name, values in block(number).items():
            if values.ndim <= 2:
                parts.setdefault(name, []).append(values)
            elif name not in large:
                large[name] = WindowSource(
                    "simulated windows", spec.windows, values.shape[1:], _fingerprint(spec), partial(fetch, name)
                )
    return Table(
        windows=large.pop(SAMPLE),
        columns={name: np.concatenate(values)[: spec.windows] for name, values in parts.items()},
        large=large,
    )


def _fingerprint(spec: SyntheticSpec | ChannelSpec) -> str:
    version = channels.VERSION if isinstance(spec, ChannelSpec) else GENERATOR_VERSION
    return hashlib.sha256(json.dumps([version, spec.model_dump(mode="json")]).encode()).hexdigest()


def write_channels(spec: ChannelSpec, path: Path, on_progress: OnProgress = silent) -> None:
    """Write the windows and columns of :func:`~offramp.simulation.channels.channel_windows` as a cache of ours, block by block, in bounded memory.

    Raises:
        DataError: sionna is not installed.
        OfframpError: The file cannot be written.
    """

    def blocks() -> Iterator[dict[str, NDArray[np.generic]]]:
        for number in range(math.ceil(spec.windows / channels.BLOCK_WINDOWS)):
            scene = channels.channel_windows(spec, number)
            left = spec.windows - number * channels.BLOCK_WINDOWS
            yield {name: values[:left] for name, values in ({"sample": scene.iq.numpy()} | scene.columns).items()}

    defaults = {"default_target": channels.DEFAULT_TARGET, "default_group": channels.DEFAULT_GROUP}
    write_blocks(path, spec.windows, blocks(), channels.LABEL_NAMES, on_progress, defaults)
