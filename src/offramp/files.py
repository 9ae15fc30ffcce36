"""Writing that leaves either the whole new file or the old one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offramp.errors import OfframpError

FULL = ("No space left on device", "PytorchStreamWriter failed writing")
"""What safetensors and torch say in errors of their own when the disk is full."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; on leaving without an error it replaces ``path``.

    The temporary name keeps the suffix. Raises :class:`OfframpError` when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    except Exception as error:
        if any(sign in str(error) for sign in FULL):
            raise _cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def output_folder(path: Path) -> Path:
    """Make sure that ``path`` is a folder that can be written to, and return it."""
    if path.exists() and not path.is_dir():
        raise OfframpError(f"{path} is a file: choose a folder for the output")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def free_bytes(path: Path) -> int:
    """Free disk space at ``path``, or at its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _cannot_write(path: Path, error: OSError) -> OfframpError:
    reason = error.strerror or str(error)
    return OfframpError(f"cannot write {path}: {reason}; free some space or choose another place")
