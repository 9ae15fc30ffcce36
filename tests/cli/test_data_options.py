"""``data convert`` takes what a suite takes, and messages name what can be typed where they are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from laboratory import Call

from offramp.cli.advice import CONVERT, PREDICT, in_options
from offramp.cli.app import app
from offramp.data.formats import open_table
from offramp.schema.tasks import DataSpec


def options(*command: str) -> set[str]:
    found = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]  # type: ignore[attr-defined]
    return {word for param in found.params for word in (*param.opts, param.human_readable_name)}


def record(path: Path, samples: int = 600, **information: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.arange(samples).astype(np.complex64).tofile(f"{path}.sigmf-data")
    known = {"core:version": "1.2.0", "core:datatype": "cf32_le", "core:sample_rate": 1e6} | information
    meta = {"global": known, "captures": [{"core:sample_start": 0}], "annotations": []}
    Path(f"{path}.sigmf-meta").write_text(json.dumps(meta))


def test_every_key_of_a_suite_is_an_option() -> None:
    """Simulated windows are what ``data make`` is for, and a file that is written has no intervals to resample."""
    missing = {name for name in DataSpec.model_fields if CONVERT[name] not in options("data", "convert")}
    assert missing == {"synthetic", "block"}
    assert CONVERT["label.pattern"] in options("data", "convert")


def test_what_messages_of_predict_name_is_an_option() -> None:
    assert {name for name in PREDICT.values() if name.startswith("--") or name.isupper()} <= options("predict")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("x: set data.window to the samples", "x: set --window to the samples"),
        ("set data.cut: all to cut them", "set --cut all to cut them"),
        ("or with data.skip_bad: true", "or with --skip-bad"),
        ("data.resample: 250000", "--resample 250000"),
        ("correct data.path or data.format", "correct FILE or --format"),
        ("x: data.label.pattern '(a)' finds none", "x: --label-pattern '(a)' finds none"),
        ("/tmp/data.window is gone, my.data.cut too", "/tmp/data.window is gone, my.data.cut too"),
        ("data.unknown: 3", "data.unknown: 3"),
    ],
)
def test_in_options(message: str, said: str) -> None:
    assert in_options(message, CONVERT) == said


def test_every_option_reaches_the_cache(call: Call, tmp_path: Path) -> None:
    for name in ("wifi/a1", "lora/b1"):
        record(tmp_path / "d" / name)
    record(tmp_path / "d" / "lora" / "b2", **{"core:sample_rate": 2e6})
    (tmp_path / "d" / "lora" / "b3.sigmf-meta").write_text("{broken")
    (tmp_path / "d" / "lora" / "b3.sigmf-data").touch()
    words = "--window 100 --hop 50 --cut all --windows-per-recording 3 --resample 1e6 --label-from folder --skip-bad"
    code, out, err = call(
        "data", "convert", tmp_path / "d" / "*", "--out", tmp_path / "c.h5", "--group", "collection", *words.split()
    )
    assert (code, out) == (0, f"{tmp_path / 'c.h5'}\n")
    assert "1 of 4 recordings cannot be used and are passed over: lora/b3" in err
    table = open_table(DataSpec(path=tmp_path / "c.h5"))
    assert table.columns["label"].tolist() == ["lora"] * 6 + ["wifi"] * 3
    assert table.columns["recording"].tolist() == ["lora/b1"] * 3 + ["lora/b2"] * 3 + ["wifi/a1"] * 3
    assert (table.windows.shape, table.default_target, table.default_group) == ((2, 1, 100), "label", "collection")


def test_arrays(call: Call, tmp_path: Path) -> None:
    arrays = {
        "x": np.zeros((4, 2, 1, 8), np.float32),
        "band": np.arange(4) % 2,
        "room": np.arange(4),
        "db": np.arange(4.0),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    words = "--input x --target band --group room --snr db --labels low --labels high --format npz"
    assert call("data", "convert", tmp_path / "a.npz", "--out", tmp_path / "c.h5", *words.split())[0] == 0
    table = open_table(DataSpec(path=tmp_path / "c.h5"))
    assert (table.default_target, table.default_group, table.label_names["band"]) == ("band", "room", ("low", "high"))
    code, _, err = call(
        "data", "convert", tmp_path / "a.npz", "--out", tmp_path / "d.h5", "--input", "x", "--group", "no"
    )
    assert (code, "set --group to one of" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "set --window to the samples"),
        ("--window 9999", "choose a shorter --window"),
        ("--window 64 --cut annotations", "set --cut all"),
        ("--window 64 --resample -3", "--resample: "),
        ("--window 64 --label-from file", "a pattern"),
        ("--window 64 --label-pattern (x)", "needs --label-from"),
        ("--window 64 --label-from file --label-pattern (x)", "--label-pattern '(x)' finds no label"),
    ],
)
def test_advice(call: Call, tmp_path: Path, words: str, said: str) -> None:
    record(tmp_path / "d" / "a")
    code, _, err = call("data", "convert", tmp_path / "d", "--out", tmp_path / "c.h5", *words.split())
    assert code == 2
    assert said in err
    assert "data." not in err.replace(str(tmp_path), "")
