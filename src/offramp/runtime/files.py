"""A bundle's predictions for whole files, batch by batch, so that a file may be larger than memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from offramp.bundle import BundleTask
from offramp.data.formats import format_of, known_formats, open_table
from offramp.data.table import Table
from offramp.errors import DataError
from offramp.files import atomic_path, output_folder
from offramp.runtime.outputs import rows, write_csv, write_jsonl, write_sigmf
from offramp.runtime.predictor import Prediction, load
from offramp.schema.tasks import DataSpec

BLOCK = 1024


def predict_file(
    bundle: Path,
    file: Path,
    task: str | None,
    output: str,
    out: Path | None,
    device: str = "cpu",
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    policy: str | None = None,
) -> None:
    """Predict one task for every window of a file.

    Windows are read as the task's training data was. SigMF recordings without annotations are cut from start to end.

    Args:
        bundle: Bundle folder.
        file: Data file, or folder of SigMF recordings.
        task: Name of the task; None where the bundle has one.
        output: ``csv``, ``jsonl`` or ``sigmf``.
        out: Where to write, a folder for ``sigmf``; standard output if None.
        device: Where the encoder runs.
        on_progress: Called with what is being done, how much is done and how much there is.
        policy: Name of one of the task's policies, which then says where each window leaves; None for the fixed exit.

    Raises:
        OfframpError: Bundle, task, policy or file cannot be used.
    """
    if output == "sigmf" and out is None:
        raise DataError("--format sigmf writes a file per recording: give a folder in --out")
    if out is not None and output != "sigmf" and out.is_dir():
        raise DataError(f"{out} is a folder: choose a file for --out")
    predictor = load(bundle, device)
    chosen = predictor.bundle.choose(task)
    if policy is not None:
        predictor.policy(chosen.name, policy)
    table = open_windows(chosen, file)

    def predictions() -> Iterator[Prediction]:
        for start in range(0, table.windows.count, BLOCK):
            stop = min(start + BLOCK, table.windows.count)
            windows = table.windows.read(np.arange(start, stop))
            yield predictor.predict(windows, tasks=[chosen.name], policy=policy, first=start)[chosen.name]
            on_progress("predicting", stop, table.windows.count)

    write = write_csv if output == "csv" else write_jsonl
    if output == "sigmf" and out is not None:
        if table.positions is None:
            raise DataError(f"{file} is not a SigMF recording: choose --format csv or jsonl")
        write_sigmf(predictions(), table.positions, chosen.window_shape[-1], file, output_folder(out))
    elif out is None:
        write(rows(predictions()), sys.stdout)
    else:
        with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            write(rows(predictions()), stream)


def open_windows(task: BundleTask, file: Path) -> Table:
    """Open a file as a task's training data was read; the format is told by the file itself, if it can be.

    Raises:
        DataError: The file cannot be read, or its windows have another shape than the task's.
    """
    if not file.exists():
        raise DataError(f"{file} does not exist: give a data file or a folder of SigMF recordings")
    table = _open(_spec(task, file), task.window_shape[-1])
    if table.windows.shape != task.window_shape:
        table = replace(table, windows=table.windows.with_antenna())
    if table.windows.shape != task.window_shape:
        raise DataError(
            f"{file} holds windows of shape {table.windows.shape}, and task {task.name!r} takes {task.window_shape}"
        )
    return table


def _spec(task: BundleTask, file: Path) -> DataSpec:
    known = {name: value for name, value in task.data.items() if name in DataSpec.model_fields}
    unused = ("format", "target", "group", "snr", "labels", "windows_per_recording")
    spec = DataSpec(**{**known, **dict.fromkeys(unused)}, path=file)
    if any(layout.recognise(file) for layout in known_formats().values()):
        return spec
    return spec.model_copy(update={"format": task.data.get("format")})


def _open(spec: DataSpec, samples: int) -> Table:
    """Recordings whose annotations give no windows are cut from start to end."""
    if format_of(spec) != "sigmf":
        return open_table(spec)
    spec = spec.model_copy(update={"window": spec.window or samples})
    try:
        return open_table(spec)
    except DataError:
        if spec.cut != "annotations":
            raise
        return open_table(spec.model_copy(update={"cut": "all"}))
