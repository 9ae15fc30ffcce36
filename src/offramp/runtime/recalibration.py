"""A bundle's confidence and policies fitted anew to labelled traffic: heads, exits and encoder stay, a new folder is written."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import (
    CARD,
    ENCODER,
    BundleTask,
    change_task,
    load_bundle,
    load_examples,
    load_reference,
    save_reference,
)
from offramp.data.dataset import Dataset
from offramp.data.places import find_places
from offramp.errors import BundleError, DataError
from offramp.files import LOCK, TEMPORARY, check_apart, check_free, new_folder, write_text
from offramp.policies.changes import PolicyChange, TemperatureChange
from offramp.policies.purpose import json_numbers
from offramp.policies.refitting import refit
from offramp.policies.simulation import check_finite
from offramp.policies.windows import Windows
from offramp.progress import OnNote, OnStep, of_step, silent
from offramp.runtime.engine.tables import cut_exits
from offramp.runtime.execution import to_numpy
from offramp.runtime.files import LabelledReading, Running, open_labelled
from offramp.runtime.loading import load
from offramp.runtime.predictor import Predictor, row_per_window, transformed
from offramp.runtime.reference import kept_windows, remeasured
from offramp.scoring.metrics import METRICS, Metric, reshaping
from offramp.scoring.resampling import FEWEST_GROUPS

BATCH = 256
FEWEST_WINDOWS = 30
AS_FITTED, HERE = LabelledReading(), Running()


@dataclass(frozen=True, eq=False)
class Recalibration:
    """What was fitted anew, and to what.

    Attributes:
        out: The new folder.
        task: Name of the task.
        kind: ``classification`` or ``regression``.
        metric: That scores are of.
        exit: Where the task leaves without a policy.
        windows: How many there were.
        groups: Of how many recordings; as many as windows where the data tells none apart.
        grouped: Whether it does.
        exits: What changed at each exit; empty for regression.
        policies: What changed in each policy.
    """

    out: Path
    task: str
    kind: str
    metric: str
    exit: str
    windows: int
    groups: int
    grouped: bool
    exits: tuple[TemperatureChange, ...]
    policies: tuple[PolicyChange, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; infinite thresholds as strings."""
        policies = [
            asdict(each)
            | {
                "thresholds_before": json_numbers(each.thresholds_before),
                "thresholds_after": None if each.thresholds_after is None else json_numbers(each.thresholds_after),
            }
            for each in self.policies
        ]
        return asdict(self) | {"out": str(self.out), "policies": policies}


def recalibrate(
    bundle: str | Path,
    labelled: str | Path,
    out: str | Path,
    task: str | None = None,
    seed: int = 0,
    reading: LabelledReading = AS_FITTED,
    running: Running = HERE,
    on_step: OnStep = silent,
    on_note: OnNote = silent,
) -> Recalibration:
    """Fit the temperatures and policies of a task anew to labelled windows, and write a new bundle.

    Everything but ``config.json`` is carried over byte for byte; the model card gets a section about it, and what traffic is compared with to
    find drift is measured anew, for these windows are what is usual from now on. A policy whose guarantee cannot be renewed is left out.

    Args:
        bundle: Bundle folder, or a folder of segments, which needs no torch; at exits where these are not cut temperatures stay.
        labelled: Data file with labels and recordings, of traffic that neither heads nor policies have seen.
        out: The folder to write; there must be none.
        task: Name of the task; None where the bundle has one.
        seed: Of the folds of recordings by which what is fitted anew is judged.
        reading: How the file differs from the training data.
        running: What runs the encoder.
        on_step: Called with what is being done, how much is done and how much there is.
        on_note: Called with each sentence that must be said about the file.

    Raises:
        DataError: The file cannot be used, has too few windows or recordings, or holds windows of the run that fitted the bundle.
        BundleError: The bundle cannot be used, or the task has nothing to fit anew.
        OfframpError: ``out`` is there or cannot be written.
    """
    folder, file, out = Path(bundle), Path(labelled), Path(out)
    check_free(out)
    predictor = load(folder, running.device, running.backend, running.threads)
    chosen = predictor.bundle.choose(task)
    check_apart([out], [folder, *find_places(file)])
    policies = {name: predictor.policy(chosen.name, name) for name in chosen.policies}
    if chosen.kind != "classification" and not policies:
        raise BundleError(
            f"task {chosen.name!r} is a regression without policies: it has neither temperatures nor thresholds to fit anew"
        )
    dataset = open_labelled(chosen, file, reading)
    for note in dataset.notes:
        on_note(note)
    groups = len(np.unique(dataset.groups))
    if dataset.windows.count < FEWEST_WINDOWS or groups < FEWEST_GROUPS:
        raise DataError(
            f"{file} holds {dataset.windows.count} labelled windows of {groups} recordings: give at least {FEWEST_WINDOWS} of "
            f"{FEWEST_GROUPS}, which data.group tells apart"
        )
    examples, references = load_examples(folder).get(chosen.name), load_reference(folder)
    usual = kept_windows(np.arange(dataset.windows.count), dataset.groups, dataset.grouped)
    compared = references[chosen.name].exit if chosen.name in references else None
    windows, features = seen_at_all_exits(predictor, chosen, dataset, examples, compared, usual, on_step)
    found = refit(windows, dataset.groups, chosen.temperatures, policies, seed, of_step(on_step, "fitting"))
    stored = {name: policy.to_dict() for name, policy in found.policies.items()}
    renewed = replace(chosen, temperatures=found.temperatures, policies=stored)
    result = Recalibration(
        out=out,
        task=chosen.name,
        kind=chosen.kind,
        metric=chosen.metric,
        exit=chosen.exit,
        windows=windows.count,
        groups=groups,
        grouped=dataset.grouped,
        exits=found.exits,
        policies=found.changes,
    )
    with new_folder(out) as fresh:
        _write(folder, fresh, renewed, result, predictor.bundle.encoder_path)
        if chosen.name in references:
            before, told = references.pop(chosen.name), (dataset.groups[usual], dataset.grouped)
            if features is not None:  # without, nothing is there to compare with
                references[chosen.name] = remeasured(before, renewed, windows.subset(usual).outputs, features, *told)
            save_reference(references, fresh)
    return result


def seen_at_all_exits(
    predictor: Predictor,
    task: BundleTask,
    dataset: Dataset,
    known: NDArray[np.float32] | None,
    compared: str | None,
    usual: NDArray[np.int64],
    on_step: OnStep = silent,
) -> tuple[Windows, NDArray[np.float32] | None]:
    """Outputs of a task's heads at every exit that is cut, for all windows of a data set, and what the head at one of them sees.

    Args:
        predictor: Runs the encoder.
        task: One of its tasks.
        dataset: With the task's classes.
        known: Raw windows that must not be among them ``(n, *window_shape)``.
        compared: The exit where features are asked for; none are if it is not cut.
        usual: Windows whose features are asked for.
        on_step: Called with what is being done, how much is done and how much there is.

    Raises:
        DataError: A window or an answer is not finite, or a window is known.
    """
    refused = {window.tobytes() for window in ([] if known is None else known) if window.any()}
    backend, count = predictor.backend, dataset.windows.count
    shared = backend.together([task.name])
    segments, (seen,) = shared.segments, shared.seen
    cut = cut_exits(task, segments)
    exits = tuple(sorted(cut, key=cut.__getitem__))
    heads = {exit: backend.head(task, exit) for exit in exits}
    parts: dict[str, list[NDArray[np.float32]]] = {exit: [] for exit in exits}
    features: list[NDArray[np.float32]] = []
    for start in range(0, count, BATCH):
        rows = np.arange(start, min(start + BATCH, count))
        raw = dataset.windows.read(rows)
        for row, window in zip(rows, raw, strict=True):
            if refused and window.tobytes() in refused:
                raise DataError(
                    f"{dataset.windows.name}: window {row} is of the data that the bundle was made from, which its heads know: nothing can "
                    "be certified on it; give traffic that has come since"
                )
        inputs = backend.inputs(transformed(task, raw, start))
        with segments.running():
            taps = segments.through(segments.begin(inputs), {cut[exit]: (seen,) for exit in exits})
            for exit in exits:
                given = to_numpy([segments.outputs(heads[exit](taps[cut[exit]][seen]))])
                check_finite(given, start)
                parts[exit].append(given)
                if exit == compared:
                    tap = to_numpy([segments.outputs(taps[cut[exit]][seen])])
                    features.append(row_per_window(tap)[np.isin(rows, usual)])
        on_step("reading labelled windows", start + len(rows), count)
    outputs = {exit: np.concatenate(of_exit) for exit, of_exit in parts.items()}
    windows = Windows(exits, outputs, dataset.targets, _metric(task))
    return windows, _in_order(np.concatenate(features), usual) if features else None


def _in_order(features: NDArray[np.float32], usual: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows that came in order of their windows, in that of ``usual``."""
    return features[np.argsort(np.argsort(usual))]


def _metric(task: BundleTask) -> Metric:
    metric = METRICS.get(task.metric)
    if metric is None:
        raise BundleError(
            f"task {task.name!r} is scored by {task.metric!r}, which this version of offramp does not know"
        )
    return reshaping(metric, task.target_shape) if metric.shaped else metric


def _write(folder: Path, fresh: Path, task: BundleTask, result: Recalibration, encoder_path: str | None) -> None:
    """The old folder with what is new; the encoder's own files are found from the new place, too."""
    shutil.copytree(folder, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns(f"{TEMPORARY}*", LOCK))
    if encoder_path is not None and not (fresh / ENCODER).exists():
        encoder_path = str((folder / encoder_path).resolve())
    change_task(fresh, task, encoder_path)
    card = fresh / CARD
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    write_text(card, f"{text.rstrip()}\n\n{_section(result)}")
    load_bundle(fresh)


def _section(result: Recalibration) -> str:
    """For the model card, which tells of the run alone."""
    told = f"{result.windows:,} labelled windows of {result.groups:,} recordings"
    changes: list[TemperatureChange | PolicyChange] = [*result.exits, *result.policies]
    lines = [
        f"## Task {result.task}, recalibrated",
        "",
        f"`offramp recalibrate` fitted its confidence and its policies anew to {told}. What is said above of its policies, their thresholds and "
        "what is guaranteed was true of the run, and is replaced by this:",
        "",
        *(f"- {change.sentence}" for change in changes),
    ]
    return "\n".join(lines) + "\n"
