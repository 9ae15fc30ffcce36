"""What all commands share: help in plain text (the example on a line of its own, every argument explained), and ``--import``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import click
from typer.core import TyperCommand, TyperGroup, TyperOption

from offramp.cli.imports import import_modules

EXAMPLE = "Example: "


class _PlainHelp(click.Command):
    """Takes what follows ``Example:`` out of the running text."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        prose, _, example = (self.help or "").partition(EXAMPLE)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(prose.strip())
            if example:
                formatter.write_paragraph()
                formatter.write(f"{'':{formatter.current_indent}}{EXAMPLE}{example.strip()}\n")


IMPORT_HELP = "Import a module of yours first, e.g. one that registers an encoder; may be repeated."


class Command(_PlainHelp, TyperCommand):
    """A command whose docstring ends with an example. It takes ``--import``, as the whole command line does in front of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            TyperOption(
                param_decls=["--import"],
                multiple=True,
                metavar="MODULE",
                help=IMPORT_HELP,
                expose_value=False,
                is_eager=True,
                callback=_import,
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            params = [param for param in self.get_params(ctx) if param.param_type_name == kind]
            if rows := [row for param in params if (row := _row(param, self, ctx))]:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Group(_PlainHelp, TyperGroup):
    """A group of commands whose help ends with an example."""


def _import(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> None:
    if not ctx.resilient_parsing:  # while the shell completes a line
        import_modules(list(names))


def _row(param: click.Parameter, command: click.Command, ctx: click.Context) -> tuple[str, str] | None:
    """Name and explanation. Some versions of typer and click lose an argument's, and escape brackets for another renderer."""
    row = param.get_help_record(ctx)
    if row is None:
        return None
    text = row[1].replace("\\[", "[")
    lost = "" if param.param_type_name == "option" else _explanation(command.callback, param.name)
    return row[0], text if lost in text else f"{lost}  {text}"


def _explanation(function: Callable[..., Any] | None, argument: str | None) -> str:
    hints = get_type_hints(function, include_extras=True) if function else {}
    annotated = getattr(hints.get(argument or ""), "__metadata__", ())
    return next((given.help for given in annotated if getattr(given, "help", None)), "")
