"""Several processes of one server, each with an engine of its own, behind one port (SO_REUSEPORT); one that dies is started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from offramp.errors import OfframpError, SuiteError
from offramp.serving.listening import bound_socket
from offramp.serving.process import Place, run_process
from offramp.serving.service import Limits
from offramp.serving.settings import ServerSettings
from offramp.serving.watching.logs import LOG, start_logging
from offramp.serving.watching.overview import bury

AGAIN_S = 0.5
"""Before a process that died is started again."""
START_S = 120.0


def run_workers(settings: ServerSettings, on_ready: Callable[[int, int], object]) -> int:
    """Serve with several processes until a signal ends it, and return its number.

    Raises:
        OfframpError: They cannot start.
    """
    start_logging(settings.log)
    ended = threading.Event()
    numbers: list[int] = []

    def end(number: int, frame: object) -> None:
        numbers.append(number)
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    # held, so that the ports stay ours while workers come and go; nothing arrives at a socket that does not listen
    held = [
        bound_socket(settings.host, settings.port, True, "--port"),
        bound_socket(settings.host, settings.grpc_port, True, "--grpc-port"),
    ]
    ports = [each.getsockname()[1] for each in held]
    fixed = replace(settings, port=ports[0], grpc_port=ports[1])
    with tempfile.TemporaryDirectory(prefix="offramp-serve-") as folder:
        workers = [_Worker(fixed, number, Path(folder)) for number in range(settings.workers)]
        try:
            for worker in workers:
                worker.wait_ready()
            on_ready(*ports)
            while not ended.wait(0.1):
                for worker in workers:
                    worker.look()
        finally:
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.wait(settings.drain_seconds + 5)
    return numbers[0] if numbers else 0


class _Worker:
    """One process, and the next one in its place."""

    def __init__(self, settings: ServerSettings, number: int, folder: Path) -> None:
        self._settings, self._number, self._folder = settings, number, folder
        self._start()

    def _start(self) -> None:
        code = "from offramp.serving.workers import work; work()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        said = {"settings": _plain(self._settings), "number": self._number, "folder": str(self._folder)}
        assert self._process.stdin is not None
        # it stays open: a worker whose parent is gone reads its end
        self._process.stdin.write(json.dumps(said).encode() + b"\n")
        self._process.stdin.flush()

    def wait_ready(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line.startswith("ready"):
            raise SuiteError(line.strip() or f"worker {self._number} ended before it was ready")

    def look(self) -> None:
        if self._process.poll() is None:
            return
        LOG.error("worker %d died with code %d: starting another one", self._number, self._process.returncode)
        bury(self._folder, self._number)
        time.sleep(AGAIN_S)
        self._start()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def work() -> None:
    """What a worker process does: read its settings from standard input, serve, and end when that is closed."""
    said = json.loads(_line(0))
    settings = _settings(said["settings"])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = Place(said["number"], settings.workers, Path(said["folder"]))
    try:
        run_process(settings, place, lambda *_: print("ready", flush=True))
    except OfframpError as error:
        print(str(error), flush=True)
        sys.exit(2)


def _line(file: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (part := os.read(file, 1)):
        line += part
    return line


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock the interpreter wants when it ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _plain(settings: ServerSettings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}


def _settings(said: dict[str, Any]) -> ServerSettings:
    paths = {
        name: Path(said[name])
        for name in ("bundle", "folder", "slices", "keys", "certificate", "private_key")
        if said[name]
    }
    return ServerSettings(**{**said, **paths, "limits": Limits(**said["limits"])})
