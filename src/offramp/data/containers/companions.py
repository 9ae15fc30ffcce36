"""Files that a data file names: only those beside or below it, links resolved, so that no data set brings the bytes of others along."""

from __future__ import annotations

import os
from pathlib import Path

from offramp.errors import DataError
from offramp.opening import lies_below, regular_file

ALLOW = "copy it there, or set data.allow_outside: true"


def companion(owner: Path, path: Path, allow_outside: bool = False) -> Path:
    """A regular file that belongs to ``owner``, the file or folder that names or holds it.

    Raises:
        DataError: It is missing, no regular file, or lies neither beside nor below ``owner``, unless that is allowed.
    """
    check_inside(owner, path, allow_outside)
    try:
        regular_file(path, DataError)
    except DataError as error:
        raise DataError(f"{owner} leads to a file that cannot be used: {error}") from None
    return path


def check_inside(owner: Path, path: Path, allow_outside: bool = False) -> None:
    """Refuse a path that leads out of the folder of ``owner``, or out of ``owner`` if that is a folder."""
    homes = [owner] if owner.is_dir() else [owner.parent, Path(os.path.realpath(owner)).parent]
    if not allow_outside and not any(lies_below(path, home) for home in homes):
        raise DataError(f"{owner} leads to {os.path.realpath(path)}, which is outside of its folder: {ALLOW}")


def check_place(path: Path, allow_outside: bool = False) -> None:
    """Refuse what is neither a regular file nor a folder, and a folder with a link that leads out of it.

    Raises:
        DataError: See :func:`check_inside` and :func:`offramp.opening.regular_file`.
    """
    if not path.is_dir():
        regular_file(path, DataError)
        return
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            if not allow_outside and os.path.islink(os.path.join(parent, name)):
                check_inside(path, Path(parent, name))
