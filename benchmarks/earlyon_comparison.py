"""The same task and frozen encoder through PyPI's `earlyon` 0.3.0 and through ours: accuracy, MACs, latency, throughput, time to fit.

`earlyon` gets an environment of its own, `runs/earlyon-env`, that sees the packages of this one. What is installed there, each without
its dependencies, is `earlyon` and what its count of FLOPs needs; its torchvision is not. What is compared and how stands in
`beside_earlyon/compare.py`, which runs there. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from environments import interpreter_with

PACKAGES = (
    "earlyon==0.3.0",
    "fvcore==0.1.5.post20221221",
    "iopath==0.1.10",
    "portalocker==4.4.2",
    "tabulate==0.10.0",
    "termcolor==3.3.0",
    "yacs==0.1.8",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="draws of training and validation windows")
    parser.add_argument("--rounds", type=int, default=600, help="timed windows at batch 1")
    arguments = parser.parse_args()
    script = Path(__file__).parent / "beside_earlyon" / "compare.py"
    options = ["--seeds", str(arguments.seeds), "--rounds", str(arguments.rounds)]
    sys.exit(subprocess.run([interpreter_with("earlyon", PACKAGES), script, *options], check=False).returncode)


if __name__ == "__main__":
    main()
