"""The main job: from a suite to results, report and bundle, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from offramp import costs
from offramp.bundle import BundleTask
from offramp.costs import ExitCost
from offramp.data.splits import save_split
from offramp.encoders.recalibration import statistics_of
from offramp.experiment.controls.rows import Held, run_controls
from offramp.experiment.deliver import describe_encoder, describe_environment, encoder_reference, write_bundle
from offramp.experiment.evaluate import Evaluation, Resampling, evaluate, exit_temperatures
from offramp.experiment.features import TaskFeatures, remove_banks
from offramp.experiment.policies.route import Routing, route
from offramp.experiment.prepare import Context, Prepared, features_of, fit_exits, inputs_of, load, prepare_tasks
from offramp.experiment.recalibrate import choose_statistics
from offramp.experiment.reference import held_out_reference
from offramp.files import run_folder, write_text
from offramp.heads.fit import FittedExit, Problem
from offramp.heads.modules import head_module
from offramp.policies import selection
from offramp.policies.policy import Policy
from offramp.policies.selection import Choice
from offramp.progress import OnStep, silent
from offramp.report.exits.sentences import sentence
from offramp.report.html import write_report
from offramp.report.summary import run_summary
from offramp.schema.results import ExitControl, FeatureRow, Latency, Measured, Results, TaskResult
from offramp.schema.suite import LoadedSuite, SelectionSpec
from offramp.scoring.resampling import holm

LATENCY_SECONDS = 0.15
OUTPUTS = ("results.json", "report.html", "bundle", "features")
"""What a run writes to in its folder, beside the splits by name."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A task's features and fitted heads, the first seed's temperatures by exit, its part of the results, and its policies by name."""

    prepared: Prepared
    features: TaskFeatures
    fitted: list[FittedExit]
    temperatures: dict[str, float]
    result: TaskResult
    policies: dict[str, Policy]


def run_suite(
    loaded: LoadedSuite,
    out: str | Path,
    device: str = "cpu",
    keep_features: bool = False,
    by_reference: bool = False,
    on_progress: OnStep = silent,
) -> Results:
    """Run a suite and leave ``results.json``, ``report.html``, ``bundle/`` and ``splits/`` in ``out``.

    Killed at any moment and started again, it goes on with the features it had and ends with the same results.

    Args:
        loaded: From :func:`offramp.schema.suite.load_suite`.
        out: Output folder; features are kept in ``out/features`` until the run is complete.
        device: Where the encoder runs.
        keep_features: Leave the features on disk for another run.
        by_reference: Let the bundle point to the encoder's own files instead of copying its weights.
        on_progress: Called with what is being done, how much is done and how much there is.

    Raises:
        OfframpError: Anything the user can correct; see the message.
    """
    splits = [f"splits/{task.name}.json" for task in loaded.tasks]
    with run_folder(Path(out), [*OUTPUTS, *splits], inputs_of(loaded)) as folder:
        return _run_suite(loaded, folder, device, keep_features, by_reference, on_progress)


def _run_suite(
    loaded: LoadedSuite, out: Path, device: str, keep_features: bool, by_reference: bool, on_progress: OnStep
) -> Results:
    """As :func:`run_suite`, in a folder that no other run writes to."""
    started = time.time()
    reference = encoder_reference(loaded.encoder) if by_reference else None
    encoder = load(loaded, device)
    context = Context(encoder, loaded, out / "features", device, on_progress)
    prepared = prepare_tasks(loaded, encoder)
    for each in prepared:
        save_split(each.problem.split, each.dataset, out / "splits" / f"{each.task.name}.json")
    outcomes = with_significance([run_task(context, each) for each in choose_statistics(context, prepared)])
    found = {outcome.prepared.task.name: outcome.result for outcome in outcomes}
    results = Results(
        schema=1,
        offramp=version("offramp"),
        suite=loaded.suite.model_dump(mode="json"),
        environment=describe_environment(device, started),
        encoder=describe_encoder(encoder, loaded.encoder),
        tasks=found,
        summary=run_summary(found),
    )
    examples = {outcome.prepared.task.name: outcome.prepared.examples() for outcome in outcomes}
    statistics = {
        each.statistics: statistics_of(each.encoder)
        for each in (outcome.prepared for outcome in outcomes)
        if each.statistics is not None
    }
    tasks = [_bundle_task(outcome) for outcome in outcomes]
    references = {
        task.name: held_out_reference(outcome.prepared.problem, outcome.fitted, outcome.features, task)
        for outcome, task in zip(outcomes, tasks, strict=True)
    }
    write_bundle(out / "bundle", encoder, tasks, statistics, examples, references, results, reference)
    write_report([(out.name, results)], out / "report.html")
    write_text(out / "results.json", results.model_dump_json(indent=1, by_alias=True) + "\n")
    if not keep_features:
        remove_banks(context.features)
    return results


def run_task(context: Context, prepared: Prepared) -> Outcome:
    """Features, heads, the choice of the exit, scores, controls, policies and latency of one task."""
    problem, suite = prepared.problem, context.loaded.suite
    features = features_of(context, prepared, prepared.encoder, "encoder")
    fitted, poolings = fit_exits(context, prepared, features, "heads")
    bank = replace(features, poolings=poolings)
    prepared = prepared.seen_with(prepared.encoder, poolings, prepared.task.head.side)
    heads = {exit.name: head_module(exit.heads[0]) for exit in fitted}
    latencies = costs.exit_latencies(prepared.view, prepared.input_shape, heads, seconds=LATENCY_SECONDS)
    resampling = Resampling.of(problem, suite.seed)
    choice = choose(problem, fitted, prepared.costs, latencies, suite.selection, resampling)
    macs = [cost.macs for cost in prepared.costs]
    scores = evaluate(problem, fitted, bank.taps, macs, choice, resampling, prepared.view.poolings)
    routing = route(context, prepared, bank, fitted, heads, choice.chosen, suite.policies, resampling)
    controls = run_controls(Held(context, prepared, bank, fitted[choice.chosen], resampling))
    return Outcome(
        prepared,
        bank,
        fitted,
        exit_temperatures(problem, fitted, bank.taps),
        task_result(prepared, scores, controls, Measured(latency_ms=latencies, threads=1, batch=1), routing),
        routing.policies if routing else {},
    )


def task_result(
    prepared: Prepared,
    scores: Evaluation,
    controls: dict[str, FeatureRow | ExitControl],
    measured: Measured,
    routing: Routing | None,
) -> TaskResult:
    """One task's part of results.json, with the sentences that say what it means."""
    task, problem, dataset, split = prepared.task, prepared.problem, prepared.dataset, prepared.problem.split
    said: dict[str, Any] = {
        "kind": task.kind,
        "metric": task.metric_name,
        "higher_is_better": problem.metric.higher_is_better,
        "chosen": scores.exits[scores.chosen],
        "full": scores.exits[-1],
        "controls": controls,
        "n_test_groups": len(np.unique(dataset.groups[split.test])),
        "best": scores.best,
        "saving_confirmed": scores.saving_confirmed,
        "no_claim": task.no_claim,
    }
    return TaskResult(
        **said,
        shift=task.shift,
        input_shape=list(prepared.input_shape),
        n_train=len(split.draws[0].folds[0][0]),
        n_val=len(split.draws[0].folds[0][1]),
        n_test=len(split.test),
        n_groups=len(np.unique(dataset.groups)),
        n_test_units=problem.test_units.count,
        n_val_units=problem.val_units.count,
        split_sha256=split.sha256,
        val_by_group=not dataset.grouped or all(draw.by_group for draw in split.draws),
        simulated=dataset.simulated,
        notes=list(dataset.notes),
        label_names=list(dataset.label_names),
        pooling=task.head.pooling,
        side=task.head.side,
        statistics="own" if prepared.statistics is None else "recalibrated",
        exits=scores.exits,
        gain_over_full=scores.gain,
        selection=scores.selection,
        margin=scores.margin,
        confusion=scores.confusion,
        by_snr=scores.by_snr,
        by_group=scores.by_group,
        confidence=scores.confidence,
        policies=routing.comparison if routing else None,
        measured=measured.model_copy(
            update={
                "sentence": sentence(**said, gain=scores.gain, measured=measured),
                "policies": routing.measured if routing else None,
            }
        ),
        sentence=sentence(**said, gain=scores.gain),
    )


def choose(
    problem: Problem,
    fitted: Sequence[FittedExit],
    exits: Sequence[ExitCost],
    latencies: Mapping[str, Latency],
    rule: SelectionSpec,
    resampling: Resampling,
) -> Choice:
    """What the suite's rule picks on validation, with the best exit there and the test of non-inferiority."""
    sums = [exit.val_sums for exit in fitted]
    test = selection.non_inferior(sums, problem.metric, resampling.val, rule.tolerance)
    chosen = best = selection.best(sums, problem.metric)
    if rule.rule == "non-inferior":
        chosen = test.chosen
    elif rule.macs is not None:
        chosen = selection.within_budget(sums, problem.metric, [cost.macs for cost in exits], rule.macs, "MACs")
    elif rule.latency_ms is not None:
        median = [latencies[exit.name].p50 for exit in fitted]
        chosen = selection.within_budget(sums, problem.metric, median, rule.latency_ms, "ms")
    return Choice(rule, chosen, best, test)


def with_significance(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Mark the gains over full depth that hold after Holm's correction across the suite's tasks; those for no claim are not tested."""
    tested = [outcome for outcome in outcomes if outcome.result.no_claim is None]
    gains = iter(holm([outcome.result.gain_over_full for outcome in tested]))
    return [
        replace(outcome, result=outcome.result.model_copy(update={"gain_over_full": next(gains)}))
        if outcome.result.no_claim is None
        else outcome
        for outcome in outcomes
    ]


def _bundle_task(outcome: Outcome) -> BundleTask:
    """A task in the form of a bundle: heads of the first seed."""
    task, result, dataset = outcome.prepared.task, outcome.result, outcome.prepared.dataset
    rate = {} if dataset.sample_rate is None else {"sample_rate": dataset.sample_rate}
    return BundleTask(
        name=task.name,
        kind=task.kind,
        metric=result.metric,
        exit=result.chosen.exit,
        label_names=dataset.label_names,
        transform=outcome.prepared.transform,
        window_shape=dataset.windows.shape,
        heads={exit.name: exit.heads[0] for exit in outcome.fitted},
        val={row.exit: row.val.mean for row in result.exits},
        data=task.data.model_dump(mode="json", exclude={"path", "synthetic", "block"}) | rate,
        target_shape=dataset.target_shape,
        temperatures=outcome.temperatures,
        poolings=_poolings(outcome),
        side=task.head.side,
        statistics=outcome.prepared.statistics,
        policies={name: policy.to_dict() for name, policy in outcome.policies.items()},
    )


def _poolings(outcome: Outcome) -> dict[str, str]:
    """By exit; side features that are tokens are so at the exit before the encoder."""
    heads = {exit.name: exit.heads[0] for exit in outcome.fitted}
    tokens = [name for name, head in heads.items() if head.positions is not None or head.query is not None]
    return dict(outcome.prepared.view.poolings) | dict.fromkeys(tokens, "tokens")
