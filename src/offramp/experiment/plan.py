"""What a suite would do: windows per class in each split, disk and time. Nothing is fitted."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from offramp.encoders.base import StagedEncoder
from offramp.experiment.controls.rows import RANDOM_DRAWS
from offramp.experiment.features import batch_size, encoder_inputs
from offramp.experiment.pipeline import LATENCY_SECONDS
from offramp.experiment.prepare import Prepared, load, positions_of, prepare_tasks
from offramp.heads.fit import Problem, fit_exit
from offramp.policies.search import Searcher
from offramp.policies.windows import Windows
from offramp.schema.suite import LoadedSuite, Suite

RAW_WIDTH = 1024
POLICY_SHARE = 2.0
"""Time of all that a seed's policies take over that of its first search."""
TIMED_PASSES = 40
"""Batches through the encoder while policies are executed and timed."""
"""Most columns of the raw-input control."""
REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class PlannedTask:
    """One task's split, and what it will take.

    Attributes:
        name: Of the task.
        counts: Rows of (class, train, validation, test) for the first seed; one row "all" for regression.
        groups: Groups outside and inside the test set.
        seconds: Estimate for features, heads, controls and latency.
        disk_bytes: Features on disk while the run lasts; 0 where an earlier task has the same.
        notes: Sentences on the data: what was passed over, filled up or left out.
    """

    name: str
    counts: tuple[tuple[str, int, int, int], ...]
    groups: tuple[int, int]
    seconds: float
    disk_bytes: int
    notes: tuple[str, ...] = ()


def plan_suite(loaded: LoadedSuite, device: str) -> tuple[PlannedTask, ...]:
    """Open all data, draw all splits, time one batch and one fit, and estimate the rest.

    Raises:
        OfframpError: What the run itself would raise before its first feature.
    """
    encoder = load(loaded, device)
    seen: set[tuple[object, ...]] = set()
    plans = []
    for prepared in prepare_tasks(loaded, encoder):
        key = (prepared.dataset.windows.fingerprint, str(prepared.transform), prepared.task.head.poolings)
        plans.append(_plan(prepared.view, prepared, loaded, device, shared=key in seen))
        seen.add(key)
    return tuple(plans)


def plan_table(plans: Sequence[PlannedTask]) -> RenderableType:
    """For the terminal."""
    table = Table(title="Windows per class, first seed", title_justify="left")
    for column in ("task", "class", "train", "validation", "test"):
        table.add_column(column, justify="left" if column in ("task", "class") else "right")
    for plan in plans:
        for number, (name, *counts) in enumerate(plan.counts):
            table.add_row(escape(plan.name) if number == 0 else "", escape(name), *(f"{count:,}" for count in counts))
        table.add_section()
    lines = [
        f"{plan.name}: {plan.groups[0]:,} groups to fit on, {plan.groups[1]:,} to test on; about {plan.seconds:.0f} s"
        for plan in plans
    ]
    lines += [f"{plan.name}: {note}" for plan in plans for note in plan.notes]
    disk = sum(plan.disk_bytes for plan in plans)
    minutes = (sum(plan.seconds for plan in plans) + REPORT_SECONDS) / 60
    lines.append(f"In all about {minutes:.1f} minutes and {disk / 1e6:,.0f} MB of disk while it runs.")
    return Group(table, *(Text(line) for line in lines))


def _plan(encoder: StagedEncoder, prepared: Prepared, loaded: LoadedSuite, device: str, shared: bool) -> PlannedTask:
    dataset, split = prepared.dataset, prepared.problem.split
    draw = split.draws[0]
    parts = [draw.folds[0][0], draw.folds[0][1], split.test]
    if dataset.label_names:
        counted = [np.bincount(dataset.targets[part], minlength=len(dataset.label_names)) for part in parts]
        counts = tuple(
            (name, int(row[0]), int(row[1]), int(row[2]))
            for name, row in zip(dataset.label_names, np.stack(counted, axis=1), strict=True)
        )
    else:
        counts = (("all", len(parts[0]), len(parts[1]), len(parts[2])),)
    inside = np.unique(dataset.groups[split.test])
    outside = np.unique(dataset.groups[prepared.outside_test()])
    controls = loaded.suite.controls
    random_passes = min(RANDOM_DRAWS, len(loaded.suite.seeds)) if "random_encoder" in controls else 0
    passes = 0 if shared else 1 + random_passes
    taps, per_window = _first_batch(encoder, prepared, device)
    widths = [tap.shape[-1] for tap in taps]
    solved = widths * (2 if random_passes else 1)
    if "raw_input" in controls:
        solved.append(min(RAW_WIDTH, math.prod(prepared.input_shape)))
    heads = _seconds_for_heads(encoder, prepared.problem, taps, solved)
    routed = _seconds_for_policies(encoder, prepared, loaded.suite, per_window)
    return PlannedTask(
        name=prepared.task.name,
        counts=counts,
        groups=(len(outside), len(inside)),
        seconds=passes * dataset.windows.count * per_window + heads + routed + LATENCY_SECONDS * len(widths),
        disk_bytes=4 * sum(math.prod(tap.shape[1:]) for tap in taps) * passes * dataset.windows.count,
        notes=dataset.notes,
    )


def _first_batch(encoder: StagedEncoder, prepared: Prepared, device: str) -> tuple[list[NDArray[np.float32]], float]:
    """Taps of all exits for one batch outside the test set, and the seconds that one window took."""
    windows = prepared.dataset.windows
    chosen = prepared.outside_test()[: batch_size(windows.shape)]
    batch = torch.from_numpy(encoder_inputs(windows, prepared.transform, chosen)).to(device)
    with torch.inference_mode():
        encoder.taps(batch)
        started = time.perf_counter()
        taps = encoder.taps(batch)
        seconds = time.perf_counter() - started
    return [tap.float().cpu().numpy() for tap in taps.values()], seconds / len(chosen)


class _Repeated:
    """One batch of taps over and over: as many rows as the run has, at the price of one batch."""

    def __init__(self, rows: NDArray[np.float32], count: int) -> None:
        self._rows = rows
        self.shape: tuple[int, ...] = (count, *rows.shape[1:])

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._rows[indices % len(self._rows)]


def _seconds_for_heads(
    encoder: StagedEncoder, problem: Problem, taps: Sequence[NDArray[np.float32]], widths: Sequence[int]
) -> float:
    """One seed is fitted on one exit of medium width; the time of a solve has a part that grows with the width."""
    rows = sorted(taps, key=lambda tap: tap.shape[-1])[len(taps) // 2]
    positions = positions_of(problem, encoder, rows.shape[1:])
    started = time.perf_counter()
    fit_exit(problem, "trial", _Repeated(rows, problem.dataset.windows.count), problem.split.draws[:1], positions)
    seconds = time.perf_counter() - started
    relative = sum(0.5 + 0.5 * width / int(rows.shape[-1]) for width in widths)
    return seconds * relative * len(problem.split.draws)


def _seconds_for_policies(encoder: StagedEncoder, prepared: Prepared, suite: Suite, per_window: float) -> float:
    """One seed's search is run on made-up outputs; it is repeated at matched time, and policies are executed and timed."""
    asked, problem = suite.policies, prepared.problem
    if asked is None or not asked.applies_to(prepared.task):
        return 0.0
    rng, names = np.random.default_rng(0), tuple(exit.name for exit in encoder.exits)
    held = problem.split.draws[0].folds[0][1]
    outputs = {name: rng.standard_normal((len(held), problem.outputs), dtype=np.float32) for name in names}
    windows = Windows(names, outputs, problem.dataset.targets[held], problem.metric)
    started = time.perf_counter()
    searcher = Searcher(windows, prepared.task.kind)
    searcher.search(asked.criteria_for(prepared.task.kind), prepared.cascade, prepared.cascade.fixed().tolist())
    seconds = time.perf_counter() - started
    noisy = len(problem.split.test) if asked.noise_db is not None else 0
    executed = TIMED_PASSES * asked.batch
    return POLICY_SHARE * seconds * len(suite.seeds) + (noisy + executed) * per_window
