"""Coverage where the ways differ most: few windows to train on, many to test on."""

from __future__ import annotations

from seed_coverage import METHODS, Setting, coverage


def test_seeds_of_one_small_pool_need_the_correction() -> None:
    found = coverage(Setting("few trained on, many tested on", 100, 75, 2000), trials=40)
    assert list(found) == list(METHODS)
    held = {name: share for name, (share, _) in found.items()}
    width = {name: width for name, (_, width) in found.items()}
    assert held["crossed"] < 0.85
    assert held["apart"] >= 0.88
    assert width["apart"] < width["n_train/n_left"] < width["n_test/n_train"]


def test_windows_that_decide_alone_need_none() -> None:
    """Hundred labels of three thousand: heads of other pools would hardly be less alike."""
    found = coverage(Setting("few labels", 3000, 100, 300), trials=40)
    assert found["apart"][0] >= 0.85
    assert found["apart"][1] < found["crossed"][1]
