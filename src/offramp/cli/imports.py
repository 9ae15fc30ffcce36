"""``--import MODULE``: code of the user's own that registers an encoder before a command looks for it."""

from __future__ import annotations

import sys
from importlib import import_module

from offramp.errors import SuiteError


def import_modules(names: list[str]) -> list[str]:
    """Import modules by name; the current folder is searched first, as ``python -m`` does.

    Raises:
        SuiteError: A name is no module's, there is no such module, or it stops with an error.
    """
    if names and "" not in sys.path:
        sys.path.insert(0, "")
    for name in names:
        if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
            raise SuiteError(f"--import {name}: give the name of a module, as in 'import {_suggestion(name)}'")
        try:
            import_module(name)
        except (Exception, SystemExit) as error:  # whatever the modules of others raise
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                raise SuiteError(
                    f"--import {name}: there is no such module, neither installed nor in the current folder"
                ) from None
            raise SuiteError(f"--import {name}: it stops with {type(error).__name__} {error}") from error
    return names


def _suggestion(name: str) -> str:
    stem = name.removesuffix(".py").replace("\\", "/").rsplit("/", 1)[-1]
    return stem if stem.isidentifier() else "my_module"
