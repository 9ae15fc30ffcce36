"""The row of features by hand that cannot see the level: it is no different for windows of any level, where the other row is."""

from pathlib import Path

import numpy as np
from tiny import noise, source

from offramp.experiment.controls.features import control_features
from offramp.schema.suite import CONTROLS
from offramp.transforms import Transform


def rows(name: str, windows: np.ndarray, folder: Path) -> np.ndarray:
    indices = np.arange(len(windows))
    features = control_features(name, source(windows), Transform(), indices, folder, lambda done, total: None)
    return np.asarray(features[indices])


def test_the_level_is_not_seen(tmp_path: Path) -> None:
    windows = noise(6, (2, 2, 128))
    scaled = windows * np.logspace(-2, 2, 6, dtype=np.float32)[:, None, None, None]
    free, level = (
        [rows(name, each, tmp_path) for each in (windows, scaled)] for name in ("handmade_level_free", "handmade")
    )
    np.testing.assert_allclose(free[0], free[1], atol=2e-3)
    np.testing.assert_allclose(free[0], level[0][:, 1:], atol=1e-5)
    assert np.abs(level[0] - level[1]).max() > 1


def test_a_suite_may_ask_for_it() -> None:
    assert "handmade_level_free" in CONTROLS
