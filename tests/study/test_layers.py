from __future__ import annotations

import numpy as np
import torch
from layers import calibrated, describe_layers

from offramp import load_encoder


def test_calibration_measures_batchnorm_and_freezes():
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(500, 2, 2, 64)).astype(np.float32)
    encoder = calibrated(load_encoder("iq-resnet", weights="random"), windows)
    assert not encoder.training
    state = encoder.states(torch.from_numpy(windows), ["stem"])["stem"]
    norm = next(module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert float(norm.running_var.mean()) != 1.0
    assert torch.isfinite(state).all()


def test_views_that_are_alike_are_invariant():
    rng = np.random.default_rng(0)
    view = rng.normal(size=(300, 2, 4, 256)).astype(np.float32)
    encoder = calibrated(load_encoder("iq-resnet", weights="random"), view)
    described = describe_layers(encoder, (view, view))
    np.testing.assert_allclose(described["intraclass_correlation"], 1, atol=1e-5)
    np.testing.assert_allclose(described["retrieval"], 1)
    np.testing.assert_allclose(np.diag(described["cka"]), 1, atol=1e-6)
    assert set(described["probe"]) == {"modulation", "sector"}
