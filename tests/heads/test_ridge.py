"""Ridge against scikit-learn's closed form."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from offramp.heads import rows as rows_module
from offramp.heads.ridge import fit_ridge
from offramp.heads.rows import Rows

STRENGTHS = (10.0, 1.0, 1e-2, 1e-5)


def made(count: int = 300, width: int = 8, dimensions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    taps = (rng.standard_normal((count, width)) * rng.uniform(0.1, 30, width) + rng.normal(0, 10, width)).astype(
        np.float32
    )
    mixed = taps @ rng.normal(0, 1, (width, dimensions)) + rng.normal(0, 20, (count, dimensions))
    return taps, (mixed * [1.0, 1e-3][:dimensions] + [1000, -2][:dimensions]).astype(np.float32)


def reference(taps: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    """Predictions of scikit-learn on standardised features and targets; its penalty is on the sum, ours on the mean."""
    inputs = taps.astype(np.float64)
    spread = inputs.std(0)
    inputs = (inputs - inputs.mean(0)) / np.where(spread > 1e-5, spread, np.inf)
    centre, scale = targets.mean(0, dtype=np.float64), targets.std(0, dtype=np.float64)
    model = Ridge(alpha=strength * len(taps)).fit(inputs, (targets - centre) / scale)
    return model.predict(inputs).reshape(targets.shape) * scale + centre


@pytest.mark.parametrize("dimensions", [1, 2])
def test_agrees_with_scikit_learn(dimensions: int) -> None:
    taps, targets = made(dimensions=dimensions)
    heads = fit_ridge(Rows(taps, np.arange(300)), targets, STRENGTHS)
    for strength, head in zip(STRENGTHS, heads, strict=True):
        error = (head(taps) - reference(taps, targets, strength)) / targets.std(0)
        assert np.abs(error).max() < 1e-3, strength


def test_more_features_than_rows_and_constant_and_duplicated_ones() -> None:
    taps, targets = made(count=40, width=30)
    taps = np.concatenate([taps, taps, np.full((40, 3), 5.5)], axis=1).astype(np.float32)
    for strength, head in zip(STRENGTHS, fit_ridge(Rows(taps, np.arange(40)), targets, STRENGTHS), strict=True):
        error = (head(taps) - reference(taps, targets, strength)) / targets.std(0)
        assert np.abs(error).max() < (0.02 if strength < 1e-3 else 1e-3), strength


def test_strong_regularisation_predicts_the_mean() -> None:
    taps, targets = made()
    (head,) = fit_ridge(Rows(taps, np.arange(300)), targets, (1e9,))
    expected = np.broadcast_to(targets.mean(0), targets.shape)
    np.testing.assert_allclose(head(taps), expected, rtol=1e-4)


def test_a_constant_target() -> None:
    taps, _ = made()
    (head,) = fit_ridge(Rows(taps, np.arange(300)), np.full((300, 1), 42, np.float32), (1e-3,))
    np.testing.assert_allclose(head(taps), 42, atol=1e-4)


def test_rows_beyond_the_cache_give_the_same_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    taps, targets = made()
    cached = fit_ridge(Rows(taps, np.arange(300)), targets, STRENGTHS)
    monkeypatch.setattr(rows_module, "CACHED_VALUES", 100)
    again = fit_ridge(Rows(taps, np.arange(300)), targets, STRENGTHS)
    for first, second in zip(cached, again, strict=True):
        np.testing.assert_array_equal(first.layers[0][0], second.layers[0][0])
