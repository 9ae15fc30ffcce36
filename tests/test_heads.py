import numpy as np
import torch
from bundles import random_head

from offramp.heads import head_module


def test_module_computes_what_the_head_computes():
    rng = np.random.default_rng(0)
    taps = rng.standard_normal((6, 5)).astype(np.float32)
    for widths, length in (((5, 3), 1), ((5, 8, 3), 3)):
        head = random_head(rng, *widths)
        module = head_module(head)
        assert len(module) == length
        np.testing.assert_allclose(module(torch.from_numpy(taps)).detach().numpy(), head(taps), atol=1e-5)
