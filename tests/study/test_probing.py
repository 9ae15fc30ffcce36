from __future__ import annotations

import numpy as np
import pytest
from plan import TASKS
from probing import NEIGHBOURS, STRENGTHS, equal_width, linear_probe, neighbour_probe, task_data
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier


def problem(seed: int, count: int = 60, width: int = 7, classes: int = 3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    centres = rng.normal(size=(classes, width))
    return centres[labels] + 0.9 * rng.normal(size=(count, width)), labels


def refitted(x, one_hot, strength, fit, held):
    """Held-out predictions of sklearn's ridge with the standardisation of all rows."""
    model = Ridge(alpha=strength * len(x)).fit(x[fit], one_hot[fit])
    return model.predict(x[held])


@pytest.mark.parametrize("group_size", [1, 4])
def test_the_closed_form_is_what_refitting_without_each_group_gives(group_size: int):
    train, labels = problem(0)
    test, test_labels = problem(1)
    groups = np.arange(len(train)) // group_size
    found = linear_probe(train, labels, groups, test, test_labels, 3)
    x = (train - train.mean(0)) / train.std(0)
    one_hot = np.eye(3)[labels]
    accuracies = []
    for strength in STRENGTHS:
        right = np.zeros(len(x), dtype=bool)
        for group in np.unique(groups):
            held = groups == group
            right[held] = refitted(x, one_hot, strength, ~held, held).argmax(1) == labels[held]
        accuracies.append(right.mean())
    assert found.left_out_right.mean() == max(accuracies)
    best = STRENGTHS[int(np.argmax(accuracies))]
    everything = np.ones(len(x), dtype=bool)
    x_test = (test - train.mean(0)) / train.std(0)
    predicted = Ridge(alpha=best * len(x)).fit(x[everything], one_hot).predict(x_test).argmax(1)
    np.testing.assert_array_equal(found.right, predicted == test_labels)


def test_more_features_than_rows_and_features_that_do_not_vary():
    train, labels = problem(2, count=12, width=40)
    train[:, 5] = 3.0
    found = linear_probe(train, labels, np.arange(12), train, labels, 3)
    assert found.right.shape == found.left_out_right.shape == (12,)


def test_nearest_neighbours_agree_with_sklearn():
    train, labels = problem(3, count=90)
    test, test_labels = problem(4, count=50)
    mean, spread = train.mean(0), train.std(0)
    model = KNeighborsClassifier(NEIGHBOURS, metric="cosine", weights=lambda distance: 3 - distance)
    model.fit((train - mean) / spread, labels)
    expected = model.predict((test - mean) / spread) == test_labels
    np.testing.assert_array_equal(neighbour_probe(train, labels, test, test_labels, 3), expected)


def test_equal_width_keeps_the_directions_of_most_variance_of_the_pool_alone():
    rng = np.random.default_rng(0)
    taps = rng.normal(size=(300, 40)).astype(np.float32) * np.linspace(3, 0.1, 40, dtype=np.float32)
    pool = np.arange(200)
    narrow = equal_width(taps, pool)
    assert narrow.shape == (300, 24)
    changed = taps.copy()
    changed[200:] *= 5
    np.testing.assert_allclose(equal_width(changed, pool)[:200], narrow[:200], rtol=1e-4, atol=1e-4)


def test_labels_are_nested_balanced_and_apart_from_the_test_set():
    data = task_data(next(task for task in TASKS if task.name == "fingerprint"))
    few, many = data.shots(10, 0), data.shots(500, 0)
    assert set(few) <= set(many)
    assert not set(data.groups[many]) & set(data.groups[data.test])
    assert list(np.bincount(data.labels[few])) == [10] * 8
    assert list(np.bincount(data.labels[many])) == [500] * 8
    assert set(data.shots(10, 1)) != set(few)
