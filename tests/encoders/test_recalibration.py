"""BatchNorm statistics of other data: those computed layer by layer by hand, with weights that nobody touches."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from bundles import IQ_SHAPE, small_lwm, small_shufflenet
from torch import Tensor, nn

from offramp.encoders.amc_ssl import AmcSsl
from offramp.encoders.base import StagedEncoder
from offramp.encoders.module import from_module
from offramp.encoders.recalibration import has_statistics, recalibrated, statistics_of, with_statistics
from offramp.encoders.registry import random_encoder
from offramp.encoders.taps import freeze
from offramp.errors import EncoderError


def drawn(encoder: StagedEncoder, *counts: int, scale: float = 3.0) -> list[Tensor]:
    """Batches that are louder and elsewhere than the encoder's own data."""
    return [scale * encoder.input.draw(count, IQ_SHAPE, seed) + 0.5 for seed, count in enumerate(counts)]


def plain_network() -> tuple[nn.Sequential, StagedEncoder]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(2, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Conv1d(4, 3, 3),
        nn.BatchNorm1d(3),
        nn.Flatten(),
        nn.Dropout(0.5),
    )
    return network, freeze(from_module(network, input=torch.randn(4, 2, 16), channels="first"))


def test_statistics_are_those_of_every_layer_by_hand() -> None:
    """Each layer is normalised by its batch's own statistics while those behind it are measured, as in training."""
    network, encoder = plain_network()
    batches = [2 * torch.randn(count, 2, 16, generator=torch.Generator().manual_seed(count)) + 1 for count in (5, 8)]
    first, second = [], []
    for batch in batches:
        with torch.no_grad():
            x = network[0](batch)
            first.append((x.mean((0, 2)), x.var((0, 2), unbiased=True)))
            x = (x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), unbiased=False, keepdim=True) + 1e-5).sqrt()
            x = network[3](torch.relu(x * network[1].weight[:, None] + network[1].bias[:, None]))
            second.append((x.mean((0, 2)), x.var((0, 2), unbiased=True)))
    found = [values for name, values in statistics_of(recalibrated(encoder, batches)).items()]
    expected = [torch.stack(parts).mean(0) for layer in (first, second) for parts in zip(*layer, strict=True)]
    assert len(found) == len(expected) == 4
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


class TestRecalibrated:
    def test_parameters_are_shared_and_nothing_else_changes(self) -> None:
        encoder = freeze(small_shufflenet())
        before, kept = encoder.fingerprint(), copy.deepcopy(encoder.state_dict())
        state = torch.get_rng_state()
        new = recalibrated(encoder, drawn(encoder, 16, 16))
        assert encoder.fingerprint() == before
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, kept[name]), name
        assert torch.equal(torch.get_rng_state(), state)
        for (name, ours), (other, theirs) in zip(encoder.named_parameters(), new.named_parameters(), strict=True):
            assert name == other
            assert ours is theirs
        own = {id(buffer) for buffer in encoder.buffers()}
        assert not own & {id(buffer) for buffer in new.buffers()}
        moved = statistics_of(new)
        assert all(not np.array_equal(values, moved[name]) for name, values in statistics_of(encoder).items())

    def test_it_is_frozen(self) -> None:
        encoder = freeze(small_shufflenet())
        new = recalibrated(encoder, drawn(encoder, 8))
        assert not any(module.training for module in new.modules())
        assert not any(parameter.requires_grad for parameter in new.parameters())
        x = encoder.input.draw(4, IQ_SHAPE)
        assert torch.equal(new.taps(x)["conv5"], new.taps(x)["conv5"])

    def test_recalibrated_again_starts_anew(self) -> None:
        encoder = freeze(small_shufflenet())
        once = recalibrated(encoder, drawn(encoder, 16))
        again = recalibrated(recalibrated(encoder, drawn(encoder, 8, scale=100.0)), drawn(encoder, 16))
        for name, values in statistics_of(once).items():
            np.testing.assert_array_equal(values, statistics_of(again)[name])

    def test_without_batch_norm_there_is_nothing_to_do(self) -> None:
        encoder = freeze(small_lwm())
        assert not has_statistics(encoder)
        assert statistics_of(encoder) == {}
        assert recalibrated(encoder, iter(())) is encoder
        assert has_statistics(freeze(small_shufflenet()))
        assert has_statistics(random_encoder(AmcSsl, {}, 0))


class TestWithStatistics:
    def test_from_one_encoder_to_another_of_the_same_weights(self) -> None:
        encoder = freeze(small_shufflenet())
        new = recalibrated(encoder, drawn(encoder, 16, 8))
        stored = statistics_of(new)
        assert all(values.dtype == np.float32 and values.ndim == 1 for values in stored.values())
        before, x = encoder.fingerprint(), drawn(encoder, 4)[0]
        again = with_statistics(encoder, stored)
        for name, tap in new.taps(x).items():
            assert torch.equal(again.taps(x)[name], tap)
        assert encoder.fingerprint() == before
        assert all(a is b for a, b in zip(encoder.parameters(), again.parameters(), strict=True))

    @pytest.mark.parametrize("change", ["missing", "more", "longer", "of two axes"])
    def test_what_does_not_fit_is_named(self, change: str) -> None:
        encoder = freeze(small_shufflenet())
        statistics = dict(statistics_of(encoder))
        name = sorted(statistics)[3]
        if change == "missing":
            del statistics[name]
        elif change == "more":
            name = "stages.99.running_mean"
            statistics[name] = np.zeros(3, np.float32)
        else:
            statistics[name] = np.ones(99 if change == "longer" else (len(statistics[name]), 1), np.float32)
        with pytest.raises(EncoderError, match=name.replace(".", r"\.")) as caught:
            with_statistics(encoder, statistics)
        assert "\n" not in str(caught.value)
        assert encoder.fingerprint() == freeze(small_shufflenet()).fingerprint()
