"""Runs the embedded suite and the examples, and writes docs/results.md and README's table from what they leave. Finished runs are not repeated.

python examples/make_results.py [--runs runs/results] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from make_readme import write_readme

from offramp.costs import exit_costs
from offramp.encoders.registry import load_encoder, packaged_weights
from offramp.files import write_text
from offramp.report.loading import load_results
from offramp.report.numbers import format_percent, format_score
from offramp.report.terminal import markdown_table
from offramp.schema.results import ExitControl, FeatureRow, Results
from offramp.schema.suite import load_suite

HERE = Path(__file__).resolve().parent
EARLIER = HERE / "earlier_results.json"
"""What this page said of each task before heads saw more than the mean of a stage."""
SAME = "The same tasks with another encoder."
READING = {
    "rtl433-amc-ssl": (
        "Families of 433 MHz devices, over the air: amc-ssl, contrastive weights of other makers",
        "Nobody of this project trained the encoder: simulated signals of RadioML, one antenna, no labels. Most families were recorded in one session, so that family and receiver "
        "noise go together. `family_from_noise_only` has the same labels on stretches without any transmission: whatever it scores is not about the devices.",
    ),
    "uwb-amc-ssl": (
        "Ultra-wideband channel impulse responses in unseen geometries: amc-ssl",
        "The same weights. Each geometry has one class and one distance, and the responses are aligned to the first path. `power_only` shows what "
        "mere signal level gives, `constant` what no input at all gives.",
    ),
    "embedded-amc-ssl": (
        "Two tasks of the embedded suite: amc-ssl",
        "The same weights, on simulated signals of ours; the section below has them with our own encoder.",
    ),
    "default": (
        "Simulated signals",
        "Two ID tasks, signal type and direction of arrival (as sector and in degrees), and four OOD tasks: other signals (`rml2016`), another question "
        "(`fingerprint`), both (`interference`, `beam`). `handmade` is what an engineer computes without any network. The study behind it: [study.md](study.md).",
    ),
    "lwm-deepmimo": (
        "LWM v1.0 on ray-traced channels of unseen cities",
        "Each city in turn is the whole test set, so that intervals are over squares of 20 m in it and say nothing about a further city. `degraded` inputs are 8 of 32 antennas "
        "at an SNR of 5 dB: the best beam is a function of the full channel, so that it is asked for from something harder. `power_only` is what a power threshold gives, `dft_power` "
        "a Fourier transform over the antennas; both see what the encoder sees.",
    ),
    "channel-transformer-deepmimo": (
        "channel-transformer on the same channels",
        SAME + " It was pretrained on stochastic channels alone (3GPP TR 38.901).",
    ),
    "rtl433": (
        "433 MHz devices: iq-resnet",
        SAME,
    ),
    "rtl433-wavesfm-iq": ("433 MHz devices: WavesFM micro, I/Q", SAME),
    "rtl433-wavesfm-vision": (
        "433 MHz devices: WavesFM micro, spectrograms",
        SAME + " It sees spectrograms of 64 x 64.",
    ),
    "rtl433-vit": (
        "433 MHz devices: a Hugging Face ViT, spectrograms",
        SAME + " A ViT made from a configuration and pretrained on spectrograms of simulated signals by this script.",
    ),
    "uwb": (
        "Ultra-wideband: iq-resnet",
        SAME,
    ),
    "uwb-wavesfm": ("Ultra-wideband: WavesFM micro, I/Q", SAME),
    "wiar": (
        "Wi-Fi CSI of sixteen activities: iq-shufflenet",
        "The same task on an unseen setup and on unseen trials of known setups: the difference is what a new room costs. Within the "
        "one setup left for fitting, train and validation are divided by windows. `power_only` is amplitude without phase. "
        "The 90 `antennas` are subcarriers.",
    ),
    "wiar-resnet": (
        "Wi-Fi CSI: iq-resnet",
        SAME + " It averages over antennas, here subcarriers, after its second exit.",
    ),
    "channels": (
        "Channels over time: the next slots, the beam, the position",
        "Simulated (3GPP TR 38.901), 3 to 120 km/h, 16 past slots at 0 to 25 dB; drops never cross from one split to another. Beams, of the fourth slot to come, are asked "
        "for from 4 of 16 antennas. `beam_gains` chooses by regression of all beams' gains and is scored by the spectral efficiency of its choice over that of the best beam; "
        "`precoding` by that of maximum-ratio transmission on the predicted channel over that on the true one. Positions are in metres.",
    ),
    "channels-beside": (
        "Channels over time, with the linear predictor beside every tap",
        "The per-position tasks again. `input` is the linear predictor's own answer, refined by a linear head: an exit before the encoder. `tap_alone` has the heads of the section before.",
    ),
}
IMPORTS = {"channels-beside": "predictors.beside"}
"""Modules of this folder whose functions a suite names."""
ENCODERS = {
    "iq-resnet": (2, 4, 256),
    "iq-resnet-small": (2, 4, 256),
    "iq-resnet-base": (2, 4, 256),
    "amc-ssl": (2, 1, 1024),
    "iq-shufflenet": (2, 4, 256),
    "wavesfm-micro-iq": (2, 4, 256),
    "wavesfm-micro-vision": (1, 64, 64),
    "channel-transformer": (2, 16, 16, 32),
    "lwm": (2, 32, 32),
    "lwm-1.1": (2, 32, 32),
}
"""Encoders and input shapes of the table of costs."""


def make_vit(runs: Path) -> None:
    """A Vision Transformer from a configuration, and its pretraining on spectrograms of simulated signals: about ten minutes."""
    from transformers import ViTConfig, ViTModel

    from offramp.encoders import from_module

    if (runs / "vit" / "encoder" / "config.json").exists():
        return
    start = runs / "vit" / "start"
    if not (start / "config.json").exists():
        config = ViTConfig(
            hidden_size=96,
            num_hidden_layers=6,
            num_attention_heads=6,
            intermediate_size=384,
            image_size=64,
            patch_size=16,
            num_channels=1,
        )
        from_module(ViTModel(config, add_pooling_layer=False), pooling="mean").save(start)
    offramp(
        "pretrain",
        "--encoder",
        start,
        "--out",
        runs / "vit",
        "--steps",
        VIT_STEPS,
        "--batch",
        "128",
        "--learning-rate",
        "1e-3",
    )


def make_channels(runs: Path) -> None:
    """The channels of ``channels.yaml``."""
    for name, options in (
        ("channels.h5", ("--windows", "6000")),
        ("channels-umi.h5", ("--windows", "4000", "--model", "umi-nlos", "--model", "umi-los")),
    ):
        if not (runs / name).exists():
            offramp("data", "make", "--scenario", "channels", *options, "--out", runs / name)


VIT_STEPS = "1000"
PRACTICE = "Against the field's own practice"
BEFORE = {"rtl433-vit": make_vit, "channels": make_channels, "channels-beside": make_channels}
"""What a suite needs that does not ship."""


def offramp(*words: object) -> None:
    """Run a command of Offramp; ``--import`` finds the modules of this folder."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); from offramp.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True)


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(READING),
        default=list(READING),
        help="the sections of others stay as they are",
    )
    arguments = parser.parse_args()
    page = HERE.parent / "docs" / "results.md"
    known = sections(page.read_text(encoding="utf-8")) if page.exists() else {}
    parts = [
        "# Results\n",
        "Written by `make results`. Scores are means over the suite's seeds, five or three, on test groups that no seed saw; intervals are 95% and "
        "paired; a positive gain means that the chosen exit is better than the full encoder. `*` marks a gain that holds after "
        "Holm's correction across the run's tasks, `†` an interval over blocks or windows of fewer than eight groups, `§` a task that counts for no claim. "
        "A saving is confirmed where the test interval stays above minus the tolerance of the suite. How each number "
        "is made: [numbers.md](numbers.md).\n",
    ]
    for name, (title, _) in READING.items():
        if name not in arguments.only:
            parts += [known[title]] if title in known else []
            continue
        suite = None if name == "default" else HERE / f"{name}.yaml"
        if name in BEFORE:
            BEFORE[name](arguments.runs)
        missing = [
            str(task.data.path) for task in load_suite(suite).tasks if task.data.path and not task.data.path.exists()
        ]
        if missing:
            print(f"{name}: skipped, {missing[0]} is not there", file=sys.stderr)
            parts += [known[title]] if title in known else []
            continue
        out = arguments.runs / name
        if not (out / "results.json").exists():
            imported = ("--import", IMPORTS[name]) if name in IMPORTS else ()
            offramp("run", "--out", out, *([suite] if suite else []), *imported)
        parts.append(_section(name, load_results(out)))
        if name == "channels":
            parts.append(_prediction(out))
    everything = len(arguments.only) == len(READING)
    parts += [_costs(), _practice(arguments.runs) if everything or PRACTICE not in known else known[PRACTICE]]
    write_text(page, "\n".join(parts))
    if "default" in arguments.only:
        write_readme(load_results(arguments.runs / "default"), HERE.parent / "README.md")


def sections(page: str) -> dict[str, str]:
    """The sections of the page by title, as they stand."""
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in page.split("\n## ")[1:]}


def _section(name: str, results: Results) -> str:
    title, reading = READING[name]
    command = "offramp run" if name == "default" else f"offramp run examples/{name}.yaml"
    sentences = "\n".join(f"- **{task}**: {result.measured.sentence}" for task, result in results.tasks.items())
    return f"""## {title}

`{command}`, encoder {results.encoder.name}, {results.encoder.params:,} parameters. {reading}

{sentences}

{markdown_table(results)}

{_controls(results)}

{earlier_table(name, results)}
"""


def earlier_table(name: str, results: Results) -> str:
    """The same tasks as they stood before heads saw more than a mean, beside where they leave now."""
    before = json.loads(EARLIER.read_text()).get(name, {})
    rows = [
        f"| {task} | {old['leave_at']}, {old['macs_saved']} | {old['score']} | {result.chosen.exit}, "
        f"{format_percent(result.chosen.macs_saved_fraction)} | {format_score(result.chosen.test.mean, result.metric)} |"
        for task, result in results.tasks.items()
        if (old := before.get(task))
    ]
    if not rows:
        return ""
    return "\n".join(
        [
            "Before, with heads on the mean of a stage alone and exits tested one after the other:\n",
            "| task | left at, MACs saved | score | leaves now at | score now |",
            "|---|---|---:|---|---:|",
            *rows,
        ]
    )


def _prediction(run: Path) -> str:
    """Channel prediction by speed and exit."""
    table = run.parent / "channel_prediction.json"
    if not table.exists():
        picture = HERE.parent / "docs" / "figures" / "channel-prediction.svg"
        subprocess.run([sys.executable, HERE / "channel_prediction.py", run, table, picture], check=True)
    found = json.loads(table.read_text())
    edges = [f"{edge:g}" for edge in found["speeds_kmh"]]
    classes = [f"{low} to {high}" for low, high in pairwise(edges)]
    lines = [
        "### Channel prediction by speed and by exit\n",
        "`python examples/channel_prediction.py`: NMSE in dB of the four slots to come, by speed in km/h, and the spectral efficiency in bit/s/Hz of maximum-ratio transmission on the "
        f"prediction at {found['snr_db']:g} dB (the genie, on the true channel: {np.average(found['genie'], weights=found['predictors'][0]['windows']):.2f}). Simple predictors know the SNR "
        "(Wiener), or also the class of speed; linear prediction and the exits know neither. Time: one window, one thread.\n",
        "![NMSE by speed](figures/channel-prediction.svg)\n",
        "| predictor | MACs | ms | " + " | ".join(classes) + " | all | bit/s/Hz |",
        "|---|---:|---:|" + "---:|" * (len(classes) + 2),
    ]
    for row in found["predictors"]:
        macs = "" if row["macs"] is None else f"{row['macs']:,}"
        scores = [f"{score:.1f}" for score in (*row["nmse_db"], row["nmse_db_overall"])]
        lines.append(
            f"| {row['name']} | {macs} | {row['milliseconds']:.2f} | {' | '.join(scores)} | {row['efficiency_overall']:.2f} |"
        )
    return "\n".join([*lines, "", _hypotheses(found["predictors"], load_results(run))]) + "\n"


def _hypotheses(predictors: list[dict[str, Any]], results: Results) -> str:
    """The literature's "more than 40% better prediction, 35% better beam selection" against what was measured."""
    error = {row["name"]: 10 ** (row["nmse_db_overall"] / 10) for row in predictors}
    deepest = [name for name in error if name.startswith("block")][-1]
    lower = [
        f"{1 - error[deepest] / error[name]:.0%} against {name}"
        for name in error
        if name not in (deepest, "embedding") and not name.startswith("block")
    ]
    beams = results.tasks["best_beam"]
    simple = {name: row.test.mean for name, row in beams.controls.items() if isinstance(row, FeatureRow)}
    best = max(simple, key=lambda name: simple[name])
    return (
        "The literature's hypotheses, more than 40% better prediction and 35% better beam selection, depend on what one compares with. The last exit lowers the squared error by "
        f"{', '.join(lower)} (below zero: the simple predictor is better). Beam selection from 4 of 16 antennas: {beams.chosen.test.mean:.1%} against {simple[best]:.1%} of {best}."
    )


def _costs() -> str:
    """MACs and time of every exit of every encoder."""
    lines = [
        "## What every exit costs\n",
        "Encoder alone, one window, one thread. The MACs equal formulas written by hand, exactly: `tests/encoders`.\n",
        "| encoder | input | exits, from shallow to deep: MACs in millions (ms) |",
        "|---|---|---|",
    ]
    for name, shape in ENCODERS.items():
        encoder = load_encoder(name, weights="pretrained" if packaged_weights(name) else "random").eval()
        costs = exit_costs(encoder, shape, seconds=0.3).values()
        cells = [
            f"{cost.exit} {cost.macs / 1e6:.2f} ({cost.latency_ms.p50:.2f})"
            for cost in costs
            if cost.latency_ms is not None
        ]
        lines.append(f"| {name} | {shape} | {', '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _practice(runs: Path) -> str:
    """The benchmark against the field's practice."""
    stored = runs / "probing_practice.json"
    if not stored.exists():
        script = HERE.parent / "benchmarks" / "probing_practice.py"
        printed = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout
        write_text(stored, printed.splitlines()[-1] + "\n")
    found = json.loads(stored.read_text())
    names = {
        "practice": "practice: its best epoch",
        "practice_last_epoch": "practice: its last epoch",
        "ours": "ours: the exit chosen on validation",
    }
    rows = "\n".join(
        f"| {names[name]} | {row['reported']:.1f}% | {row['untouched']:.1f}% | {row['optimism_points']:+.2f} {row['ci95']} |"
        for name, row in found["optimism"].items()
        if name in names
    )
    speedup, seconds = found["speedup"], found["seconds_practice"]
    return f"""## {PRACTICE}

`python benchmarks/probing_practice.py --measured-epochs {found["measured_epochs"]} --draws {found["optimism"]["draws"]}`: a linear probe of the last exit, trained in a loop of {found["epochs"]} epochs that runs the frozen encoder
again in every epoch and reports its best epoch on the split that it reports; against one pass and heads of all {found["exits"]} exits, {found["seeds"]} seeds and {found["strengths"]} strengths
together. Same encoder ({found["encoder"]}), data ({found["windows"]:,} simulated windows, {found["classes"]} signal types), labels and split; {found["clock"]}; {found["measured_epochs"]} of the
epochs were timed.

Time to result: {seconds["frozen"]:.0f} s against {found["seconds_ours"]:.1f} s, of which {found["of_which_encoding"]:.1f} s are the pass: {speedup["frozen"]:.1f} times as fast, below the target of
{found["target_speedup"]}: most of our time is the heads. The published script's `--strict-probe` also trains the CLS token and so differentiates the whole encoder in every step:
{seconds["strict_probe"]:.0f} s, {speedup["strict_probe"]:.1f} times. How optimistic the reported score is, over {found["optimism"]["draws"]} draws, in points against
{found["optimism"]["untouched_windows"]:,} windows that nobody saw:

| | reported | untouched | optimism [95%] |
|---|---:|---:|---:|
{rows}
"""


def _controls(results: Results) -> str:
    """Every control's test score; for controls with exits, that of the exit which validation picked."""
    names = list(dict.fromkeys(name for task in results.tasks.values() for name in task.controls))
    lines = ["| task | metric | chosen | full | " + " | ".join(names) + " |", "|---" * (len(names) + 4) + "|"]
    for task, result in results.tasks.items():
        cells = [task, result.metric, f"{result.chosen.test.mean:.3g}", f"{result.full.test.mean:.3g}"]
        for name in names:
            control = result.controls.get(name)
            if isinstance(control, ExitControl):
                cells.append(f"{control.chosen.test.mean:.3g} at {control.chosen.exit}")
            else:
                cells.append(f"{control.test.mean:.3g}" if isinstance(control, FeatureRow) else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
