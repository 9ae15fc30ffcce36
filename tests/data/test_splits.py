from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.data.splits import Split, load_split, make_split, save_split
from offramp.errors import DataError
from offramp.schema.tasks import SplitSpec

RNG = np.random.default_rng(0)
SEEDS = [0, 1, 2]
relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(dataset, split: Split, shots: int | None = None) -> None:
    """Nothing is in two places, nothing is lost, no group crosses, every class can be learned and chosen on."""
    everything = set(range(dataset.windows.count))
    test = set(split.test.tolist())
    assert 0 < len(test) < len(everything)
    for draw in split.draws:
        final = set(draw.final.tolist())
        assert not final & test
        assert not set(dataset.groups[split.test]) & set(dataset.groups[draw.final])
        for train, validation in draw.folds:
            assert len(train) > 0
            assert len(validation) > 0
            assert not set(train) & set(validation)
            if shots is None:
                assert set(train) | set(validation) | test == everything
                np.testing.assert_array_equal(train, draw.final)
            else:
                assert set(train) | set(validation) == final
            assert all((np.diff(part) > 0).all() for part in (train, validation, split.test, draw.final))
            if draw.by_group:
                assert not set(dataset.groups[train]) & set(dataset.groups[validation])
            if dataset.label_names:
                assert set(dataset.targets[train]) >= set(dataset.targets[validation]) | set(
                    dataset.targets[split.test]
                )


@relaxed
@given(
    groups=st.integers(12, 40),
    classes=st.integers(2, 4),
    fraction=st.sampled_from([0.1, 0.25, 0.4, 0.6]),
    pure=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_groups_never_cross(make_dataset, groups: int, classes: int, fraction: float, pure: bool, seed: int) -> None:
    """Groups of one class each, or mixed; of very different size."""
    rng = np.random.default_rng(seed)
    of_window = np.repeat(np.arange(groups), rng.integers(1, 30, groups))
    targets = of_window % classes if pure else rng.integers(0, classes, len(of_window))
    targets[: 3 * classes] = np.arange(3 * classes) % classes if not pure else targets[: 3 * classes]
    dataset = make_dataset(targets, of_window)
    if len(np.unique(dataset.targets)) < classes:
        return
    try:
        split = make_split(dataset, SplitSpec(test=fraction), "classification", None, SEEDS, seed)
    except DataError:
        # mixed groups may leave a class with too few
        if pure:
            raise
        return
    check(dataset, split)
    assert all(draw.by_group for draw in split.draws)
    again = make_split(dataset, SplitSpec(test=fraction), "classification", None, SEEDS, seed)
    assert again.sha256 == split.sha256
    assert (
        make_split(dataset, SplitSpec(test=fraction), "classification", None, [0], seed).test.tolist()
        == split.test.tolist()
    )


def test_fractions_are_met_without_groups(make_dataset) -> None:
    dataset = make_dataset(RNG.integers(0, 5, 2000))
    for fraction in (0.05, 0.1, 0.25, 1 / 3, 0.5, 0.8, 0.01):
        split = make_split(dataset, SplitSpec(test=fraction, validation=0.2), "classification", None, SEEDS, 0)
        check(dataset, split)
        assert len(split.test) / 2000 == pytest.approx(fraction, abs=0.005)
        train, validation = split.draws[0].folds[0]
        assert len(validation) / (len(train) + len(validation)) == pytest.approx(0.2, abs=0.005)
        shares = [np.bincount(dataset.targets[part]) / len(part) for part in (split.test, train)]
        if fraction >= 0.05:
            np.testing.assert_allclose(shares[0], shares[1], atol=0.03)


def test_seeds_redraw_all_but_the_test_set(make_dataset) -> None:
    dataset = make_dataset(RNG.integers(0, 3, 600), np.arange(600) // 10)
    split = make_split(dataset, SplitSpec(), "classification", None, SEEDS, 0)
    check(dataset, split)
    assert len({tuple(draw.final) for draw in split.draws}) == 3
    other = make_split(dataset, SplitSpec(), "classification", None, SEEDS, 1)
    assert other.test.tolist() != split.test.tolist()
    # the largest groups are not always held out
    uneven = make_dataset(RNG.integers(0, 3, 600), np.minimum(np.arange(600) // 10, 30))
    held = [
        30 in uneven.groups[make_split(uneven, SplitSpec(), "classification", None, [], base).test]
        for base in range(12)
    ]
    assert 0 < sum(held) < 12


def test_named_groups_are_the_test_set(make_dataset) -> None:
    dataset = make_dataset(RNG.integers(0, 3, 300), np.repeat(["a", "b", "c", "d", "e", "f"], 50))
    split = make_split(dataset, SplitSpec(test=("b", "e")), "classification", None, SEEDS, 0)
    check(dataset, split)
    assert split.test.tolist() == [*range(50, 100), *range(200, 250)]
    with pytest.raises(DataError, match=r"no group z, y .* a, b, c, d, e, f"):
        make_split(dataset, SplitSpec(test=("z", "a", "y")), "classification", None, SEEDS, 0)
    with pytest.raises(DataError, match=r"set data\.group"):
        make_split(make_dataset([0, 1] * 20), SplitSpec(test=("a",)), "classification", None, SEEDS, 0)
    with pytest.raises(DataError, match="all windows are in the test set"):
        make_split(dataset, SplitSpec(test=tuple("abcdef")), "classification", None, SEEDS, 0)


def test_one_group_outside_the_test_set_is_divided_by_windows(make_dataset) -> None:
    dataset = make_dataset(RNG.integers(0, 3, 300), np.repeat(["a", "b"], 150))
    split = make_split(dataset, SplitSpec(test=("b",)), "classification", None, SEEDS, 0)
    check(dataset, split)
    assert not any(draw.by_group for draw in split.draws)


def test_shots(make_dataset) -> None:
    dataset = make_dataset(RNG.integers(0, 3, 900), np.arange(900) // 10)
    for shots, folds in ((20, 5), (3, 3), (2, 2)):
        split = make_split(dataset, SplitSpec(), "classification", shots, SEEDS, 0)
        check(dataset, split, shots)
        for draw in split.draws:
            assert np.bincount(dataset.targets[draw.final]).tolist() == [shots] * 3
            assert len(draw.folds) == folds
            held = np.concatenate([validation for _, validation in draw.folds])
            assert sorted(held) == draw.final.tolist()
    assert all(draw.by_group for draw in make_split(dataset, SplitSpec(), "classification", 100, SEEDS, 0).draws)
    coarse = make_dataset(RNG.integers(0, 3, 900), np.arange(900) // 225)
    split = make_split(coarse, SplitSpec(test=("0",)), "classification", 20, SEEDS, 0)
    check(coarse, split, 20)
    assert not any(draw.by_group for draw in split.draws)


def test_too_few_windows_or_groups_are_named(make_dataset) -> None:
    few = make_dataset([0] * 50 + [1] * 3)
    with pytest.raises(DataError, match=r"class 'class 1' has 2 windows .* lower shots to 2"):
        make_split(few, SplitSpec(), "classification", 10, SEEDS, 0)
    with pytest.raises(DataError, match=r"class 'class 1' with 1 windows has 1 window,"):
        make_split(make_dataset([0] * 50 + [1]), SplitSpec(), "classification", None, SEEDS, 0)
    grouped = make_dataset([0] * 50 + [1] * 50, [*np.arange(50), *[50] * 50])
    with pytest.raises(DataError, match=r"class 'class 1' with 50 windows has 1 group,"):
        make_split(grouped, SplitSpec(), "classification", None, SEEDS, 0)
    with pytest.raises(DataError, match=r"class 'class 1' is only in the test set"):
        make_split(grouped, SplitSpec(test=("50", "3")), "classification", None, SEEDS, 0)
    with pytest.raises(DataError, match="single group 'x'"):
        make_split(make_dataset([0, 1] * 20, ["x"] * 40), SplitSpec(), "classification", None, SEEDS, 0)


def test_classes_with_two_groups_outside_the_test_set(make_dataset) -> None:
    """Thirteen classes of two groups each: a random quarter of the groups would all but never hold every class."""
    groups = np.repeat(np.arange(39), 10)
    dataset = make_dataset(groups % 13, groups)
    split = make_split(dataset, SplitSpec(test=tuple(str(g) for g in range(13))), "classification", None, SEEDS, 0)
    check(dataset, split)


@relaxed
@given(groups=st.integers(3, 40), distinct=st.integers(1, 40), seed=st.integers(0, 1000))
def test_regression_with_one_target_per_group(make_dataset, groups: int, distinct: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    of_window = np.repeat(np.arange(groups), rng.integers(1, 50, groups))
    targets = rng.uniform(0, 9, distinct)[of_window % distinct]
    dataset = make_dataset(targets, of_window)
    check(dataset, make_split(dataset, SplitSpec(), "regression", None, SEEDS, 0))


def test_regression_spreads_the_targets(make_dataset) -> None:
    dataset = make_dataset(np.stack([np.zeros(1000), RNG.exponential(size=1000)], axis=1))
    split = make_split(dataset, SplitSpec(), "regression", None, SEEDS, 0)
    check(dataset, split)
    everywhere = np.quantile(dataset.targets[:, 1], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(np.quantile(dataset.targets[split.test, 1], [0.1, 0.5, 0.9]), everywhere, rtol=0.08)


def test_saved_and_loaded(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(RNG.integers(0, 3, 300), np.arange(300) // 10)
    split = make_split(dataset, SplitSpec(), "classification", 9, SEEDS, 0)
    path = tmp_path / "splits" / "task.json"
    save_split(split, dataset, path)
    loaded = load_split(path, dataset)
    assert loaded.sha256 == split.sha256
    assert loaded.test.tolist() == split.test.tolist()
    assert [draw.final.tolist() for draw in loaded.draws] == [draw.final.tolist() for draw in split.draws]
    redrawn = make_split(dataset, SplitSpec(file=path), "classification", None, [7], 5)
    assert redrawn.test.tolist() == split.test.tolist()
    check(dataset, redrawn)

    content = json.loads(path.read_text())
    content["test"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="hash"):
        load_split(path, dataset)
    path.write_text(json.dumps(content | {"fingerprint": "0" * 64}))
    with pytest.raises(DataError, match="other windows"):
        load_split(path, dataset)
    for damaged in ("{", "[]", json.dumps(content | {"test": [10**30]}), json.dumps(content | {"draws": 7})):
        path.write_text(damaged)
        with pytest.raises(DataError, match="not a saved split"):
            load_split(path, dataset)
    with pytest.raises(DataError, match="does not exist"):
        load_split(tmp_path / "none.json", dataset)


@relaxed
@given(
    groups=st.integers(24, 50),
    fraction=st.sampled_from([0.2, 0.3, 0.5]),
    shots=st.sampled_from([None, 4]),
    named=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_calibration_groups_are_set_aside(
    make_dataset, groups: int, fraction: float, shots: int | None, named: bool, seed: int
) -> None:
    """Nothing is in two places, no group crosses, and neither seeds nor the validation fraction move the calibration set."""
    rng = np.random.default_rng(seed)
    of_window = np.repeat(np.arange(groups), rng.integers(5, 20, groups))
    dataset = make_dataset(of_window % 3, of_window)
    test = tuple(str(group) for group in range(6)) if named else 0.25

    def split_of(seeds: list[int], **fields) -> Split:
        return make_split(dataset, SplitSpec(test=test, **fields), "classification", shots, seeds, seed)

    split = split_of(SEEDS, calibration=fraction)
    plain = split_of(SEEDS)
    if named:
        assert split.test.tolist() == plain.test.tolist()
    assert split.sha256 != plain.sha256
    assert split_of([7], calibration=fraction, validation=0.4).calibration.tolist() == split.calibration.tolist()
    assert set(dataset.targets[split.calibration]) == {0, 1, 2}
    outside = np.setdiff1d(np.arange(dataset.windows.count), split.test)
    assert len(split.calibration) / len(outside) == pytest.approx(fraction, abs=0.2)
    np.testing.assert_array_equal(
        split.remaining(dataset.windows.count), np.setdiff1d(outside, split.calibration, assume_unique=True)
    )
    held = set(dataset.groups[split.calibration])
    assert not held & set(dataset.groups[split.test])
    for draw in split.draws:
        used = np.concatenate([draw.final, *(part for fold in draw.folds for part in fold)])
        assert not held & set(dataset.groups[used])
        if shots is None:
            np.testing.assert_array_equal(np.unique(used), split.remaining(dataset.windows.count))


def test_calibration_is_drawn_beside_a_saved_test_set(make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(RNG.integers(0, 3, 400), np.arange(400) // 10)
    path = tmp_path / "task.json"
    first = make_split(dataset, SplitSpec(calibration=0.3), "classification", None, SEEDS, 0)
    save_split(first, dataset, path)
    loaded = load_split(path, dataset)
    assert loaded.calibration.tolist() == first.calibration.tolist()
    assert loaded.sha256 == first.sha256
    redrawn = make_split(dataset, SplitSpec(file=path, calibration=0.5), "classification", None, SEEDS, 4)
    assert redrawn.test.tolist() == first.test.tolist()
    assert 0.4 < len(redrawn.calibration) / (400 - len(first.test)) < 0.6
    assert not len(make_split(dataset, SplitSpec(file=path), "classification", None, SEEDS, 4).calibration)

    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"calibration": content["calibration"][1:]}))
    with pytest.raises(DataError, match="hash"):
        load_split(path, dataset)
    del content["calibration"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="hash"):
        load_split(path, dataset)


def test_splits_without_calibration_are_what_they_were(make_dataset, tmp_path: Path) -> None:
    """Hash and file as they were before there was a calibration set: files saved then still load."""
    dataset = make_dataset(np.arange(120) % 3, np.arange(120) // 5)
    split = make_split(dataset, SplitSpec(), "classification", None, [0, 1], 0)
    assert split.sha256 == "91313e4cd444836394f66804daf8d6531775b8e4e72c6c769d4672ffeba27393"
    save_split(split, dataset, tmp_path / "task.json")
    assert "calibration" not in json.loads((tmp_path / "task.json").read_text())
    assert not len(load_split(tmp_path / "task.json", dataset).calibration)


def test_too_few_groups_for_a_calibration_set_are_named(make_dataset) -> None:
    dataset = make_dataset(np.arange(50) % 2, np.arange(50) // 10)
    spec = SplitSpec(test=("0", "1", "2"), calibration=0.5)
    with pytest.raises(
        DataError, match=r"2 groups, which cannot be divided into calibration, validation and training sets; it takes 3"
    ):
        make_split(dataset, spec, "classification", None, SEEDS, 0)
    three = make_dataset(np.arange(30) % 2, np.arange(30) // 10)
    with pytest.raises(DataError, match=r"into test, calibration, validation and training sets; it takes 4"):
        make_split(three, SplitSpec(calibration=0.5), "classification", None, SEEDS, 0)
    for wrong in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="calibration"):
            SplitSpec(calibration=wrong)
