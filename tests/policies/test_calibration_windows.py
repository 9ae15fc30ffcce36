"""Windows that are set aside for a guarantee leave no trace in what a task is prepared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from tiny import tiny_encoder, tones, write_hdf5

from offramp.encoders.storage import save_encoder
from offramp.experiment.prepare import Prepared, load, prepare
from offramp.schema.suite import load_suite

COUNT = 240


def prepared(folder: Path, louder: np.ndarray) -> Prepared:
    folder.mkdir()
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    windows, labels = tones(COUNT)
    windows[louder] *= 1000
    write_hdf5(folder / "data.h5", sample=windows, label=labels, city=np.arange(COUNT) // 6)
    task = {
        "name": "los",
        "data": {"path": "data.h5", "target": "label", "group": "city"},
        "split": {"calibration": 0.4},
        "transform": "standardize",
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump({"encoder": "encoder", "seeds": [0, 1], "tasks": [task]}))
    loaded = load_suite(folder / "suite.yaml")
    return prepare(loaded.tasks[0], loaded, load(loaded, "cpu"))


def test_transforms_are_not_fitted_to_them(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "plain", np.empty(0, dtype=np.int64))
    split = plain.problem.split
    held = np.union1d(split.calibration, split.test)
    loud = prepared(tmp_path / "loud", held)
    assert len(split.calibration) > COUNT / 6
    np.testing.assert_array_equal(loud.problem.split.calibration, split.calibration)
    some = plain.dataset.windows.read(split.draws[0].final[:5])
    np.testing.assert_array_equal(plain.transform(some), loud.transform(some))
    # the transform does look at the others
    other = prepared(tmp_path / "other", split.draws[0].final)
    assert not np.allclose(plain.transform(some), other.transform(some))
    assert not np.isin(plain.outside_test(), held).any()
    assert len(plain.outside_test()) + len(held) == COUNT
