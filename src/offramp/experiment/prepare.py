"""What a run needs before any head is fitted: the encoder, each task's data, split and transform, and its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.bundle import MAX_EXAMPLES
from offramp.costs import ExitCost, exit_costs
from offramp.data.dataset import Dataset, load_dataset
from offramp.data.places import find_places
from offramp.data.splits import make_split
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.encoders.taps import freeze, tap_shapes
from offramp.errors import EncoderError, OfframpError
from offramp.experiment.controls.features import FEATURE_CONTROLS
from offramp.experiment.features import FeatureBank, fill_bank, fit_transform
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
from offramp.scoring.resampling import resampling_units
from offramp.transforms import Transform


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task ready for the encoder.

    Attributes:
        problem: Its data, its split and what the bootstrap resamples.
        transform: Fitted outside the test and the calibration set.
        costs: MACs of every exit with the task's head, in order of depth; not timed.
    """

    problem: Problem
    transform: Transform
    costs: tuple[ExitCost, ...]

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
        val_units=resampling_units(dataset.groups, dataset.grouped, outside),
        test_units=resampling_units(dataset.groups, dataset.grouped, split.test),
    )
    transform = fit_transform(task.transform, dataset.windows, outside)
    where = f"task {task.name}, {dataset.windows.name}"
    try:
        costs = _costs(encoder, problem, transform.output_shape(dataset.windows.shape))
        _check(problem, loaded.suite, costs)
        where = f"task {task.name}"
        if (asked := loaded.suite.policies) is not None and asked.applies_to(task):
            check_policies(problem, CascadeCosts.of_exits(costs), asked)
    except OfframpError as error:
        raise type(error)(f"{where}: {error}") from None
    return Prepared(problem, transform, costs)


def _takes_antennas(encoder: StagedEncoder, task: TaskSpec) -> bool:
    """Whether windows have to be I/Q ``(2, antennas, x)``, so that those of two axes are I/Q of one antenna."""
    if isinstance(task.transform, SpectrogramSpec | DegradeSpec) or task.transform == "spectrogram":
        return True
    return len(encoder.input.shape) == 3 and encoder.input.shape[0] == 2


def _costs(encoder: StagedEncoder, problem: Problem, shape: tuple[int, ...]) -> tuple[ExitCost, ...]:
    """MACs of every exit, counted with heads of the sizes that the task will have.

    Raises:
        EncoderError: The encoder does not take the windows, or the target does not fit the positions of an exit.
    """
    encoder.input.check(shape)
    head, heads = problem.task.head, {}
    for name, tap in tap_shapes(encoder, shape, head.pooling).items():
        positions = target_positions(encoder, problem.dataset.target_shape, tap)
        outputs = problem.outputs if positions is None else positions.shape[1]
        heads[name] = untrained_head(head.kind, tap[-1], outputs)
    return tuple(exit_costs(encoder, shape, heads, measure=False, pooling=head.pooling).values())


def _check(problem: Problem, suite: Suite, costs: Sequence[ExitCost]) -> None:
    """Raise if the metric cannot score the target, a control cannot see the windows, or no exit is within the budget."""
    check_targets(problem)
    for name in suite.controls:
        if name in FEATURE_CONTROLS:
            FEATURE_CONTROLS[name].compute(problem.dataset.windows.read(np.arange(1)))
    if suite.selection.macs is not None:
        affordable([cost.macs for cost in costs], suite.selection.macs, "MACs")


def bank_of(context: Context, prepared: Prepared, encoder: StagedEncoder, what: str) -> FeatureBank:
    """Features of every window of a task, from the disk as far as they are there."""
    return fill_bank(
        encoder,
        prepared.dataset.windows,
        prepared.transform,
        context.features,
        of_step(context.on_step, f"{prepared.task.name}: {what}"),
        context.device,
        prepared.task.head.pooling,
    )


def fit_exits(
    context: Context, problem: Problem, names: Sequence[str], taps: Callable[[str], FeatureRows], what: str
) -> list[FittedExit]:
    """Heads for every named exit, all seeds and strengths; ``what`` is said of the progress."""
    fitted = []
    for number, name in enumerate(names, start=1):
        rows = taps(name)
        fitted.append(fit_exit(problem, name, rows, positions=positions_of(context, problem, rows)))
        context.on_step(f"{problem.task.name}: {what}", number, len(names))
    return fitted


def positions_of(context: Context, problem: Problem, features: FeatureRows) -> NDArray[np.int64] | None:
    """Which entries of the target each position of a feature matrix answers for; None for one without positions."""
    return target_positions(context.encoder, problem.dataset.target_shape, features.shape[1:])
