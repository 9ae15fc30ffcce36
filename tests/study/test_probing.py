from __future__ import annotations

import numpy as np
import pytest
from plan import TASKS
from probing import (
    NEIGHBOURS,
    STRENGTHS,
    TaskData,
    equal_width,
    held_out_folds,
    linear_probe,
    neighbour_probe,
    task_data,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier


@pytest.fixture
def problem() -> tuple[np.ndarray, TaskData]:
    """Taps ``(600, 6)`` of three overlapping classes; four windows to a group, which share an offset."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) // 4 % 3
    taps = rng.normal(size=(3, 6))[labels] + np.repeat(rng.normal(size=(150, 6)), 4, axis=0) + rng.normal(size=(600, 6))
    everything = np.arange(600)
    data = TaskData(np.zeros((600, 2, 1, 64), np.float32), labels, everything // 4, everything[:400], everything[400:])
    return taps.astype(np.float32), data


def scikit_learn(taps: np.ndarray, labels: np.ndarray, rows: np.ndarray, strength: float) -> LogisticRegression:
    mean, spread = taps[rows].mean(0), taps[rows].std(0)
    model = LogisticRegression(C=1 / (strength * len(rows)), tol=1e-8, max_iter=2000)
    model.fit((taps[rows] - mean) / spread, labels[rows])
    return lambda asked: model.predict((taps[asked] - mean) / spread)


def test_strength_by_held_out_groups_and_scores_are_those_of_scikit_learn(problem: tuple[np.ndarray, TaskData]):
    taps, data = problem
    chosen = data.shots(60, seed=0)
    found = linear_probe(taps, data, [chosen], folds=4, held_folds=4)
    folds = held_out_folds(data.groups[chosen], 4, 0)
    accuracy = []
    for strength in STRENGTHS:
        right = []
        for fold in folds:
            predict = scikit_learn(taps, data.labels, np.delete(chosen, fold), strength)
            right.append(predict(chosen[fold]) == data.labels[chosen[fold]])
        accuracy.append(np.concatenate(right).mean())
    assert found.held_out_right[0].mean() == pytest.approx(max(accuracy), abs=0.01)
    predict = scikit_learn(taps, data.labels, chosen, STRENGTHS[int(np.argmax(accuracy))])
    assert (found.right[0] == (predict(data.test) == data.labels[data.test])).mean() > 0.99
    np.testing.assert_array_equal(np.sort(found.held_out[0]), chosen)


def test_a_group_is_never_held_out_in_part():
    groups = np.random.default_rng(0).integers(0, 30, 200)
    folds = held_out_folds(groups, 4, seed=1)
    assert sorted(np.concatenate(folds)) == list(range(200))
    assert not any(set(groups[one]) & set(groups[other]) for one in folds for other in folds if one is not other)


def test_nothing_is_held_out_of_one_label_per_class(problem: tuple[np.ndarray, TaskData]):
    taps, data = problem
    found = linear_probe(taps, data, [data.shots(1, seed) for seed in (0, 1)], folds=4, held_folds=0)
    assert found.right.shape == (2, 200)
    assert [len(one) for one in found.held_out] == [0, 0]


def test_nearest_neighbours_agree_with_scikit_learn(problem: tuple[np.ndarray, TaskData]):
    taps, data = problem
    chosen = data.shots(30, seed=0)
    mean, spread = taps[chosen].mean(0), taps[chosen].std(0)
    model = KNeighborsClassifier(NEIGHBOURS, metric="cosine", weights=lambda distance: 3 - distance)
    model.fit((taps[chosen] - mean) / spread, data.labels[chosen])
    expected = model.predict((taps[data.test] - mean) / spread) == data.labels[data.test]
    np.testing.assert_array_equal(neighbour_probe(taps, data, chosen), expected)


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
