"""Passes that are for answers alone."""

from __future__ import annotations

import torch

from offramp.encoders.taps import inference


def test_denormal_numbers_are_zero_within_and_themselves_outside() -> None:
    denormal = torch.tensor([1e-40], dtype=torch.float32)
    with inference():
        assert (denormal * 1).item() == 0
        assert torch.is_inference(denormal * 1)
    assert (denormal * 1).item() > 0


def test_it_ends_with_an_error_too() -> None:
    try:
        with inference():
            raise ValueError
    except ValueError:
        pass
    assert (torch.tensor([1e-40]) * 1).item() > 0
