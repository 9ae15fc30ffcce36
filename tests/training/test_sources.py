"""Pretraining on a file of channels: what is read, what is kept for the probe, resuming, and files that will not do."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from offramp.encoders import registry
from offramp.encoders.channel_transformer import ChannelTransformer
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import read_config
from offramp.errors import OfframpError, TrainingError
from offramp.training.config import PretrainingConfig
from offramp.training.pretrain import pretrain
from offramp.training.processes import Processes
from offramp.training.sources import SimulatedSignals, StoredChannels, open_source


class TinyChannels(ChannelTransformer):
    architecture = "tiny-channels"

    def __init__(self, width: int = 16, depth: int = 1, heads: int = 2) -> None:
        super().__init__(width, depth, heads)


@pytest.fixture(autouse=True)
def _tiny_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTERED", registry.REGISTERED | {"tiny-channels": TinyChannels})


def write(path: Path, count: int = 60, **columns: object) -> Path:
    rng = np.random.default_rng(0)
    columns = {"best_beam": np.arange(count) % 4, "model": np.arange(count) % 2} | columns
    with h5py.File(path, "w") as file:
        file["sample"] = 3 * rng.standard_normal((count, 2, 6, 4, 8)).astype(np.float32)
        file["future"] = rng.standard_normal((count, 2, 4, 4, 8)).astype(np.float32)
        for name, values in columns.items():
            if values is not None:
                file[name] = values
    return path


def config(path: Path, **changes: object) -> PretrainingConfig:
    settings = {"encoder": "tiny-channels", "objective": "masked", "data": str(path), "steps": 4, "batch": 8}
    return PretrainingConfig(**(settings | changes))  # type: ignore[arg-type]


def test_signals_are_simulated_without_a_file() -> None:
    assert isinstance(open_source(PretrainingConfig()), SimulatedSignals)


def test_the_slots_to_come_follow_the_past_and_the_probe_has_its_own_channels(tmp_path: Path) -> None:
    source = open_source(config(write(tmp_path / "c.h5")))
    assert isinstance(source, StoredChannels)
    assert source.channels.shape == (54, 2, 10, 4, 8)
    assert source.probed.shape == (6, 2, 6, 4, 8)
    with h5py.File(tmp_path / "c.h5") as file:
        whole = np.concatenate([file["sample"][10], file["future"][10]], axis=1)
    whole /= np.sqrt(np.square(whole).sum(0).mean())
    np.testing.assert_allclose(source.channels[4].float().numpy(), whole, atol=2e-3)
    assert source.shape(0) == {"slots": 10, "antennas": 4, "subcarriers": 8}


def test_a_step_draws_the_same_every_time_and_another_step_others(tmp_path: Path) -> None:
    source = open_source(config(write(tmp_path / "c.h5")))
    encoder, alone = TinyChannels(), Processes(0, 1, "cpu")
    first, again, other = (source.batch(step, alone, encoder)[0] for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (8, 2, 10, 4, 8)


def test_a_run_killed_half_way_ends_as_one_that_was_not(tmp_path: Path) -> None:
    data = write(tmp_path / "c.h5")
    whole = pretrain(config(data), tmp_path / "whole")

    def stop(progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(config(data), tmp_path / "cut", on_step=stop, checkpoint_every_s=0)
    cut = pretrain(config(data), tmp_path / "cut")
    assert load_encoder(whole).fingerprint() == load_encoder(cut).fingerprint()
    provenance = read_config(whole)["provenance"]
    assert (provenance["data"], provenance["channels"]) == ("c.h5", 54)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "probe.jsonl").read_text().splitlines()]
    assert set(lines[0]["scores"]) == {"best_beam", "model"}
    assert "<svg" in (tmp_path / "whole" / "probe.svg").read_text()


def test_files_that_will_not_do(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["sample"] = np.zeros((5, 2, 4, 64), np.float32)
    for path, message in (
        (tmp_path / "flat.h5", "pretraining takes channels"),
        (write(tmp_path / "bare.h5", best_beam=None, model=None), "none of the columns best_beam, model"),
        (tmp_path / "absent.h5", "does not exist"),
    ):
        with pytest.raises(OfframpError, match=message) as caught:
            open_source(config(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(TrainingError, match="add --objective masked"):
        config(tmp_path / "c.h5", objective="contrastive")
    with pytest.raises(TrainingError, match="tiny-test takes no channels over time"):
        pretrain(config(write(tmp_path / "c.h5"), encoder="tiny-test"), tmp_path / "out")
