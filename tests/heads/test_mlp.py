"""What a linear head cannot learn; seeds; folding."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from offramp.heads.mlp import fit_mlp
from offramp.heads.rows import Rows


def xor(count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Class by the sign of a product; features of odd units and offsets."""
    points = np.random.default_rng(0).uniform(-1, 1, (count, 2))
    return (points * [1000, 0.01] + [5000, -3]).astype(np.float32), (points.prod(1) > 0).astype(np.int64)


def test_learns_exclusive_or() -> None:
    taps, labels = xor()
    train, test = np.arange(400), np.arange(400, 600)
    heads = fit_mlp(Rows(taps, train), labels[train], 2, (0.1, 1e-3), seed=0)
    for head in heads:
        assert (head(taps[test]).argmax(1) == labels[test]).mean() > 0.93
    linear = LogisticRegression().fit((taps - taps.mean(0)) / taps.std(0), labels)
    assert linear.score((taps - taps.mean(0)) / taps.std(0), labels) < 0.7, "the data would be too easy"


def test_learns_a_product_as_regression() -> None:
    taps, _ = xor()
    points = (taps - [5000, -3]) / [1000, 0.01]
    targets = np.stack([500 + 100 * points.prod(1), points.sum(1)], axis=1).astype(np.float32)
    (head,) = fit_mlp(Rows(taps, np.arange(600)), targets, 2, (1e-2,), seed=0)
    residual = ((head(taps) - targets) ** 2).mean(0) / targets.var(0)
    assert (residual < 0.1).all()


def test_the_same_seed_gives_the_same_network() -> None:
    taps, labels = xor(200)
    fits = [fit_mlp(Rows(taps, np.arange(200)), labels, 2, (1.0, 0.01), seed)[0] for seed in (3, 3, 4)]
    np.testing.assert_array_equal(fits[0].layers[0][0], fits[1].layers[0][0])
    np.testing.assert_array_equal(fits[0].layers[1][1], fits[1].layers[1][1])
    assert (fits[0].layers[0][0] != fits[2].layers[0][0]).any()


def test_a_strength_does_not_depend_on_its_neighbours() -> None:
    taps, labels = xor(200)
    rows = Rows(taps, np.arange(200))
    together = fit_mlp(rows, labels, 2, (1.0, 0.01), 0)[1]
    (alone,) = fit_mlp(rows, labels, 2, (0.01,), 0)
    np.testing.assert_allclose(together(taps), alone(taps), atol=0.02)


def test_strength_shrinks_the_weights() -> None:
    taps, labels = xor(300)
    strong, weak = fit_mlp(Rows(taps, np.arange(300)), labels, 2, (10.0, 0.01), 0)
    assert np.abs(strong.layers[1][0]).sum() < np.abs(weak.layers[1][0]).sum()


def test_weights_move_the_border() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(400) < 40).astype(np.int64)
    taps = (rng.standard_normal((400, 2)) + labels[:, None]).astype(np.float32)
    weights = np.where(labels == 1, 5, 5 / 9).astype(np.float32)
    rows = Rows(taps, np.arange(400))
    plain, weighted = (fit_mlp(rows, labels, 2, (1.0,), 0, w)[0](taps).argmax(1) for w in (None, weights))
    assert weighted[labels == 1].mean() > plain[labels == 1].mean() + 0.2


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_constant_features_do_no_harm(kind: str) -> None:
    taps, labels = xor(100)
    taps = np.concatenate([taps, np.full((100, 1), 9.9)], axis=1).astype(np.float32)
    targets = labels if kind == "classification" else labels[:, None].astype(np.float32)
    (head,) = fit_mlp(Rows(taps, np.arange(100)), targets, 2 if kind == "classification" else 1, (0.1,), 0)
    assert (head.layers[0][0][:, 2] == 0).all()
    assert np.isfinite(head(taps)).all()
