"""Training for exits: the encoder given stays as it is, a killed training ends with the same bits, and methods do what they say."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tones
from torch import Tensor

from offramp.bundle import Head
from offramp.encoders.base import StagedEncoder
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.registry import random_encoder
from offramp.encoders.taps import freeze
from offramp.errors import DataError, EncoderError, OfframpError, TrainingError
from offramp.training.exits import ExitStep, ExitTraining, train_exits
from offramp.training.exits.model import ExitModel, skippable_stages

METHODS = ["joint", "progressive", "alternating", "two-stage", "self-distillation", "layerskip", "low-rank", "full"]
SHORT = ExitTraining(steps=6, batch=8)
EXITS = ["stem", "mixing", "stage1.0", "stage1.1", "stage2.0"]
WINDOWS, LABELS = tones(24)
INPUTS = torch.from_numpy(WINDOWS)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code under test may catch it."""


def small(seed: int = 0) -> StagedEncoder:
    return random_encoder(IQResNet, {"channels": [4, 6, 8, 10], "repeats": [2, 1]}, seed)


def trained(config: ExitTraining, encoder: StagedEncoder | None = None, **options: Any) -> Any:
    return train_exits(encoder or small(), INPUTS, LABELS, "classification", 3, config, **options)


def same(first: StagedEncoder, second: StagedEncoder) -> bool:
    return first.fingerprint() == second.fingerprint()


def starting_heads(seed: int = 0) -> dict[str, Head]:
    rng = np.random.default_rng(seed)
    return {
        exit.name: Head(((rng.normal(size=(3, exit.width)).astype(np.float32), np.zeros(3, np.float32)),))
        for exit in small().exits
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_encoder_given_does_not_change(method: Any) -> None:
    encoder = freeze(small())
    before = encoder.fingerprint()
    result = trained(replace(SHORT, method=method), encoder)
    assert encoder.fingerprint() == before
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not same(result.encoder, encoder)
    assert not result.encoder.training
    assert list(result.encoder.state_dict()) == list(encoder.state_dict())
    assert [type(module) for module in result.encoder.modules()] == [type(module) for module in encoder.modules()]
    assert list(result.heads) == (EXITS if method not in ("low-rank", "full") else EXITS[-1:])
    assert result.log[-1]["step"] == 6
    for exit in result.encoder.exits:
        if exit.name in result.heads:
            assert result.heads[exit.name](np.zeros((2, exit.width), np.float32)).shape == (2, 3)


def test_joint_training_learns() -> None:
    result = trained(ExitTraining(steps=60, batch=24, learning_rate=1e-2))
    with torch.no_grad():
        taps = result.encoder.taps(INPUTS)
    right = [(result.heads[exit](taps[exit].numpy()).argmax(1) == LABELS).mean() for exit in EXITS]
    assert right[-1] > 0.9
    assert result.log[-1]["loss"] < 0.5 * math.log(3)


@pytest.mark.parametrize("method", ["joint", "two-stage", "layerskip", "low-rank"])
def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, method: Any) -> None:
    config = replace(SHORT, method=method, layer_dropout=0.6)
    whole = trained(config)
    for kill in (1, 4):

        def on_step(done: ExitStep, kill: int = kill) -> None:
            if done.step == kill:
                raise Killed

        with pytest.raises(Killed):
            trained(config, checkpoint=tmp_path / "c.pt", checkpoint_every_s=-1, on_step=on_step)
    steps: list[int] = []
    cut = trained(config, checkpoint=tmp_path / "c.pt", on_step=lambda done: steps.append(done.step))
    assert steps == [4, 5, 6]  # the kill at step 4 came before that step was kept
    assert same(cut.encoder, whole.encoder)
    for exit, head in whole.heads.items():
        for ours, theirs in zip(cut.heads[exit].layers[0], head.layers[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    again = trained(config, checkpoint=tmp_path / "c.pt", on_step=lambda done: steps.append(done.step))
    assert len(steps) == 3
    assert same(again.encoder, whole.encoder)


def test_control_c_waits_for_the_step_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    def press(done: ExitStep) -> None:
        if done.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(SHORT, checkpoint=tmp_path / "c.pt", on_step=press)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["step"] == 3
    assert same(trained(SHORT, checkpoint=tmp_path / "c.pt").encoder, trained(SHORT).encoder)


def test_a_checkpoint_is_of_one_training(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    trained(SHORT, checkpoint=path)
    with pytest.raises(TrainingError, match=r"steps 6 -> 7, learning_rate 0.001 -> 0.01"):
        trained(replace(SHORT, steps=7, learning_rate=1e-2), checkpoint=path)
    with pytest.raises(TrainingError, match="of another encoder or on other data"):
        trained(SHORT, small(seed=1), checkpoint=path)
    with pytest.raises(TrainingError, match="of another encoder or on other data"):
        train_exits(small(), INPUTS * 2, LABELS, "classification", 3, SHORT, checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="cannot be resumed"):
        trained(SHORT, checkpoint=path)


@pytest.mark.parametrize("method", ["low-rank", "full"])
def test_nothing_behind_the_exit_learns(method: Any) -> None:
    result = trained(replace(SHORT, method=method, exit="stage1.0"))
    assert list(result.heads) == ["stage1.0"]
    before = small().state_dict()
    for name, tensor in result.encoder.state_dict().items():
        behind = int(name.split(".")[1]) > 2
        learned = not torch.equal(tensor, before[name])
        if behind:
            assert not learned, name
        elif name.endswith("weight") and tensor.ndim == 4:
            assert learned, name


def test_adapters_change_weights_by_a_low_rank_and_no_statistics() -> None:
    result = trained(replace(SHORT, method="low-rank", rank=2, learning_rate=1e-2))
    before = small().state_dict()
    changed = 0
    for name, tensor in result.encoder.state_dict().items():
        if tensor.ndim == 4:
            difference = (tensor - before[name]).flatten(1)
            changed += bool(difference.abs().max() > 1e-4)
            assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2, name
        else:
            assert torch.equal(tensor, before[name]), name
    assert changed > 5


@pytest.mark.parametrize(("normalisation", "kept"), [("stored", True), ("batch", False)])
def test_statistics_stay_where_they_are_asked_to(normalisation: Any, kept: bool) -> None:
    encoder = trained(replace(SHORT, normalisation=normalisation)).encoder
    before = small().state_dict()
    means = {name: tensor for name, tensor in encoder.state_dict().items() if name.endswith("running_mean")}
    assert means
    assert all(torch.equal(tensor, before[name]) == kept for name, tensor in means.items())


def test_the_second_of_two_stages_leaves_the_encoder_alone() -> None:
    two = trained(replace(SHORT, method="two-stage"), heads=starting_heads())
    one = trained(replace(SHORT, method="full", steps=3), heads=starting_heads())
    assert same(two.encoder, one.encoder)
    for part in (0, 1):
        np.testing.assert_array_equal(two.heads["stage2.0"].layers[0][part], one.heads["stage2.0"].layers[0][part])
    for exit in EXITS[:-1]:
        assert not np.array_equal(two.heads[exit].layers[0][0], starting_heads()[exit].layers[0][0])


def test_exits_of_one_width_share_a_head_with_layerskip() -> None:
    heads = trained(replace(SHORT, method="layerskip")).heads
    assert heads["stage1.0"] is heads["stage1.1"]
    assert heads["stage1.0"] is not heads["stage2.0"]


def test_skipped_stages_leave_the_state_of_those_windows() -> None:
    encoder = small().eval()
    assert skippable_stages(encoder, INPUTS[:2]) == (False, False, False, True, False)
    model = ExitModel(encoder, range(5), "linear", 3, shared=False).eval()
    skipped = torch.zeros(5, 24, dtype=torch.bool)
    skipped[3, ::3] = True
    with torch.no_grad():
        whole = model(INPUTS, range(5))
        partly = model(INPUTS, range(5), skipped)
        taps = encoder.taps(INPUTS)
        unmoved = model.head(3)(taps["stage1.0"])
    torch.testing.assert_close(partly[2], whole[2])
    torch.testing.assert_close(partly[3][~skipped[3]], whole[3][~skipped[3]])
    torch.testing.assert_close(partly[3][::3], unmoved[::3])
    assert not torch.allclose(partly[4][::3], whole[4][::3])


def test_only_the_exits_asked_get_heads_and_nothing_deeper_runs() -> None:
    result = trained(replace(SHORT, exits=("stage1.0", "stem")))
    assert list(result.heads) == ["stem", "stage1.0"]
    assert list(result.log[-1]["losses"]) == ["stem", "stage1.0"]
    before = small().state_dict()
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in result.encoder.state_dict().items()
        if int(name.split(".")[1]) > 2
    )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_values_are_answered_in_their_own_unit(kind: Any) -> None:
    """Of a constant and a far value: with a rate of next to nothing, heads come back as they went in."""
    targets = np.stack([np.full(24, 7.0), 1e4 + 300 * LABELS], axis=1)
    config = ExitTraining(steps=1, learning_rate=1e-12, weight_decay=0.0, head=kind)
    given = train_exits(small(), INPUTS, targets, "regression", 2, config).heads
    config = replace(config, seed=1)
    back = train_exits(small(), INPUTS, targets, "regression", 2, config, heads=given).heads
    for exit in small().exits:
        taps = np.random.default_rng(0).normal(size=(50, exit.width)).astype(np.float32)
        np.testing.assert_allclose(back[exit.name](taps), given[exit.name](taps), rtol=1e-4)
        assert abs(given[exit.name](taps)[:, 1].mean() - 1e4) < 2000


def test_values_are_learned() -> None:
    targets = (1e4 + 300 * LABELS)[:, None]
    config = ExitTraining(steps=80, batch=24, learning_rate=1e-2, method="self-distillation")
    result = train_exits(small(), INPUTS, targets, "regression", 1, config)
    with torch.no_grad():
        taps = result.encoder.taps(INPUTS)
    error = np.abs(result.heads["stage2.0"](taps["stage2.0"].numpy()) - targets).mean()
    assert error < 0.5 * np.abs(targets - targets.mean()).mean()


def test_token_numbers_and_attention_take_adapters() -> None:
    pytest.importorskip("transformers")
    from offramp.encoders.huggingface import HuggingFace

    config = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 30,
        "max_position_embeddings": 20,
    }
    encoder = random_encoder(HuggingFace, {"model_type": "bert", "config": config}, 0)
    tokens = encoder.input.draw(12, (9,))
    labels = torch.arange(12) % 2
    for method in ("layerskip", "low-rank"):
        result = train_exits(encoder, tokens, labels, "classification", 2, replace(SHORT, method=method))  # type: ignore[arg-type]
        assert list(result.encoder.state_dict()) == list(encoder.state_dict())
        changed = [
            name
            for name, tensor in result.encoder.state_dict().items()
            if not torch.equal(tensor, encoder.state_dict()[name])
        ]
        assert any("query" in name for name in changed)
    assert skippable_stages(encoder, tokens) == (False, True, True)


def broken(inputs: Tensor = INPUTS, targets: Any = LABELS, outputs: int = 3, **settings: Any) -> Callable[[], Any]:
    kind = settings.pop("kind", "classification")
    heads = settings.pop("heads", None)
    return lambda: train_exits(
        small(), inputs, targets, kind, outputs, ExitTraining(**({"steps": 2} | settings)), heads=heads
    )


NAN = torch.where(torch.arange(24)[:, None, None, None] == 5, torch.nan, INPUTS)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (broken(NAN), DataError, "window 5 holds NaN"),
        (broken(INPUTS[:0], LABELS[:0]), DataError, "0 windows"),
        (broken(INPUTS[:3]), DataError, "3 windows and 24 targets"),
        (broken(INPUTS.double()), EncoderError, "x.float()"),
        (broken(INPUTS[:, :1]), EncoderError, "does not fit"),
        (broken(outputs=2), DataError, "0 to 2: 2 classes are 0 to 1"),
        (broken(targets=LABELS * 1.0), DataError, "classification takes integers"),
        (broken(kind="regression"), DataError, "takes (N, 3)"),
        (broken(targets=np.full((24, 3), np.inf), kind="regression"), DataError, "target 0 is NaN"),
        (broken(targets=np.zeros((24, 3)), kind="regression", balanced=True), TrainingError, "balanced"),
        (broken(exits=("nowhere",)), EncoderError, "unknown exit 'nowhere'"),
        (broken(method="two-stage", exits=("stem",)), TrainingError, "two exits or more"),
        (broken(learning_rate=1e30, steps=8), TrainingError, "learning rate below 1e+30"),
        (broken(heads=starting_heads(), head="mlp"), TrainingError, "to start from at stem is not a mlp head"),
    ],
)
def test_what_cannot_be_trained_says_so_in_one_line(
    call: Callable[[], Any], error: type[OfframpError], words: str
) -> None:
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
