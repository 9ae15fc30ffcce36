"""The batched solver against scikit-learn and against a gradient written in numpy."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from offramp.bundle import Head
from offramp.heads import rows as rows_module
from offramp.heads.logistic import fit_logistic, fold_standardisation
from offramp.heads.rows import Rows

STRENGTHS = (1.0, 1e-2, 1e-4)
TOLERANCE = 1e-4


def made(
    count: int = 400, width: int = 6, classes: int = 4, seed: int = 0, unbalanced: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of mixed scales and offsets, and classes that overlap."""
    rng = np.random.default_rng(seed)
    share = np.array([0.9, 0.07, 0.02, 0.01])[:classes] if unbalanced else np.ones(classes)
    labels = rng.choice(classes, count, p=share / share.sum())
    centres = rng.normal(0, 1, (classes, width))
    taps = centres[labels] + rng.normal(0, 1.5, (count, width))
    return (taps * rng.uniform(0.1, 20, width) + rng.normal(0, 5, width)).astype(np.float32), labels


def fit(
    taps: np.ndarray,
    labels: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
    classes: int = 4,
    sample_weights: np.ndarray | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[Head, ...]:
    """One training set: all rows."""
    weights = np.ones((len(taps), 1), np.float32) if sample_weights is None else sample_weights[:, None]
    (heads,) = fit_logistic(Rows(taps, np.arange(len(taps))), labels, classes, strengths, weights, tolerance)
    return heads


def standardised(taps: np.ndarray) -> np.ndarray:
    """In float64; constant columns become zero."""
    values = taps.astype(np.float64)
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 1e-6 * np.abs(values.mean(0)) + 1e-12, spread, np.inf)


def on_standardised(head: Head, taps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A head on raw rows as weights ``(classes, width)`` and intercepts on standardised rows."""
    weight, bias = (array.astype(np.float64) for array in head.layers[0])
    values = taps.astype(np.float64)
    return weight * values.std(0), bias + weight @ values.mean(0)


def reference(
    taps: np.ndarray, labels: np.ndarray, strength: float, weights: np.ndarray | None = None
) -> LogisticRegression:
    """The same objective in scikit-learn, solved far more tightly."""
    model = LogisticRegression(C=1 / (strength * len(taps)), tol=1e-9, max_iter=5000)
    return model.fit(standardised(taps), labels, sample_weight=weights)


def gradient(
    head: Head, taps: np.ndarray, labels: np.ndarray, strength: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """Of ``mean(w * cross-entropy) + strength / 2 |W|^2`` on standardised rows, ``(width + 1, classes)``, by hand."""
    weight, bias = on_standardised(head, taps)
    inputs = standardised(taps)
    residual = softmax(inputs @ weight.T + bias, axis=1) - np.eye(len(bias))[labels]
    residual *= (np.ones(len(taps)) if weights is None else weights)[:, None]
    return np.vstack([inputs.T @ residual / len(taps) + strength * weight.T, residual.mean(0)])


def assert_same(
    head: Head, model: LogisticRegression, taps: np.ndarray, strength: float, tolerance: float = 0.01
) -> None:
    """Probabilities agree; and weights, up to what the gradient's tolerance leaves open."""
    expected = model.predict_proba(standardised(taps))
    np.testing.assert_allclose(softmax(head(taps).astype(np.float64), axis=1), expected, atol=tolerance)
    weight, _ = on_standardised(head, taps)
    np.testing.assert_allclose(
        weight, model.coef_, atol=max(5 * TOLERANCE / strength, 1e-3) if strength >= 1e-2 else 0.3
    )


@pytest.mark.parametrize("unbalanced", [False, True], ids=["balanced", "unbalanced"])
@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_scikit_learn(unbalanced: bool, seed: int) -> None:
    taps, labels = made(seed=seed, count=1500 if unbalanced else 400, unbalanced=unbalanced)
    for strength, head in zip(STRENGTHS, fit(taps, labels), strict=True):
        assert_same(head, reference(taps, labels, strength), taps, strength)


def test_a_tighter_tolerance_comes_closer() -> None:
    taps, labels = made()
    for strength, head in zip(STRENGTHS, fit(taps, labels, tolerance=3e-6), strict=True):
        expected = reference(taps, labels, strength).predict_proba(standardised(taps))
        np.testing.assert_allclose(softmax(head(taps), axis=1), expected, atol=1e-3)


def test_sample_weights() -> None:
    taps, labels = made(count=1000, unbalanced=True)
    counts = np.bincount(labels, minlength=4)
    weights = (len(labels) / (4 * counts))[labels].astype(np.float32)
    heads = fit(taps, labels, sample_weights=weights)
    for strength, head in zip(STRENGTHS, heads, strict=True):
        assert_same(head, reference(taps, labels, strength, weights), taps, strength, 0.02)
        assert np.abs(gradient(head, taps, labels, strength, weights)).max() <= 1.2 * TOLERANCE
    unweighted = fit(taps, labels)
    rare = labels == 3
    assert (heads[1](taps)[rare].argmax(1) == 3).mean() > (unweighted[1](taps)[rare].argmax(1) == 3).mean()


def test_whole_weights_are_repeated_rows() -> None:
    taps, labels = made(count=200)
    times = np.random.default_rng(0).integers(1, 4, 200)
    weights = (times / times.mean()).astype(np.float32)
    # the same standardisation for both: rows repeated would have other means
    taps = standardised(taps).astype(np.float32)
    model = LogisticRegression(C=1 / (0.01 * 200), tol=1e-9, max_iter=5000)
    model.fit(
        np.repeat(taps, times, 0), np.repeat(labels, times), sample_weight=np.full(times.sum(), 200 / times.sum())
    )
    head = fit(taps, labels, (0.01,), sample_weights=weights)[0]
    np.testing.assert_allclose(softmax(head(taps), axis=1), model.predict_proba(taps), atol=5e-3)


@pytest.mark.parametrize("case", ["plain", "unbalanced", "wide", "correlated", "duplicated", "constant", "separable"])
def test_the_gradient_is_as_small_as_asked_for(case: str) -> None:
    taps, labels = made(
        count=150 if case == "wide" else 500, width=200 if case == "wide" else 12, unbalanced=case == "unbalanced"
    )
    rng = np.random.default_rng(1)
    if case == "correlated":
        taps = (taps[:, :1] + 1e-2 * rng.standard_normal((len(taps), 12))).astype(np.float32)
    if case == "duplicated":
        taps = np.concatenate([taps, taps, 3 * taps + 1], axis=1)
    if case == "constant":
        taps[:, ::3] = np.float32(7.3)
    if case == "separable":
        taps = (taps + 100 * labels[:, None]).astype(np.float32)
    strengths = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    for strength, head in zip(strengths, fit(taps, labels, strengths), strict=True):
        assert np.abs(gradient(head, taps, labels, strength)).max() <= 1.2 * TOLERANCE, strength


def test_constant_features_get_no_weight() -> None:
    taps, labels = made()
    padded = np.concatenate([taps, np.full((400, 2), 12345.678), np.zeros((400, 1))], axis=1).astype(np.float32)
    for plain, head in zip(fit(taps, labels), fit(padded, labels), strict=True):
        assert (head.layers[0][0][:, 6:] == 0).all()
        np.testing.assert_allclose(head(padded), plain(taps), atol=2e-3)


def test_all_features_constant_leaves_the_prior() -> None:
    labels = np.repeat(np.arange(4), [10, 20, 30, 40])
    head = fit(np.ones((100, 3), np.float32), labels)[0]
    np.testing.assert_allclose(softmax(head(np.ones((1, 3), np.float32)), axis=1)[0], [0.1, 0.2, 0.3, 0.4], atol=1e-4)


def test_duplicated_features_share_the_weight() -> None:
    taps, labels = made()
    doubled = np.concatenate([taps, taps], axis=1)
    (head,) = fit(doubled, labels, (0.01,))
    weight = head.layers[0][0]
    np.testing.assert_allclose(weight[:, :6], weight[:, 6:], rtol=0.02, atol=1e-4)
    (plain,) = fit(taps, labels, (0.005,))  # |w/2|^2 + |w/2|^2 = |w|^2 / 2
    np.testing.assert_allclose(softmax(head(doubled), axis=1), softmax(plain(taps), axis=1), atol=0.01)


def test_a_class_without_training_rows_is_never_predicted() -> None:
    taps, labels = made(classes=3)
    labels = np.where(labels == 2, 3, labels)  # class 2 is absent
    heads = fit(taps, labels)
    for strength, head in zip(STRENGTHS, heads, strict=True):
        probability = softmax(head(taps).astype(np.float64), axis=1)
        assert probability[:, 2].max() < 1e-3
        present = reference(taps, labels, strength).predict_proba(standardised(taps))
        np.testing.assert_allclose(probability[:, [0, 1, 3]], present, atol=0.01)


def test_two_classes_and_two_rows() -> None:
    (head,) = fit(np.array([[0.0], [1.0]], np.float32), np.array([0, 1]), (0.01,), classes=2)
    np.testing.assert_array_equal(head(np.array([[-1.0], [2.0]], np.float32)).argmax(1), [0, 1])


def test_features_far_from_zero() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    small = (np.eye(3)[labels] + rng.normal(0, 0.7, (600, 3))).astype(np.float32)
    far = (small + np.float32(1e4)).astype(np.float32)
    near = (far.astype(np.float64) - 1e4).astype(np.float32)  # what 1e4 left of the digits
    for strength, head, other in zip(STRENGTHS, fit(far, labels, classes=3), fit(near, labels, classes=3), strict=True):
        np.testing.assert_allclose(softmax(head(far), axis=1), softmax(other(near), axis=1), atol=0.02)
        model = reference(near, labels, strength)
        np.testing.assert_allclose(softmax(head(far), axis=1), model.predict_proba(standardised(near)), atol=0.02)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_the_unit_of_the_features_does_not_matter(scale: float) -> None:
    taps, labels = made()
    for plain, scaled in zip(fit(taps, labels), fit(taps * np.float32(scale), labels), strict=True):
        np.testing.assert_allclose(plain(taps), scaled(taps * np.float32(scale)), atol=0.01)


def test_strengths_together_or_alone() -> None:
    taps, labels = made()
    together = fit(taps, labels, (1.0, 1e-1, 1e-2, 1e-3))
    for strength, head in zip((1.0, 1e-1, 1e-2, 1e-3), together, strict=True):
        (alone,) = fit(taps, labels, (strength,))
        np.testing.assert_allclose(softmax(head(taps), axis=1), softmax(alone(taps), axis=1), atol=1e-3)


def test_a_head_does_not_depend_on_which_other_strengths_were_asked_for() -> None:
    taps, labels = made()
    for strength, head in zip(STRENGTHS, fit(taps, labels), strict=True):
        (alone,) = fit(taps, labels, (strength,))
        np.testing.assert_array_equal(head.layers[0][0], alone.layers[0][0])


def test_strengths_in_any_order() -> None:
    taps, labels = made()
    for forward, back in zip(fit(taps, labels), fit(taps, labels, STRENGTHS[::-1])[::-1], strict=True):
        np.testing.assert_array_equal(forward.layers[0][0], back.layers[0][0])


def test_rows_far_outside_the_others() -> None:
    taps, labels = made(count=2000, width=30)
    taps[::50] *= 40
    (head,) = fit(taps, labels, (1e-5,))
    assert np.ptp(head(taps), axis=1).max() > 160, "exponentials of such logits are not finite in float32"
    assert np.abs(gradient(head, taps, labels, 1e-5)).max() <= 1.2 * TOLERANCE


def test_the_loss_falls_with_less_regularisation() -> None:
    taps, labels = made()
    losses = [-log_softmax(head(taps), axis=1)[np.arange(400), labels].mean() for head in fit(taps, labels)]
    assert losses == sorted(losses, reverse=True)


def test_rows_beyond_the_cache_give_the_same_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    taps, labels = made(count=900)
    cached = fit(taps, labels)
    monkeypatch.setattr(rows_module, "CACHED_VALUES", 100)
    for first, second in zip(cached, fit(taps, labels), strict=True):
        np.testing.assert_array_equal(first.layers[0][0], second.layers[0][0])


def test_rows_are_chosen_by_index() -> None:
    taps, labels = made(count=900)
    chosen = np.random.default_rng(0).permutation(900)[:300]
    weights = np.ones((300, 1), np.float32)
    (through,) = fit_logistic(Rows(taps, chosen), labels[chosen], 4, STRENGTHS, weights)
    for first, second in zip(through, fit(taps[chosen], labels[chosen]), strict=True):
        np.testing.assert_array_equal(first.layers[0][0], second.layers[0][0])


class TestSeveralTrainingSets:
    """Weight 0 leaves a row out: every training set is solved as if it were alone."""

    def sets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        taps, labels = made(count=900)
        rng = np.random.default_rng(3)
        member = rng.uniform(size=(900, 3)) < [0.2, 0.5, 0.9]
        member[:, 1] &= taps[:, 2] > np.median(taps[:, 2])  # another mean and spread than the whole
        weights = member * np.stack([np.ones(900), np.full(900, 7.0), rng.uniform(0.2, 3, 900)], axis=1)
        return taps, labels, weights.astype(np.float32)

    def test_agree_with_scikit_learn_on_their_own_rows(self) -> None:
        taps, labels, weights = self.sets()
        found = fit_logistic(Rows(taps, np.arange(900)), labels, 4, STRENGTHS, weights)
        assert [len(heads) for heads in found] == [3, 3, 3]
        for column, heads in enumerate(found):
            own = weights[:, column] > 0
            weight = weights[own, column] / weights[own, column].mean()
            for strength, head in zip(STRENGTHS, heads, strict=True):
                assert np.abs(gradient(head, taps[own], labels[own], strength, weight)).max() <= 1.2 * TOLERANCE
                model = reference(taps[own], labels[own], strength, weight)
                assert_same(head, model, taps[own], strength, 0.02)

    def test_rows_left_out_do_not_count(self) -> None:
        taps, labels, weights = self.sets()
        whole = fit_logistic(Rows(taps, np.arange(900)), labels, 4, STRENGTHS, weights)
        for column, heads in enumerate(whole):
            spoilt, other = taps.copy(), labels.copy()
            out = weights[:, column] == 0
            spoilt[out], other[out] = spoilt[out][::-1], (other[out] + 1) % 4
            again = fit_logistic(Rows(spoilt, np.arange(900)), other, 4, STRENGTHS, weights)[column]
            for first, second in zip(heads, again, strict=True):
                difference = softmax(first(taps), axis=1) - softmax(second(taps), axis=1)
                assert np.abs(difference).max() < 5e-3

    def test_together_or_alone(self) -> None:
        taps, labels, weights = self.sets()
        together = fit_logistic(Rows(taps, np.arange(900)), labels, 4, STRENGTHS, weights)
        for column, heads in enumerate(together):
            rows = Rows(taps, np.arange(900))
            (alone,) = fit_logistic(rows, labels, 4, STRENGTHS, weights[:, column : column + 1])
            for first, second in zip(heads, alone, strict=True):
                np.testing.assert_array_equal(first.layers[0][0], second.layers[0][0])

    def test_a_feature_that_is_constant_in_one_set_only(self) -> None:
        taps, labels, weights = self.sets()
        taps[:, 0] += 50 * labels  # gives the class away where it varies
        taps[weights[:, 0] > 0, 0] = 3.0
        heads = fit_logistic(Rows(taps, np.arange(900)), labels, 4, (1e-3,), weights)
        own = weights[:, 0] > 0
        without = reference(taps[own][:, 1:], labels[own], 1e-3)
        np.testing.assert_allclose(
            softmax(heads[0][0](taps[own]), axis=1), without.predict_proba(standardised(taps[own][:, 1:])), atol=0.02
        )
        spread = np.abs(heads[0][0].layers[0][0][:, 0]).max() * taps[:, 0].std()
        assert spread < 0.02, "what the set cannot know must not matter elsewhere"

    def test_a_class_that_is_absent_from_one_set_only(self) -> None:
        taps, labels, _ = self.sets()
        weights = np.stack([labels != 3, np.ones(900)], axis=1).astype(np.float32)
        some, whole = fit_logistic(Rows(taps, np.arange(900)), labels, 4, STRENGTHS, weights)
        for strength, head, full in zip(STRENGTHS, some, whole, strict=True):
            assert softmax(head(taps), axis=1)[labels != 3, 3].max() < 1e-3
            assert_same(full, reference(taps, labels, strength), taps, strength)


def test_the_same_twice() -> None:
    taps, labels = made()
    for first, second in zip(fit(taps, labels), fit(taps, labels), strict=True):
        np.testing.assert_array_equal(first.layers[0][0], second.layers[0][0])
        np.testing.assert_array_equal(first.layers[0][1], second.layers[0][1])


def test_folding_the_standardisation() -> None:
    taps, _ = made()
    rows = Rows(taps, np.arange(400))
    weight = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = fold_standardisation(rows, weight)
    expected = standardised(taps) @ weight[:-1].numpy() + weight[-1].numpy()
    assert head.layers[0][0].dtype == head.layers[0][1].dtype == np.float32
    np.testing.assert_allclose(head(taps), expected, atol=1e-4)
