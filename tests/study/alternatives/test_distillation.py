"""Learning from a teacher and labels; smaller networks of the same family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alternatives.distillation import Lesson, narrower, teach, untrained_like
from scipy.special import log_softmax, softmax
from tiny import tones
from torch import nn

from offramp.bundle import Head
from offramp.encoders import from_module
from offramp.encoders.base import StagedEncoder
from offramp.encoders.channel_transformer import ChannelTransformer
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM, LWM11
from offramp.encoders.registry import random_encoder
from offramp.encoders.wavesfm import WavesFM
from offramp.errors import EncoderError
from offramp.scoring.metrics import METRICS


def lesson(metric: str, targets: np.ndarray, teacher: np.ndarray, windows: np.ndarray | None = None) -> Lesson:
    """The first two thirds are for training, the rest for validation."""
    count = len(targets)
    windows = np.zeros((count, 2), np.float32) if windows is None else windows
    cut = 2 * count // 3
    return Lesson(
        lambda indices: windows[indices], targets, teacher, np.arange(cut), np.arange(cut, count), METRICS[metric]
    )


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_loss_of_a_classification_by_hand(metric: str):
    rng = np.random.default_rng(0)
    targets = np.array([0, 0, 0, 0, 1, 2, 0, 1, 2])  # of the six for training, four are of class 0
    teacher, outputs = (rng.standard_normal((9, 3)).astype(np.float32) for _ in range(2))
    indices = np.array([0, 4, 5])
    soft = -(softmax(teacher[indices] / 2, 1) * log_softmax(outputs[indices] / 2, 1)).sum(1).mean()
    weight = np.array([6 / (3 * 4), 2, 2]) if metric == "balanced_accuracy" else np.ones(3)
    of_window = weight[targets[indices]]
    hard = -(of_window * log_softmax(outputs[indices], 1)[np.arange(3), targets[indices]]).sum() / of_window.sum()
    found = lesson(metric, targets, teacher).loss(torch.from_numpy(outputs[indices]), indices)
    assert float(found) == pytest.approx(0.5 * 4 * soft + 0.5 * hard, rel=1e-5)


def test_loss_of_a_regression_by_hand():
    rng = np.random.default_rng(0)
    targets, teacher, outputs = (rng.standard_normal((9, 2)).astype(np.float32) for _ in range(3))
    indices = np.arange(4)
    error = sum(np.square(outputs[:4] - wanted[:4]).mean() for wanted in (targets, teacher)) / 2
    found = lesson("mean_error", targets, teacher).loss(torch.from_numpy(outputs[:4]), indices)
    assert float(found) == pytest.approx(error / targets[:6].var(), rel=1e-5)


def tone_network() -> nn.Module:
    torch.manual_seed(0)
    encoder = random_encoder(IQResNet, {"channels": [16, 16, 16, 16, 16], "repeats": [1, 1, 1]}, 0)
    return nn.Sequential(encoder.truncate("stage1.0"), nn.Linear(16, 3))


def test_a_network_learns_and_its_best_epoch_is_kept():
    windows, labels = tones(450)
    wanted = lesson("accuracy", labels.astype(np.int64), np.eye(3, dtype=np.float32)[labels] * 6, windows)
    network = tone_network()
    before = wanted.score(network)
    taught = teach(network, wanted, 6, 5e-3)
    assert taught.val > max(before, 0.7)
    assert 1 <= taught.epoch <= 6
    assert wanted.score(taught.network) == taught.val  # these weights, not the last
    assert not any(parameter.requires_grad for parameter in taught.network.parameters())


def test_training_that_only_harms_is_undone():
    windows, labels = tones(150)
    good = lesson("accuracy", labels.astype(np.int64), np.eye(3, dtype=np.float32)[labels] * 6, windows)
    network = teach(tone_network(), good, 4, 5e-3).network
    kept = [tensor.clone() for tensor in network.state_dict().values()]
    wrong = np.where(np.arange(150) < 100, (labels + 1) % 3, labels).astype(np.int64)
    bad = lesson("accuracy", wrong, np.eye(3, dtype=np.float32)[wrong] * 6, windows)
    taught = teach(network, bad, 3, 5e-3)
    assert taught.epoch == 0
    assert all(torch.equal(a, b) for a, b in zip(kept, network.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [
        (lambda: random_encoder(IQResNet, {}, 0), (2, 2, 64)),
        (lambda: random_encoder(IQShuffleNet, {}, 0), (2, 2, 64)),
        (lambda: random_encoder(LWM, {"layers": 2}, 0), (2, 32, 32)),
        (lambda: random_encoder(LWM11, {"layers": 2}, 0), (2, 8, 8)),
        (lambda: random_encoder(WavesFM, {"depth": 2}, 0), (2, 2, 64)),
        (lambda: random_encoder(ChannelTransformer, {"depth": 2}, 0), (2, 4, 8, 8)),
    ],
    ids=["iq-resnet", "iq-shufflenet", "lwm", "lwm-1.1", "wavesfm", "channel-transformer"],
)
def test_a_narrower_encoder_has_the_same_exits_and_fewer_parameters(encoder: object, shape: tuple[int, ...]):
    wide: StagedEncoder = encoder()
    half, quarter = (narrower(wide, fraction).eval() for fraction in (0.5, 0.25))
    names = [exit.name for exit in wide.exits]
    assert [exit.name for exit in half.exits] == [exit.name for exit in quarter.exits] == names
    params = [each.exits[-1].params for each in (wide, half, quarter)]
    assert params[1] < 0.5 * params[0]
    assert params[2] < 0.6 * params[1]
    with torch.inference_mode():
        tap = half.truncate(names[-1])(torch.randn(2, *shape))
    assert tap.shape == (2, half.exits[-1].width)


def test_an_encoder_without_known_widths():
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1))
    encoder = from_module(module, input=torch.randn(2, 2, 4, 4))
    with pytest.raises(EncoderError, match="names no widths"):
        narrower(encoder, 0.5)


def test_a_head_for_another_width():
    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((b, a)).astype(np.float32), np.zeros(b, np.float32)) for a, b in ((9, 7), (7, 3))]
    one, other, same = (untrained_like(Head(tuple(layers)), 5, seed) for seed in (0, 1, 0))
    x = torch.randn(4, 5)
    assert one(x).shape == (4, 3)
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))
