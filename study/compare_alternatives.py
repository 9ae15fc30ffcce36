"""Compares the exits of a finished run with what a user would do instead: int8, pruning, distillation. For docs/alternatives.md.

python study/compare_alternatives.py SUITE.yaml --out FOLDER_OF_ITS_RUN [--task T] [--method int8]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from offramp.errors import OfframpError


def alternatives(
    suite: Annotated[Path | None, typer.Argument(help="Suite file of the run; without one the default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the finished run.", file_okay=False)] = Path("runs/latest"),
    task: Annotated[list[str] | None, typer.Option(help="A task; may be repeated; else all.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="int8, pruned or distilled; may be repeated; else all.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Most epochs of pruned and distilled networks.")] = 20,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
) -> None:
    """Compare the exits of a finished run with quantisation, pruning and distillation at matched time.

    Each alone and on top of the chosen exit, in ONNX Runtime on one thread. Leaves alternatives.json and alternatives.svg in OUT.

    Example: python study/compare_alternatives.py examples/uwb.yaml --out runs/uwb --task los
    """
    from alternatives.comparison import compare_alternatives
    from alternatives.networks import METHODS
    from alternatives.presentation import draw_alternatives, table
    from alternatives.presentation import markdown as as_markdown
    from rich.console import Console

    from offramp.cli.progress import Steps
    from offramp.files import write_text
    from offramp.schema.suite import load_suite

    with Steps() as steps:
        compared = compare_alternatives(load_suite(suite), out, task or (), method or METHODS, epochs, steps)
    draw_alternatives(compared, out / "alternatives.svg")
    write_text(out / "alternatives.json", compared.model_dump_json(indent=1, by_alias=True) + "\n")
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=120)
    for name, each in compared.tasks.items():
        if markdown:
            print(as_markdown(each))
        else:
            console.print(table(name, each))
        for line in [*each.notes, each.sentence]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    print(out / "alternatives.json")


if __name__ == "__main__":
    try:
        typer.run(alternatives)
    except OfframpError as error:
        raise SystemExit(f"{error}") from None
