"""Ctrl-C, SIGTERM and SIGHUP: one line, exit code 128 + the signal's number, and nothing half-written, at every moment."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # nothing is imported that takes time: until we listen, Ctrl-C ends in a traceback
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType
    from typing import NoReturn

SAYS: dict[int, str] = {
    signal.SIGINT: "interrupted; run the same command again to go on",
    signal.SIGTERM: "terminated; run the same command again to go on",
    signal.SIGHUP: "the terminal was closed; run the same command again to go on",
}
_got: int | None = None


def listen() -> None:
    """From now on the signals are ours, save those that whoever started us wants ignored (``nohup``)."""
    for number in SAYS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _unraisable


def stopped() -> int | None:
    """The signal that has come, whatever has become of the exception that it raised."""
    return _got


def clean() -> None:
    """Remove what this process was writing, should a signal have come while it did so itself."""
    if files := sys.modules.get("offramp.files"):
        files.remove_unfinished()


def leave(number: int) -> NoReturn:
    """End this process at once."""
    clean()
    shown = "\x1b[?25h" if os.isatty(2) else ""  # a progress bar hides the cursor
    try:
        os.write(2, f"{shown}offramp: {SAYS[number]}\n".encode())
    finally:
        os._exit(128 + number)


def end(code: int) -> NoReturn:
    """End this process when all is done, without the interpreter's own shutdown: a signal that comes then goes unsaid."""
    import atexit

    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind where something is being written; else leave: an exception amid an import or a shutdown may be lost or shown.

    A second signal does not wait for the first.
    """
    global _got
    again, _got = _got is not None, number
    files = sys.modules.get("offramp.files")
    if again or files is None or not files.unfinished():
        leave(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _unraisable(lost: UnraisableHookArgs) -> None:
    """Python shows exceptions that it cannot raise, in callbacks of its own, and goes on: no line of ours, and no reason to stop."""
    if _got is not None and issubclass(lost.exc_type, KeyboardInterrupt | SystemExit):
        leave(_got)
