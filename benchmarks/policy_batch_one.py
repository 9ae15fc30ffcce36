"""One window at a time under a policy of three exits: PyPI's `earlyon` 0.3.0 against ours in torch and in ONNX Runtime, at the very same decisions.

What is compared stands in `beside_earlyon/batch_one.py`, which runs in the environment of `earlyon_comparison.py`. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from earlyon_comparison import PACKAGES
from environments import interpreter_with

HERE = Path(__file__).parent


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000, help="timed windows of every way")
    words = [
        interpreter_with("earlyon", PACKAGES),
        HERE / "beside_earlyon" / "batch_one.py",
        "--rounds",
        str(parser.parse_args().rounds),
    ]
    sys.exit(subprocess.run(words, check=False, env={**os.environ, "PYTHONPATH": str(HERE)}).returncode)


if __name__ == "__main__":
    main()
