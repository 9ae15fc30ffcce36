"""Environments of their own for what benchmarks compare with: they see the packages of this one, and what they need beside these is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

RUNS = Path(__file__).parents[1] / "runs"


def interpreter_with(name: str, packages: Sequence[str], dependencies: bool = False) -> Path:
    """The interpreter of the environment ``runs/NAME-env``, which is made if it is missing.

    Packages go in without their dependencies, or with those of them that this environment does not have as they are wanted.
    """
    folder = RUNS / f"{name}-env"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and ready.read_text() == "\n".join(packages):
        return python
    venv.create(folder, clear=True, with_pip=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # addsitedir, unlike a bare path, follows what is installed editable
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    options = ["--quiet", "--disable-pip-version-check"] + ([] if dependencies else ["--no-deps"])
    subprocess.run([python, "-m", "pip", "install", *options, *packages], check=True, stdout=sys.stderr)
    ready.write_text("\n".join(packages))
    return python
