"""How servers of the Open Inference Protocol do in `offramp check-server`: PyPI's `mlserver` 1.7.1 and `kserve` 0.21.0, each with the same tiny model, and any that runs.

python benchmarks/conformance_beside.py [--server mlserver] [--also NAME=URL,GRPC,MODEL] [--table FILE]

The others get environments of their own, `runs/mlserver-env` and `runs/kserve-env`, and listen on this machine alone. `--also` names a server that already runs; `--table` writes
the table of docs/check-server.md. Triton is not here: PyPI's `tritonserver` holds bindings without the server. Prints one JSON line; takes a minute, and the making of the environments
some more.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from beside_conformance.tiny import INPUTS, NAME, OUTPUTS
from environments import interpreter_with
from serving.rivals import free_ports, stop

from offramp.serving.conformance import CheckResult, Conformance, Level, Outcome, check_server
from offramp.serving.conformance.run import all_checks

SCRIPTS = Path(__file__).parent / "beside_conformance"
PACKAGES = {"mlserver": ("mlserver==1.7.1",), "kserve": ("kserve==0.21.0",)}
START_S = 120.0
MARKS = {Outcome.PASSED: "pass", Outcome.UNSUPPORTED: "-", Outcome.NOT_RUN: ""}


def main() -> None:
    """Run the checks against each server and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", choices=list(PACKAGES), action="append", help="all if left out")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=URL,GRPC,MODEL", help="a server that runs")
    parser.add_argument("--table", type=Path, help="where to write the table")
    arguments = parser.parse_args()
    found = {}
    for server in arguments.server or PACKAGES:
        with _served(server) as (url, grpc):
            found[server] = check_server(url, grpc, [NAME], disturb=True)
    for name, _, places in (also.partition("=") for also in arguments.also):
        url, grpc, model = (*places.split(","), "", "")[:3]
        found[name] = check_server(url, grpc, [model] if model else ())
    if arguments.table:
        arguments.table.write_text(_table(found))
    lines = {name: _summary(conformance) for name, conformance in found.items()}
    print(json.dumps({"benchmark": "conformance_beside"} | lines))


@contextmanager
def _served(server: str) -> Iterator[tuple[str, str]]:
    """A server that has started: where it speaks HTTP and gRPC."""
    python = interpreter_with(server, PACKAGES[server], dependencies=True)
    ports = free_ports(2)
    with tempfile.TemporaryDirectory() as place:
        command, variables = _command(server, python, ports, Path(place))
        log = Path(place) / "log"
        with log.open("wb") as said:
            started = subprocess.Popen(
                command, env=variables, cwd=place, stdout=said, stderr=said, start_new_session=True
            )
        try:
            _wait(server, ports[0], started, log)
            yield f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
        finally:
            stop(started)


def _command(server: str, python: Path, ports: Sequence[int], place: Path) -> tuple[list[str], dict[str, str]]:
    """What starts a server, and the variables it needs. MLServer reads a folder of models; its settings are those that its page on streaming asks for."""
    variables = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    variables |= {"PYTHONPATH": str(SCRIPTS), "MLSERVER_DEBUG": "false"}
    if server == "kserve":
        return [str(python), str(SCRIPTS / "with_kserve.py"), *map(str, ports)], variables
    settings = {"host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_endpoint": None}
    model = {"name": NAME, "implementation": "with_mlserver.Tiny", "parameters": {"version": "1"}}
    (place / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0, "gzip_enabled": False}))
    (place / "model-settings.json").write_text(json.dumps(model | {"inputs": INPUTS, "outputs": OUTPUTS}))
    return [str(python), "-m", "mlserver.cli.main", "start", "."], variables


def _wait(server: str, port: int, started: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and started.poll() is None:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", f"/v2/models/{NAME}/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    print(log.read_text(errors="replace"), file=sys.stderr)
    raise SystemExit(f"{server} did not start")


def _summary(conformance: Conformance) -> dict[str, object]:
    failed = [result for result in conformance.results if result.outcome is Outcome.FAILED]
    required = sorted({result.check for result in failed if result.counts})
    others = sorted({result.check for result in failed if not result.counts})
    return {"server": conformance.server, **conformance.counts, "failed": required, "failed, not required": others}


def _table(found: dict[str, Conformance]) -> str:
    """Checks one below the other, servers beside each other."""
    columns = [{result.check: result for result in conformance.results} for conformance in found.values()]
    lines = [_row(["check", "level", *found]), _row(["---"] * (2 + len(found)))]
    for check in all_checks(rpc=True):
        marks = [_mark(column[check.name], check.level) if check.name in column else "" for column in columns]
        lines.append(_row([f"`{check.name}`", check.level, *marks]))
    return "\n".join(lines) + "\n"


def _mark(result: CheckResult, level: Level) -> str:
    if result.outcome is not Outcome.FAILED:
        return MARKS[result.outcome]
    if result.level is not level:
        return "wrong status"
    return "**fail**" if result.counts else "fail"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
