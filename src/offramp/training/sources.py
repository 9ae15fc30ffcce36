"""What a pretraining run sees: simulated signals made for every step, or channels from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from offramp.data.formats import open_table
from offramp.data.table import Table, WindowSource
from offramp.encoders.base import StagedEncoder
from offramp.errors import TrainingError
from offramp.schema.tasks import DataSpec
from offramp.simulation.views import Drawn, view_pairs
from offramp.training.augmentation import augment
from offramp.training.config import INPUT_SHAPES, PretrainingConfig, input_shape, pairs_of
from offramp.training.images import as_input
from offramp.training.masked_channels import augment_channels
from offramp.training.probe import ProbeRows, Scores, accuracies, probe_exits
from offramp.training.processes import Processes

AUGMENTATION_STREAM = 1 << 41
"""Keeps what is drawn for augmentation and masking apart from what the generator of signals draws."""
FUTURE = "future"
"""Column with the slots that follow a window's, where a file has them."""
PROBE_COLUMNS = ("best_beam", "model")
PROBE_SHARE = 0.1
"""Of the channels of a file: kept for the probe."""
READ_ROWS = 512


Batch = tuple[Tensor, Generator, Drawn | None]


class Source(Protocol):
    """Where a run's batches come from; each is determined by (seed, step, process)."""

    def batch(self, step: int, processes: Processes, encoder: StagedEncoder) -> Batch:
        """The input of the pretraining model, the generator of what it draws itself, and what is known about the input."""

    def probe(self, encoder: StagedEncoder) -> Scores:
        """How well a linear readout of every exit tells what the data vary in."""

    def shape(self, step: int) -> dict[str, int]:
        """Sizes of a step's windows, for the log."""

    def describe(self) -> dict[str, Any]:
        """For the encoder's provenance."""


@dataclass(frozen=True)
class SimulatedSignals:
    """Two views of each transmission, as I/Q or as spectrograms."""

    config: PretrainingConfig

    def batch(self, step: int, processes: Processes, encoder: StagedEncoder) -> Batch:
        """Views ``(2 N, 2, antennas, samples)`` float32, or images of them: see :class:`Source`."""
        config, device = self.config, processes.device
        antennas, samples = input_shape(config.seed, step)
        pairs = processes.share_of(pairs_of(config.batch, antennas, samples))
        block = step * processes.count + processes.rank
        snr = (config.snr_low_db, config.snr_high_db)
        views = view_pairs(pairs, antennas, samples, snr, config.seed, block, device, config.views)
        generator = _generator(config.seed, block, device)
        return as_input(encoder, augment(views.iq, generator)), generator, views.drawn

    def probe(self, encoder: StagedEncoder) -> Scores:
        """Signal type and sector: see :func:`~offramp.training.probe.probe_exits`."""
        return probe_exits(encoder)

    def shape(self, step: int) -> dict[str, int]:
        """Antennas and samples."""
        antennas, samples = input_shape(self.config.seed, step)
        return {"antennas": antennas, "samples": samples}

    def describe(self) -> dict[str, Any]:
        """Window sizes and their shares."""
        sizes = {f"{antennas}x{samples}": share for antennas, samples, share in INPUT_SHAPES}
        return {"data": "simulated", "input_shapes": sizes}


@dataclass(frozen=True, eq=False)
class StoredChannels:
    """Channels of a file, all in memory in half precision.

    Attributes:
        seed: Of the run.
        pairs: Channels per step, over all processes.
        channels: float16 ``(N, 2, slots, antennas, subcarriers)``, each of unit mean power, without the probe's.
        probed: float32, the probe's channels, without the slots to come.
        labels: int64 by column, of the probe's channels.
        facts: For the encoder's provenance.
    """

    seed: int
    pairs: int
    channels: Tensor
    probed: Tensor
    labels: dict[str, Tensor]
    facts: dict[str, Any]

    def batch(self, step: int, processes: Processes, encoder: StagedEncoder) -> Batch:
        """Channels drawn with replacement and augmented, float32 ``(N, 2, slots, antennas, subcarriers)``."""
        generator = _generator(self.seed, step * processes.count + processes.rank, "cpu")
        rows = torch.randint(0, len(self.channels), (processes.share_of(self.pairs),), generator=generator)
        drawn = augment_channels(self.channels[rows].float(), generator)
        device = torch.device(processes.device)
        own = generator if device.type == "cpu" else _generator(self.seed, step, processes.device)
        return drawn.to(device), own, None

    def probe(self, encoder: StagedEncoder) -> Scores:
        """Best beam and channel model, each told from two thirds of the kept channels for the rest of them."""
        training = encoder.training
        encoder.eval()
        device = next(encoder.parameters()).device
        parts: dict[str, list[Tensor]] = {}
        with torch.inference_mode():
            for block in torch.split(self.probed, 128):
                for name, tap in encoder.taps(block.to(device)).items():
                    parts.setdefault(name, []).append(tap.float().cpu())
        encoder.train(training)
        taps = {name: torch.cat(blocks) for name, blocks in parts.items()}
        cut = 2 * len(self.probed) // 3
        fit, scored = (
            ProbeRows({name: tap[rows] for name, tap in taps.items()}, {c: v[rows] for c, v in self.labels.items()})
            for rows in (slice(0, cut), slice(cut, None))
        )
        return accuracies(fit, scored)

    def shape(self, step: int) -> dict[str, int]:
        """Slots, antennas and subcarriers."""
        return dict(zip(("slots", "antennas", "subcarriers"), self.channels.shape[2:], strict=True))

    def describe(self) -> dict[str, Any]:
        """File name and fingerprint."""
        return self.facts


def open_source(config: PretrainingConfig) -> Source:
    """Simulated signals, or the file that the configuration names.

    Raises:
        DataError: The file cannot be read.
        TrainingError: It holds no channels over time, or none of the columns that the probe tells apart.
    """
    if not config.data:
        return SimulatedSignals(config)
    table = open_table(DataSpec(path=Path(config.data)))
    windows = table.windows
    if len(windows.shape) != 4 or windows.shape[0] != 2:
        raise TrainingError(
            f"{config.data} holds windows of shape {windows.shape}: pretraining takes channels (2, slots, antennas, "
            "subcarriers), as `offramp data make --scenario channels` writes them"
        )
    labels = {
        name: torch.from_numpy(np.unique(table.columns[name], return_inverse=True)[1].astype(np.int64))
        for name in PROBE_COLUMNS
        if name in table.columns
    }
    if not labels:
        raise TrainingError(
            f"{config.data} has none of the columns {', '.join(PROBE_COLUMNS)}, which the probe tells apart"
        )
    parts = [windows, *_slots_to_come(table)]
    slots = sum(part.shape[1] for part in parts)
    channels = torch.empty((windows.count, 2, slots, *windows.shape[2:]), dtype=torch.float16)
    for start in range(0, windows.count, READ_ROWS):
        rows = np.arange(start, min(start + READ_ROWS, windows.count))
        read = torch.cat([torch.from_numpy(part.read(rows)) for part in parts], dim=2)
        power = read.square().sum(1).mean((1, 2, 3)).clamp_min(torch.finfo(read.dtype).tiny)
        channels[start : start + len(rows)] = (read * power.rsqrt()[:, None, None, None, None]).half()
    kept = max(3, round(PROBE_SHARE * windows.count))
    facts = {"data": Path(config.data).name, "fingerprint": windows.fingerprint, "channels": windows.count - kept}
    known = {name: values[:kept] for name, values in labels.items()}
    probed = channels[:kept, :, : windows.shape[1]].float()
    return StoredChannels(config.seed, config.batch, channels[kept:], probed, known, facts)


def _slots_to_come(table: Table) -> list[WindowSource]:
    """The slots that follow the windows', where the file has them."""
    if FUTURE in table.large:
        return [table.large[FUTURE]]
    if FUTURE not in table.column_shapes:
        return []
    shape = table.column_shapes[FUTURE]
    values = np.asarray(table.columns[FUTURE]).reshape(-1, *shape)
    return [WindowSource(FUTURE, len(values), shape, "", lambda rows: values[rows])]


def _generator(seed: int, block: int, device: str) -> Generator:
    return Generator(device).manual_seed((seed * 1_000_003 + block) % 2**40 + AUGMENTATION_STREAM)
