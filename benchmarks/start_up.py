"""Seconds that a whole process takes for ``offramp --help`` and ``import offramp``, next to one that does nothing.

Prints one JSON line with medians over interleaved runs.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROUNDS = 10
TARGETS = {"offramp --help": 0.5, "import offramp": 0.3}


def commands() -> dict[str, list[str]]:
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import offramp": [sys.executable, "-c", "import offramp"],
        "offramp --help": [str(Path(sys.executable).parent / "offramp"), "--help"],
    }


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    for command in commands().values():
        seconds(command)  # fills the caches of the disk
    rounds = [{name: seconds(command) for name, command in commands().items()} for _ in range(ROUNDS)]
    result = {name: round(median(times[name] for times in rounds), 3) for name in commands()}
    print(json.dumps({"benchmark": "start_up", "targets_s": TARGETS, "seconds": result}))


if __name__ == "__main__":
    main()
