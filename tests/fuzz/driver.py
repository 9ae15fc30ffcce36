"""One changed input through one command, in a child of a process that has everything imported already."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import filecmp
import gc
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mutate
from seeds import OUT, Seed, make_seeds

from offramp import cli

SECONDS, WAITING, MEMORY = 10.0, 60.0, 2 << 30
"""Time on a processor, time by the clock, and bytes of resident memory, that no command may exceed.

By the clock a command on a busy machine may take long; one that waits for what never comes takes for ever.
"""
LINE = 500
"""Characters of a message."""
PROGRESS = re.compile(r"\S.*: \d+ in [\d.]+ s")
NOT_FINITE = re.compile(r'(^|[,:"\s])-?(nan|inf|infinity)($|[,}"\s])', re.IGNORECASE | re.MULTILINE)
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
WORDS = (
    *("0", "1", "-1", "64", "128", "1000000000000000", "9" * 30, "9" * 5000, "1e9", "1e308", "nan", "inf", "0.5", "", " ", "x" * 5000),
    *("2,1,64", "2,4,256", "2,1,99999999999", "2,0,64", "2,-1,64", ",", "1e3", "2,1," + "9" * 30, "a,b", "2,100000,100000"),
    *("shape", "device", "a.b", "é", "one\ntwo", "\x1b[31m", "\udc80", "../..", "/dev/zero", "/dev/null", ".", "~", "*", "[a", "(", "(.*)", "(a+)+$", "**/*"),
    *("hdf5", "sigmf", "npz", "csitool", "cpu", "cuda", "cpu:7", "meta", "all", "annotations", "file", "folder", "--help", "--json", "inspect"),
)  # fmt: skip
"""Values of options."""


@dataclass(frozen=True)
class Attempt:
    """What came of one input.

    Attributes:
        number: Of the input: with the seed it makes the same input again.
        kind: Kind of input.
        command: What was called; ``{}`` is the folder of the input.
        code: Exit code; minus the signal that ended it; None if it was stopped.
        fault: What is wrong, in words that group alike faults; empty if nothing is.
        seconds: That it took.
        peak: Largest resident memory seen, bytes.
        stderr: Its last lines.
    """

    number: int
    kind: str
    command: tuple[str, ...]
    code: int | None
    fault: str
    seconds: float
    peak: int
    stderr: str


class Fuzzer:
    """Makes and tries inputs; which one a number stands for depends on the seed alone."""

    def __init__(self, root: Path, seed: int, keep: Path | None = None, only: str = "") -> None:
        self._seeds = [each for each in make_seeds(root / "seeds") if only in each.kind]
        self._root, self._seed, self._keep = root, seed, keep
        self._warm_up()
        gc.collect()
        gc.freeze()  # children share these pages as long as nobody counts references in them

    def try_one(self, number: int) -> Attempt:
        """Make an input and run its command. What fails is kept, if there is a folder for it."""
        rng = random.Random(f"{self._seed} {number}")
        seed = self._seeds[number % len(self._seeds)]
        with tempfile.TemporaryDirectory(dir=self._root) as name:
            folder = Path(name) / "input"
            shutil.copytree(seed.folder, folder, symlinks=True)
            targets = seed.targets(folder)
            if targets:
                mutate.mutate(rng.choice(targets), rng)
            command = tuple(rng.choice(WORDS) if word == "{word}" else word for word in rng.choice(seed.commands))
            attempt = self.check(folder, command, number, seed.kind)
            if attempt.fault and self._keep is not None:
                self._store(folder, attempt)
        return attempt

    def seed_of(self, kind: str) -> Seed:
        """The valid input of a kind."""
        return next(each for each in self._seeds if each.kind == kind)

    def check(self, folder: Path, command: tuple[str, ...], number: int = 0, kind: str = "") -> Attempt:
        """Run a command on the input in ``folder`` and judge what it did."""
        before = folder.parent / "before"
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(folder, before, symlinks=True)
        (folder / OUT).mkdir(exist_ok=True)
        ended = run_apart(lambda: _main([word.replace("{}", str(folder)) for word in command]), folder.parent, folder)
        fault = ended.stopped or _judge(command, ended) or _changes(before, folder)
        shutil.rmtree(folder / OUT, ignore_errors=True)
        return Attempt(number, kind, command, ended.code, fault, ended.seconds, ended.peak, ended.stderr[-4000:])

    def _warm_up(self) -> None:
        """What commands import is there for all children; and valid inputs pass, but predict may find windows of another shape."""
        known = set()
        for seed in self._seeds:
            for number, command in enumerate(seed.commands):
                if "{word}" in command or (number and command in known):
                    continue
                known.add(command)
                with tempfile.TemporaryDirectory(dir=self._root) as name:
                    folder = Path(name) / "input"
                    shutil.copytree(seed.folder, folder, symlinks=True)
                    code, text = _in_this_process([word.replace("{}", str(folder)) for word in command])
                assert code in ((0, 2) if command[0] == "predict" else (0,)), f"{seed.kind} {command}: {text}"

    def _store(self, folder: Path, attempt: Attempt) -> None:
        assert self._keep is not None
        kept = self._keep / f"{attempt.number:06}-{attempt.kind}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept / "input", symlinks=True)
        (kept / "attempt.txt").write_text(
            f"seed {self._seed} number {attempt.number}\nofframp {' '.join(attempt.command)!r}\n{attempt.fault}\n{attempt.stderr}",
            encoding="utf-8",
            errors="backslashreplace",
        )


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code or minus a signal, why it was stopped if it was, and what it wrote."""

    code: int | None
    stopped: str
    seconds: float
    peak: int
    stdout: str
    stderr: str


def run_apart(work: Callable[[], int], scratch: Path, folder: Path) -> Ended:
    """Call ``work`` in a child process of its own group, within :data:`SECONDS`, :data:`WAITING` and :data:`MEMORY`."""
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(work, scratch, folder)
    with contextlib.suppress(OSError):  # the child does the same; whoever comes first
        os.setpgid(child, child)
    peak, stopped = 0, ""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        peak = max(peak, _resident(child))
        if _processor_seconds(child) > SECONDS:
            stopped = f"over {SECONDS:.0f} s"
        elif time.monotonic() - start > WAITING:
            stopped = "waits for ever"
        elif peak > MEMORY:
            stopped = "over 2 GB"
        if stopped:
            _kill(child)
            os.waitpid(child, 0)
            break
        time.sleep(0.003)
    _kill(child)  # children of its own that it left
    texts = [(scratch / name).read_bytes().decode("utf-8", "replace") for name in ("stdout", "stderr")]
    code = None if stopped else os.waitstatus_to_exitcode(status)
    return Ended(code, stopped, time.monotonic() - start, peak, *texts)


def _become(work: Callable[[], int], scratch: Path, folder: Path) -> None:
    """The child: output to files, no input, and no way back into the parent's code."""
    code = 1
    try:
        os.setpgid(0, 0)
        atexit._clear()  # a command runs what is to be done at exit, and what the parent has put there is the parent's
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        faulthandler.enable(sys.stderr)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _main(arguments: list[str]) -> int:
    """As the installed command is called."""
    sys.argv = ["offramp", *arguments]
    try:
        cli.main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _in_this_process(arguments: list[str]) -> tuple[int, str]:
    with io.StringIO() as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        return cli.run(arguments), quiet.getvalue()


def _judge(command: tuple[str, ...], ended: Ended) -> str:
    lines = [line for line in ended.stderr.splitlines() if line.strip() and not PROGRESS.fullmatch(line)]
    if ended.code is not None and ended.code < 0:
        return f"ended by {signal.Signals(-ended.code).name}"
    if ended.code not in (0, 2):
        return f"exit {ended.code}: {_where(ended.stderr)}"
    if "Traceback" in ended.stderr:
        return f"traceback: {_where(ended.stderr)}"
    if any("Warning" in line for line in lines):
        return "warning: " + next(line for line in lines if "Warning" in line)[-120:]
    if ended.code == 2:
        messages = [line for line in lines if line.startswith("offramp: ")]
        if len(lines) != 1 or len(messages) != 1:
            return f"{len(lines)} lines on stderr"
        if len(lines[0]) >= LINE:
            return "long message"
    if ended.code == 0 and command[0] == "predict" and NOT_FINITE.search(ended.stdout):
        return "an answer that is not finite"
    return ""


def _where(text: str) -> str:
    """Exception and last place in our sources."""
    places = re.findall(r'offramp/([\w/]+\.py)", line (\d+)', text)
    errors = re.findall(r"^([A-Za-z_.]*(?:Error|Exception|Exit|Interrupt)\b)", text, re.MULTILINE)
    return f"{errors[-1] if errors else '?'} at {':'.join(places[-1]) if places else '?'}"


def _changes(before: Path, after: Path) -> str:
    """Inputs stay as they are, and nothing is left beside them."""
    names = {str(path.relative_to(root)) for root in (before, after) for path in root.rglob("*") if not path.is_dir()}
    for name in sorted(names):
        if name.startswith(OUT + "/"):
            if Path(name).name.startswith("."):
                return "a temporary file is left"
            continue
        if not (before / name).is_file() or not (after / name).is_file():
            return "a file appeared or vanished"
        if not filecmp.cmp(before / name, after / name, shallow=False):
            return "an input was changed"
    return ""


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
