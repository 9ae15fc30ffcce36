"""What a run needs before any head is fitted: the encoder, each task's data, split and transform, and its features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.bundle import MAX_EXAMPLES
from offramp.costs import ExitCost, exit_costs
from offramp.data.dataset import Dataset, load_dataset
from offramp.data.places import find_places
from offramp.data.splits import Draw, make_split
from offramp.data.table import WindowSource
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.encoders.side import SIDES
from offramp.encoders.taps import freeze
from offramp.encoders.view import TaskView
from offramp.errors import EncoderError, OfframpError
from offramp.experiment.features import (
    TaskFeatures,
    batch_size,
    encoder_inputs,
    fill_bank,
    fill_side,
    fit_transform,
)
from offramp.experiment.policies.check import check_policies, check_unseen_class
from offramp.heads.fit import FittedExit, Problem, check_targets, fit_exit
from offramp.heads.modules import untrained_head
from offramp.heads.rows import FeatureRows
from offramp.heads.tokens import target_positions
from offramp.policies.costs import CascadeCosts
from offramp.policies.selection import affordable
from offramp.progress import OnStep, of_step
from offramp.schema.suite import LoadedSuite, Suite
from offramp.schema.tasks import DegradeSpec, SpectrogramSpec, TaskSpec
from offramp.scoring.resampling import per_seed_scores, resampling_units
from offramp.transforms import Transform

CALIBRATION_WINDOWS = 1024


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task ready for the encoder.

    Attributes:
        problem: Its data, its split and what the bootstrap resamples.
        transform: Fitted outside the test and the calibration set.
        encoder: Frozen, with the BatchNorm statistics that this task uses.
        view: The encoder as the task's heads see it: pooling, side features.
        costs: MACs of every exit with the task's head, in order of depth; not timed.
        statistics: Name of these statistics; None for the encoder's own.
    """

    problem: Problem
    transform: Transform
    encoder: StagedEncoder
    view: TaskView
    costs: tuple[ExitCost, ...]
    statistics: str | None = None

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

    @property
    def cascade(self) -> CascadeCosts:
        """The costs as policies see them."""
        return CascadeCosts.of_exits(self.costs)

    def outside_test(self) -> NDArray[np.int64]:
        """Indices of the windows that are neither in the test set nor set aside for guarantees."""
        return self.problem.split.remaining(self.dataset.windows.count)

    def seen_with(self, encoder: StagedEncoder, poolings: Mapping[str, str], side: str | None) -> Prepared:
        """The same task with other statistics, other poolings, or other side features."""
        view = TaskView(encoder, self.input_shape, poolings, side)
        return replace(self, encoder=encoder, view=view, costs=_costs(view, self.problem))

    def calibration_batches(self, device: str) -> Iterator[Tensor]:
        """About 1,024 windows outside the test set as the encoder takes them, for BatchNorm statistics; labels are not looked at."""
        outside = self.outside_test()
        sample = outside[np.unique(np.linspace(0, len(outside) - 1, CALIBRATION_WINDOWS).astype(np.int64))]
        batches = math.ceil(len(sample) / batch_size(self.dataset.windows.shape))
        for indices in np.array_split(sample, batches):  # evenly: all weigh the same, and none is left with one window
            batch = encoder_inputs(self.dataset.windows, self.transform, indices)
            yield torch.from_numpy(batch).to(device)

    def examples(self) -> NDArray[np.float32]:
        """A few raw test windows, for comparing an exported graph with the bundle."""
        return self.dataset.windows.read(self.problem.split.test[:MAX_EXAMPLES])


@dataclass(frozen=True)
class Context:
    """What all tasks of a run share."""

    encoder: StagedEncoder
    loaded: LoadedSuite
    features: Path
    device: str
    on_step: OnStep


def inputs_of(loaded: LoadedSuite) -> list[Path]:
    """Files and folders that a run reads and must not write over; an encoder's name that is no path does not exist.

    Raises:
        DataError: Data does not exist.
    """
    data = [place for task in loaded.tasks if task.data.path is not None for place in find_places(task.data.path)]
    others = (Path(loaded.encoder.name), loaded.encoder.checkpoint, *(task.split.file for task in loaded.tasks))
    return [*data, *(path for path in others if path is not None)]


def load(loaded: LoadedSuite, device: str) -> StagedEncoder:
    """The suite's encoder, frozen."""
    spec = loaded.encoder
    encoder = freeze(
        load_encoder(spec.name, checkpoint=spec.checkpoint, device=device, within=loaded.folder, **spec.options)
    )
    if encoder.input.dtype != torch.float32:
        raise EncoderError(f"{spec.name} takes {encoder.input.describe()}, and a suite's windows are float32")
    return encoder


def prepare_tasks(loaded: LoadedSuite, encoder: StagedEncoder) -> list[Prepared]:
    """All tasks of a suite, ready for the encoder.

    Raises:
        OfframpError: Before any work: data, targets, controls, budgets or policies cannot be had as the suite asks for them.
    """
    prepared = [prepare(task, loaded, encoder) for task in loaded.tasks]
    check_unseen_class([each.problem for each in prepared], loaded.suite.policies)
    return prepared


def prepare(task: TaskSpec, loaded: LoadedSuite, encoder: StagedEncoder) -> Prepared:
    """Open a task's data, divide it, fit its transform outside the test and the calibration set, count what its exits cost.

    Raises:
        OfframpError: It names the task, and what of encoder, target, control, budget or policy does not fit.
    """
    dataset = load_dataset(task.data, task.kind)
    if _takes_antennas(encoder, task):
        dataset = replace(dataset, windows=dataset.windows.with_antenna())
    split = make_split(dataset, task.split, task.kind, task.shots, loaded.suite.seeds, loaded.suite.seed)
    outside = split.remaining(dataset.windows.count)
    problem = Problem(
        task,
        dataset,
        split,
        val_units=resampling_units(dataset.groups, dataset.grouped, outside, dataset.blocks),
        test_units=resampling_units(dataset.groups, dataset.grouped, split.test, dataset.blocks),
    )
    transform = fit_transform(task.transform, dataset.windows, outside)
    where = f"task {task.name}, {dataset.windows.name}"
    try:
        shape = transform.output_shape(dataset.windows.shape)
        encoder.input.check(shape)
        widest = {exit.name: task.head.poolings[-1] for exit in encoder.exits}
        view = TaskView(encoder, shape, widest, task.head.side)
        costs = _costs(view, problem)
        _check(problem, loaded.suite, costs)
        where = f"task {task.name}"
        if (asked := loaded.suite.policies) is not None and asked.applies_to(task):
            check_policies(problem, CascadeCosts.of_exits(costs), asked)
    except OfframpError as error:
        raise type(error)(f"{where}: {error}") from None
    return Prepared(problem, transform, encoder, view, costs)


def _takes_antennas(encoder: StagedEncoder, task: TaskSpec) -> bool:
    """Whether windows have to be I/Q ``(2, antennas, x)``, so that those of two axes are I/Q of one antenna."""
    if isinstance(task.transform, SpectrogramSpec | DegradeSpec) or task.transform == "spectrogram":
        return True
    return len(encoder.input.shape) == 3 and encoder.input.shape[0] == 2


def _costs(view: TaskView, problem: Problem) -> tuple[ExitCost, ...]:
    """MACs of every exit, counted with heads of the sizes that the task will have.

    Raises:
        EncoderError: The target does not fit the positions of an exit.
    """
    heads = {}
    for name, tap in view.tap_shapes.items():
        positions = positions_of(problem, view, tap)
        outputs = problem.outputs if positions is None else positions.shape[1]
        attention = positions is None and len(tap) == 2
        heads[name] = untrained_head(problem.task.head.kind, tap[-1], outputs, attention)
    return tuple(exit_costs(view, view.shape, heads, measure=False).values())


def _check(problem: Problem, suite: Suite, costs: Sequence[ExitCost]) -> None:
    """Raise if the metric cannot score the target, a control cannot see the windows, or no exit is within the budget."""
    check_targets(problem)
    for name in suite.controls:
        if name in SIDES:
            SIDES[name].compute(torch.from_numpy(problem.dataset.windows.read(np.arange(1))))
    if suite.selection.macs is not None:
        affordable([cost.macs for cost in costs], suite.selection.macs, "MACs")


def features_of(
    context: Context, prepared: Prepared, encoder: StagedEncoder, what: str, windows: WindowSource | None = None
) -> TaskFeatures:
    """What heads may see of every window of a task, or of other windows like them, from the disk as far as it is there."""
    source, head = windows or prepared.dataset.windows, prepared.task.head
    on_progress = of_step(context.on_step, f"{prepared.task.name}: {what}")
    bank = fill_bank(encoder, source, prepared.transform, context.features, on_progress, context.device, head.poolings)
    side = None
    if head.side is not None:
        on_progress = of_step(context.on_step, f"{prepared.task.name}: side features")
        side = fill_side(head.side, source, prepared.transform, context.features, on_progress)
    return TaskFeatures(bank, side)


def fit_exits(
    context: Context, prepared: Prepared, features: TaskFeatures, what: str, draws: Sequence[Draw] | None = None
) -> tuple[list[FittedExit], dict[str, str]]:
    """Heads for every exit, all seeds and strengths, each in the pooling that is best on validation; and these poolings.

    ``what`` is said of the progress; ``draws`` are the seeds to fit, all if None.
    """
    fitted, poolings = [], {}
    for number, name in enumerate(features.names, start=1):
        candidates = {
            pooling: _fit(prepared, name, features.rows(name, pooling), draws) for pooling in features.candidates(name)
        }
        # the first of equals, which is the encoder's own
        poolings[name] = max(candidates, key=lambda pooling: validation_score(prepared.problem, candidates[pooling]))
        fitted.append(candidates[poolings[name]])
        context.on_step(f"{prepared.task.name}: {what}", number, len(features.names))
    return fitted, poolings


def fit_rows(
    context: Context, prepared: Prepared, names: Sequence[str], rows: Callable[[str], FeatureRows], what: str
) -> list[FittedExit]:
    """Heads for every named exit on rows of another kind."""
    fitted = []
    for number, name in enumerate(names, start=1):
        fitted.append(_fit(prepared, name, rows(name), None))
        context.on_step(f"{prepared.task.name}: {what}", number, len(names))
    return fitted


def validation_score(problem: Problem, fitted: FittedExit) -> float:
    """Mean over seeds, with its sign: the larger the better."""
    return float(problem.metric.sign * per_seed_scores(fitted.val_sums, problem.metric).mean())


def positions_of(problem: Problem, encoder: StagedEncoder, tap: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Which entries of the target each position of a tap answers for; None where a head answers for all at once."""
    if problem.task.head.pooling != "tokens":
        return None
    return target_positions(encoder, problem.dataset.target_shape, tap)


def _fit(prepared: Prepared, name: str, rows: FeatureRows, draws: Sequence[Draw] | None) -> FittedExit:
    positions = positions_of(prepared.problem, prepared.encoder, rows.shape[1:])
    return fit_exit(prepared.problem, name, rows, draws, positions)
