"""The command line: ``offramp COMMAND``. Every exit code is given here.

0 done, or nobody reads the output; 2 the user's input; 1 our fault; 128 + N stopped by signal N, so 130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from offramp.cli import stopping  # and no more, until it listens

PLACE = "free some space or choose another place"
NAME = "correct the name"
CORRECTABLE = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO), PLACE
    ),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR), NAME),
}
"""What the system refuses and the user can correct, and how."""
NO_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory")
"""What torch says where Python would raise MemoryError."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    stopping.listen()
    from offramp.cli.streams import open_streams, quieten_libraries

    open_streams()
    quieten_libraries()
    stopping.end(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Whatever the user can correct is one line on stderr."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except (Exception, SystemExit) as error:
        code = _code_of(error)
    # an exception that a signal raised may have been lost, or become another one
    number = stopping.stopped()
    return code if number is None else _stopped(number)


def _run(arguments: list[str]) -> int:
    import click

    from offramp.cli.app import app
    from offramp.errors import OfframpError

    try:
        code: int | None = app(args=arguments, prog_name="offramp", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        code = 0
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "offramp"
        raise OfframpError(f"{error.format_message().removesuffix('.')} (see '{command} --help')") from None
    except click.Abort as error:
        # click takes the end of any file for the end of the user's input
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        raise KeyboardInterrupt from None
    except SystemExit as leaving:
        # typer turns a closed pipe into exit code 1
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        raise
    if code == 128 + signal.SIGINT:
        # some versions of typer turn Ctrl-C into this code, others into click.Abort
        raise KeyboardInterrupt
    return code or 0


def _code_of(error: Exception | SystemExit) -> int:
    from offramp.cli.streams import drop_output
    from offramp.errors import OfframpError

    if stopping.stopped() is not None:
        return 1
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, OfframpError):
        return _complain(str(error))
    if isinstance(error, BrokenPipeError):
        drop_output()  # whoever read our output has closed it
        return 0
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in NO_MEMORY):
        return _complain(f"not enough memory ({error}): take a smaller --window, batch or file")
    if isinstance(error, OSError) and error.errno in CORRECTABLE:
        if error.filename is None:
            drop_output()
        where = "the output" if error.filename is None else error.filename
        return _complain(f"{where}: {os.strerror(error.errno)}; {CORRECTABLE[error.errno]}")
    return _our_fault()


def _complain(message: str) -> int:
    from offramp.cli.streams import say
    from offramp.errors import one_line

    say(f"offramp: {one_line(message)}")
    return 2


def _stopped(number: int) -> int:
    from offramp.cli.streams import say

    stopping.clean()
    say(f"offramp: {stopping.SAYS[number]}")
    return 128 + number


def _our_fault() -> int:
    import traceback

    from offramp.cli.streams import say

    say(traceback.format_exc().rstrip())
    say("offramp: this is a fault of offramp itself; please report the lines above")
    return 1
