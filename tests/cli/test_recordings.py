"""Recordings from suite to answers: notes are said wherever windows are used, and a bundle knows its rate."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laboratory import Call, Lab
from laboratory import task as one_task

PADDED = "8 of 24 windows are padded with zeros, 8 of them by more than half"


def record(path: Path, pitch: float, annotations: list[tuple[int, int]], rate: float = 1e6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).standard_normal((400, 2)) * 0.1
    samples = np.exp(2j * np.pi * pitch * np.arange(400)) + noise[:, 0] + 1j * noise[:, 1]
    samples.astype(np.complex64).tofile(f"{path}.sigmf-data")
    meta: dict[str, Any] = {
        "global": {"core:version": "1.2.0", "core:datatype": "cf32_le", "core:sample_rate": rate},
        "captures": [{"core:sample_start": 0}],
        "annotations": [{"core:sample_start": start, "core:sample_count": count} for start, count in annotations],
    }
    Path(f"{path}.sigmf-meta").write_text(json.dumps(meta))


@pytest.fixture
def suite(lab: Lab) -> Path:
    for number in range(8):
        name, pitch = [("low", 0.05), ("high", 0.3)][number % 2]
        record(lab / f"days/{name}/r{number}", pitch, [(0, 128), (200, 20)])
    data = {
        "path": ["days/low", "days/h*/*.sigmf-meta"],
        "target": "label",
        "group": "recording",
        "window": 64,
        "label": {"from": "folder"},
    }
    return lab.suite(one_task(data=data, split={"test": 0.25}), seeds=[0])


def test_from_suite_to_answers(lab: Lab, suite: Path, call: Call) -> None:
    code, out, _ = call("run", suite, "--dry-run")
    assert (code, f"los: {PADDED}" in " ".join(out.split())) == (0, True)
    code, out, _ = call("run", suite, "--out", lab / "run")
    assert (code, f"los: {PADDED}" in " ".join(out.split())) == (0, True)
    results = json.loads((lab / "run" / "results.json").read_text())["tasks"]["los"]
    assert (len(results["notes"]), results["label_names"]) == (1, ["high", "low"])
    config = json.loads((lab / "run" / "bundle" / "config.json").read_text())
    assert config["tasks"]["los"]["data"]["sample_rate"] == 1e6

    record(lab / "new/plain", 0.05, [])
    code, out, err = call("predict", lab / "run" / "bundle", lab / "new")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["recording"], row["sample"]) for row in rows] == [("plain", str(64 * n)) for n in range(6)]

    record(lab / "new/fast", 0.025, [], rate=2e6)
    code, _, err = call("predict", lab / "run" / "bundle", lab / "new")
    assert (code, "--resample 1000000" in err) == (2, True)
    code, out, err = call("predict", lab / "run" / "bundle", lab / "new", "--resample", 1e6)
    assert (code, len(out.splitlines())) == (0, 1 + 6 + 3)

    (lab / "new" / "broken.sigmf-meta").write_text("{")
    code, _, err = call("predict", lab / "run" / "bundle", lab / "new", "--resample", 1e6)
    assert (code, "broken" in err, "--skip-bad" in err) == (2, True, True)
    code, out, err = call("predict", lab / "run" / "bundle", lab / "new", "--resample", 1e6, "--skip-bad")
    assert (code, len(out.splitlines()), "passed over: broken" in err) == (0, 10, True)
    assert call("predict", lab / "run" / "bundle", lab / "new", "--resample", 0)[0] == 2


def test_inspect_says_what_holds_no_samples(lab: Lab, call: Call) -> None:
    record(lab / "d/a", 0.1, [(0, 30)])
    bare = json.loads((lab / "d/a.sigmf-meta").read_text())
    bare["global"]["core:metadata_only"] = True
    (lab / "d/b.sigmf-meta").write_text(json.dumps(bare))
    code, out, _ = call("inspect", lab / "d")
    assert (code, "1 of 2 recordings hold no samples by design" in out) == (0, True)
    assert "annotated_samples" in out
    (lab / "notes.txt").write_text("words")
    code, _, err = call("inspect", lab / "notes.txt")
    assert (code, "set --format to one of" in err) == (2, True)
