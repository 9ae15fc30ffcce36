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


class Scenario(StrEnum):
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
    scenario: Annotated[Scenario, typer.Option(help="What is simulated.")] = Scenario.signals,
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

    kind = ChannelSpec if scenario is Scenario.channels else SyntheticSpec
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


@data_app.command("convert", cls=Command)
def data_convert(
    file: Annotated[Path, typer.Argument(help="Data file or folder of any layout that inspect knows.")],
    out: Annotated[Path, typer.Option(help="The HDF5 cache to write.", dir_okay=False)],
    format: Annotated[str | None, typer.Option(help="Layout, where the file itself does not tell.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="Samples per window of recordings.")] = None,
    hop: Annotated[int | None, typer.Option(min=1, help="Samples from window to window; as long as a window.")] = None,
) -> None:
    """Turn any data file into one cache of ours.

    The cache has the windows as float32, all columns, class names, target and group. It may be larger than memory.

    Example: offramp data convert RML2016.10a_dict.pkl --out rml2016.h5
    """
    from offramp.cli.progress import Steps
    from offramp.data.conversion import convert

    with Steps() as steps:
        convert(file, out, format, window, hop, lambda done, total: steps("windows", done, total))
    print(out)
