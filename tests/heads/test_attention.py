"""Heads that attend: what they can tell that a mean cannot, and that all forms of one head answer alike."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax

from offramp.bundle import Head
from offramp.heads.attention import fit_attention
from offramp.heads.logistic import fit_logistic
from offramp.heads.modules import head_module
from offramp.heads.rows import Rows

RNG = np.random.default_rng(0)


def needles(count: int = 600, positions: int = 30, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """One position of each window is marked, and only there feature 1 has the sign of the class; elsewhere its sign is chance."""
    rng = np.random.default_rng(1)
    tokens = rng.standard_normal((count, positions, width)).astype(np.float32)
    labels = rng.integers(0, 2, count)
    marked = rng.integers(0, positions, count)
    tokens[:, :, 0] = 0
    tokens[np.arange(count), marked, 0] = 8
    tokens[:, :, 1] = 3 * rng.choice([-1.0, 1.0], (count, positions))
    tokens[np.arange(count), marked, 1] = np.where(labels == 1, 3, -3)
    return tokens, labels


def accuracy(head: Head, tokens: np.ndarray, labels: np.ndarray) -> float:
    return float((head(tokens).argmax(1) == labels).mean())


def test_finds_what_a_mean_over_positions_hides() -> None:
    tokens, labels = needles()
    train, held = np.arange(400), np.arange(400, 600)
    (head,) = fit_attention(tokens, train, labels[train], 2, [1e-3], seed=0)
    ((plain,),) = fit_logistic(Rows(tokens.mean(1), train), labels[train], 2, [1e-3], np.ones((400, 1), np.float32))
    assert accuracy(plain, tokens[held].mean(1), labels[held]) < 0.8
    assert accuracy(head, tokens[held], labels[held]) > 0.95


def test_a_strong_penalty_leaves_the_mean() -> None:
    tokens, labels = needles(200)
    (head,) = fit_attention(tokens, np.arange(200), labels, 2, [100.0], seed=0)
    assert head.query is not None
    share = softmax(tokens @ head.query, axis=1)
    np.testing.assert_allclose(share, 1 / tokens.shape[1], atol=0.02)


def test_values_in_their_own_unit() -> None:
    tokens, labels = needles()
    values = np.stack([1000 + 50 * labels, -3 + 0.1 * labels], axis=1).astype(np.float32)
    (head,) = fit_attention(tokens, np.arange(400), values[:400], 2, [1e-3], seed=0)
    error = np.abs(head(tokens[400:]) - values[400:]).mean(0)
    assert (error < [15, 0.03]).all()


def test_head_and_module_are_the_same_formula() -> None:
    weight, bias, query = (RNG.standard_normal(shape).astype(np.float32) for shape in ((3, 5), (3,), (5,)))
    taps = RNG.standard_normal((4, 7, 5)).astype(np.float32)
    head = Head(((weight, bias),), query=query)
    expected = np.einsum("np,npw->nw", softmax(taps @ query, axis=1), taps) @ weight.T + bias
    np.testing.assert_allclose(head(taps), expected, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(head_module(head)(torch.from_numpy(taps)).numpy(), expected, atol=1e-5)


def test_constant_features_and_weights_do_no_harm() -> None:
    tokens, labels = needles(100)
    tokens[:, :, 3] = 7
    weights = np.where(labels == 1, 2.0, 0.5).astype(np.float32)
    for head in fit_attention(tokens, np.arange(100), labels, 3, [1.0, 1e-3], seed=0, sample_weights=weights):
        assert np.isfinite(head(tokens)).all()
        assert head.query is not None
        assert head.query[3] == 0


def test_the_same_seed_gives_the_same_bits() -> None:
    tokens, labels = needles(100)
    first, again = (fit_attention(tokens, np.arange(100), labels, 2, [1e-2], seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first(tokens), again(tokens))
