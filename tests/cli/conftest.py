"""The laboratory, one finished run in it, and the command line in this process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from laboratory import EXITS, Call, Lab, task

from offramp import cli, costs
from offramp.experiment import pipeline

PROGRESS = re.compile(r"los: .*: \d+ in [\d.]+ s\n")


@contextmanager
def no_stopwatch() -> Iterator[None]:
    """No stopwatch and no pictures."""
    latency = {name: costs.Latency(p50=0.1 * n, p95=0.2 * n, p99=0.3 * n) for n, name in enumerate(EXITS, start=1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
        patch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))
        yield


@pytest.fixture
def quick() -> Iterator[None]:
    """No stopwatch and no pictures while a test runs."""
    with no_stopwatch():
        yield


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks, to read and not to change; its data and suite are beside it."""
    lab = Lab(tmp_path_factory.mktemp("finished"))
    angle = task(name="angle", kind="regression", data={"target": "angle"})
    suite = lab.suite(task(), angle)
    with no_stopwatch():
        assert cli.run(["run", str(suite), "--out", str(lab / "run")]) == 0
    return lab / "run"


@pytest.fixture
def call(quick: None, capsys: pytest.CaptureFixture[str]) -> Call:
    """Exit code, stdout and stderr of one command line."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(call: Call) -> Callable[..., str]:
    """Run a command line that the user has to correct: exit code 2, one line that holds all ``words``. Returns the line."""

    def run(*arguments: object, words: str | list[str] = ()) -> str:
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), err
        err = "".join(line for line in err.splitlines(keepends=True) if not PROGRESS.fullmatch(line))
        assert err.startswith("offramp: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        for word in [words] if isinstance(words, str) else words:
            assert word in err
        return err

    return run
