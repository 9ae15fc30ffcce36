"""``offramp recalibrate``: what it prints, and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from laboratory import arrays
from tiny import tones, write_hdf5
from typer.testing import CliRunner

from offramp.cli.recalibrate import recalibrate
from offramp.errors import OfframpError

app = typer.Typer()
app.command()(recalibrate)


@pytest.fixture
def june(tmp_path: Path) -> Path:
    """Traffic that the run has not seen: the same tones, hard to hear."""
    windows, labels = tones(120, level=3.0, seed=7)
    city = np.array([f"village_{number:02}" for number in np.arange(120) % 12])
    return write_hdf5(tmp_path / "june.h5", sample=windows, los=labels, city=city, angle=labels * 10.0)


def run(*arguments: object) -> str:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, OfframpError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def test_the_summary(finished: Path, june: Path, tmp_path: Path) -> None:
    said = run(finished / "bundle", june, "--task", "los", "--out", tmp_path / "new")
    assert "task los: 120 labelled windows of 12 recordings" in said
    for words in ("temperature", "negative log-likelihood*", "calibration error*", "(leaves here)", "->"):
        assert words in said
    assert said.rstrip().endswith(str(tmp_path / "new"))
    assert (tmp_path / "new" / "config.json").exists()


def test_the_summary_as_json(finished: Path, june: Path, tmp_path: Path) -> None:
    said: dict[str, Any] = json.loads(
        run(finished / "bundle", june, "--task", "los", "--out", tmp_path / "new", "--json")
    )
    assert (said["task"], said["windows"], said["groups"], said["out"]) == ("los", 120, 12, str(tmp_path / "new"))
    stored = json.loads((tmp_path / "new" / "config.json").read_text())["tasks"]["los"]["temperatures"]
    assert {each["exit"]: each["after"] for each in said["exits"]} == stored
    assert said["policies"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "sight"], "set --target to one of"),
        (["--group", "sight"], "set --group to one of"),
        (["--group", "los"], r"of 3 recordings: give at least 30 of 8, which --group tells apart"),
        (["--input", "iq"], "--input"),
    ],
)
def test_mistakes_are_told_in_options(
    finished: Path, june: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(OfframpError, match=message):
        run(finished / "bundle", june, "--task", "los", "--out", tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


def test_the_data_of_the_run_itself_is_refused(finished: Path, tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "data.h5", **arrays())
    with pytest.raises(OfframpError, match="is of the data that the bundle was made from"):
        run(finished / "bundle", file, "--task", "los", "--out", tmp_path / "new")
