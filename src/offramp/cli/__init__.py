"""The command line: ``offramp COMMAND``. Exit codes: 0 done, 2 the user's input, 1 our fault, 130 interrupted."""

from __future__ import annotations

import os
import sys

from offramp.errors import OfframpError


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Whatever the user can mend is one line on stderr."""
    import click

    from offramp.cli.app import app

    try:
        app(args=arguments, prog_name="offramp", standalone_mode=False)
    except OfframpError as error:
        return _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "offramp"
        return _complain(f"{error.format_message()} (see '{command} --help')")
    except (KeyboardInterrupt, click.Abort):
        print("offramp: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has closed it: leave quietly, also at interpreter shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        import traceback

        traceback.print_exc()
        print("offramp: this is a fault of offramp itself; please report the lines above", file=sys.stderr)
        return 1
    return 0


def _complain(message: str) -> int:
    print("offramp: " + " ".join(message.split()), file=sys.stderr)
    return 2
