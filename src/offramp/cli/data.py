"""Commands that make and convert data files: parse, call, print."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offramp.cli.help import Command, Group

data_app = typer.Typer(
    cls=Group,
    help="Make and convert data files. Example: offramp data make --out simulated.h5",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class ScenarioName(StrEnum):
    """What data make can simulate."""

    signals = "signals"
    directions = "directions"
    rml2016 = "rml2016"
    fingerprint = "fingerprint"
    interference = "interference"
    beam = "beam"
    channels = "channels"


@data_app.command("make", cls=Command)
def data_make(
    out: Annotated[Path, typer.Option(help="The HDF5 file to write.", dir_okay=False)],
    scenario: Annotated[ScenarioName, typer.Option(help="What is simulated.")] = ScenarioName.signals,
    windows: Annotated[int | None, typer.Option(min=1, help="Number of windows; 6,000, or 4,000 channels.")] = None,
    antennas: Annotated[
        int | None,
        typer.Option(min=1, help="Antennas of the array; 4, or 1 where the scenario has one, or 16 for channels."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=64, help="Samples per window of a signal; 256.")] = None,
    snr_low: Annotated[float | None, typer.Option(help="Lowest SNR in dB; -6, or 0 for channels.")] = None,
    snr_high: Annotated[float | None, typer.Option(help="Highest SNR in dB; 18, or 25 for channels.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="channels: a model of TR 38.901, e.g. cdl-a or umi-los; may be repeated; else all."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    no_mismatch: Annotated[
        bool, typer.Option("--no-mismatch", help="fingerprint, beam: make all radios alike, a control at chance.")
    ] = False,
) -> None:
    """Write simulated windows with all that a scenario knows about them.

    Signal types, directions, modulations in the style of RML2016, transmitters, interferers, beams, or channels over time
    (extra sim).

    Example: offramp data make --out radios.h5 --scenario fingerprint --antennas 1 --samples 512
    """
    from pydantic import ValidationError

    from offramp.cli.progress import Steps
    from offramp.data.cache import write_cache
    from offramp.data.simulated import read_synthetic, write_channels
    from offramp.errors import SuiteError
    from offramp.schema.suite import explain
    from offramp.schema.tasks import ONE_ANTENNA, ChannelSpec, SyntheticSpec

    kind = ChannelSpec if scenario is ScenarioName.channels else SyntheticSpec
    low, high = kind.model_fields["snr_db"].default
    asked = {
        "windows": windows,
        "antennas": antennas or (1 if scenario in ONE_ANTENNA else None),
        "samples": samples,
        "models": model,
        "mismatch": False if no_mismatch else None,
    }
    settings = {name: value for name, value in asked.items() if value is not None}
    snr = (low if snr_low is None else snr_low, high if snr_high is None else snr_high)
    try:
        spec = kind(scenario=scenario.value, snr_db=snr, seed=seed, **settings)
    except ValidationError as error:
        raise SuiteError(explain(error, kind)) from None
    with Steps() as steps:

        def on_progress(done: int, total: int) -> None:
            steps("windows", done, total)

        if isinstance(spec, ChannelSpec):
            write_channels(spec, out, on_progress)
        else:
            write_cache(read_synthetic(spec), out, on_progress)
    print(out)


class Cut(StrEnum):
    """Where windows of SigMF recordings come from."""

    auto = "auto"
    annotations = "annotations"
    unannotated = "unannotated"
    all = "all"


class LabelOrigin(StrEnum):
    """What names the label of a SigMF recording."""

    folder = "folder"
    file = "file"


@data_app.command("convert", cls=Command)
def data_convert(
    file: Annotated[Path, typer.Argument(help="Data file or folder of any layout that inspect knows, or a pattern.")],
    out: Annotated[Path, typer.Option(help="The HDF5 cache to write.", dir_okay=False)],
    format: Annotated[str | None, typer.Option(help="Layout, where the file itself does not tell.")] = None,
    input: Annotated[str | None, typer.Option(help="Array that holds the windows; the layout's own.")] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict if a suite names none.")] = None,
    group: Annotated[str | None, typer.Option(help="Column that groups windows if a suite names none.")] = None,
    snr: Annotated[str | None, typer.Option(help="Column with the SNR, which must be there.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Name of the class 0, 1, ... of the target; repeated for each.")
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Samples per window of recordings.")] = None,
    hop: Annotated[int | None, typer.Option(min=1, help="Samples from window to window; as long as a window.")] = None,
    cut: Annotated[
        Cut, typer.Option(help="SigMF: where windows come from; auto is annotations, or all where there are none.")
    ] = Cut.auto,
    windows_per_recording: Annotated[
        int | None, typer.Option(min=1, help="At most so many windows of a recording, spread evenly.")
    ] = None,
    resample: Annotated[
        float | None, typer.Option(help="SigMF: sample rate in Hz that all recordings are brought to.")
    ] = None,
    label_from: Annotated[
        LabelOrigin | None, typer.Option(help="SigMF: what names the label in place of annotations.")
    ] = None,
    label_pattern: Annotated[
        str | None, typer.Option(help="Regular expression whose one group is the label in that name.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Name unusable files and pass them over.")] = False,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="Read also what files name outside of their folder.")
    ] = False,
) -> None:
    """Turn any data file into one cache of ours.

    The cache has the windows as float32, all columns, class names, target and group. It may be larger than memory. The options
    are the keys that a suite has under data.

    Example: offramp data convert RML2016.10a_dict.pkl --out rml2016.h5
    """
    from pydantic import ValidationError

    from offramp.cli.advice import CONVERT, said_as_options
    from offramp.cli.progress import Steps
    from offramp.data.conversion import convert
    from offramp.errors import SuiteError
    from offramp.schema.suite import explain
    from offramp.schema.tasks import DataSpec

    if label_pattern is not None and label_from is None:
        raise SuiteError("--label-pattern needs --label-from folder or --label-from file")
    label = None if label_from is None else {"from": label_from.value, "pattern": label_pattern}
    try:
        spec = DataSpec(
            path=file,
            format=format,
            input=input,
            target=target,
            group=group,
            snr=snr,
            labels=tuple(labels) if labels else None,
            window=window,
            hop=hop,
            cut=cut.value,
            windows_per_recording=windows_per_recording,
            resample=resample,
            label=label,
            skip_bad=skip_bad,
            allow_outside=allow_outside,
        )
    except ValidationError as error:
        key, _, reason = explain(error, DataSpec).partition(": ")
        raise SuiteError(f"{CONVERT.get(key, key)}: {reason}") from None
    with Steps() as steps, said_as_options(CONVERT):
        convert(spec, out, lambda done, total: steps("windows", done, total), steps.note)
    print(out)
