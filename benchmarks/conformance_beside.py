"""How servers of the Open Inference Protocol do in `offramp check-server`: PyPI's `mlserver` 1.7.1 and `kserve` 0.21.0 with the same tiny model, and ours.

python benchmarks/conformance_beside.py [--server mlserver] [--page docs/check-server.md]

The others get environments of their own, `runs/mlserver-env` and `runs/kserve-env`; all listen on this machine alone. `--page` writes the table into the page. Triton is not here:
PyPI's `tritonserver` holds bindings without the server. Prints one JSON line; takes a minute, and the making of the environments some more.
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
from serving.made import make
from serving.rivals import free_ports, stop

from offramp.serving.conformance import CheckOutcome, CheckResult, Conformance, Level, check_server
from offramp.serving.conformance.run import all_checks

SCRIPTS = Path(__file__).parent / "beside_conformance"
PACKAGES = {"mlserver": ("mlserver==1.7.1",), "kserve": ("kserve==0.21.0",)}
OURS = "offramp"
MODELS = {OURS: ["task0", "shared"]}
START_S = 120.0
BEGIN, END = "<!-- written by benchmarks/conformance_beside.py -->", "<!-- until here -->"
MARKS = {CheckOutcome.PASSED: "pass", CheckOutcome.UNSUPPORTED: "-", CheckOutcome.NOT_RUN: ""}
WORST = (CheckOutcome.FAILED, CheckOutcome.PASSED, CheckOutcome.UNSUPPORTED, CheckOutcome.NOT_RUN)
"""Which outcome stands for several models."""
TO_THE_MODEL = {"errors.wrong-shape", "errors.wrong-datatype", "errors.same-input-twice", "errors.extra-input"}
LEFT = {
    "mlserver": TO_THE_MODEL
    | {"errors.unknown-output", "errors.same-output-twice", "inference.requested-outputs"}
    | {"grpc.unknown-output", "grpc.requested-outputs"},
    "kserve": TO_THE_MODEL | {"repository.reload"},
}
"""What a server leaves to the code of whoever writes a model."""


def main() -> None:
    """Run the checks against each server and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", choices=[*PACKAGES, OURS], action="append", help="all if left out")
    parser.add_argument("--page", type=Path, help="a page in which the table is written anew")
    arguments = parser.parse_args()
    found = {}
    for server in arguments.server or [*PACKAGES, OURS]:
        with _served(server) as (url, grpc):
            found[server] = check_server(url, grpc, MODELS.get(server, [NAME]), disturb=True)
    if arguments.page:
        before, _, rest = arguments.page.read_text(encoding="utf-8").partition(BEGIN)
        text = f"{before}{BEGIN}\n\n{_table(found)}\n{END}{rest.partition(END)[2]}"
        arguments.page.write_text(text, encoding="utf-8")
    lines = {name: _summary(conformance) for name, conformance in found.items()}
    print(json.dumps({"benchmark": "conformance_beside"} | lines))


@contextmanager
def _served(server: str) -> Iterator[tuple[str, str]]:
    """A server that has started: where it speaks HTTP and gRPC."""
    ports = free_ports(2)
    with tempfile.TemporaryDirectory() as place:
        command, variables = _command(server, ports, Path(place))
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


def _command(server: str, ports: Sequence[int], place: Path) -> tuple[list[str], dict[str, str]]:
    """What starts a server, and the variables it needs. MLServer reads a folder of models; its settings are those that its page on streaming asks for."""
    variables = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if server == OURS:
        segments = make(place / "made").segments
        command = [sys.executable, "-m", "offramp", "serve", str(segments)]
        return [*command, "--port", str(ports[0]), "--grpc-port", str(ports[1])], variables
    python = str(interpreter_with(server, PACKAGES[server], dependencies=True))
    variables |= {"PYTHONPATH": str(SCRIPTS), "MLSERVER_DEBUG": "false"}
    if server == "kserve":
        return [python, str(SCRIPTS / "with_kserve.py"), *map(str, ports)], variables
    settings = {"host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_endpoint": None}
    model = {"name": NAME, "implementation": "with_mlserver.Tiny", "parameters": {"version": "1"}}
    (place / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0, "gzip_enabled": False}))
    (place / "model-settings.json").write_text(json.dumps(model | {"inputs": INPUTS, "outputs": OUTPUTS}))
    return [python, "-m", "mlserver.cli.main", "start", "."], variables


def _wait(server: str, port: int, started: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and started.poll() is None:
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", f"/v2/models/{MODELS.get(server, [NAME])[0]}/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    print(log.read_text(errors="replace"), file=sys.stderr)
    raise SystemExit(f"{server} did not start")


def _summary(conformance: Conformance) -> dict[str, object]:
    failed = [result for result in conformance.results if result.outcome is CheckOutcome.FAILED]
    required = sorted({result.check for result in failed if result.counts})
    others = sorted({result.check for result in failed if not result.counts})
    return {"server": conformance.server, **conformance.counts, "failed": required, "failed, not required": others}


def _table(found: dict[str, Conformance]) -> str:
    """Checks one below the other, servers beside each other."""
    lines = [_row(["check", "level", *found]), _row(["---"] * (2 + len(found)))]
    for check in all_checks(rpc=True):
        marks = [_mark(server, check.name, check.level, conformance) for server, conformance in found.items()]
        lines.append(_row([f"`{check.name}`", check.level, *marks]))
    return "\n".join(lines) + "\n"


def _mark(server: str, name: str, level: Level, conformance: Conformance) -> str:
    """The outcome that stands for all models."""
    results = [result for result in conformance.results if result.check == name]
    result = min(results, key=lambda each: WORST.index(each.outcome))
    mark = _failure(result, level) if result.outcome is CheckOutcome.FAILED else MARKS[result.outcome]
    left = result.outcome is CheckOutcome.FAILED and name in LEFT.get(server, ())
    return f"{mark} (m)" if left else mark


def _failure(result: CheckResult, level: Level) -> str:
    if result.level is not level:
        return "wrong status"
    return "**fail**" if result.counts else "fail"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
