"""Masked modelling: which samples are hidden, what the loss counts, and that predictable samples are learned."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_encoder
from torch import Generator, Tensor

from offramp.encoders.base import State
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.errors import TrainingError
from offramp.training.config import INPUT_SHAPES
from offramp.training.masked import MaskedModel, masked_loss, masked_spans


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(9))


@settings(max_examples=30, deadline=None)
@given(st.integers(64, 1024), st.integers(0, 1000))
def test_masked_and_visible_spans_of_8_to_32_samples_take_turns(samples: int, seed: int) -> None:
    masks = masked_spans(8, samples, generator(seed))
    assert masks.shape == (8, samples)
    for mask in masks.tolist():
        lengths = [len(list(span)) for _, span in groupby(mask)]
        assert max(lengths) <= 32
        assert min(lengths[1:-1], default=8) >= 8
        assert 0 < sum(mask) < samples


def test_half_is_masked_at_every_place() -> None:
    share = masked_spans(4000, 128, generator()).float().mean(0)
    torch.testing.assert_close(share, torch.full_like(share, 0.5), rtol=0, atol=0.05)


@pytest.mark.parametrize(("antennas", "samples"), [shape[:2] for shape in INPUT_SHAPES])
def test_every_size_of_window_is_predicted_whole(antennas: int, samples: int) -> None:
    model = MaskedModel(tiny_encoder())
    assert model.stretches == [16]
    (prediction,) = model.predict(noise(2, 2, antennas, samples))
    assert prediction.shape == (2, 2, antennas, samples)
    loss, matched = model(noise(2, 2, antennas, samples), generator())
    assert matched is None
    assert loss.isfinite()


def test_each_position_predicts_its_own_stretch_of_time() -> None:
    """With tokens that are told apart by their position alone."""
    model = MaskedModel(tiny_encoder())
    tokens = torch.arange(8.0).repeat(2)[None, :, None]
    model.taps = lambda x, pooling: [tokens.expand(len(x), -1, 32)]  # type: ignore[method-assign]
    (decoder,) = model.decoders
    torch.nn.init.constant_(decoder.weight, 1 / 32)
    torch.nn.init.zeros_(decoder.bias)
    stretches = torch.arange(128).div(16, rounding_mode="floor").float()
    torch.testing.assert_close(model.predict(noise(3, 2, 4, 128))[0], stretches.expand(3, 2, 4, 128))


def test_predicting_nothing_costs_one_and_the_truth_nothing() -> None:
    views = noise(6, 2, 4, 64) * torch.logspace(-3, 3, 6)[:, None, None, None]
    views[2, :, 1] = 0
    hidden = masked_spans(6, 64, generator())
    assert masked_loss(torch.zeros_like(views), views, hidden).item() == pytest.approx(1, rel=1e-5)
    present = torch.tensor([4, 4, 3, 4, 4, 4])
    truth = views / (views.square().sum((1, 2, 3)) / (64 * present)).sqrt()[:, None, None, None]
    assert masked_loss(truth, views, hidden).item() < 1e-10


def test_only_masked_samples_of_present_antennas_count() -> None:
    views = noise(3, 2, 4, 64)
    views[1, :, 3] = 0
    hidden = masked_spans(3, 64, generator())
    prediction = noise(3, 2, 4, 64) * 0.5
    other = prediction.clone()
    other.masked_fill_(~hidden[:, None, None], 7.0)
    other[1, :, 3] = -5.0
    torch.testing.assert_close(masked_loss(other, views, hidden), masked_loss(prediction, views, hidden))


def test_what_is_masked_does_not_reach_the_encoder() -> None:
    model = MaskedModel(tiny_encoder()).eval()
    seen: list[Tensor] = []
    model.predict = lambda x: seen.append(x) or x  # type: ignore[method-assign, func-returns-value]
    views = noise(4, 2, 3, 128)
    model(views, generator(5))
    hidden = masked_spans(4, 128, generator(5))[:, None, None].expand_as(views)
    assert not seen[0][hidden].any()
    assert torch.equal(seen[0][~hidden], views[~hidden])


def test_samples_that_can_be_told_are_learned() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedModel(tiny_encoder())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    draws, losses = generator(), []
    for _ in range(80):
        phase = 2 * torch.pi * (torch.rand(16, 1, generator=draws) + 0.05 * torch.arange(128))
        views = torch.stack([phase.cos(), phase.sin()], dim=1)[:, :, None]
        loss, _ = model(views, draws)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.6 < 0.9 < losses[0]


def test_tokens_that_do_not_follow_time_are_one_line() -> None:
    class Averaged(IQShuffleNet):
        def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
            return super().pool(exit, state, pooling)[:, :2] if pooling == "tokens" else super().pool(exit, state)

    with pytest.raises(TrainingError, match=r"tokens that follow time.*use --objective contrastive"):
        MaskedModel(Averaged([8, 8, 16, 16, 32], [1, 1, 1]))


def test_exit_aware_every_exit_predicts_and_the_loss_is_their_mean() -> None:
    model = MaskedModel(tiny_encoder(), exit_aware=True)
    views = noise(2, 2, 3, 256)
    predictions = model.predict(views)
    assert len(predictions) == len(model.encoder.exits)
    assert all(prediction.shape == views.shape for prediction in predictions)
    loss, _ = model(views, generator(3))
    hidden = masked_spans(2, 256, generator(3))
    guesses = model.predict(views.masked_fill(hidden[:, None, None], 0))
    expected = sum(masked_loss(guess, views, hidden).item() for guess in guesses) / len(guesses)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
