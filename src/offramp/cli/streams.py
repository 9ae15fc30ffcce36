"""Standard streams that may be closed, full or of a narrow encoding, and libraries that say what nobody asked for."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


def open_streams() -> None:
    """Make the three streams usable, whatever they were when we started.

    Nobody reads a stream that was closed, and the next file that is opened would take its number: it gets the null device. What
    an encoding cannot hold is escaped.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quieten_libraries() -> None:
    """Warnings and logs of libraries say nothing that the user can act on; ``python -W`` brings the warnings back.

    What Python would show of an uncaught error is what Cython shows of those in destructors: ours are all caught.
    """
    import logging
    import warnings

    logging.disable(logging.WARNING)
    sys.excepthook = lambda *_: None
    if not sys.warnoptions:
        warnings.showwarning = lambda *_: None  # libraries set filters of their own


def say(line: str) -> None:
    """A line on stderr, if somebody reads it: what is being done goes on without."""
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _drop(sys.stderr)


def drop_output() -> None:
    """Let what is still buffered for standard output go nowhere, so that the interpreter does not complain when it shuts down."""
    _drop(sys.stdout)


def _drop(stream: object) -> None:
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]
