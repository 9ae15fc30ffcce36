"""What a recording is and what it is summarised by, against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drifting import SIZE, World, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.bundle.reference import PolicyAnswers
from offramp.serving.watching.drift.blocks import MOST_OF_BLOCK, Layout, block_size, reference_blocks


def grouped(sizes: list[int]):
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    return replace(reference(8), groups=groups)


def numbers(layout: Layout, summary: np.ndarray) -> dict[str, float]:
    """By name."""
    names = [f"{monitor}: {number}" for monitor, told in layout.monitors.items() for number in told]
    assert len(names) == len(summary)
    return dict(zip(names, summary.tolist(), strict=True))


def test_the_numbers_of_a_classification() -> None:
    layout = Layout(classes=3, values=0, exits=("a", "b", "c"), features=2, size=4)
    answers = PolicyAnswers(
        layout.exits,
        np.array([0, 2, 1, 0], np.uint8),
        np.array([0.5, 0.7, 0.9, 0.7], np.float32),
        np.array([2, 2, 0, 2], np.int32),
    )
    features = np.array([[0, 1], [2, 1], [0, 1], [2, 1]], np.float32)
    found = numbers(layout, layout.summary(layout.rows(answers, features)))
    assert found == pytest.approx(
        {
            "confidence: mean": 0.7,
            "confidence: spread": 0.141,
            "classes: share of class 0": 0.25,
            "classes: share of class 1": 0.0,
            "classes: share of class 2": 0.75,
            "classes: largest share": 0.75,
            "exits: share up to a": 0.5,
            "exits: share up to b": 0.75,
            "features: mean of component 0": 1.0,
            "features: mean of component 1": 1.0,
            "feature spread: spread of component 0": 0.0,
            "feature spread: spread of component 1": round(np.log(1e-6), 3),
        }
    )
    without = layout.summary(layout.rows(answers, None))
    assert np.isnan(without[-4:]).all()
    assert np.isfinite(without[:-4]).all()


def test_the_numbers_of_a_regression_and_of_single_windows() -> None:
    layout = Layout(classes=0, values=2, exits=("a",), features=1, size=2)
    answers = PolicyAnswers(("a",), np.zeros(2, np.uint8), values=np.array([[1, 5], [3, 5]], np.float32))
    found = numbers(layout, layout.summary(layout.rows(answers, np.array([[1], [4]], np.float32))))
    assert found == {
        "values: mean of value 0": 2.0,
        "values: mean of value 1": 5.0,
        "values: spread of value 0": 1.0,
        "values: spread of value 1": 0.0,
        "features: mean of component 0": 2.5,
    }
    single = replace(layout, classes=2, values=0, size=1)
    answer = PolicyAnswers(("a",), np.zeros(1, np.uint8), np.array([0.8], np.float32), np.array([1], np.int32))
    found = numbers(single, single.summary(single.rows(answer, np.array([[1]], np.float32))))
    assert list(found.values()) == pytest.approx([0.8, 0, 1, 1])


def test_what_back_ends_change_moves_nothing() -> None:
    prediction, features = World().recordings(1)[0]
    layout = Layout(5, 0, ("stem", "deep"), 6, SIZE)
    answers = PolicyAnswers(
        layout.exits,
        prediction.left.astype(np.uint8),
        np.full(SIZE, 0.1234, np.float32),
        prediction.classes.astype(np.int32),
    )
    other = replace(answers, confidence=np.full(SIZE, 0.1234, np.float32) + np.float32(1e-5))
    ours, theirs = (layout.summary(layout.rows(each, features)) for each in (answers, other))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([32] * 10, 32),
        ([500] * 10, MOST_OF_BLOCK),
        ([1] * 20, 1),
        ([2] * 5 + [40] * 15, 40),  # a quarter of the recordings are too short
        ([2] * 6 + [40] * 15, 2),
        ([5, 6, 7, 8, 9, 10, 11, 12], 5),  # eight are needed
        ([5, 6, 7, 8, 9, 10, 11, 12, 13], 6),
        ([5, 6], 5),
        ([], 1),
    ],
)
def test_the_size_of_a_recording(sizes: list[int], size: int) -> None:
    assert block_size(grouped(sizes)) == size


@pytest.mark.parametrize(("count", "size"), [(40, 4), (640, 10), (4096, 32), (9000, 32), (0, 4)])
def test_the_size_where_no_recordings_are_told_apart(count: int, size: int) -> None:
    alone = replace(grouped([1] * count), grouped=False)
    assert block_size(alone) == size
    windows, recording = reference_blocks(alone, size)
    assert windows.ravel().tolist() == list(range(count // size * size))
    assert recording.tolist() == list(range(count // size))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 30), max_size=20), size=st.integers(1, 12))
def test_blocks_are_whole_neighbours_of_one_recording(sizes: list[int], size: int) -> None:
    told = grouped(sizes)
    windows, recording = reference_blocks(told, size)
    assert windows.shape == (sum(each // size for each in sizes), size)
    assert len(np.unique(windows)) == windows.size
    assert (np.diff(windows, axis=1) == 1).all()
    assert (told.groups[windows] == told.groups[windows[:, :1]]).all()
    long_enough = [number for number, each in enumerate(sizes) if each >= size]
    assert [long_enough[each] for each in recording] == told.groups[windows[:, 0]].tolist()
