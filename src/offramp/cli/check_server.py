"""The command that tests a server of the Open Inference Protocol: parse, call, print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from offramp.serving.conformance import CheckResult, Conformance

STYLES = {"pass": "green", "fail": "red", "not supported": "dim", "not run": "dim"}


def check_server(
    url: Annotated[str, typer.Argument(help="Where the server speaks HTTP, e.g. http://127.0.0.1:8000.")],
    grpc: Annotated[str, typer.Option(help="Where it speaks gRPC, e.g. 127.0.0.1:8001, or grpcs://HOST:PORT.")] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="Model to ask; may be repeated. All of the repository index if left out.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(help="Sent with every request, e.g. 'Authorization: Bearer KEY'; may be repeated."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds that each answer may take.")] = 10.0,
    unload: Annotated[
        bool, typer.Option("--unload", help="Unload and load each model too, which other clients notice.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test whether a server speaks the Open Inference Protocol.

    Any server of the protocol's version 2, such as KServe's, MLServer or Triton: health, metadata, answers in JSON, as bytes and over gRPC,
    mistakes, extensions. Exit code 2 if something fails that the protocol, or an extension that the server announces, demands.

    Example: offramp check-server http://127.0.0.1:8000 --grpc 127.0.0.1:8001
    """
    import os

    from offramp.cli.console import console
    from offramp.cli.progress import Steps
    from offramp.serving.conformance import check_server as checked
    from offramp.serving.conformance import header_of

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it logs of a failed connection is said in one line here
    headers = [header_of(text) for text in header or []]
    with Steps() as steps:
        found = checked(
            url,
            grpc,
            model or (),
            headers,
            timeout,
            disturb=unload,
            on_check=lambda done, total: steps("checking", done, total),
        )
    if json:
        import json as writer

        print(writer.dumps(found.to_dict(), indent=2))
    else:
        terminal = console()
        terminal.print(_table(found))
        for line in (found.sentence, *_failures(found)):
            terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    if not found.conforms:
        raise typer.Exit(2)


def _table(found: Conformance) -> Table:
    """Every check with its outcome and evidence; of failures also what they fail."""
    from rich.table import Table
    from rich.text import Text

    several = len(found.models) > 1
    table = Table("check", *(["model"] if several else []), "level", "outcome", "evidence")
    for result in found.results:
        style = STYLES[result.outcome] + (" bold" if result.counts and result.outcome == "fail" else "")
        cells = [result.check, *([result.model] if several else []), result.level, result.outcome, _evidence(result)]
        table.add_row(*(Text(cell) for cell in cells), style=style if result.outcome != "pass" else "")
    return table


def _failures(found: Conformance) -> list[str]:
    """Names of the checks that failed: in a line those that count, in another the others."""
    lines = []
    for counts, title in ((True, "failed, and count"), (False, "failed, and do not count")):
        names = dict.fromkeys(
            result.check for result in found.results if result.outcome == "fail" and result.counts == counts
        )
        if names:
            lines.append(f"{title}: {', '.join(names)}")
    return lines


def _evidence(result: CheckResult) -> str:
    return f"{result.evidence}\n({result.clause})" if result.outcome == "fail" else result.evidence
