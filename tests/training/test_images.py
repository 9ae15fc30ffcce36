"""Simulated I/Q as images: the very spectrograms that tasks see, and only for encoders of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offramp.encoders.registry import load_encoder
from offramp.training.images import as_input, spectrogram_images
from offramp.transforms import Transform


def noise(antennas: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 2, antennas, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("samples", [127, 128, 190, 256, 1024])
@pytest.mark.parametrize("antennas", [1, 3])
def test_images_are_those_of_the_transform(antennas: int, samples: int) -> None:
    iq = noise(antennas, samples) * torch.tensor([1e-4, 1.0, 1e4]).view(3, 1, 1, 1)
    ours, expected = spectrogram_images(iq), Transform("spectrogram", frames=64)(iq.numpy())
    assert ours.shape == expected.shape == (3, antennas, 64, 64)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-3)  # where nothing is left, logarithms show float32


def test_a_tone_is_a_bright_row_at_its_frequency() -> None:
    phase = 2 * np.pi * 10 / 64 * np.arange(256)  # bin 10 of 64 above the carrier
    iq = torch.from_numpy(np.stack([np.cos(phase), np.sin(phase)])[None, :, None].astype(np.float32))
    image = spectrogram_images(iq)[0, 0]
    assert (image.argmax(0) == 32 + 10).all()
    # By hand: |sum of the taper|^2 over the sum of its squares, 32^2 / 24.
    torch.testing.assert_close(image.amax(0), torch.full((64,), float(np.log(32**2 / 24))), rtol=0, atol=1e-4)


def test_silence_is_the_floor() -> None:
    assert torch.equal(spectrogram_images(torch.zeros(1, 2, 1, 128)), torch.full((1, 1, 64, 64), 1e-6).log())


def test_only_an_encoder_of_images_sees_them() -> None:
    iq = noise(2, 128)
    for name, config in (("iq-resnet", {}), ("wavesfm", {"depth": 1})):
        assert as_input(load_encoder(name, weights="random", **config), iq) is iq
    encoder = load_encoder("wavesfm", weights="random", modality="vision", depth=1)
    images = as_input(encoder, iq)
    assert torch.equal(images, spectrogram_images(iq))
    with torch.no_grad():
        assert encoder.taps(images)["block1"].shape == (3, 128)


def test_an_encoder_of_one_channel_sees_the_first_antenna_alone() -> None:
    encoder, iq = load_encoder("wavesfm", weights="random", modality="vision", depth=1, channels=1), noise(3, 128)
    assert torch.equal(as_input(encoder, iq), spectrogram_images(iq[:, :, :1]))
