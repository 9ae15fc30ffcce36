"""The report: one self-contained HTML file, plain sentences first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from offramp.files import Kind, write_text
from offramp.report.exits import plots
from offramp.report.loading import load_results
from offramp.report.numbers import (
    MISSING,
    format_count,
    format_gain,
    format_interval,
    format_number,
    format_percent,
    format_score,
    format_shift,
    metric_heading,
    metric_label,
)
from offramp.report.policies.page import PolicyView, policy_view
from offramp.report.policies.text import verdict_counts, verdict_sentence
from offramp.report.summary import (
    SummaryRow,
    simulated_tasks,
    summary_notes,
    summary_row,
    summary_rows,
    summary_sentence,
)
from offramp.report.svg import Plot
from offramp.schema.results import Confidence, ExitControl, ExitRow, FeatureRow, Results, Score, TaskResult

__all__ = ["PAGE", "load_results", "write_report"]

PAGE = Kind("an HTML page", (".html", ".htm"), (b"<!doctype html>",))

_MEANINGS = {
    "constant": "Always the same answer, learned without looking at the input. Less than this is worth nothing.",
    "random_encoder": "The same encoder with random weights, its exit chosen in the same way. Only a clear lead over it shows that pretraining helps.",
    "equal_width": "The encoder's taps cut to one width by PCA. Taps grow wider with depth, and width alone can raise a score.",
    "tap_alone": "The same taps under the same head without the side features: what the encoder knows by itself.",
    "raw_input": "The transformed window itself, flattened and cut by PCA, under the same head: what the encoder must add to.",
    "handmade": "Features made by hand (log power spectrum, cumulants, antenna covariance) under the same head.",
    "handmade_level_free": "The same of windows at unit power: without the level, which tells the SNR where the noise is known.",
    "power_only": "The power of the window and nothing else. If this does well, labels follow signal strength rather than the signal.",
    "dft_power": "Power in the beams of a discrete Fourier transform across the antennas, under the same head.",
    "noise_only": "Windows that hold no signal. If this does well, labels follow the recording rather than the signal.",
}


@dataclass(frozen=True)
class ControlRow:
    """A control in words."""

    name: str
    score: str
    gain: str
    meaning: str


@dataclass(frozen=True)
class TaskSection:
    """What the page shows of one task."""

    anchor: str
    name: str
    result: TaskResult
    row: SummaryRow
    facts: list[str]
    plots: list[Plot]
    exits: list[tuple[str, ...]]
    bounds: str
    controls: list[ControlRow]
    groups: list[tuple[str, str, str, str]]
    policies: PolicyView | None


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run."""

    anchor: str
    name: str
    results: Results
    params: str
    rows: list[SummaryRow]
    told: str
    notes: list[str]
    simulated: list[str]
    verdicts: str
    tasks: list[TaskSection]
    environment: str
    suite: str


@dataclass(frozen=True)
class ComparisonRow:
    """One task across runs; None where a run lacks it."""

    anchor: str
    task: str
    cells: list[SummaryRow | None]
    plot: Plot | None


def write_report(runs: Sequence[tuple[str, Results]], path: Path) -> None:
    """Write one or several named runs as one HTML file that loads nothing else; several stand side by side first."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [_run_view(f"r{index}", name, results) for index, (name, results) in enumerate(runs)]
    comparison = _comparison(runs) if len(runs) > 1 else []
    verdicts = verdict_sentence(verdict_counts(results for _, results in runs)) if len(runs) > 1 else ""
    page = environment.get_template("template.html").render(runs=views, comparison=comparison, verdicts=verdicts)
    write_text(path, page)


def _run_view(anchor: str, name: str, results: Results) -> RunView:
    plain = results.model_dump(mode="json")
    return RunView(
        anchor=anchor,
        name=name,
        results=results,
        params=format_count(results.encoder.params),
        rows=summary_rows(results),
        told=summary_sentence(results),
        notes=summary_notes(results),
        simulated=simulated_tasks(results),
        verdicts=verdict_sentence(verdict_counts([results])),
        tasks=[_task_section(f"{anchor}-t{i}", task, result) for i, (task, result) in enumerate(results.tasks.items())],
        environment=_yaml(plain["environment"]),
        suite=_yaml(plain["suite"]),
    )


def _task_section(anchor: str, name: str, task: TaskResult) -> TaskSection:
    return TaskSection(
        anchor=anchor,
        name=name,
        result=task,
        row=summary_row(name, task),
        facts=_facts(task),
        plots=_plots(anchor, task),
        exits=[_exit_row(task, row) for row in task.exits],
        bounds=_bounds(task),
        controls=[_control_row(task, control_name, control) for control_name, control in task.controls.items()],
        groups=[
            (one.group, f"{one.n:,}", format_score(one.chosen, task.metric), format_score(one.full, task.metric))
            for one in task.by_group
        ],
        policies=policy_view(f"{anchor}-p", task),
    )


def _facts(task: TaskResult) -> list[str]:
    groups = f"{task.n_groups:,} groups" + (
        f", {task.n_test_groups:,} of them for testing" if task.n_test_groups else ""
    )
    units = f"intervals over {task.n_test_units:,} {task.gain_over_full.unit}s" if task.n_test_units else ""
    return [
        f"{task.kind}, {metric_label(task.metric)}",
        f"shift: {task.shift}",
        f"input {' × '.join(map(str, task.input_shape))}",
        f"{task.n_train:,} train, {task.n_val:,} validation, {task.n_test:,} test windows",
        groups,
        *([units] if units else []),
        *_confidence_fact(task.confidence),
        *task.notes,
        *(
            []
            if task.val_by_group
            else ["train and validation divided by windows: too few groups outside the test set"]
        ),
    ]


def _confidence_fact(confidence: Confidence | None) -> list[str]:
    if confidence is None:
        return []
    errors = f"{format_percent(confidence.ece_before)} before, {format_percent(confidence.ece_after)} after"
    return [f"confidence at temperature {confidence.temperature:.2f}, calibration error {errors}"]


def _plots(anchor: str, task: TaskResult) -> list[Plot]:
    figures = [
        Plot(
            f"{metric_heading(task.metric)} against MACs",
            Markup(plots.score_plot(task, f"{anchor}-score")),
            "Test score of every exit; the band is the 95% interval. Dotted lines are controls without an encoder.",
        )
    ]
    if any(row.exit in task.measured.latency_ms for row in task.exits):
        threads, batch = task.measured.threads, task.measured.batch
        figures.append(
            Plot(
                "Latency per exit",
                Markup(plots.latency_plot(task, f"{anchor}-latency")),
                f"Median; the whisker ends at the 95th percentile. Batch {batch}, {threads} thread{'s' * (threads != 1)}.",
            )
        )
    if task.by_snr is not None and task.by_snr.chosen:
        figures.append(
            Plot(
                "Score by SNR",
                Markup(plots.snr_plot(task, task.by_snr, f"{anchor}-snr")),
                "Test score, mean over seeds. Thin lines are the edges of the bins.",
            )
        )
    if task.confusion:
        figures.append(
            Plot(
                "Confusion at the chosen exit",
                Markup(plots.confusion_plot(task.confusion, task.label_names, f"{anchor}-confusion")),
                "Shade: fraction of the true class; blue is right, orange is wrong. First seed, test windows.",
            )
        )
    return figures


def _exit_row(task: TaskResult, row: ExitRow) -> tuple[str, ...]:
    latency = task.measured.latency_ms.get(row.exit)
    return (
        row.exit,
        f"{row.macs:,}",
        format_percent(row.macs_saved_fraction),
        format_number(latency.p50) if latency else MISSING,
        format_number(latency.p95) if latency else MISSING,
        format_score(row.val.mean, task.metric),
        _lower_end(task, row.exit),
        _score_with_interval(row.test, task.metric),
    )


def _lower_end(task: TaskResult, name: str) -> str:
    """Lower end of an exit's gain over full depth on validation; empty at full depth and in results of older versions."""
    if task.selection is None or name not in task.selection.gain_lower or name == task.full.exit:
        return ""
    return format_shift(task.selection.gain_lower[name], task.metric)


def _bounds(task: TaskResult) -> str:
    """How the choice was made, in words; empty in results of older versions."""
    asked = task.selection
    if asked is None:
        return ""
    margin = format_shift(-asked.margin, task.metric)
    told = f"Rule {asked.rule}. Not worse than full depth by more than the tolerance: lower end above {margin} on validation, all exits tested at once;"
    told += f" the shallowest is {asked.non_inferior}"
    return told + (
        f", by Bonferroni's correction {asked.bonferroni}." if asked.bonferroni != asked.non_inferior else "."
    )


def _control_row(task: TaskResult, name: str, control: FeatureRow | ExitControl) -> ControlRow:
    facts = [_MEANINGS.get(name, ""), control.description]
    if isinstance(control, FeatureRow):
        facts.append(f"Width {control.width:,}." if control.width else "")
        lead = format_gain(control.gain, task.metric) if control.gain else ""
        return ControlRow(name, _score_with_interval(control.test, task.metric), lead, _sentences(facts))
    facts.append(f"{control.draws} draws." if control.draws > 1 else "")
    score = f"{_score_with_interval(control.chosen.test, task.metric)} at {control.chosen.exit}"
    return ControlRow(name, score, format_gain(control.gain, task.metric) if control.gain else "", _sentences(facts))


def _comparison(runs: Sequence[tuple[str, Results]]) -> list[ComparisonRow]:
    tasks = dict.fromkeys(task for _, results in runs for task in results.tasks)
    rows = []
    for index, task in enumerate(tasks):
        having = [(name, results.tasks[task]) for name, results in runs if task in results.tasks]
        metrics = {result.metric for _, result in having}
        caption = "Rings are chosen exits."
        if len(metrics) > 1:
            caption += f" Only runs scored by {metric_label(having[0][1].metric)} are drawn."
        plot = Plot(task, Markup(plots.comparison_plot(having, f"c{index}")), caption) if len(having) > 1 else None
        cells = [summary_row(task, results.tasks[task]) if task in results.tasks else None for _, results in runs]
        rows.append(ComparisonRow(f"c{index}", task, cells, plot))
    return rows


def _score_with_interval(score: Score, metric: str) -> str:
    text = format_score(score.mean, metric)
    return f"{text} {format_interval(score.ci95, metric)}" if score.ci95 else text


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts if part)


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
