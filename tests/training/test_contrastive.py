"""The contrastive loss against a loop written by hand, and the views that it compares."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_encoder
from torch import Tensor, nn
from torch.nn import functional

from offramp.simulation.views import view_pairs
from offramp.training.contrastive import PROJECTION_WIDTH, ContrastiveModel, info_nce


def unit(count: int, width: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def by_hand(first: Tensor, second: Tensor, temperature: float) -> tuple[float, float]:
    """Every view against every other: minus log of the partner's share; and how often the partner is nearest."""
    views = [*first.double().tolist(), *second.double().tolist()]
    count, loss, matched = len(first), 0.0, 0
    for i, view in enumerate(views):
        partner = (i + count) % (2 * count)
        scores = {
            j: sum(a * b for a, b in zip(view, views[j], strict=True)) / temperature
            for j in range(len(views))
            if j != i
        }
        loss -= scores[partner] - math.log(sum(map(math.exp, scores.values())))
        matched += max(scores, key=scores.__getitem__) == partner
    return loss / len(views), matched / len(views)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_info_nce_equals_the_loop(temperature: float) -> None:
    first = unit(6, 5, seed=0)
    second = functional.normalize(first + 1.2 * unit(6, 5, seed=1), dim=1)
    loss, matched = info_nce(first, second, temperature)
    expected, expected_matched = by_hand(first, second, temperature)
    assert 0 < expected_matched < 1
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert matched.item() == pytest.approx(expected_matched)


def test_the_loss_does_not_know_which_view_is_first() -> None:
    first, second = unit(7, 4, seed=0), unit(7, 4, seed=1)
    assert info_nce(first, second, 0.1)[0].item() == pytest.approx(info_nce(second, first, 0.1)[0].item(), rel=1e-6)


def test_the_loss_of_views_that_are_all_alike_is_that_of_guessing() -> None:
    alike = unit(1, 8, seed=0).expand(20, 8)
    assert info_nce(alike, alike, 0.1)[0].item() == pytest.approx(math.log(2 * 20 - 1), rel=1e-5)


def test_the_loss_of_perfect_views_is_nil() -> None:
    axes = torch.eye(8)
    loss, matched = info_nce(axes, axes, 0.05)
    assert loss.item() < 1e-4
    assert matched.item() == 1


def test_before_training_the_loss_is_near_that_of_guessing() -> None:
    count = 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ContrastiveModel(tiny_encoder(), temperature=0.5)
    views = view_pairs(count, 1, 128, (-6.0, 20.0), seed=0, block=0).iq
    with torch.no_grad():
        (projections,) = model.project(views)
        loss, _ = model(views, torch.Generator())
    assert projections.shape == (2 * count, PROJECTION_WIDTH)
    torch.testing.assert_close(projections.norm(dim=1), torch.ones(2 * count))
    assert loss.item() == pytest.approx(math.log(2 * count - 1), rel=0.15)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_the_head_has_as_many_linear_layers_as_asked(depth: int) -> None:
    model = ContrastiveModel(tiny_encoder(), depth)
    assert sum(isinstance(layer, nn.Linear) for layer in model.projections[0]) == depth
    assert model.project(torch.randn(4, 2, 1, 128))[0].shape == (4, PROJECTION_WIDTH if depth else 32)
    assert depth or not list(model.projections.parameters())


def test_exit_aware_every_exit_has_a_head_and_the_loss_is_their_mean() -> None:
    model = ContrastiveModel(tiny_encoder(), exit_aware=True)
    views = torch.randn(8, 2, 1, 128)
    projections = model.project(views)
    assert [p.shape for p in projections] == [(8, PROJECTION_WIDTH)] * len(model.encoder.exits)
    losses = [info_nce(*p.chunk(2), temperature=0.1)[0].item() for p in projections]
    assert model(views, torch.Generator())[0].item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


@pytest.fixture(scope="module")
def views() -> tuple[Tensor, Tensor]:
    """Complex ``(N, antennas, samples)``, almost without noise."""
    first, second = view_pairs(400, 2, 512, (60.0, 60.0), seed=1, block=0).iq.chunk(2)
    assert first.shape == second.shape == (400, 2, 2, 512)
    assert first.dtype == torch.float32
    return torch.complex(first[:, 0], first[:, 1]), torch.complex(second[:, 0], second[:, 1])


def test_views_of_one_pair_share_modulation(views: tuple[Tensor, Tensor]) -> None:
    def kurtosis(x: Tensor) -> Tensor:
        power = x[:, 0].abs().square()
        return power.square().mean(1) / power.mean(1).square()

    own = correlation(kurtosis(views[0]).log(), kurtosis(views[1]).log())
    strange = correlation(kurtosis(views[0]).log(), kurtosis(views[1]).log().roll(1))
    assert own > 0.7
    assert abs(strange) < 0.2


def test_views_of_one_pair_share_direction(views: tuple[Tensor, Tensor]) -> None:
    """The phase between antennas; scattered paths move it a little, and a window of noise has none."""
    first, second = ((x[:, 1] * x[:, 0].conj()).mean(1) for x in views)
    assert (first * second.conj()).angle().abs().median() < 0.1
    assert (first * second.conj().roll(1)).angle().abs().median() > 0.8


def test_views_of_one_pair_differ_in_payload_and_noise(views: tuple[Tensor, Tensor]) -> None:
    first, second = (x[:, 0] / x[:, 0].norm(dim=1, keepdim=True) for x in views)
    alike = (first * second.conj()).sum(1).abs()
    assert alike.median() < 0.3
    assert not torch.equal(*view_pairs(4, 1, 64, (0.0, 0.0), seed=1, block=0).iq.chunk(2))


def test_views_are_a_function_of_seed_and_block() -> None:
    def made(seed: int, block: int) -> Tensor:
        return view_pairs(4, 2, 64, (0.0, 20.0), seed, block).iq

    assert torch.equal(made(1, 2), made(1, 2))
    assert not torch.equal(made(1, 2), made(1, 3))
    assert not torch.equal(made(1, 2), made(2, 2))
