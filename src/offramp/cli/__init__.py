"""The command line: ``offramp COMMAND``. Exit codes: 0 done, 2 the user's input, 1 our fault, 130 interrupted."""

from __future__ import annotations

import errno
import os
import sys

from offramp.errors import OfframpError

INTERRUPTED = 130
MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
"""What the system refuses and the user can mend."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Whatever the user can mend is one line on stderr."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("offramp: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # whoever read our output has closed it
        return 0
    except OSError as error:
        if error.errno not in MENDABLE:
            return _our_fault()
        if error.filename is None:
            _drop_output()
        where = "the output" if error.filename is None else error.filename
        return _complain(f"{where}: {os.strerror(error.errno or 0)}; free some space or choose another place")
    except Exception:
        return _our_fault()
    return code


def _run(arguments: list[str]) -> int:
    import click

    from offramp.cli.app import app

    try:
        code: int | None = app(args=arguments, prog_name="offramp", standalone_mode=False)
    except OfframpError as error:
        return _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        code = 0
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "offramp"
        return _complain(f"{error.format_message().removesuffix('.')} (see '{command} --help')")
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
    if code == INTERRUPTED:
        # some versions of typer turn Ctrl-C into this code, others into click.Abort
        raise KeyboardInterrupt
    return code or 0


def _complain(message: str) -> int:
    print("offramp: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _our_fault() -> int:
    import traceback

    traceback.print_exc()
    print("offramp: this is a fault of offramp itself; please report the lines above", file=sys.stderr)
    return 1


def _drop_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain when it shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
