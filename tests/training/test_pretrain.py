"""Pretraining: a killed run goes on to the same bits, and what cannot go on says so in one line."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import read_config
from offramp.errors import EncoderError, TrainingError
from offramp.training import contrastive
from offramp.training.config import PretrainingConfig, snapshot_steps
from offramp.training.pretrain import PretrainingProgress, pretrain

SHORT = PretrainingConfig(encoder="tiny-test", steps=6, batch=8)
pytestmark = pytest.mark.usefixtures("_without_probe")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it."""


def kill_at(step: int) -> Callable[[PretrainingProgress], None]:
    def on_step(progress: PretrainingProgress) -> None:
        if progress.step == step:
            raise Killed

    return on_step


def interrupted(config: PretrainingConfig, out: Path, *kills: int) -> Path:
    for step in kills:
        with pytest.raises(Killed):
            pretrain(config, out, on_step=kill_at(step), checkpoint_every_s=-1)
    return pretrain(config, out, checkpoint_every_s=-1)


def log_of(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds") > 0
    return lines


def checkpoint_of(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "checkpoint.pt", weights_only=True)
    return state


@pytest.mark.parametrize("objective", ["contrastive", "masked", "supervised", "mixed"])
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path, objective: str) -> None:
    config = replace(SHORT, steps=23, batch=4, objective=objective)
    whole = pretrain(config, tmp_path / "whole")
    cut = interrupted(config, tmp_path / "cut", 1, 4, 21)
    assert load_encoder(cut).fingerprint() == load_encoder(whole).fingerprint()
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (cut / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "whole")
    assert [line["step"] for line in log_of(tmp_path / "cut")] == [20]
    assert (tmp_path / "cut" / "probe.jsonl").read_bytes() == (tmp_path / "whole" / "probe.jsonl").read_bytes()
    for step in snapshot_steps(23):
        place = f"snapshots/step-{step:06d}"
        assert (
            load_encoder(tmp_path / "cut" / place).fingerprint()
            == load_encoder(tmp_path / "whole" / place).fingerprint()
        )


def test_control_c_waits_for_the_step_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    whole = pretrain(SHORT, tmp_path / "whole")

    def press(progress: PretrainingProgress) -> None:
        if progress.step == 3:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain(SHORT, tmp_path / "cut", on_step=press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoint_of(tmp_path / "cut")["step"] == 3
    assert load_encoder(pretrain(SHORT, tmp_path / "cut")).fingerprint() == load_encoder(whole).fingerprint()


def test_a_second_control_c_does_not_wait(tmp_path: Path) -> None:
    def press_twice(progress: PretrainingProgress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pretrain(SHORT, tmp_path, on_step=press_twice)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_run_outside_the_main_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        folder = pool.submit(pretrain, replace(SHORT, steps=1), tmp_path).result()
    assert (folder / "config.json").exists()


def test_a_resumed_run_starts_behind_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        pretrain(SHORT, tmp_path, on_step=kill_at(4), checkpoint_every_s=-1)
    assert checkpoint_of(tmp_path)["step"] == 3
    seen: list[PretrainingProgress] = []
    pretrain(SHORT, tmp_path, on_step=seen.append)
    assert [progress.step for progress in seen] == [4, 5, 6]
    assert all(math.isfinite(p.loss) and 0 <= (p.matched or 0) <= 1 and p.seconds > 0 for p in seen)
    assert [progress.views for progress in seen] == [16] * 3


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = pretrain(SHORT, tmp_path)
    before = load_encoder(first).fingerprint()
    again = pretrain(SHORT, tmp_path, on_step=kill_at(1))
    assert load_encoder(again).fingerprint() == before


def test_the_encoder_folder_says_where_it_comes_from(tmp_path: Path) -> None:
    stored = read_config(pretrain(SHORT, tmp_path))
    assert stored["architecture"] == "tiny-test"
    assert stored["provenance"]["data"] == "simulated"
    assert stored["provenance"]["objective"] == "contrastive"
    assert stored["provenance"]["projection_depth"] == 2
    assert stored["provenance"]["input_shapes"]["4x256"] == 0.21
    assert stored["provenance"]["pretraining"]["steps"] == 6
    assert PretrainingConfig(**stored["provenance"]["pretraining"]) == SHORT


@pytest.mark.parametrize("objective", ["supervised", "mixed"])
def test_the_encoder_folder_says_which_quantities_were_labels(tmp_path: Path, objective: str) -> None:
    config = replace(SHORT, steps=1, objective=objective, labels="non-task", views="redrawn")
    provenance = read_config(pretrain(config, tmp_path / "some"))["provenance"]
    assert provenance["pretraining"]["views"] == "redrawn"
    assert "snr_db" in provenance["labels"]
    assert not {"signal_type", "angle", "transmitter_skew"} & set(provenance["labels"])
    assert read_config(pretrain(replace(SHORT, steps=1), tmp_path / "none"))["provenance"]["labels"] == []


def test_what_views_share_decides(tmp_path: Path) -> None:
    prints = {
        load_encoder(pretrain(replace(SHORT, steps=1, views=views), tmp_path / views)).fingerprint()
        for views in ("same", "crop", "redrawn")
    }
    assert len(prints) == 3


def test_training_moves_all_parameters_and_statistics(tmp_path: Path) -> None:
    trained = load_encoder(pretrain(SHORT, tmp_path)).state_dict()
    for name, initial in load_encoder("tiny-test", weights="random").state_dict().items():
        assert not torch.equal(trained[name], initial), name


def test_the_seed_decides(tmp_path: Path) -> None:
    prints = [
        load_encoder(pretrain(replace(SHORT, seed=seed, steps=2), tmp_path / str(run))).fingerprint()
        for run, seed in enumerate((0, 0, 1))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_the_loss_falls(tmp_path: Path) -> None:
    losses: list[float] = []
    pretrain(replace(SHORT, steps=45, batch=16), tmp_path, on_step=lambda p: losses.append(p.loss))
    assert sum(losses[-15:]) / 15 < sum(losses[:15]) / 15 - 0.2


def test_a_diverged_loss_stops_and_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    loss = contrastive.info_nce

    def diverging(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        value, matched = loss(first, second, temperature)
        return value * (math.nan if calls == 5 else 1), matched

    monkeypatch.setattr(contrastive, "info_nce", diverging)
    with pytest.raises(
        TrainingError, match=r"diverged at step 4: .*checkpoint\.pt keeps the last good state.*below 0\.002"
    ):
        pretrain(SHORT, tmp_path, checkpoint_every_s=-1)
    assert checkpoint_of(tmp_path)["step"] == 4
    assert all(tensor.isfinite().all() for tensor in checkpoint_of(tmp_path)["model"].values())
    assert not (tmp_path / "encoder").exists()
    monkeypatch.undo()


@pytest.mark.parametrize("steps", [1, 6])
def test_weights_that_are_not_finite_are_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    step = torch.optim.AdamW.step

    def overflowing(self: torch.optim.AdamW, closure: None = None) -> None:
        step(self, closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", overflowing)
    with pytest.raises(TrainingError, match=r"the loss diverged at step 1; try a --learning-rate below 0\.002"):
        pretrain(replace(SHORT, steps=steps), tmp_path, checkpoint_every_s=-1)
    assert not (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "encoder").exists()
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["step-000000"]


def test_a_run_of_other_settings_names_them(tmp_path: Path) -> None:
    pretrain(SHORT, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError) as caught:
        pretrain(replace(SHORT, batch=4, seed=2), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds a run with other settings (batch 8 -> 4, seed 0 -> 2): choose another --out"
    )
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def damage_text(path: Path) -> None:
    path.write_text("not a checkpoint\n")


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_list(path: Path) -> None:
    torch.save([1, 2], path)


def damage_key(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["step"]
    torch.save(state, path)


def damage_weights(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["model"] = {"a": torch.zeros(2)}
    torch.save(state, path)


def damage_optimiser(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["optimiser"] = {"state": {}, "param_groups": []}
    torch.save(state, path)


@pytest.mark.parametrize(
    "damage",
    [damage_text, damage_half, damage_empty, damage_list, damage_key, damage_weights, damage_optimiser],
    ids=lambda f: f.__name__,
)
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    pretrain(replace(SHORT, steps=1), tmp_path)
    damage(tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError) as caught:
        pretrain(replace(SHORT, steps=1), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{tmp_path / 'checkpoint.pt'} cannot be resumed (" in message
    assert message.endswith("): remove it or choose another --out")


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="device 'cuda:99' cannot be used here"):
        pretrain(SHORT, tmp_path, device="cuda:99")


def test_the_global_random_state_neither_matters_nor_changes(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = load_encoder(pretrain(replace(SHORT, steps=2), tmp_path / "a")).fingerprint()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert load_encoder(pretrain(replace(SHORT, steps=2), tmp_path / "b")).fingerprint() == first
