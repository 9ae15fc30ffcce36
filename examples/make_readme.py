"""Writes README's table and the sentences below it from one run of the embedded suite, so that no number stands there that no run gave.

python examples/make_readme.py [RUN] [--readme README.md]

``make results`` does it too, from the run that docs/results.md is written from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from offramp.errors import OfframpError
from offramp.files import write_text
from offramp.report.loading import load_results
from offramp.report.numbers import format_gain, format_percent, format_score, metric_label, time_saved
from offramp.report.policies.text import VerdictCounts
from offramp.report.summary import BEATS_MARK, NO_CLAIM_MARK, summary_notes, summary_sentence
from offramp.schema.results import ExitControl, FeatureRow, Results, TaskResult

ROOT = Path(__file__).resolve().parent.parent
RUN = Path("runs/results/default")
PART = "embedded suite"
BY_HAND = "handmade"
HEADER = (
    "task", "shift", "leave at", "MACs saved", "on test", "time saved", "score", "full encoder", "gain [95%]",
    "best on validation", "random weights", "by hand",
)  # fmt: skip


def main() -> None:
    """Write the part of README between its two marks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=RUN, help="results.json or the folder of a finished run")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    arguments = parser.parse_args()
    write_readme(load_results(arguments.run), arguments.readme)


def write_readme(results: Results, readme: Path) -> None:
    """Replace the table of the embedded suite; see :func:`replace_part`."""
    replace_part(readme, PART, section(results))


def write_policies(counts: VerdictCounts, readme: Path) -> None:
    """Replace the table of fixed exits against policies; see :func:`replace_part`."""
    rows = (
        ("the MACs of each task's fixed exit", counts.tasks),
        (f"all {counts.budgets.total:,} budgets of MACs", counts.budgets),
        ("the measured time of each task's fixed exit", counts.timed),
    )
    lines = [
        f"How often each way wins on {counts.tasks.total:,} tasks (a 95% interval clear of zero; `python examples/make_policies.py`,",
        "[docs/policy_results.md](docs/policy_results.md)):\n",
        "| compared at | one fixed exit wins | routing wins | neither |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {tally.fixed:,} | {tally.routing:,} | {tally.neither:,} |" for name, tally in rows),
    ]
    replace_part(readme, "policies", "\n".join(lines))


def replace_part(page: Path, part: str, content: str) -> None:
    """Replace what stands between the marks of a part in a page.

    Raises:
        OfframpError: It has no such marks.
    """
    text, begin, end = page.read_text(encoding="utf-8"), f"<!-- {part} -->", f"<!-- /{part} -->"
    if begin not in text or end not in text.split(begin, 1)[1]:
        raise OfframpError(f"{page} has no {begin} with {end} behind it: put both around the table")
    before, rest = text.split(begin, 1)
    write_text(page, f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end, 1)[1]}")


def section(results: Results) -> str:
    """The table, how it was made, and what it says."""
    lines = [_row(HEADER), "|---|---|---|---:|---|---:|---:|---:|---:|---|---:|---:|"]
    lines += [_row(_cells(name, task)) for name, task in results.tasks.items()]
    notes = [note for note in summary_notes(results) if note[0] in (BEATS_MARK, NO_CLAIM_MARK)]
    parts = ["\n".join(lines), _made(results), " ".join([summary_sentence(results), *_controls(results), *notes])]
    return "\n\n".join(parts)


def _cells(name: str, task: TaskResult) -> tuple[str, ...]:
    metric, gain = task.metric, task.gain_over_full
    shift = "ID" if task.shift == "id" else f"OOD: {task.shift}"
    kind = f"{len(task.label_names)} classes" if task.kind == "classification" else metric_label(metric)
    same = task.chosen.exit == task.full.exit
    confirmed = {True: "confirmed", False: "not confirmed", None: ""}[task.saving_confirmed]
    return (
        f"{name}{NO_CLAIM_MARK * (task.no_claim is not None)}, {kind}",
        shift,
        task.chosen.exit,
        format_percent(task.chosen.macs_saved_fraction),
        confirmed,
        format_percent(time_saved(task.measured, task.chosen.exit, task.full.exit)),
        format_score(task.chosen.test.mean, metric),
        format_score(task.full.test.mean, metric),
        "same" if same else format_gain(gain, metric) + BEATS_MARK * gain.significant,
        _best(task),
        _control(task, "random_encoder"),
        _control(task, BY_HAND),
    )


def _best(task: TaskResult) -> str:
    """The exit that is best on validation: what it saves, scores and gains."""
    if task.best is None:
        return ""
    if task.best.exit == task.chosen.exit:
        return "the same"
    saved = format_percent(task.best.macs_saved_fraction)
    score, gain = format_score(task.best.test.mean, task.metric), task.best.gain_over_full
    told = "" if task.best.exit == task.full.exit else f", {format_gain(gain, task.metric)}"
    return f"{task.best.exit}, {saved} saved: {score}{told}"


def _control(task: TaskResult, name: str) -> str:
    control = task.controls.get(name)
    if control is None:
        return ""
    test = control.chosen.test if isinstance(control, ExitControl) else control.test
    return format_score(test.mean, task.metric)


def _made(results: Results) -> str:
    """Which run it is, and with which tolerance."""
    seeds = len(results.suite.get("seeds", []))
    selection = results.suite.get("selection", {})
    sizes = sorted({task.n_test for task in results.tasks.values()})
    windows = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    simulated = "simulated signals, " if all(task.simulated for task in results.tasks.values()) else ""
    tolerance = selection.get("tolerance")
    allowed = f"{tolerance} of the full encoder's score" if isinstance(tolerance, str) else f"{tolerance:g}"
    return (
        f"One run of the embedded suite with `{results.encoder.name}`: {simulated}{seeds} seeds, {windows} test windows. "
        f"Rule `{selection.get('rule')}`: the shallowest exit that validation shows not to be worse by more than the tolerance, {allowed}. A saving is "
        "*confirmed* where the test interval of the gain stays above minus the tolerance too."
    )


def _controls(results: Results) -> list[str]:
    """On how many tasks pretraining is shown to help, and on how many features by hand do as well."""
    counted = {name: task for name, task in results.tasks.items() if task.no_claim is None}
    told = []
    random = {
        name: task.controls["random_encoder"] for name, task in counted.items() if "random_encoder" in task.controls
    }
    if random:
        leads = [f"{name} {format_gain(one.gain, counted[name].metric)}" for name, one in random.items() if _above(one)]
        told.append(
            f"Pretrained weights lead random ones on {len(leads)} of {len(random)} tasks{': ' * bool(leads)}{', '.join(leads)}."
        )
    by_hand = {name: task.controls[BY_HAND] for name, task in counted.items() if BY_HAND in task.controls}
    if by_hand:
        level = [name for name, one in by_hand.items() if one.gain and one.gain.ci95[1] >= 0]
        told.append(
            f"The chosen exit is at or above an engineer's features (upper end of the interval) on {len(level)} of {len(by_hand)}."
        )
    return told


def _above(control: FeatureRow | ExitControl) -> bool:
    return control.gain is not None and control.gain.ci95[0] > 0


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"


if __name__ == "__main__":
    main()
