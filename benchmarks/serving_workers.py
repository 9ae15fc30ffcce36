"""Two processes of a server behind one port (SO_REUSEPORT) or behind a front that gives each request to whichever is least busy: which is better?

python benchmarks/serving_workers.py [--encoder lwm] [--outstanding 64] [--seconds 8]

The front is `nginx` (`least_conn`), where that is installed. One process stands beside. Each gets so many outstanding requests of one window and one of eight tasks, on kept connections; each way is
measured twice, by turns, and the better run counts. All processes and the client share the machine's cores. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from serving.http_load import Outcome, closed_loop
from serving.made import MIXED, Made, make
from serving.rivals import OURS, free_ports, protocol_request, served

FRONT = """
daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 64m; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream workers {{ least_conn; keepalive 256; {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--encoder", choices=list(MIXED), default="lwm")
    parser.add_argument("--outstanding", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        made = make(Path(place) / "mixed", arguments.encoder)
        asked = np.random.default_rng(0).integers(0, len(made.exits), 4096)
        requests = [protocol_request(int(task), made.windows[number % 256]) for number, task in enumerate(asked)]
        ways: dict[str, Callable[[], Any]] = {
            "one process": lambda: _ours(made, 1),
            "two, one port": lambda: _ours(made, 2),
        }
        if shutil.which("nginx"):
            ways["two, a front"] = lambda: _behind_front(made, Path(place))
        for _ in range(2):
            for name, way in ways.items():
                with way() as port:
                    run = closed_loop(
                        port, lambda number: requests[number % len(requests)], arguments.outstanding, arguments.seconds
                    )
                summary = _summary(run, arguments.seconds)
                if (
                    summary["requests_per_second"] > found.get(name, summary)["requests_per_second"]
                    or name not in found
                ):
                    found[name] = summary
    print(
        json.dumps(
            {
                "benchmark": "serving_workers",
                "encoder": arguments.encoder,
                "outstanding": arguments.outstanding,
                **found,
            }
        )
    )


@contextmanager
def _ours(made: Made, workers: int) -> Iterator[int]:
    rival = replace(OURS, words=(*OURS.words, "--workers", str(workers)))
    with served(rival, {}, made, core=None) as running:
        yield running.port


@contextmanager
def _behind_front(made: Made, place: Path) -> Iterator[int]:
    with ExitStack() as stack:
        ports = [stack.enter_context(served(OURS, {}, made, core=None)).port for _ in range(2)]
        folder, port = place / f"front-{time.monotonic_ns()}", free_ports(1)[0]
        folder.mkdir()
        servers = " ".join(f"server 127.0.0.1:{each};" for each in ports)
        (folder / "front.conf").write_text(FRONT.format(folder=folder, servers=servers, port=port))
        front = subprocess.Popen(
            ["nginx", "-p", str(folder), "-c", str(folder / "front.conf")], stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(1.0)
            yield port
        finally:
            front.terminate()
            front.wait()


def _summary(run: Outcome, seconds: float) -> dict[str, Any]:
    good = np.sort(run.seconds[run.good])
    return {
        "requests_per_second": round(len(good) / seconds),
        "p50_ms": round(1e3 * float(good[len(good) // 2]), 2),
        "p99_ms": round(1e3 * float(good[int(0.99 * (len(good) - 1))]), 2),
        "failed": int((~run.good).sum()),
    }


if __name__ == "__main__":
    main()
