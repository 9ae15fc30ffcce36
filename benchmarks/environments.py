"""Environments of their own for what benchmarks compare with: they see the packages of this one, and little more is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

RUNS = Path(__file__).parents[1] / "runs"


def interpreter_with(name: str, packages: Sequence[str]) -> Path:
    """The interpreter of the environment ``runs/NAME-env``, which is made if it is missing; packages go in without their dependencies."""
    folder = RUNS / f"{name}-env"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and ready.read_text() == "\n".join(packages):
        return python
    venv.create(folder, clear=True, with_pip=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # addsitedir, unlike a bare path, follows what is installed editable
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *packages], check=True, stdout=sys.stderr)
    ready.write_text("\n".join(packages))
    return python
