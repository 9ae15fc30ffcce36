"""A bundle as segments: the encoder cut at the exits in use, one ONNX file each, with heads and policies beside them.

One graph with all exits would compute all of them. Segments are what a pass that several tasks share needs, and one that windows leave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from offramp.bundle import (
    ENCODER,
    Bundle,
    BundleTask,
    TaskReference,
    load_bundle,
    load_examples,
    load_reference,
    save_bundle,
    save_examples,
    save_reference,
)
from offramp.encoders.base import StagedEncoder
from offramp.encoders.view import TaskView
from offramp.errors import BundleError, DataError, OfframpError
from offramp.export import graph
from offramp.export.folding import fold_batchnorm
from offramp.export.pieces import WholePass, cut_encoder
from offramp.export.source import scale_of
from offramp.export.weights import SharedWeights
from offramp.files import atomic_path, check_apart, output_folder, write_text
from offramp.opening import read_json
from offramp.progress import OnStep, silent
from offramp.runtime.engine.lanes import sharing_passes
from offramp.runtime.engine.tables import TABLE, measure_table
from offramp.runtime.onnx_backend import OnnxBackend
from offramp.runtime.predictor import Predictor
from offramp.runtime.segment_files import (
    MANIFEST,
    SCHEMA,
    WEIGHTS,
    HashedFile,
    Manifest,
    SegmentedPass,
    SegmentFile,
    StatePart,
    sha256_of,
)
from offramp.runtime.stored import policies_of
from offramp.runtime.torch_backend import TorchBackend, load_bundle_encoder
from offramp.runtime.views import TaskViews, sharing_a_pass

TOLERANCE = 1e-4
"""Largest difference between the segments and the bundle."""
CARD = """# Segments of a bundle

Exported by `offramp export --what segments`: the encoder cut at the exits in use (`*.onnx`, `segments.json`), heads and policies of every task. `offramp.load` runs them in ONNX Runtime.
"""


@dataclass(frozen=True)
class SegmentsReport:
    """What was exported.

    Attributes:
        path: The folder.
        exits: Where the encoder is cut, by pass.
        bytes: Size of all graphs and their weights.
        windows: How many windows the segments and the bundle were compared on, over all tasks.
        max_difference: Largest difference found; absolute for probabilities, relative to the largest value for values.
    """

    path: str
    exits: tuple[tuple[str, ...], ...]
    bytes: int
    windows: int
    max_difference: float

    @property
    def sentence(self) -> str:
        """What the command line says."""
        cuts = "; ".join(", ".join(exits) for exits in self.exits)
        return (
            f"{self.path}: segments up to {cuts}, {self.bytes / 1e6:.2f} MB; within {self.max_difference:.1e} of the bundle on "
            f"{self.windows} windows"
        )


def export_segments(
    folder: str | Path, out: str | Path, exits: Sequence[str] = (), on_step: OnStep = silent
) -> SegmentsReport:
    """Write a bundle as segments, which run without torch.

    The manifest is put in place last, and only if ONNX Runtime answers within 1e-4 of the bundle for every task at every exit where it
    can leave, on batches of 1, 3 and all example windows.

    Args:
        folder: The bundle.
        out: The folder to write; what an earlier export left there is replaced.
        exits: Further exits to cut at, beside those that fixed exits and policies use: a server may want to leave earlier.
        on_step: Called with what is being done, how much is done and how much there is.

    Raises:
        BundleError: The bundle cannot be used, or has no such exit.
        DataError: It holds no example windows to compare on.
        OfframpError: The ``onnx`` extra is missing, the answers differ, or the folder cannot be written.
    """
    graph.require_onnx()
    folder, out = Path(folder), Path(out)
    if (folder / MANIFEST).exists():
        raise BundleError(f"{folder} holds segments: give the bundle that they are from")
    bundle = load_bundle(folder)
    examples, reference = load_examples(folder), load_reference(folder)
    for task in bundle.tasks:
        if not len(examples.get(task, ())):
            raise DataError(
                f"the bundle holds no example windows of task {task!r}: there is nothing to compare segments on"
            )
    check_apart([out], [folder])
    encoder = load_bundle_encoder(bundle, folder)
    views = TaskViews(bundle, encoder)
    groups = sharing_passes(list(bundle.tasks.values()))
    cuts_of = [_cuts(tasks, [*exits, *_compared_at(tasks, reference)], views) for tasks in groups]
    if (out / ENCODER).exists():
        raise OfframpError(f"{out} is a bundle of its own: choose another folder")
    output_folder(out)
    _remove_export(out)
    save_bundle(replace(bundle, encoder_path=None), out, CARD)
    save_examples(examples, out)
    save_reference(reference, out)
    passes: list[SegmentedPass] = []
    folder_of_graphs = _Graphs(out, 2 * sum(map(len, cuts_of)), on_step)
    for number, (tasks, cuts) in enumerate(zip(groups, cuts_of, strict=True)):
        seen = sharing_a_pass([views.of(task) for task in tasks])
        passes.append(_written(tasks, seen, cuts, folder_of_graphs, f"pass-{number}"))
    manifest = {
        "schema": SCHEMA,
        "encoder": bundle.encoder["sha256"],
        "weights": folder_of_graphs.weights().model_dump(),
        "passes": [each.model_dump() for each in passes],
    }
    segments = Predictor(bundle, OnnxBackend(Manifest.model_validate(manifest), out))
    difference = _compared(bundle, encoder, segments, passes, examples)
    on_step("measuring", 0, 1)
    table = measure_table(groups, segments.backend)
    write_text(out / TABLE, json.dumps(table.model_dump(by_alias=True), indent=1) + "\n")
    on_step("measuring", 1, 1)
    write_text(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    named = tuple(tuple(segment.to for segment in each.segments) for each in passes)
    return SegmentsReport(
        str(out), named, folder_of_graphs.bytes, sum(len(examples[task]) for task in bundle.tasks), difference
    )


def _remove_export(out: Path) -> None:
    """Take away what an earlier export left, by its own list; from here to the end there is no whole export in this folder."""
    try:
        files = Manifest.model_validate(read_json(out / MANIFEST)).files
    except (OfframpError, ValidationError):  # none, or none of ours
        files = []
    for name in (MANIFEST, TABLE, *files):
        if (out / name).is_dir():
            raise OfframpError(f"{out / name} is a folder: choose another --out")
        (out / name).unlink(missing_ok=True)


def _compared_at(tasks: Sequence[BundleTask], reference: Mapping[str, TaskReference]) -> list[str]:
    """Where traffic of some tasks is compared with that of the reference."""
    return [reference[task.name].exit for task in tasks if task.name in reference]


def _cuts(tasks: Sequence[BundleTask], further: Sequence[str], views: TaskViews) -> list[str]:
    """The exits in use, by depth."""
    view = views.of(tasks[0])
    known = [exit.name for exit in sharing_a_pass([views.of(task) for task in tasks])[0].exits]
    for exit in further:
        if exit not in known and exit not in [own.name for own in view.encoder.exits]:
            raise BundleError(f"unknown exit {exit!r}: the bundle has {', '.join(known)}")
    used = {exit for task in tasks for policy in policies_of(task).values() for exit in policy.exits}
    return [exit for exit in known if exit in used or exit in further]


class _Graphs:
    """The folder of graphs that have their weights in common."""

    def __init__(self, out: Path, count: int, on_step: OnStep) -> None:
        self._out, self._weights, self.bytes = out, SharedWeights(WEIGHTS), 0
        self._done, self._count, self._on_step = 0, count, on_step
        on_step("exporting", 0, count)

    def write(self, name: str, content: bytes) -> HashedFile:
        """One graph."""
        written = self._put(name, self._weights.take_from(content))
        self._done += 1
        self._on_step("exporting", self._done, self._count)
        return written

    def weights(self) -> HashedFile:
        """Those of all graphs; to be written last."""
        return self._put(WEIGHTS, self._weights.content)

    def _put(self, name: str, content: bytes) -> HashedFile:
        with atomic_path(self._out / name) as temporary:
            temporary.write_bytes(content)
        self.bytes += len(content)
        return HashedFile(file=name, sha256=sha256_of(content))


def _written(
    tasks: Sequence[BundleTask], views: Sequence[TaskView], cuts: Sequence[str], graphs: _Graphs, prefix: str
) -> SegmentedPass:
    """The graphs of one pass, written."""
    folded = fold_batchnorm(views[0].encoder)
    distinct = {view.seen: TaskView(folded, view.shape, view.poolings, view.side, view.carried) for view in views}
    names = {key: f"view{number}" for number, key in enumerate(distinct)}
    first = next(iter(distinct.values()))
    inputs, batched = [graph.INPUT], [True]
    segments: list[SegmentFile] = []
    example = first.input.draw(3, first.shape)
    for number, cut in enumerate(cut_encoder(list(distinct.values()), cuts, example)):
        piece, exit = cut.piece, cut.exit
        shared = [len(part) == 1 for part in cut.following]
        parts = [f"state{number}_{index}" for index in range(len(cut.following))]
        fresh = [name for name, kept in zip(parts, piece.kept, strict=True) if kept is None]
        taps = {name: f"tap{number}_{name}" for name in names.values()}
        given = [*([] if piece.last else fresh), *taps.values()]
        content = graph.traced(piece, dict(zip(inputs, cut.state, strict=True)), batched, given)
        file = graphs.write(f"{prefix}-{number}-to-{exit}.onnx", content)
        described = [
            StatePart(output=None if kept is not None else name, kept=kept, shared=common)
            for name, kept, common in zip(parts, piece.kept, shared, strict=True)
        ]
        segments.append(
            SegmentFile(
                file=file.file,
                sha256=file.sha256,
                to=exit,
                inputs=inputs,
                state=[] if piece.last else described,
                taps=taps,
            )
        )
        inputs, batched = [f"in{number + 1}_{index}" for index in range(len(parts))], [not one for one in shared]
    by_task = {task.name: names[view.seen] for task, view in zip(tasks, views, strict=True)}
    taps_of = [list(segment.taps.values()) for segment in segments]
    every = [name for of_exit in taps_of for name in of_exit]
    whole = graph.traced(WholePass(list(distinct.values()), cuts).eval(), {graph.INPUT: example}, [True], every)
    up_to = [[name for of_exit in taps_of[: number + 1] for name in of_exit] for number in range(len(cuts))]
    files = [
        graphs.write(f"{prefix}-whole-to-{exit}.onnx", content)
        for exit, content in zip(cuts, graph.cut_graphs(whole, up_to), strict=True)
    ]
    return SegmentedPass(tasks=by_task, shape=list(first.shape), segments=segments, whole=files)


def _compared(
    bundle: Bundle,
    encoder: StagedEncoder,
    segments: Predictor,
    passes: Sequence[SegmentedPass],
    examples: dict[str, NDArray[np.float32]],
) -> float:
    """Largest difference of any task's answers at any exit that is cut."""
    worst = 0.0
    for shared in passes:
        for cut in shared.segments:
            at_exit = {
                name: replace(bundle.tasks[name], exit=cut.to, policies={})
                for name in shared.tasks
                if cut.to in bundle.tasks[name].heads
            }
            if not at_exit:
                continue
            alone = replace(bundle, tasks=at_exit)
            torch_predictor = Predictor(alone, TorchBackend(alone, encoder))
            onnx_predictor = Predictor(alone, segments.backend)
            for name in at_exit:
                windows = examples[name]
                expected = torch_predictor.predict(windows, [name])[name].outputs
                scale = scale_of(expected, bundle.tasks[name].kind)
                for size in sorted({1, min(3, len(windows)), len(windows)}):
                    answers = onnx_predictor.predict(windows[:size], [name])[name].outputs
                    difference = float(np.abs(answers - expected[:size]).max()) / scale
                    if not difference <= TOLERANCE:
                        raise OfframpError(
                            f"the segments differ from the bundle by {difference:.2g} for task {name!r} at exit {cut.to!r}, more than "
                            f"{TOLERANCE:g}: nothing was put in place"
                        )
                    worst = max(worst, difference)
    return worst
