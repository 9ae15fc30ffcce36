"""All commands: parse, call, print. Heavy imports stand inside the commands, so that ``offramp --help`` answers at once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offramp.cli.check_server import check_server
from offramp.cli.data import data_app
from offramp.cli.help import IMPORT_HELP, Command, Group
from offramp.cli.imports import import_modules
from offramp.cli.recalibrate import recalibrate
from offramp.cli.serve import serve
from offramp.cli.stream import stream
from offramp.cli.training import pretrain, train
from offramp.errors import SuiteError

if TYPE_CHECKING:
    from rich.console import Console

    from offramp.cli.inspection import Inspection
    from offramp.export.bench import Bench

app = typer.Typer(
    cls=Group,
    help="Early exits on frozen wireless foundation models. Example: offramp run --out runs/demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.add_typer(data_app, name="data")

Device = Annotated[str, typer.Option(help="Where the encoder runs, e.g. cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """Output formats of predict."""

    csv = "csv"
    jsonl = "jsonl"
    sigmf = "sigmf"


class BackendOption(StrEnum):
    """What runs the encoder."""

    torch = "torch"
    torch_compiled = "torch-compiled"
    onnxruntime = "onnxruntime"


class Exported(StrEnum):
    """What export writes."""

    task = "task"
    segments = "segments"
    branches = "branches"
    torch = "torch"


UNFIT = {
    Exported.task: ("ends at one exit, whatever the window", ["--policy"]),
    Exported.segments: ("writes all tasks with their policies, in float32", ["--task", "--policy", "--int8"]),
    Exported.branches: ("ends where the policy says, in float32", ["--exit", "--int8"]),
    Exported.torch: ("ends at one exit, whatever the window, in float32", ["--policy", "--int8"]),
}
"""What each export does, and the options that make no sense with it."""


class Schema(StrEnum):
    """Documents that have a JSON Schema."""

    suite = "suite"
    results = "results"


def _print_version(wanted: bool) -> None:
    if wanted:
        import offramp

        print(offramp.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    imports: Annotated[list[str] | None, typer.Option("--import", metavar="MODULE", help=IMPORT_HELP)] = None,
) -> None:
    import_modules(imports or [])


@app.command(cls=Command)
def run(
    suite: Annotated[Path | None, typer.Argument(help="Suite file; without one the embedded default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results, report and bundle.", file_okay=False)] = Path(
        "runs/latest"
    ),
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the splits; replaces the suite's.")] = None,
    device: Device = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show splits, disk and time; run nothing.")] = False,
    keep_features: Annotated[
        bool, typer.Option("--keep-features", help="Keep the features for another run into the same folder.")
    ] = False,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Point the bundle to the encoder's files instead of a copy.")
    ] = False,
) -> None:
    """Fit the tasks of a suite, pick their exits, report.

    Leaves results.json, report.html, bundle/ and splits/ in OUT. A run that was stopped goes on where it was.

    Example: offramp run examples/uwb.yaml --out runs/uwb
    """
    from offramp.cli.console import console
    from offramp.cli.progress import Steps
    from offramp.schema.suite import load_suite

    loaded = load_suite(suite).with_seed(seed)
    terminal = console()
    with Steps() as steps:
        if dry_run:
            from offramp.experiment.plan import plan_suite, plan_table

            terminal.print(plan_table(plan_suite(loaded, device)))
            return
        from offramp.experiment.pipeline import run_suite

        results = run_suite(loaded, out, device, keep_features, by_reference, steps)
    from offramp.report.terminal import results_table

    terminal.print(results_table(results))
    for name, task in results.tasks.items():
        _print(terminal, f"{name}: {task.measured.sentence or task.sentence}")
    _print(terminal, f"report: {out / 'report.html'}   bundle: {out / 'bundle'}")


@app.command(cls=Command)
def inspect(
    target: Annotated[str, typer.Argument(help="An encoder's name or folder, a bundle, or a data file or folder.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint of a named encoder.")] = None,
    shape: Annotated[str | None, typer.Option(help="Input shape to cost an encoder for, e.g. 2,4,256.")] = None,
    modality: Annotated[str | None, typer.Option(help="Which input of a checkpoint that knows iq and vision.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Layout of a data file, where the file itself does not tell.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what an encoder, a bundle or a data file holds.

    Exits and their costs; tasks and where they leave; shapes, classes with counts, groups.

    Example: offramp inspect iq-shufflenet --shape 2,1,128
    """
    from offramp.cli.advice import INSPECT, said_as_options
    from offramp.cli.inspection import inspect_target

    with said_as_options(INSPECT):
        inspection = inspect_target(target, checkpoint, shape, modality, format)
    _show(inspection, json)


@app.command(cls=Command)
def predict(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, or a folder of segments.")],
    file: Annotated[
        Path, typer.Argument(help="Data file, a folder of SigMF recordings, or a pattern in quotes for several.")
    ],
    task: Annotated[str | None, typer.Option(help="Task; may be left out where the bundle has one.")] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.csv,
    out: Annotated[Path | None, typer.Option(help="Output file (a folder for sigmf); else standard output.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy of the task that says where each window leaves; else its fixed exit.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="Array that holds the windows, where it is not called as in the training data.")
    ] = None,
    resample: Annotated[
        float | None, typer.Option(help="SigMF: sample rate in Hz that recordings of another are brought to.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Name recordings that cannot be used and pass them over.")
    ] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Read also what files name outside of their folder.")
    ] = False,
    device: Device = "cpu",
    backend: Annotated[
        BackendOption | None, typer.Option(help="What runs the encoder; else what the folder is made for.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that it computes with; else its own choice.")
    ] = None,
) -> None:
    """Predict one task for every window of a file.

    The columns are index, task, prediction, confidence and exit; and recording, sample and time where windows are cut from
    recordings. Confidence is empty for regression, prediction for windows that the policy rejects.

    Example: offramp predict runs/uwb/bundle new.h5 --task los --out predictions.csv
    """
    from offramp.cli.advice import PREDICT, said_as_options
    from offramp.cli.progress import Steps
    from offramp.runtime.files import Reading, Running, predict_file

    if resample is not None and not 0 < resample < float("inf"):
        raise SuiteError(f"--resample {resample:g}: give a sample rate in Hz")
    reading = Reading(input, resample, skip_bad, allow_outside)
    with Steps() as steps, said_as_options(PREDICT):
        runs = Running(device, backend.value if backend else None, threads)
        predict_file(bundle, file, task, format.value, out, runs, steps, policy, reading, steps.note)


@app.command(cls=Command)
def report(
    results: Annotated[list[Path], typer.Argument(help="Run folders or results.json files.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.", dir_okay=False)],
) -> None:
    """Put runs side by side in one HTML file.

    Example: offramp report runs/a runs/b --out comparison.html
    """
    from offramp.files import check_output, is_standard_output
    from offramp.report.html import PAGE, write_report
    from offramp.report.loading import load_results, results_file

    check_output(out, PAGE, map(results_file, results))
    write_report([(_run_name(path), load_results(path)) for path in results], out)
    if not is_standard_output(out):
        print(out)


app.command(cls=Command)(pretrain)
app.command(cls=Command)(train)
app.command(cls=Command)(recalibrate)
app.command(cls=Command)(serve)
app.command(cls=Command)(stream)
app.command(cls=Command)(check_server)


@app.command(cls=Command)
def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    task: Annotated[str | None, typer.Option(help="Task whose heads are included; the first if left out.")] = None,
    json: Json = False,
) -> None:
    """Measure the latency of every exit.

    In torch and ONNX Runtime, on one thread, at batch 1 and 64.

    Example: offramp bench runs/demo/bundle
    """
    from offramp.export.bench import bench_bundle

    _show(bench_bundle(bundle, task), json)


@app.command(cls=Command)
def export(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write; a .pt2 file for torch, a folder for segments.")],
    what: Annotated[
        Exported,
        typer.Option(
            help="One task as one graph, as one graph with branches or as a program of torch; or all tasks as segments."
        ),
    ] = Exported.task,
    task: Annotated[str | None, typer.Option(help="Task; may be left out where the bundle has one.")] = None,
    exit: Annotated[
        list[str] | None, typer.Option(help="Another exit than the chosen one; for segments further exits to cut at.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="For branches: policy of the task that says where the window leaves.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise weights and activations to 8 bits.")] = False,
) -> None:
    """Write one task as an ONNX file or a program of torch, or all tasks as segments.

    A task is a static graph of the encoder up to the exit, head and softmax; torch, the same for torch.export.load. Branches are one graph
    for one window, in which nothing runs behind the exit where the policy lets the window leave. Segments are the encoder cut at every exit
    in use, one file each, with heads and policies: what several tasks share, and what windows leave one by one. offramp predict runs them
    without torch. What is written is put in place only if it answers as the bundle does.

    Example: offramp export runs/demo/bundle --task modulation --out modulation.onnx
    """
    exits = exit or []
    given = {"--task": task is not None, "--policy": policy is not None, "--exit": bool(exits), "--int8": int8}
    does, unfit = UNFIT[what]
    for option in unfit:
        if given[option]:
            raise SuiteError(f"--what {what.value} {does}: leave out {option}")
    if what is Exported.segments:
        from offramp.cli.progress import Steps
        from offramp.export.segments import export_segments

        with Steps() as steps:
            print(export_segments(bundle, out, exits, steps).sentence)
        return
    if out.is_dir():
        raise SuiteError(f"{out} is a folder: give the file to write in --out, or --what segments")
    if what is Exported.branches:
        from offramp.export.branches import export_branches

        if policy is None:
            raise SuiteError("--what branches needs a --policy: offramp inspect BUNDLE lists those of the tasks")
        print(export_branches(bundle, task, policy, out).sentence)
        return
    if len(exits) > 1:
        raise SuiteError("--exit: one graph ends at one exit; give it once, or --what segments")
    end = exits[0] if exits else None
    if what is Exported.torch:
        from offramp.export.program import export_program

        print(export_program(bundle, task, out, end).sentence)
        return
    from offramp.export import export_onnx

    print(export_onnx(bundle, task, out, end, int8=int8).sentence)


@app.command(cls=Command)
def plan(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, or a folder of segments.")],
    slices: Annotated[Path, typer.Argument(help="YAML file with the service levels.")],
    arrivals: Annotated[
        str,
        typer.Option(help="poisson:RATE, requests a second in all, or a CSV with the columns seconds, slice, tasks."),
    ],
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long random requests come.")] = 30.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that the back end computes with.")] = None,
    seed: Annotated[int, typer.Option(help="Of random arrivals.")] = 0,
    json: Json = False,
) -> None:
    """Predict what an engine does under a load.

    The engine's own scheduler and admission are run on measured times: those stored beside segments, if they are of such a machine, or else
    measured now. Says each slice's p99, the least budget that can be met, and which slice degrades first.

    Example: offramp plan segments slices.yaml --arrivals poisson:500
    """
    from offramp.cli.arrivals import arrivals_of
    from offramp.runtime import load
    from offramp.runtime.engine import DEFAULT, load_slices
    from offramp.runtime.engine.plan import plan as planned

    levels = load_slices(slices)
    predictor = load(bundle, threads=threads)
    named = [name for name in levels if name != DEFAULT] or [DEFAULT]
    coming = arrivals_of(arrivals, seconds, named, list(predictor.bundle.tasks), seed)
    found = planned(predictor, levels, coming)
    if json:
        import json as writer

        print(writer.dumps(found.to_dict(), indent=2))
    else:
        print("\n".join(found.sentences))


@app.command(cls=Command)
def schema(name: Annotated[Schema, typer.Argument(help="Suite files, or results.json.")]) -> None:
    """Print the JSON Schema of a document.

    Example: offramp schema suite
    """
    import json

    if name is Schema.suite:
        from offramp.schema.suite import Suite as Model
    else:
        from offramp.schema.results import Results as Model  # type: ignore[assignment]
    print(json.dumps(Model.model_json_schema(), indent=2))


def _run_name(path: Path) -> str:
    folder = path.parent if path.name == "results.json" else path
    return folder.resolve().name


def _show(shown: Inspection | Bench, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(shown.to_dict(), indent=2))
    else:
        from offramp.cli.console import console

        console().print(shown.table())


def _print(terminal: Console, line: str) -> None:
    """A line of text: wrapped by the terminal, not by us."""
    terminal.print(line, markup=False, highlight=False, soft_wrap=True)
