"""Runs the embedded suite and the examples, and writes docs/results.md from what they leave. Finished runs are not repeated.

python examples/make_results.py [--runs runs/results] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from offramp.files import write_text
from offramp.report.loading import load_results
from offramp.report.terminal import markdown_table
from offramp.results import ExitControl, FeatureRow, Results
from offramp.suite import load_suite

HERE = Path(__file__).resolve().parent
READING = {
    "default": (
        "Simulated signals",
        "Two ID tasks, signal type and direction of arrival (as sector and in degrees), and four OOD tasks: other signals (`rml2016`), another question "
        "(`fingerprint`), both (`interference`, `beam`). `handmade` is what an engineer computes without any network. The study behind it: [study.md](study.md).",
    ),
    "lwm-deepmimo": (
        "LWM v1.0 on ray-traced channels of an unseen city",
        "The best beam is a function of the very channel that is the input: `dft_power`, a Fourier transform over the antennas, is "
        "the control that shows what such a label is worth. `power_only` is the one for line of sight. One city is the whole test "
        "set: intervals are over its windows and say nothing about a further city.",
    ),
    "rtl433": (
        "Families of 433 MHz devices, over the air",
        "Most families were recorded in one session, so that family and receiver noise go together. `family_from_noise_only` "
        "has the same labels on stretches without any transmission: whatever it scores is not about the devices.",
    ),
    "uwb": (
        "Ultra-wideband channel impulse responses in unseen geometries",
        "Each geometry has one class and one distance, and the responses are aligned to the first path. `power_only` shows what "
        "mere signal level gives, `constant` what no input at all gives.",
    ),
    "wiar": (
        "Wi-Fi CSI of sixteen activities",
        "The same task on an unseen setup and on unseen trials of known setups: the difference is what a new room costs. Within the "
        "one setup left for fitting, train and validation are divided by windows. `power_only` is amplitude without phase. "
        "The 90 `antennas` are subcarriers: `iq-resnet`, which averages over antennas, scores 4.0 and 13.5%.",
    ),
}


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--only", nargs="*", choices=list(READING), default=list(READING))
    arguments = parser.parse_args()
    parts = [
        "# Results\n",
        "Written by `make results`. Scores are means over five seeds on test groups that no seed saw; intervals are 95% and "
        "paired; a positive gain means that the chosen exit is better than the full encoder. `*` marks a gain that holds after "
        "Holm's correction across the run's tasks, `†` an interval over the windows of fewer than eight groups. How each number "
        "is made: [numbers.md](numbers.md).\n",
    ]
    for name in arguments.only:
        suite = None if name == "default" else HERE / f"{name}.yaml"
        missing = [
            str(task.data.path) for task in load_suite(suite).tasks if task.data.path and not task.data.path.exists()
        ]
        if missing:
            print(f"{name}: skipped, {missing[0]} is not there", file=sys.stderr)
            continue
        out = arguments.runs / name
        if not (out / "results.json").exists():
            command = [sys.executable, "-c", "from offramp.cli import main; main()", "run", "--out", str(out)]
            subprocess.run(command + ([str(suite)] if suite else []), check=True)
        parts.append(_section(name, load_results(out)))
    write_text(HERE.parent / "docs" / "results.md", "\n".join(parts))


def _section(name: str, results: Results) -> str:
    title, reading = READING[name]
    command = "offramp run" if name == "default" else f"offramp run examples/{name}.yaml"
    sentences = "\n".join(f"- **{task}**: {result.measured.sentence}" for task, result in results.tasks.items())
    return f"""## {title}

`{command}`, encoder {results.encoder.name}, {results.encoder.params:,} parameters. {reading}

{sentences}

{markdown_table(results)}

{_controls(results)}
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
