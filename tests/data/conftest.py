"""Small files and data sets of the tests' own, and where the real ones are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offramp.data.dataset import Dataset
from offramp.data.table import WindowSource

REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def real() -> Path:
    if not REAL.exists():
        pytest.skip("the real data is not on this machine")
    return REAL


@pytest.fixture
def write_hdf5(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "data.h5", attributes: dict[str, Any] | None = None, **arrays: Any) -> Path:
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in arrays.items():
                file.create_dataset(key, data=value)
            file.attrs.update(attributes or {})
        return tmp_path / name

    return write


@pytest.fixture
def write_sigmf(tmp_path: Path) -> Callable[..., Path]:
    """Metadata and raw bytes by hand, not through the library that reads them."""

    def write(
        samples: np.ndarray,
        datatype: str,
        annotations: list[tuple[int, int | None, str | None]] = [],  # noqa: B006
        name: str = "recordings/one",
        **fields: Any,
    ) -> Path:
        base = tmp_path / name
        base.parent.mkdir(parents=True, exist_ok=True)
        listed = []
        for start, count, label in annotations:
            entry: dict[str, Any] = {"core:sample_start": start}
            entry |= {} if count is None else {"core:sample_count": count}
            entry |= {} if label is None else {"core:label": label}
            listed.append(entry)
        meta = {
            "global": {
                "core:datatype": datatype,
                "core:version": "1.2.0",
                "core:sample_rate": 1000.0,
                **{f"core:{key}": value for key, value in fields.items()},
            },
            "captures": [{"core:sample_start": fields.get("offset", 0)}],
            "annotations": listed,
        }
        base.with_name(base.name + ".sigmf-meta").write_text(json.dumps(meta))
        base.with_name(base.name + ".sigmf-data").write_bytes(samples.tobytes())
        return base.with_name(base.name + ".sigmf-meta")

    return write


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    def make(targets: Any, groups: Any = None) -> Dataset:
        targets = np.asarray(targets)
        count = len(targets)
        classes = targets.dtype.kind == "i"
        numbers = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
        return Dataset(
            windows=WindowSource("made", count, (2, 1, 64), "f" * 64, lambda i: np.zeros((len(i), 2, 1, 64))),
            targets=targets.astype(np.int64) if classes else targets.reshape(count, -1).astype(np.float32),
            label_names=tuple(f"class {value}" for value in range(targets.max() + 1)) if classes else (),
            groups=numbers.astype(np.int64),
            group_names=() if groups is None else tuple(str(value) for value in np.unique(groups)),
            grouped=groups is not None,
            snr_db=None,
            simulated=False,
            positions=None,
        )

    return make
