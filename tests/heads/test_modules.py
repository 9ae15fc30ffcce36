import numpy as np
import torch
from bundles import random_head

from offramp.bundle import Head
from offramp.heads.modules import head_module


def test_module_computes_what_the_head_computes():
    rng = np.random.default_rng(0)
    taps = rng.standard_normal((6, 5)).astype(np.float32)
    for widths, length in (((5, 3), 1), ((5, 8, 3), 3)):
        head = random_head(rng, *widths)
        module = head_module(head)
        assert len(module) == length
        np.testing.assert_allclose(module(torch.from_numpy(taps)).detach().numpy(), head(taps), atol=1e-5)


def test_a_head_on_tokens_puts_every_value_into_its_place():
    rng = np.random.default_rng(0)
    taps = rng.standard_normal((6, 4, 5)).astype(np.float32)
    layout = rng.permutation(12).reshape(4, 3)
    head = Head(random_head(rng, 5, 3).layers, layout)
    ((weight, bias),) = head.layers
    expected = np.zeros((6, 12))
    for window in range(6):
        for position in range(4):
            for value in range(3):
                expected[window, layout[position, value]] = taps[window, position] @ weight[value] + bias[value]
    np.testing.assert_allclose(head(taps), expected, atol=1e-5)
    assert head(taps).dtype == np.float32
    assert head(taps[:0]).shape == (0, 12)
    module = head_module(head)
    np.testing.assert_allclose(module(torch.from_numpy(taps)).detach().numpy(), expected, atol=1e-5)
    assert sum(parameter.numel() for parameter in module.parameters()) == weight.size + bias.size
    assert (head.inputs, head.outputs) == (5, 12)
