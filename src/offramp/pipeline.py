"""The main job: from a suite to results, report and bundle, top to bottom."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from offramp import controls, evaluation, selection
from offramp.bundle import MAX_EXAMPLES, BundleTask
from offramp.costs import ExitCost, exit_costs
from offramp.data.dataset import Dataset, load_dataset
from offramp.data.splits import make_split, save_split
from offramp.delivery import describe_encoder, describe_environment, encoder_reference, measured, write_bundle
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.errors import EncoderError, OfframpError
from offramp.evaluation import Evaluation, Resampling
from offramp.features import FeatureBank, fill_bank, fit_transform, freeze, tap_shapes
from offramp.files import output_folder, write_text
from offramp.fitting.fit import FittedExit, Problem, check_targets, fit_exit
from offramp.fitting.rows import FeatureRows
from offramp.fitting.tokens import target_positions
from offramp.heads import head_module, untrained_head
from offramp.report.html import write_report
from offramp.report.sentences import sentence
from offramp.resampling import holm, resampling_units
from offramp.results import ExitControl, FeatureRow, Results, TaskResult
from offramp.suite import LoadedSuite, SelectionSpec, Suite
from offramp.tasks import TaskSpec
from offramp.transforms import Transform

RANDOM_DRAWS = 3
"""Random encoders that the control draws; seed number i uses draw i modulo 3."""
LATENCY_SECONDS = 0.15

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task ready for the encoder: its data, split and fitted transform."""

    problem: Problem
    transform: Transform

    @property
    def task(self) -> TaskSpec:
        """The task as the suite has it, with absolute paths."""
        return self.problem.task

    @property
    def dataset(self) -> Dataset:
        """The task's data."""
        return self.problem.dataset

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What the encoder sees of one window."""
        return self.transform.output_shape(self.dataset.windows.shape)

    def outside_test(self) -> NDArray[np.int64]:
        """Indices of the windows that are neither in the test set nor set aside for guarantees."""
        return self.problem.split.remaining(self.dataset.windows.count)

    def examples(self) -> NDArray[np.float32]:
        """A few raw test windows, for comparing an exported graph with the bundle."""
        return self.dataset.windows.read(self.problem.split.test[:MAX_EXAMPLES])


@dataclass(frozen=True, eq=False)
class Outcome:
    """A task's fitted heads and its part of the results."""

    prepared: Prepared
    fitted: list[FittedExit]
    result: TaskResult


@dataclass(frozen=True)
class Context:
    """What all tasks of a run share."""

    encoder: StagedEncoder
    loaded: LoadedSuite
    features: Path
    device: str
    on_progress: OnProgress


def run_suite(
    loaded: LoadedSuite,
    out: str | Path,
    device: str = "cpu",
    keep_features: bool = False,
    by_reference: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Results:
    """Run a suite and leave ``results.json``, ``report.html``, ``bundle/`` and ``splits/`` in ``out``.

    Killed at any moment and started again, it goes on with the features it had and ends with the same results.

    Args:
        loaded: From :func:`offramp.suite.load_suite`.
        out: Output folder; features are kept in ``out/features`` until the run is complete.
        device: Where the encoder runs.
        keep_features: Leave the features on disk for another run.
        by_reference: Let the bundle point to the encoder's own files instead of copying its weights.
        on_progress: Called with what is being done, how much is done and how much there is.

    Raises:
        OfframpError: Anything the user can mend; see the message.
    """
    started = time.time()
    out = output_folder(Path(out))
    reference = encoder_reference(loaded.encoder) if by_reference else None
    encoder = load(loaded, device)
    context = Context(encoder, loaded, out / "features", device, on_progress)
    prepared = [prepare(task, loaded) for task in loaded.tasks]
    for each in prepared:
        check_task(encoder, each, loaded.suite)
        save_split(each.problem.split, each.dataset, out / "splits" / f"{each.task.name}.json")
    outcomes = with_significance([run_task(context, each) for each in prepared])
    results = Results(
        schema=1,
        offramp=version("offramp"),
        suite=loaded.suite.model_dump(mode="json"),
        environment=describe_environment(device, started),
        encoder=describe_encoder(encoder, loaded.encoder),
        tasks={outcome.prepared.task.name: outcome.result for outcome in outcomes},
    )
    examples = {outcome.prepared.task.name: outcome.prepared.examples() for outcome in outcomes}
    write_bundle(out / "bundle", encoder, [_bundle_task(o) for o in outcomes], examples, results, reference)
    write_report([(out.name, results)], out / "report.html")
    write_text(out / "results.json", results.model_dump_json(indent=1, by_alias=True) + "\n")
    if not keep_features:
        shutil.rmtree(context.features, ignore_errors=True)
    return results


def load(loaded: LoadedSuite, device: str) -> StagedEncoder:
    """The suite's encoder, frozen."""
    spec = loaded.encoder
    encoder = freeze(load_encoder(spec.name, checkpoint=spec.checkpoint, device=device, **spec.options))
    if encoder.input.dtype != torch.float32:
        raise EncoderError(f"{spec.name} takes {encoder.input.describe()}, and a suite's windows are float32")
    return encoder


def prepare(task: TaskSpec, loaded: LoadedSuite) -> Prepared:
    """Open a task's data, divide it, fit its transform outside the test and the calibration set."""
    dataset = load_dataset(task.data, task.kind)
    split = make_split(dataset, task.split, task.kind, task.shots, loaded.suite.seeds, loaded.suite.seed)
    outside = split.remaining(dataset.windows.count)
    problem = Problem(
        task,
        dataset,
        split,
        val_units=resampling_units(dataset.groups, dataset.grouped, outside),
        test_units=resampling_units(dataset.groups, dataset.grouped, split.test),
    )
    return Prepared(problem, fit_transform(task.transform, dataset.windows, outside))


def check_task(encoder: StagedEncoder, prepared: Prepared, suite: Suite) -> None:
    """Raise before any work if the encoder, the target, a control or the budget does not fit a task's windows."""
    windows, budget = prepared.dataset.windows, suite.selection.macs
    try:
        encoder.input.check(prepared.input_shape)
        heads = _untrained_heads(encoder, prepared)
        check_targets(prepared.problem)
        for name in suite.controls:
            if name in controls.FEATURE_CONTROLS:
                controls.FEATURE_CONTROLS[name].compute(windows.read(np.arange(1)))
        if budget is not None:
            pooling = prepared.task.head.pooling
            costs = exit_costs(encoder, prepared.input_shape, heads, measure=False, pooling=pooling).values()
            selection.affordable([cost.macs for cost in costs], budget, "MACs")
    except OfframpError as error:
        raise type(error)(f"task {prepared.task.name}, {windows.name}: {error}") from None


def _untrained_heads(encoder: StagedEncoder, prepared: Prepared) -> dict[str, nn.Module]:
    """Heads of the sizes that the task will have, by exit; raises where the target does not fit the positions of an exit."""
    head, problem = prepared.task.head, prepared.problem
    heads = {}
    for name, shape in tap_shapes(encoder, prepared.input_shape, head.pooling).items():
        positions = target_positions(encoder, prepared.dataset.target_shape, shape)
        outputs = problem.outputs if positions is None else positions.shape[1]
        heads[name] = untrained_head(head.kind, shape[-1], outputs)
    return heads


def run_task(context: Context, prepared: Prepared) -> Outcome:
    """Features, heads, the choice of the exit, scores, controls and costs of one task."""
    task, problem, encoder = prepared.task, prepared.problem, context.encoder
    bank = _bank(context, prepared, encoder, "encoder")
    fitted = _fit_all(context, problem, bank, "heads")
    heads = {exit.name: head_module(exit.heads[0]) for exit in fitted}
    pooling = task.head.pooling
    priced = exit_costs(encoder, prepared.input_shape, heads, seconds=LATENCY_SECONDS, pooling=pooling)
    costs = list(priced.values())
    resampling = Resampling.of(problem, context.loaded.suite.seed)
    chosen = choose(problem, fitted, costs, context.loaded.suite.selection, resampling)
    scores = evaluation.evaluate(problem, fitted, [cost.macs for cost in costs], chosen, resampling)
    ours = (fitted[chosen], bank.taps(fitted[chosen].name))
    full = (fitted[-1], bank.taps(fitted[-1].name))
    split, dataset, timed = problem.split, problem.dataset, measured(costs)
    fields: dict[str, Any] = {
        "kind": task.kind,
        "metric": task.metric_name,
        "higher_is_better": problem.metric.higher_is_better,
        "chosen": scores.exits[chosen],
        "full": scores.exits[-1],
        "controls": run_controls(context, prepared, bank, fitted, costs, scores, resampling),
        "n_test_groups": len(np.unique(dataset.groups[split.test])),
    }
    result = TaskResult(
        **fields,
        shift=task.shift,
        input_shape=list(prepared.input_shape),
        n_train=len(split.draws[0].folds[0][0]),
        n_val=len(split.draws[0].folds[0][1]),
        n_test=len(split.test),
        n_groups=len(np.unique(dataset.groups)),
        split_sha256=split.sha256,
        val_by_group=not dataset.grouped or all(draw.by_group for draw in split.draws),
        simulated=dataset.simulated,
        label_names=list(dataset.label_names),
        pooling=pooling,
        exits=scores.exits,
        gain_over_full=scores.gain,
        confusion=evaluation.confusion(problem, *ours),
        by_snr=evaluation.by_snr(problem, ours, full),
        by_group=evaluation.by_group(problem, ours, full),
        measured=timed.model_copy(update={"sentence": sentence(**fields, gain=scores.gain, measured=timed)}),
        sentence=sentence(**fields, gain=scores.gain),
    )
    return Outcome(prepared, fitted, result)


def choose(
    problem: Problem,
    fitted: Sequence[FittedExit],
    costs: Sequence[ExitCost],
    rule: SelectionSpec,
    resampling: Resampling,
) -> int:
    """Index of the exit that the suite's rule picks on validation."""
    sums = [exit.val_sums for exit in fitted]
    if rule.rule == "best":
        return selection.best(sums, problem.metric)
    if rule.macs is not None:
        return selection.within_budget(sums, problem.metric, [cost.macs for cost in costs], rule.macs, "MACs")
    if rule.latency_ms is not None:
        median = [cost.latency_ms.p50 if cost.latency_ms else 0.0 for cost in costs]
        return selection.within_budget(sums, problem.metric, median, rule.latency_ms, "ms")
    return selection.non_inferior(sums, problem.metric, resampling.val, rule.tolerance)


def run_controls(
    context: Context,
    prepared: Prepared,
    bank: FeatureBank,
    fitted: Sequence[FittedExit],
    costs: Sequence[ExitCost],
    scores: Evaluation,
    resampling: Resampling,
) -> dict[str, FeatureRow | ExitControl]:
    """All controls that the suite asks for, by name."""
    problem, ours = prepared.problem, fitted[scores.chosen]
    macs = [cost.macs for cost in costs]
    rows: dict[str, FeatureRow | ExitControl] = {}
    for name in context.loaded.suite.controls:
        if name == "constant":
            rows[name] = evaluation.constant_control(problem, resampling)
        elif name == "random_encoder":
            twins, draws = _fit_random(context, prepared)
            text = f"the same architecture with random weights ({draws} draws) and BatchNorm statistics of this data"
            rows[name] = evaluation.exit_control(problem, twins, macs, ours, resampling, draws, text)
        elif name == "equal_width":
            width = min(bank.taps(name).shape[-1] for name in bank.names)
            narrow = _fit_narrow(context, prepared, bank, width)
            text = f"every exit's tap cut to its first {width} principal components"
            rows[name] = evaluation.exit_control(problem, narrow, macs, ours, resampling, 1, text)
        else:
            what = f"{prepared.task.name}: {name}"
            features = controls.control_features(
                name,
                prepared.dataset.windows,
                prepared.transform,
                prepared.outside_test(),
                context.features,
                lambda done, total, what=what: context.on_progress(what, done, total),  # type: ignore[misc]
            )
            row = fit_exit(problem, name, features)
            text = controls.DESCRIPTIONS[name]
            rows[name] = evaluation.feature_control(problem, row, features.shape[1], ours, resampling, text)
    return rows


def with_significance(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Mark the gains over full depth that hold after Holm's correction across the suite's tasks."""
    gains = holm([outcome.result.gain_over_full for outcome in outcomes])
    return [
        Outcome(outcome.prepared, outcome.fitted, outcome.result.model_copy(update={"gain_over_full": gain}))
        for outcome, gain in zip(outcomes, gains, strict=True)
    ]


def _bundle_task(outcome: Outcome) -> BundleTask:
    """A task in the form of a bundle: heads of the first seed."""
    task, result, dataset = outcome.prepared.task, outcome.result, outcome.prepared.dataset
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
        data=task.data.model_dump(mode="json", exclude={"path", "synthetic"}),
        target_shape=dataset.target_shape,
    )


def _bank(context: Context, prepared: Prepared, encoder: StagedEncoder, what: str) -> FeatureBank:
    def progress(done: int, total: int) -> None:
        context.on_progress(f"{prepared.task.name}: {what}", done, total)

    windows = prepared.dataset.windows
    pooling = prepared.task.head.pooling
    return fill_bank(encoder, windows, prepared.transform, context.features, progress, context.device, pooling)


def _positions(context: Context, problem: Problem, features: FeatureRows) -> NDArray[np.int64] | None:
    """Which entries of the target each position of a feature matrix answers for; None for one without positions."""
    return target_positions(context.encoder, problem.dataset.target_shape, features.shape[1:])


def _fit_all(context: Context, problem: Problem, bank: FeatureBank, what: str) -> list[FittedExit]:
    fitted = []
    for number, name in enumerate(bank.names, start=1):
        taps = bank.taps(name)
        fitted.append(fit_exit(problem, name, taps, positions=_positions(context, problem, taps)))
        context.on_progress(f"{problem.task.name}: {what}", number, len(bank.names))
    return fitted


def _fit_random(context: Context, prepared: Prepared) -> tuple[list[FittedExit], int]:
    """Heads on random encoders, seed number i on draw i modulo the number of draws; and that number."""
    problem, draws = prepared.problem, prepared.problem.split.draws
    count = min(RANDOM_DRAWS, len(draws))
    banks = []
    for draw in range(count):
        twin = controls.random_twin(
            context.encoder,
            prepared.dataset.windows,
            prepared.transform,
            draw,
            context.device,
        )
        banks.append(_bank(context, prepared, twin, f"random encoder {draw + 1} of {count}"))
    fitted = []
    for number, name in enumerate(banks[0].names, start=1):
        positions = _positions(context, problem, banks[0].taps(name))
        parts = [fit_exit(problem, name, bank.taps(name), draws[d::count], positions) for d, bank in enumerate(banks)]
        fitted.append(_interleaved(parts))
        context.on_progress(f"{prepared.task.name}: random heads", number, len(banks[0].names))
    return fitted, count


def _fit_narrow(context: Context, prepared: Prepared, bank: FeatureBank, width: int) -> list[FittedExit]:
    fitted = []
    for number, name in enumerate(bank.names, start=1):
        reduced = controls.reduced_taps(bank.taps(name), width, prepared.outside_test())
        positions = _positions(context, prepared.problem, reduced)
        fitted.append(fit_exit(prepared.problem, name, reduced, positions=positions))
        context.on_progress(f"{prepared.task.name}: equal-width heads", number, len(bank.names))
    return fitted


def _interleaved(parts: Sequence[FittedExit]) -> FittedExit:
    """One exit's fits of every n-th seed as one fit of all seeds, in their order."""
    count = len(parts)
    seeds = range(sum(len(part.heads) for part in parts))
    return FittedExit(
        parts[0].name,
        tuple(parts[seed % count].heads[seed // count] for seed in seeds),
        tuple(parts[seed % count].strengths[seed // count] for seed in seeds),
        np.stack([parts[seed % count].val_sums[seed // count] for seed in seeds]),
        np.stack([parts[seed % count].test_sums[seed // count] for seed in seeds]),
        tuple(parts[seed % count].val_heads[seed // count] for seed in seeds),
    )
