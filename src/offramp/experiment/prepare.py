"""What a run needs before any head is fitted: the encoder, each task's data, split and transform, and its features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from offramp.bundle import MAX_EXAMPLES
from offramp.costs import exit_costs
from offramp.data.dataset import Dataset, load_dataset
from offramp.data.splits import make_split
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.encoders.taps import freeze, tap_shapes
from offramp.errors import EncoderError, OfframpError
from offramp.experiment.controls import features as controls
from offramp.experiment.features import FeatureBank, fill_bank, fit_transform
from offramp.heads.fit import Problem, check_targets
from offramp.heads.modules import untrained_head
from offramp.heads.rows import FeatureRows
from offramp.heads.tokens import target_positions
from offramp.policies import selection
from offramp.schema.suite import LoadedSuite, Suite
from offramp.schema.tasks import TaskSpec
from offramp.scoring.resampling import resampling_units
from offramp.transforms import Transform

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


@dataclass(frozen=True)
class Context:
    """What all tasks of a run share."""

    encoder: StagedEncoder
    loaded: LoadedSuite
    features: Path
    device: str
    on_progress: OnProgress


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
        heads = untrained_heads(encoder, prepared)
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


def untrained_heads(encoder: StagedEncoder, prepared: Prepared) -> dict[str, nn.Module]:
    """Heads of the sizes that the task will have, by exit; raises where the target does not fit the positions of an exit."""
    head, problem = prepared.task.head, prepared.problem
    heads = {}
    for name, shape in tap_shapes(encoder, prepared.input_shape, head.pooling).items():
        positions = target_positions(encoder, prepared.dataset.target_shape, shape)
        outputs = problem.outputs if positions is None else positions.shape[1]
        heads[name] = untrained_head(head.kind, shape[-1], outputs)
    return heads


def bank_of(context: Context, prepared: Prepared, encoder: StagedEncoder, what: str) -> FeatureBank:
    """Features of every window of a task, from the disk as far as they are there."""

    def progress(done: int, total: int) -> None:
        context.on_progress(f"{prepared.task.name}: {what}", done, total)

    windows = prepared.dataset.windows
    pooling = prepared.task.head.pooling
    return fill_bank(encoder, windows, prepared.transform, context.features, progress, context.device, pooling)


def positions_of(context: Context, problem: Problem, features: FeatureRows) -> NDArray[np.int64] | None:
    """Which entries of the target each position of a feature matrix answers for; None for one without positions."""
    return target_positions(context.encoder, problem.dataset.target_shape, features.shape[1:])
