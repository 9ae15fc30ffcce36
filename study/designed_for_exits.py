"""Is putting exits on a finished encoder worse than designing for exits? Writes the answer into docs/training.md.

Per task and labels per class, at every exit: heads on the frozen plain encoder, heads on the frozen encoder that was pretrained
exit-aware, low-rank adapters up to an exit, and joint training of all weights and heads. Every finished piece is kept, so start it
again after a kill. About 20 minutes of one core.

python study/designed_for_exits.py [--runs runs/designed-for-exits] [--exit-aware FOLDER] [--tasks NAME ...] [--seeds 3] [--steps 120]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.bundle import Head
from offramp.costs import exit_costs
from offramp.data.dataset import load_dataset
from offramp.data.splits import make_split
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import load_encoder
from offramp.encoders.taps import freeze
from offramp.experiment.features import batch_size, fill_bank
from offramp.files import atomic_path, write_text
from offramp.heads.fit import Problem, fit_exit
from offramp.schema.results import Gain
from offramp.schema.suite import load_suite
from offramp.schema.tasks import TaskSpec
from offramp.scoring.resampling import Resamples, paired_gain, resampling_units, summarise
from offramp.training.exits import ExitTraining, train_exits
from offramp.transforms import Transform

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- designed for exits -->", "<!-- /designed for exits -->"
PLAIN, AWARE = "iq-resnet", "iq-resnet-exit-aware"
TEST_WINDOWS = 1500
EARLY, FULL = "stage1.1", "stage3.1"
JOINT, ADAPTERS, FROZEN, FROZEN_AWARE = "joint", "low-rank", "frozen", "frozen, exit-aware"
METHODS = (FROZEN, FROZEN_AWARE, ADAPTERS, JOINT)
LABELS = {"modulation": (10, 50), "family": (10, None)}
"""Where not 10, 50 and 200 per class; None: all that are not in the test set, a quarter of them for the choice of the heads' strength."""
TRAINING: dict[str, dict[str, Any]] = {
    JOINT: {"learning_rate": 1e-3, "normalisation": "stored"},
    ADAPTERS: {"learning_rate": 1e-3, "rank": 8},
}
"""Fixed on the validation windows of rml2016, which is not among the tasks here."""

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """What the command line chooses."""

    runs: Path
    aware: str
    seeds: int
    steps: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One task at one number of labels per class.

    Attributes:
        problem: Test set and one draw per seed.
        labels: Per class; None for all.
    """

    problem: Problem
    labels: int | None

    @property
    def name(self) -> str:
        """For messages and file names."""
        return f"{self.problem.task.name}-{self.labels or 'all'}"

    def windows(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """As the encoder sees them."""
        return torch.from_numpy(self.problem.dataset.windows.read(indices))


def main() -> None:
    """Fill the cells that are missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "designed-for-exits")
    parser.add_argument("--exit-aware", default=AWARE, help="name or folder of the exit-aware encoder")
    parser.add_argument(
        "--tasks", nargs="*", default=["modulation", "direction_sector", "interference", "beam", "family"]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(arguments.runs, arguments.exit_aware, arguments.seeds, arguments.steps, tuple(arguments.tasks))
    cells = [cell for task in task_specs(settings) for cell in cells_of(task, settings)]
    sums: dict[str, dict[str, Sums]] = {cell.name: {} for cell in cells}
    for cell in cells:
        sums[cell.name][FROZEN] = frozen(cell, PLAIN, settings)
    trained = {
        (cell.name, method, seed): train(cell, method, seed, settings)
        for seed in range(settings.seeds)
        for cell in cells
        for method in (JOINT, ADAPTERS)
    }
    for cell in cells:
        sums[cell.name][FROZEN_AWARE] = frozen(cell, settings.aware, settings)
        for method in (JOINT, ADAPTERS):
            per_seed = [trained[cell.name, method, seed] for seed in range(settings.seeds)]
            sums[cell.name][method] = np.stack(per_seed)
    write_page(cells, sums, settings, arguments.page)


def task_specs(settings: Settings) -> Iterator[TaskSpec]:
    """Four simulated tasks with windows enough for their labels, and recordings where they are on disk."""
    for task in (*load_suite().tasks, *load_suite(ROOT / "examples" / "rtl433.yaml").tasks):
        if task.name not in settings.tasks:
            continue
        if task.data.path is not None:
            if task.data.path.exists():
                yield task
            else:
                print(f"{task.name}: left out, no recordings at {task.data.path}", flush=True)
            continue
        most = max(LABELS.get(task.name, (200,)))
        classes = {"modulation": 25, "interference": 15}.get(task.name, 8)
        count = int(1.4 * most * classes) + TEST_WINDOWS
        synthetic = task.data.synthetic.model_copy(update={"windows": count, "seed": 200})
        data = task.data.model_copy(update={"synthetic": synthetic})
        split = task.split.model_copy(update={"test": TEST_WINDOWS / count})
        yield task.model_copy(update={"data": data, "split": split})


def cells_of(task: TaskSpec, settings: Settings) -> Iterator[Cell]:
    """The task at every number of labels; the test set is the same in all."""
    dataset = load_dataset(task.data, task.kind)
    for labels in LABELS.get(task.name, (10, 50, 200)):
        split = make_split(dataset, task.split, task.kind, labels, list(range(settings.seeds)), 0)
        outside = np.setdiff1d(np.arange(dataset.windows.count), split.test)
        units = [
            resampling_units(dataset.groups, dataset.grouped, part, dataset.blocks) for part in (outside, split.test)
        ]
        yield Cell(Problem(task, dataset, split, *units), labels)


@cache
def encoder_of(name: str) -> StagedEncoder:
    """A frozen encoder."""
    return freeze(load_encoder(name))


def frozen(cell: Cell, name: str, settings: Settings) -> Sums:
    """Test statistics of heads on every exit of a frozen encoder, ``(seeds, exits, units, q)``; the heads are kept too."""
    path = _path(cell, f"frozen-{encoder_of(name).fingerprint()[:12]}-{settings.seeds}", settings)
    if not path.exists():
        bank = fill_bank(encoder_of(name), cell.problem.dataset.windows, Transform("none"), settings.runs / "features")
        fitted = [fit_exit(cell.problem, exit, bank.taps(exit)) for exit in bank.names]
        heads = {
            f"{exit.name}/{seed}/{part}": array
            for exit in fitted
            for seed, head in enumerate(exit.heads)
            for part, array in zip(("weight", "bias"), head.layers[0], strict=True)
        }
        _save(path, sums=np.stack([exit.test_sums for exit in fitted], axis=1), **heads)
        print(f"{cell.name}: {name} frozen", flush=True)
    sums: Sums = np.load(path)["sums"]
    return sums


def frozen_heads(cell: Cell, seed: int, settings: Settings) -> dict[str, Head]:
    """The heads that were fitted on the frozen plain encoder: what training starts from."""
    stored = np.load(_path(cell, f"frozen-{encoder_of(PLAIN).fingerprint()[:12]}-{settings.seeds}", settings))
    return {
        exit.name: Head(((stored[f"{exit.name}/{seed}/weight"], stored[f"{exit.name}/{seed}/bias"]),))
        for exit in encoder_of(PLAIN).exits
    }


def train(cell: Cell, method: str, seed: int, settings: Settings) -> Sums:
    """Test statistics of every exit after training on one seed's labels, ``(exits, units, q)``; NaN where it has no head."""
    path = _path(cell, f"{method}-{settings.steps}-{seed}", settings)
    if not path.exists():
        encoder, problem = encoder_of(PLAIN), cell.problem
        train_on = problem.split.draws[seed].final
        inputs, targets = cell.windows(train_on), problem.dataset.targets[train_on]
        found: dict[str, Sums] = {}
        for exit in (None,) if method == JOINT else (EARLY, FULL):
            config = ExitTraining(
                method="joint" if method == JOINT else "low-rank",
                exit=exit,
                steps=settings.steps,
                batch=64 if inputs.shape[-1] < 1024 else 32,
                balanced=problem.metric.name == "balanced_accuracy",
                seed=seed,
                **TRAINING[method],
            )
            start = frozen_heads(cell, seed, settings)
            trained = train_exits(encoder, inputs, targets, "classification", problem.outputs, config, heads=start)
            found |= test_sums(cell, trained.encoder, trained.heads)
        some = next(iter(found.values()))
        _save(path, sums=np.stack([found.get(e.name, np.full_like(some, np.nan)) for e in encoder.exits]))
        print(f"{cell.name}: {method}, seed {seed}", flush=True)
    sums: Sums = np.load(path)["sums"]
    return sums


def test_sums(cell: Cell, encoder: StagedEncoder, heads: dict[str, Head]) -> dict[str, Sums]:
    """Test statistics per unit of every head."""
    problem, test = cell.problem, cell.problem.split.test
    step = batch_size(problem.dataset.windows.shape)
    outputs: dict[str, list[NDArray[np.float32]]] = {name: [] for name in heads}
    with torch.inference_mode():
        for start in range(0, len(test), step):
            for name, tap in encoder.taps(cell.windows(test[start : start + step]), heads).items():
                outputs[name].append(heads[name](tap.numpy()))
    targets = problem.dataset.targets[test]
    return {
        name: problem.test_units.sums(problem.metric.statistics(np.concatenate(parts), targets), test)
        for name, parts in outputs.items()
    }


def write_page(cells: list[Cell], sums: dict[str, dict[str, Sums]], settings: Settings, page: Path) -> None:
    """Put the tables between the markers of the page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(
        [_in_short(cells, sums), _differences(cells, sums), _designed(cells, sums), *_scores(cells, sums, settings)]
    )
    write_text(page, f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")


def _gain(cell: Cell, sums: dict[str, Sums], method: str, exit: str) -> Gain:
    """A method against heads on the frozen plain encoder at the same exit, paired over test units and seeds."""
    place = encoder_of(PLAIN).exit_index(exit)
    problem = cell.problem
    resamples = Resamples.draw(problem.test_units.count, len(problem.split.draws), 0)
    ours, theirs = sums[method][:, place], sums[FROZEN][:, place]
    return paired_gain(ours, theirs, problem.metric, resamples, problem.test_units)


def _in_short(cells: list[Cell], sums: dict[str, dict[str, Sums]]) -> str:
    parts: dict[str, list[Cell]] = {"ID": [], "OOD": []}
    for cell in cells:
        parts["ID" if cell.problem.task.shift == "id" else "OOD"].append(cell)
    places = [(part, exit) for part in parts for exit in (EARLY, FULL)]
    counted = " and ".join(f"{len(found)} {part}" for part, found in parts.items())
    lines = [
        f"Against heads on the frozen plain encoder at the same exit, over {counted} pairs of task and labels: mean difference in points, "
        "and in how many pairs its 95% interval lies above or below zero.",
        "",
        f"| | {' | '.join(f'{part}, {exit}' for part, exit in places)} |",
        f"| --- |{' --- |' * len(places)}",
    ]
    for method in METHODS[1:]:
        row = []
        for part, exit in places:
            gains = [_gain(cell, sums[cell.name], method, exit) for cell in parts[part]]
            better = sum(gain.ci95[0] > 0 for gain in gains)
            worse = sum(gain.ci95[1] < 0 for gain in gains)
            mean = np.mean([gain.mean for gain in gains]) if gains else np.nan
            row.append(f"{100 * mean:+.1f}; {better} better, {worse} worse")
        lines.append(f"| {method} | {' | '.join(row)} |")
    return "\n".join(lines)


def _designed(cells: list[Cell], sums: dict[str, dict[str, Sums]]) -> str:
    exits = [exit.name for exit in encoder_of(PLAIN).exits]
    lines = [
        "The frozen exit-aware encoder minus the frozen plain one, at every exit:",
        "",
        f"| task | labels per class | {' | '.join(exits)} |",
        f"| --- | --- |{' --- |' * len(exits)}",
    ]
    for cell in cells:
        row = [_shown(_gain(cell, sums[cell.name], FROZEN_AWARE, exit)) for exit in exits]
        lines.append(f"| {cell.problem.task.name} | {cell.labels or 'all'} | {' | '.join(row)} |")
    return "\n".join(lines)


def _shown(gain: Gain) -> str:
    low, high = gain.ci95
    text = f"{100 * gain.mean:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _differences(cells: list[Cell], sums: dict[str, dict[str, Sums]]) -> str:
    heads = [f"{method}, {exit}" for exit in (EARLY, FULL) for method in METHODS[1:]]
    lines = [
        "Difference to the frozen plain encoder at the same exit, points, 95% interval over test windows (recordings of `family`) "
        "and seeds; bold where zero lies outside.",
        "",
        f"| task | labels per class | {' | '.join(heads)} |",
        f"| --- | --- |{' --- |' * len(heads)}",
    ]
    for cell in cells:
        row = [_shown(_gain(cell, sums[cell.name], method, exit)) for exit in (EARLY, FULL) for method in METHODS[1:]]
        lines.append(f"| {cell.problem.task.name} | {cell.labels or 'all'} | {' | '.join(row)} |")
    return "\n".join(lines)


def _scores(cells: list[Cell], sums: dict[str, dict[str, Sums]], settings: Settings) -> Iterator[str]:
    """A table per task: every exit."""
    for task in dict.fromkeys(cell.problem.task.name for cell in cells):
        of_task = [cell for cell in cells if cell.problem.task.name == task]
        problem = of_task[0].problem
        costs = exit_costs(encoder_of(PLAIN), problem.dataset.windows.shape, measure=False)
        full = list(costs.values())[-1].macs
        exits = [f"{name} ({100 * cost.macs / full:.0f}%)" for name, cost in costs.items()]
        lines = [
            f"`{task}`: test {problem.metric.name} in % at every exit (its share of the MACs), mean of {settings.seeds} draws of "
            "labels, and half of the 95% interval's width.",
            "",
            f"| labels | method | {' | '.join(exits)} |",
            f"| --- | --- |{' --- |' * len(exits)}",
        ]
        for cell in of_task:
            for method in METHODS:
                row = [_score(cell, sums[cell.name][method][:, place]) for place in range(len(exits))]
                lines.append(f"| {cell.labels or 'all'} | {method} | {' | '.join(row)} |")
        yield "\n".join(lines)


def _score(cell: Cell, sums: Sums) -> str:
    if np.isnan(sums).any():
        return ""
    problem = cell.problem
    score = summarise(sums, problem.metric, Resamples.draw(problem.test_units.count, len(sums), 0))
    assert score.ci95 is not None
    return f"{100 * score.mean:.1f} ± {50 * (score.ci95[1] - score.ci95[0]):.1f}"


def _path(cell: Cell, what: str, settings: Settings) -> Path:
    return settings.runs / "cells" / cell.problem.split.sha256[:12] / f"{cell.name}-{what}.npz"


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main()
