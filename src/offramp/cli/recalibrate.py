"""``offramp recalibrate``: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from offramp.runtime.recalibration import Recalibration

OPTIONS = {
    "path": "LABELLED",
    "input": "--input",
    "target": "--target",
    "group": "--group",
    "resample": "--resample",
    "skip_bad": "--skip-bad",
    "format": "its suffix",
    "allow_outside": "--allow-outside",
}
"""Keys of ``data:`` that a message of ``recalibrate`` may name."""


def recalibrate(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, or a folder of segments.")],
    labelled: Annotated[
        Path, typer.Argument(help="Data file with labels and recordings; a folder or a pattern in quotes for several.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; there must be none.", file_okay=False)],
    task: Annotated[str | None, typer.Option(help="Task; may be left out where the bundle has one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds of recordings that judge what is fitted.")] = 0,
    target: Annotated[
        str | None, typer.Option(help="Column with the labels, where it is not called as in the training data.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column that tells recordings apart, where it is not called as there.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="Array that holds the windows, where it is not called as there.")
    ] = None,
    resample: Annotated[
        float | None, typer.Option(min=1e-9, help="SigMF: sample rate in Hz that recordings of another are brought to.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Name recordings that cannot be used and pass them over.")
    ] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Read also what files name outside of their folder.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit confidence and policies of a task anew to labelled traffic.

    Temperatures, thresholds and learned criteria are fitted anew; heads, exits and encoder stay. A guarantee is certified anew on the
    recordings of the file, or withdrawn with its policy. Writes a new bundle and says what changed.

    Example: offramp recalibrate runs/uwb/bundle june.h5 --task los --out runs/uwb/june
    """
    from offramp.cli.advice import said_as_options
    from offramp.cli.progress import Steps
    from offramp.runtime.files import LabelledReading
    from offramp.runtime.recalibration import recalibrate as start

    reading = LabelledReading(input, resample, skip_bad, allow_outside, target, group)
    with Steps() as steps, said_as_options(OPTIONS):
        found = start(bundle, labelled, out, task, seed, reading, on_step=steps, on_note=steps.note)
    if json:
        import json as writer

        print(writer.dumps(found.to_dict(), indent=2))
        return
    from offramp.cli.console import console

    terminal = console()
    for part in shown(found):
        terminal.print(part)
    terminal.print(str(found.out), markup=False, highlight=False, soft_wrap=True)


def shown(found: Recalibration) -> list[RenderableType]:
    """For the terminal."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    of = f"{found.groups:,} recordings" if found.grouped else "no recordings told apart: every window counts for itself"
    parts: list[RenderableType] = [Text(f"task {found.task}: {found.windows:,} labelled windows of {of}")]
    if found.exits:
        exits = Table()
        for column in ("exit", "temperature", "negative log-likelihood*", "calibration error*"):
            exits.add_column(column, justify="left" if column == "exit" else "right")
        for each in found.exits:
            mark = " (leaves here)" if each.exit == found.exit else ""
            moved = "kept" if each.kept else f"-> {each.after:.3g}"
            exits.add_row(
                escape(each.exit + mark),
                f"{each.before:.3g} {moved}",
                f"{each.nll_before:.3g} -> {each.nll_after:.3g}",
                f"{each.ece_before:.3f} -> {each.ece_after:.3f}",
            )
        parts += [exits]
    if found.policies:
        policies = Table()
        for column in ("policy", "outcome", "thresholds", "leave at", f"{found.metric}*", "cost"):
            policies.add_column(column, overflow="fold")
        for change in found.policies:
            policies.add_row(*(escape(cell) for cell in change.cells))
        parts += [policies]
    parts += [
        Text("* of what was fitted anew, on recordings left out: each fifth of them is judged by what the others give")
    ]
    parts += [Text(change.sentence) for change in found.policies if change.outcome in ("renewed", "withdrawn")]
    return parts
