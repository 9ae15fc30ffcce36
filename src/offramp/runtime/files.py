"""A bundle's predictions for whole files, batch by batch, so that a file may be larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from offramp.bundle import BundleTask
from offramp.data.containers.companions import check_place
from offramp.data.containers.rates import same_rate
from offramp.data.dataset import Dataset, dataset_of
from offramp.data.formats import format_of, known_formats, open_table
from offramp.data.formats.generic.sigmf import read_signal
from offramp.data.places import find_places, listing
from offramp.data.table import NoWindowsError, SampleRatesError, Table
from offramp.errors import DataError
from offramp.files import check_apart, check_output, output_folder, text_output
from offramp.progress import OnNote, OnStep, silent
from offramp.runtime.loading import BackendName, load
from offramp.runtime.outputs import COLUMNS, PLACE_COLUMNS, ROWS, complete, rows, write_csv, write_jsonl, write_sigmf
from offramp.runtime.predictor import Prediction
from offramp.schema.tasks import DataSpec

BLOCK = 1024
UNLABELLED = ("format", "target", "group", "snr", "labels", "windows_per_recording", "label")
"""Keys of a task's data that do not matter where nothing but windows is read."""


@dataclass(frozen=True)
class Reading:
    """How a file is to be read where it differs from the task's training data.

    Attributes:
        input: Array that holds the windows; that of the training data if None.
        resample: SigMF: the sample rate, Hz, that recordings of another are brought to; as the training data if None.
        skip_bad: Name recordings and files that cannot be used or give no windows, and pass them over.
        allow_outside: Read also what files name outside of their folder, whatever the training data was allowed to.
    """

    input: str | None = None
    resample: float | None = None
    skip_bad: bool = False
    allow_outside: bool = False


@dataclass(frozen=True)
class LabelledReading(Reading):
    """The same of a file that also holds what is right.

    Attributes:
        target: Column with labels or values; that of the training data if None.
        group: Column whose values are recordings; that of the training data if None.
    """

    target: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Running:
    """What runs the encoder; see :func:`offramp.runtime.load`."""

    device: str = "cpu"
    backend: BackendName | None = None
    threads: int | None = None


def predict_file(
    bundle: Path,
    file: Path,
    task: str | None,
    output: str,
    out: Path | None,
    running: Running = Running(),
    on_progress: OnStep = silent,
    policy: str | None = None,
    reading: Reading = Reading(),
    on_note: OnNote = silent,
) -> None:
    """Predict one task for every window of a file: as many answers as windows, and windows of every recording.

    Windows are read as the task's training data was. SigMF recordings without annotations are cut from start to end.

    Args:
        bundle: Bundle folder.
        file: Data file, folder of SigMF recordings, or a pattern for several.
        task: Name of the task; None where the bundle has one.
        output: ``csv``, ``jsonl`` or ``sigmf``.
        out: Where to write, a folder for ``sigmf``; standard output if None.
        running: What runs the encoder.
        on_progress: Called with what is being done, how much is done and how much there is.
        policy: Name of one of the task's policies, which then says where each window leaves; None for the fixed exit.
        reading: How the file differs from the training data.
        on_note: Called with each sentence that must be said about the file.

    Raises:
        OfframpError: Bundle, task, policy or file cannot be used.
    """
    if output == "sigmf" and out is None:
        raise DataError("--format sigmf writes a file per recording: give a folder in --out")
    if out is not None and output != "sigmf" and out.is_dir():
        raise DataError(f"{out} is a folder: choose a file for --out")
    predictor = load(bundle, running.device, running.backend, running.threads)
    chosen = predictor.bundle.choose(task)
    if policy is not None:
        predictor.policy(chosen.name, policy)
    if out is not None:
        inputs = [bundle, *find_places(file)]
        if output == "sigmf":
            check_apart([out], inputs)
        else:
            check_output(out, ROWS, inputs)
    table = open_windows(chosen, file, reading)
    for note in table.notes:
        on_note(note)

    def predictions() -> Iterator[Prediction]:
        for start in range(0, table.windows.count, BLOCK):
            stop = min(start + BLOCK, table.windows.count)
            windows = table.windows.read(np.arange(start, stop))
            yield predictor.predict(windows, tasks=[chosen.name], policy=policy, first=start)[chosen.name]
            on_progress("predicting", stop, table.windows.count)

    if output == "sigmf" and out is not None:
        if table.positions is None or format_of(DataSpec(path=file, allow_outside=reading.allow_outside)) != "sigmf":
            raise DataError(f"{file} is not a SigMF recording: choose --format csv or jsonl")
        write_sigmf(predictions(), table.positions, file, output_folder(out), reading.allow_outside)
    else:
        with text_output(out) as stream:
            _write(table, predictions(), output, stream, file)


def open_windows(task: BundleTask, file: Path, reading: Reading = Reading()) -> Table:
    """Open a file as a task's training data was read; the format is told by the file itself, if it can be.

    Raises:
        DataError: The file cannot be read, its windows have another shape or sample rate than the task's, or a recording gives
            none.
    """
    return _fitting(task, file, reading, lambda: open_table(_spec(task, file, reading)))


def open_labelled(task: BundleTask, file: Path, reading: LabelledReading = LabelledReading()) -> Dataset:
    """Open a file as a task's training data was read, labels and recordings included; classes are those of the task.

    Raises:
        DataError: As :func:`open_windows`; or there are no labels, one is unknown to the task, or values have another shape.
    """
    spec = _of_layout(_as_fitted(task, file, reading, unused=("format", "snr")), task)
    named = {"target": reading.target or spec.target, "group": reading.group or spec.group}
    if format_of(spec) == "sigmf":
        spec = spec.model_copy(update=named | {"window": spec.window or task.window_shape[-1]})
    else:
        spec = spec.model_copy(update=named | {"resample": None, "label": None})
    table = _fitting(task, file, reading, lambda: open_table(spec))
    dataset = dataset_of(table, spec, "classification" if task.kind == "classification" else "regression")
    if task.kind != "classification":
        if (given := dataset.targets.shape[1]) != (taken := task.heads[task.exit].outputs):
            raise DataError(
                f"{file} has {given} values per window, and task {task.name!r} predicts {taken}: name others in data.target"
            )
        return dataset
    names = task.label_names or tuple(map(str, range(task.heads[task.exit].outputs)))
    if unknown := [name for name in dataset.label_names if name not in names]:
        raise DataError(
            f"{file} has the label {unknown[0]!r}, which task {task.name!r} does not know: it has {', '.join(names)}"
        )
    classes = np.asarray([names.index(name) for name in dataset.label_names])
    return replace(dataset, targets=classes[dataset.targets], label_names=names)


def open_recording(task: BundleTask, signal: Any, name: Path) -> Table:
    """Windows of one recording that is open already, and may be in memory, as :func:`open_windows` cuts those of a file; raises as it.

    Args:
        task: Whose windows they are.
        signal: What :func:`offramp.data.containers.recordings.open_signal` and ``signal_in_memory`` give.
        name: What messages call it.
    """
    spec = _of_recordings(_as_fitted(task, name, Reading()), task)
    return _fitting(
        task, name, Reading(), lambda: read_signal(signal, name, spec, spec.window or task.window_shape[-1])
    )


def _fitting(task: BundleTask, file: Path, reading: Reading, opened: Callable[[], Table]) -> Table:
    """A table, if its windows are such as the task takes."""
    samples, known = task.window_shape[-1], task.data.get("sample_rate")
    try:
        table = opened()
    except SampleRatesError as error:
        if known is None:
            raise
        raise DataError(
            f"{file} holds recordings of several sample rates, and task {task.name!r} was fitted at {known:.10g} Hz: "
            f"bring them there with data.resample: {known:.10g}"
        ) from error
    except NoWindowsError as error:
        raise DataError(
            f"{file} gives no windows of {samples} samples, as task {task.name!r} takes: give longer recordings"
        ) from error
    if table.silent and not reading.skip_bad:
        raise DataError(
            f"{file}: {len(table.silent)} of the recordings give no windows of {samples} samples: {listing(table.silent)}; "
            "pass them over with data.skip_bad: true"
        )
    if table.windows.shape != task.window_shape:
        table = replace(table, windows=table.windows.with_antenna())
    if table.windows.shape != task.window_shape:
        raise DataError(
            f"{file} holds windows of shape {table.windows.shape}, and task {task.name!r} takes {task.window_shape}"
        )
    # what a head learned at one sample rate means nothing at another
    if known is not None and table.sample_rate is not None and not same_rate(known, table.sample_rate):
        raise DataError(
            f"{file} has a sample rate of {table.sample_rate:.10g} Hz, and task {task.name!r} was fitted at {known:.10g} Hz: "
            f"bring it there with data.resample: {known:.10g}"
        )
    return table


def _write(table: Table, predictions: Iterator[Prediction], output: str, stream: IO[str], file: Path) -> None:
    answers = complete(rows(predictions, positions=table.positions), table.windows.count, file)
    if output == "csv":
        write_csv(answers, stream, COLUMNS if table.positions is None else (*COLUMNS, *PLACE_COLUMNS))
    else:
        write_jsonl(answers, stream)


def _as_fitted(task: BundleTask, file: Path, reading: Reading, unused: Sequence[str] = UNLABELLED) -> DataSpec:
    known = {name: value for name, value in task.data.items() if name in DataSpec.model_fields}
    own = {
        "input": reading.input or known.get("input"),
        "resample": reading.resample or known.get("resample"),
        "skip_bad": reading.skip_bad,
        "allow_outside": reading.allow_outside,
    }
    return DataSpec(**{**known, **dict.fromkeys(unused), **own}, path=file)


def _of_recordings(spec: DataSpec, task: BundleTask) -> DataSpec:
    cut = "auto" if spec.cut == "annotations" else spec.cut
    return spec.model_copy(update={"window": spec.window or task.window_shape[-1], "cut": cut})


def _of_layout(spec: DataSpec, task: BundleTask) -> DataSpec:
    """With the format of the training data where the file itself does not tell its own."""
    assert isinstance(spec.path, Path)
    first = find_places(spec.path)[0]
    if not any(layout.recognise(first) for layout in known_formats().values()):
        check_place(first, spec.allow_outside)  # a device or a pipe has no layout either
        if task.data.get("format") is None:
            raise DataError(
                f"{spec.path} is of no known layout: give it the suffix of its layout (.h5, .npz, .sigmf-meta ...), or make a "
                "cache of it with offramp data convert"
            )
        return spec.model_copy(update={"format": task.data["format"]})
    return spec


def _spec(task: BundleTask, file: Path, reading: Reading) -> DataSpec:
    spec = _of_layout(_as_fitted(task, file, reading), task)
    if format_of(spec) != "sigmf":
        return spec.model_copy(update={"resample": None})
    return _of_recordings(spec, task)
