"""A small laboratory: an encoder, data and suites on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tiny import tiny_encoder, tones, write_hdf5

from offramp.encoders.storage import save_encoder

COUNT, GROUPS = 120, 12
TEST = [f"city_{number:02}" for number in range(4)]
EXITS = ["stem", "stage2.0", "stage3.0", "stage4.0", "conv5"]

Call = Callable[..., tuple[int, str, str]]


def arrays() -> dict[str, Any]:
    windows, labels = tones(COUNT)
    group = np.array([f"city_{number:02}" for number in np.arange(COUNT) % GROUPS])
    return {"sample": windows, "los": labels, "city": group, "angle": labels * 10.0 + 5}


def task(**changes: Any) -> dict[str, Any]:
    data = {"path": "data.h5", "target": "los", "group": "city"} | changes.pop("data", {})
    return {"name": "los", "data": data, "split": {"test": TEST}} | changes


class Lab:
    """Files below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_encoder(tiny_encoder(repeats=1), folder / "encoder")
        write_hdf5(folder / "data.h5", **arrays())

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def suite(self, *tasks: dict[str, Any], name: str = "suite.yaml", **changes: Any) -> Path:
        content = {"encoder": "encoder", "tasks": list(tasks) or [task()], "seeds": [0, 1], "controls": ["constant"]}
        (self / name).write_text(yaml.safe_dump(content | changes))
        return self / name

    def data(self, **changes: Any) -> None:
        """The data file anew, with some arrays changed; None leaves one out."""
        changed = {name: values for name, values in (arrays() | changes).items() if values is not None}
        write_hdf5(self / "data.h5", **changed)

    def copy_of(self, other: Path) -> Path:
        """The suite of another laboratory; encoder and data are the same in all."""
        (self / "suite.yaml").write_text((other / "suite.yaml").read_text())
        return self / "suite.yaml"
