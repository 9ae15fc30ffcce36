"""The masked objective for channels: what is hidden, what noise is added, and that it can be learned."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from offramp.encoders.channel_transformer import ChannelTransformer
from offramp.encoders.iq_resnet import IQResNet
from offramp.errors import TrainingError
from offramp.training.masked_channels import (
    HIDINGS,
    SNR_DB,
    MaskedChannelModel,
    augment_channels,
    hidden_places,
    in_noise,
)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def channels(count: int, slots: int = 20, antennas: int = 8, subcarriers: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, slots, antennas, subcarriers, generator=generator(seed))


def test_what_is_seen_has_noise_and_unit_power_and_the_target_neither() -> None:
    views = channels(400)
    noisy, clean = in_noise(views, 4, 16, generator())
    assert noisy.shape[2] == 12
    torch.testing.assert_close(noisy.square().sum(1).mean((1, 2, 3)), torch.ones(400))
    factor = clean[:, 0, 0, 0, 0] / views[:, 0, 0, 0, 0]
    torch.testing.assert_close(clean, views * factor.view(-1, 1, 1, 1, 1))
    noise = noisy - clean[:, :, 4:16]
    snr = 10 * (clean[:, :, 4:16].square().mean((1, 2, 3, 4)) / noise.square().mean((1, 2, 3, 4))).log10()
    assert snr.min() > SNR_DB[0] - 0.5
    assert snr.max() < SNR_DB[1] + 0.5
    assert abs(snr.mean() - sum(SNR_DB) / 2) < 1.5


@pytest.mark.parametrize("hiding", HIDINGS, ids=lambda hiding: hiding.name)
def test_how_much_is_hidden_and_where(hiding) -> None:
    hidden = hidden_places(hiding, 500, (4, 8), generator()).view(500, 4, 8)
    assert hidden.float().mean() == pytest.approx(hiding.hidden, abs=0.02)
    columns, rows = hidden.all(1), hidden.all(2)
    if hiding.name == "band":
        assert torch.equal(hidden, columns.unsqueeze(1).expand_as(hidden))
        runs = (columns.int().diff(dim=1, prepend=columns[:, -1:].int()) == 1).sum(1)
        assert (runs == 1).all(), "one band, around the edge too"
    if hiding.name == "antennas":
        assert torch.equal(hidden, rows.unsqueeze(2).expand_as(hidden))
    assert hidden.float().mean(0).std() < 0.1, "no place is favoured"


def test_augmentation_keeps_power_and_turns_each_channel_by_one_phase() -> None:
    views = channels(64)
    turned = augment_channels(views, generator())
    torch.testing.assert_close(turned.square().sum((1, 2, 3, 4)), views.square().sum((1, 2, 3, 4)))
    before = torch.complex(views[:, 0], views[:, 1])
    after = torch.complex(turned[:, 0], turned[:, 1])
    kinds = set()
    for one, other in zip(before, after, strict=True):
        for mirrored in (False, True):
            for backwards in (False, True):
                axes = [axis for axis, flip in ((0, backwards), (1, mirrored)) if flip]
                ratio = other / one.flip(axes)
                if (ratio - ratio[0, 0, 0]).abs().max() < 1e-2:
                    kinds.add((mirrored, backwards))
    assert len(kinds) == 4


def test_hidden_places_are_not_seen() -> None:
    model = MaskedChannelModel(ChannelTransformer(width=24, depth=2, heads=3)).eval()
    noisy = channels(2, slots=16)
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[:, 3] = True  # antennas 0 to 3, subcarriers 12 to 15
    changed = noisy.clone()
    # The same power elsewhere in the hidden place, so that the channel's scale stays.
    changed[:, :, :, 0:4, 12:16] = changed[:, :, :, 0:4, 12:16].flip(2)
    with torch.no_grad():
        torch.testing.assert_close(model.restore(changed, hidden)[0], model.restore(noisy, hidden)[0])
        assert not torch.allclose(model.restore(changed, ~hidden & False)[0], model.restore(noisy, ~hidden & False)[0])


def test_the_loss_is_one_for_a_guess_of_zero_and_falls() -> None:
    torch.manual_seed(0)
    model = MaskedChannelModel(ChannelTransformer(width=24, depth=1, heads=3))
    still = torch.randn(32, 2, 1, 8, 16, generator=generator()).expand(-1, -1, 20, -1, -1).contiguous()
    with torch.no_grad():
        for parameter in model.decoders.parameters():
            parameter.zero_()
        assert model(still, generator())[0].item() == pytest.approx(1, abs=1e-5)
    torch.nn.init.normal_(model.decoders[0].weight, std=0.02)
    optimiser, draws = torch.optim.Adam(model.parameters(), 3e-3), generator()
    losses = []
    for _ in range(60):
        loss, matched = model(still, draws)
        assert matched is None
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_other_encoders_are_refused() -> None:
    with pytest.raises(TrainingError, match="iq-resnet takes no channels over time"):
        MaskedChannelModel(IQResNet())
