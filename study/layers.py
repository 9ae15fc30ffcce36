"""What happens to the representation, exit by exit and as pretraining goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from analysis.invariance import intraclass_correlation, retrieval_accuracy
from analysis.similarity import linear_cka
from analysis.spectrum import effective_rank
from numpy.typing import NDArray
from probing import taps_of

from offramp import load_encoder
from offramp.encoders.base import StagedEncoder
from offramp.encoders.taps import freeze
from offramp.files import write_text
from offramp.simulation.views import view_pairs
from offramp.training.augmentation import augment
from offramp.training.probe import probe_exits

TRANSMISSIONS = 1000
SNR_DB = (-6.0, 20.0)
SEED = 77
"""No pretraining run has it."""


def views() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two augmented views of 1,000 transmissions no encoder was pretrained on, each ``(1000, 2, 4, 256)``."""
    pair = view_pairs(TRANSMISSIONS, 4, 256, SNR_DB, SEED, 0).iq.chunk(2)
    generator = torch.Generator().manual_seed(SEED)
    first, second = (augment(view, generator) for view in pair)
    return first.numpy(), second.numpy()


def calibrated(encoder: StagedEncoder, windows: NDArray[np.float32]) -> StagedEncoder:
    """The encoder, frozen, its BatchNorm statistics measured on the windows: those of an early snapshot lag behind its weights."""
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    encoder.train()
    with torch.no_grad():
        for at in range(0, len(windows), 250):
            encoder.taps(torch.from_numpy(windows[at : at + 250]), [encoder.exits[-1].name])
    return freeze(encoder)


def describe_layers(encoder: StagedEncoder, pair: tuple[NDArray[np.float32], NDArray[np.float32]]) -> dict[str, object]:
    """Per exit: effective rank, both measures of invariance, both ID probes; and CKA between all exits, ``(E, E)``."""
    first, second = (taps_of(encoder, view) for view in pair)
    names = [exit.name for exit in encoder.exits]
    return {
        "exits": names,
        "effective_rank": [effective_rank(first[name]) for name in names],
        "intraclass_correlation": [intraclass_correlation(first[name], second[name]) for name in names],
        "retrieval": [retrieval_accuracy(_centred(first[name]), _centred(second[name])) for name in names],
        "cka": [[linear_cka(first[one], first[other]) for other in names] for one in names],
        "probe": {task: list(scores.values()) for task, scores in probe_exits(encoder).items()},
    }


def _centred(taps: NDArray[np.float32]) -> NDArray[np.float32]:
    return (taps - taps.mean(0)) / np.maximum(taps.std(0), 1e-9)


def layers_over_steps(run: Path, out: Path) -> None:
    """Describe every snapshot of a pretraining run; writes a JSON list ordered by steps."""
    pair = views()
    described = []
    for folder in sorted((run / "snapshots").iterdir()):
        encoder = calibrated(load_encoder(str(folder)), np.concatenate(pair))
        described.append({"step": int(folder.name.split("-")[1]), **describe_layers(encoder, pair)})
    write_text(out, json.dumps(described))
