"""Standard streams that are closed, full or narrow, and names that would command a terminal."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from laboratory import Call, Lab

from offramp.cli.console import PlainConsole

OFFRAMP = f"{shlex.quote(sys.executable)} -c 'from offramp.cli import main; main()'"
FULL = "offramp: the output: No space left on device; free some space or choose another place\n"


def shell(line: str) -> tuple[int, str, str]:
    done = subprocess.run(["bash", "-c", line.replace("offramp", OFFRAMP, 1)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["--help", "--version", "", "schema suite", "inspect {data} --json"])
@pytest.mark.parametrize("end", [">&-", "<&- >&- 2>&-", "| true; exit ${PIPESTATUS[0]}", ">/dev/full"])
def test_nobody_reads(finished: Path, command: str, end: str):
    data = shlex.quote(str(finished.parent / "data.h5"))
    code, out, err = shell(f"offramp {command.format(data=data)} {end}")
    assert (code, out, err) == ((2, "", FULL) if "full" in end else (0, "", ""))


def test_predict_to_nobody(finished: Path):
    given = f"offramp predict {shlex.quote(str(finished / 'bundle'))} {shlex.quote(str(finished.parent / 'data.h5'))}"
    assert shell(f"{given} --task los >&-") == (0, "", "")
    assert shell(f"{given} --task los >/dev/full") == (2, "", FULL)
    code, out, err = shell(f"{given} --task los --out /dev/stdout | head -1; exit ${{PIPESTATUS[0]}}")
    assert (code, out, err) == (0, "index,task,prediction,confidence,exit\n", "")


@pytest.mark.parametrize("end", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_nobody_reads_what_is_wrong(end: str):
    code, out, _ = shell(f"offramp nope {end}")
    assert (code, out) == (2, "")


def test_progress_that_nobody_reads_does_not_stop_a_run(lab: Lab):
    code = (
        "import os, sys; from offramp.cli.progress import Steps\n"
        "with Steps() as steps: [steps.note('x' * 1000) for _ in range(200)]\n"
        "print('done')"
    )
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} 2> >(true)"
    assert subprocess.run(["bash", "-c", line], capture_output=True, text=True).stdout == "done\n"


def test_a_closed_stream_is_not_the_next_file(lab: Lab):
    """What is printed would be written into it."""
    assert shell(f"offramp data make --out {lab / 'made.h5'} --windows 20 --samples 64 >&- 2>&-")[0] == 0
    with h5py.File(lab / "made.h5") as file:
        assert file["sample"].shape[0] == 20


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_terminal_cannot_show(lab: Lab, encoding: str):
    name = str(lab / "größe\N{SNOWMAN}.h5")
    (lab / "data.h5").rename(name)
    done = subprocess.run(
        [sys.executable, "-c", "from offramp.cli import main; main()", "inspect", name],
        capture_output=True, env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"120 windows" in b" ".join(done.stdout.split())


def test_names_do_not_command_the_terminal(lab: Lab, call: Call):
    with h5py.File(lab / "data.h5", "a") as file:
        file["\x1b]0;owned\x07"] = np.arange(120)
        file["[bold]x[/nope]"] = np.arange(120)
    code, out, _ = call("inspect", lab / "data.h5")
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]x[/nope]" in out
    assert "\x1b]0;owned\x07" in {
        column["name"] for column in json.loads(call("inspect", lab / "data.h5", "--json")[1])["columns"]
    }


def test_colours_of_our_own_stay(capsys: pytest.CaptureFixture[str]):
    terminal = PlainConsole(force_terminal=True, width=40, color_system="standard", highlight=False)
    terminal.print("[bold]a\x1b[5mb[/]")
    assert capsys.readouterr().out == "\x1b[1ma\N{REPLACEMENT CHARACTER}[5mb\x1b[0m\n"


NAMES = {"long": "a" * 5000, "words": "a b " * 2000, "escapes": "x\x1b[31m\nred\u202e\u2028", "bytes": "x\udcff"}
LINES = [
    "@", "run @ --out o", "run suite.yaml --out @", "run suite.yaml --device @ --out o", "inspect @",
    "inspect lwm --checkpoint @", "inspect encoder --shape @", "predict @ data.h5", "predict BUNDLE @ --task los",
    "predict BUNDLE data.h5 --task @", "predict BUNDLE data.h5 --task los --policy @", "report @ --out r.html",
    "predict BUNDLE data.h5 --task los --format @", "predict BUNDLE data.h5 --task los --out @", "report RUN --out @",
    "export BUNDLE --task @ --out x.onnx", "export BUNDLE --task los --exit @ --out x.onnx", "bench BUNDLE --task @",
    "bench @", "pretrain --out p --encoder @", "pretrain --out p --objective @", "train suite.yaml --task @ --out t",
    "data convert @ --out c.h5", "data convert data.h5 --format @ --out c.h5", "data make --out @",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_message_is_one_short_line(finished: Path, lab: Lab, call: Call, monkeypatch: pytest.MonkeyPatch, line: str):
    lab.suite()
    monkeypatch.chdir(lab.folder)
    places = {"BUNDLE": str(finished / "bundle"), "RUN": str(finished)}
    for name in NAMES.values():
        if "--out @" in line:
            name = "/".join(["o" * 300, name])
        code, out, err = call(*(name if word == "@" else places.get(word, word) for word in line.split()))
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert len(err) < 500
        assert err[:-1].isprintable()
