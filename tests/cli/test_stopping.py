"""Ctrl-C, SIGTERM and SIGHUP at every moment: their exit code, one line, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from laboratory import Call, Lab

SAYS = {
    signal.SIGINT: "offramp: interrupted; run the same command again to go on\n",
    signal.SIGTERM: "offramp: terminated; run the same command again to go on\n",
    signal.SIGHUP: "offramp: the terminal was closed; run the same command again to go on\n",
}
MAIN = "import sys; from offramp.cli import main, stopping; stopping.listen(); print('up', flush=True); main()"


def started(*arguments: object, code: str = MAIN, **options: object) -> subprocess.Popen[str]:
    """A command line in a process of its own, once it has said that it is up."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # type: ignore[call-overload]  # fmt: skip
    assert process.stdout is not None
    while process.stdout.readline() != "up\n":
        assert process.poll() is None
    return process


def instead(body: str) -> str:
    """A program in which a command does ``body``."""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return f"""
import os, signal, sys, time
from pathlib import Path
from offramp import cli
from offramp.cli import app
from offramp.files import atomic_path, run_folder
def command(**_):
{indented}
app.app = command
cli.main()
"""


def check_stopped(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    said = "".join(line for line in said.splitlines(keepends=True) if not line.endswith(" s\n"))
    assert (process.returncode, said) == (128 + number, SAYS[number])


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".offramp*") if folder.exists()]


@pytest.mark.parametrize("delay", [0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5])
def test_while_it_starts(tmp_path: Path, delay: float):
    process = started("data", "make", "--out", tmp_path / "made.h5", "--windows", 100_000)
    time.sleep(delay)
    check_stopped(process, signal.SIGINT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", SAYS)
def test_while_it_writes(tmp_path: Path, number: signal.Signals):
    code = instead("""
with run_folder(Path(sys.argv[1]), []) as out, atomic_path(out / "a.bin"), atomic_path(out / "b.txt"):
    print("up", flush=True)
    signal.pause()
""")
    check_stopped(started(tmp_path / "out", code=code), number)
    assert list((tmp_path / "out").iterdir()) == []


def test_while_it_ends():
    code = "import atexit, time; atexit.register(lambda: (print('up', flush=True), time.sleep(60)));"
    process = started("--version", code=code + "from offramp.cli import main; main()")
    check_stopped(process, signal.SIGINT)


def test_amid_a_run_which_goes_on_afterwards(lab: Lab, call: Call):
    out = lab / "out"
    command = ("run", lab.suite(seeds=[0]), "--out", out)
    process = started(*command)
    while not (out / "features").exists():
        assert process.poll() is None
        time.sleep(0.01)
    check_stopped(process, signal.SIGTERM)
    assert temporaries(out) == []
    assert not (out / "results.json").exists()
    assert call(*command)[0] == 0
    assert (out / "results.json").exists()
    assert temporaries(out) == []


def test_where_python_loses_the_exception(tmp_path: Path):
    """It shows what is raised in a destructor, and goes on."""
    code = instead("""
class Loses:
    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(60)
print("up", flush=True)
with atomic_path(Path(sys.argv[1], "a.bin")):
    Loses()
    time.sleep(60)
""")
    _, said = (process := started(tmp_path, code=code)).communicate(timeout=30)
    assert (process.returncode, said) == (130, SAYS[signal.SIGINT])
    assert list(tmp_path.iterdir()) == []


def test_where_a_library_turns_the_exception_into_another(tmp_path: Path):
    code = instead("""
print("up", flush=True)
with run_folder(Path(sys.argv[1]), []):
    try: os.kill(os.getpid(), signal.SIGINT); signal.pause()
    except KeyboardInterrupt: raise ImportError("initialisation failed") from None
""")
    _, said = (process := started(tmp_path, code=code)).communicate(timeout=30)
    assert (process.returncode, said) == (130, SAYS[signal.SIGINT])
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_so(lab: Lab):
    """``nohup`` lets a command outlive its terminal."""
    process = started(
        "inspect", lab / "data.h5", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN), env=os.environ
    )
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
