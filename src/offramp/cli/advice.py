"""Advice in the words of the place where it is read: a suite has ``data.window: 64``, a command line ``--window 64``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from offramp.errors import OfframpError
from offramp.schema.tasks import DataSpec

CONVERT = {name: f"--{name.replace('_', '-')}" for name in DataSpec.model_fields} | {
    "path": "FILE",
    "label": "--label-from",
    "label.pattern": "--label-pattern",
}
"""Keys of ``data:`` as options of ``data convert``."""
PREDICT = {
    "path": "FILE",
    "input": "--input",
    "resample": "--resample",
    "skip_bad": "--skip-bad",
    "format": "its suffix",
    "allow_outside": "--allow-outside",
}
"""Keys of ``data:`` that a message of ``predict`` may name."""
INSPECT = {"path": "TARGET", "format": "--format", "allow_outside": "data.allow_outside in a suite"}
"""Keys of ``data:`` that a message of ``inspect`` may name."""

_KEY = re.compile(r"(?<![\w./-])data\.((?:label\.)?[a-z_]+)(?![\w./])(?:: true\b|(: ))?")


@contextmanager
def said_as_options(options: Mapping[str, str]) -> Iterator[None]:
    """Let messages of errors from within name options of the command line in place of keys of a suite."""
    try:
        yield
    except OfframpError as error:
        raise type(error)(in_options(str(error), options)) from error


def in_options(message: str, options: Mapping[str, str]) -> str:
    """``data.window: 64`` as ``--window 64``, ``data.skip_bad: true`` as ``--skip-bad``; keys without an option as they are."""

    def option(found: re.Match[str]) -> str:
        name = options.get(found[1])
        return found[0] if name is None else name + (" " if found[2] else "")

    return _KEY.sub(option, message)
