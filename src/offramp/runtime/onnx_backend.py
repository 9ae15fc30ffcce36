"""A bundle's encoder run by ONNX Runtime, piece by piece. Nothing of torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.errors import BundleError, EncoderError, OfframpError
from offramp.runtime.backends import SharedPass
from offramp.runtime.execution import RunHead, State
from offramp.runtime.segment_files import AGAIN, HashedFile, Manifest, SegmentedPass, SegmentFile

Floats = NDArray[np.float32]
INPUT = "windows"


class OnnxSegments:
    """Segments as ONNX Runtime sessions; see :class:`~offramp.runtime.execution.Segments`. An exit's index is that of its segment."""

    def __init__(self, shared: SegmentedPass, open: Callable[[HashedFile], Any]) -> None:
        """Take a pass of a manifest, and what opens a session for a graph; each is opened when it is first needed."""
        self._shape = tuple(shared.shape)
        self._segments, self._whole = shared.segments, shared.whole
        self._open_file = open
        self._sessions: dict[str, Any] = {}
        self._exits = {segment.to: index for index, segment in enumerate(shared.segments)}
        self._outputs = [[part.output for part in segment.state if part.output] for segment in shared.segments]

    def __len__(self) -> int:
        return len(self._segments)

    def order(self, exit: str) -> int:
        if exit not in self._exits:
            raise BundleError(
                f"there is no segment up to exit {exit!r}, only up to {', '.join(self._exits)}: export it with --exit"
            )
        return self._exits[exit]

    def running(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin(self, x: Floats) -> State:
        if x.shape[1:] != self._shape:
            raise EncoderError(f"the segments take windows {('N', *self._shape)}, not {('N', *x.shape[1:])}")
        return (x,)

    def advance(
        self, after: int, to: int, state: State, seen: Collection[Hashable]
    ) -> tuple[State, dict[Hashable, Floats]]:
        for index in range(after + 1, to):
            state = self._run(index, state, [])[0]
        taps = self._segments[to].taps
        state, given = self._run(to, state, [taps[str(view)] for view in seen])
        return state, dict(zip(seen, given, strict=True))

    def through(
        self, state: State, asked: Mapping[int, Collection[Hashable]]
    ) -> Mapping[int, Mapping[Hashable, Floats]]:
        names = [self._segments[exit].taps[str(view)] for exit, seen in asked.items() for view in seen]
        given = iter(self._session(self._whole[max(asked)]).run(names, {INPUT: state[0]}))
        return {exit: {view: next(given) for view in seen} for exit, seen in asked.items()}

    def keep(self, state: State, stay: NDArray[np.int64]) -> State:
        return tuple(part if len(part) == 1 else part[stay] for part in state)

    def numbers(self, x: Floats) -> NDArray[np.int64]:
        return np.arange(len(x))

    def outputs(self, given: Floats) -> Floats:
        return given

    def blank(self, x: Floats) -> Floats:
        return np.zeros((1, *x.shape[1:]), x.dtype)

    def repeated(self, window: Floats, count: int) -> Floats:
        return np.repeat(window, count, axis=0)

    def joined(self, at: int, states: Sequence[State]) -> State:
        if len(states) == 1:
            return states[0]
        parts = zip(*states, strict=True)
        return tuple(
            part[0] if own else np.concatenate(part) for part, own in zip(parts, self._shared(at), strict=True)
        )

    def divided(self, at: int, state: State, counts: Sequence[int]) -> list[State]:
        if len(counts) == 1:
            return [state]
        ends = np.cumsum(counts)[:-1]
        divided = [
            [part] * len(counts) if own else np.split(part, ends)
            for part, own in zip(state, self._shared(at), strict=True)
        ]
        return list(zip(*divided, strict=True)) if divided else [()] * len(counts)

    def _shared(self, at: int) -> list[bool]:
        """Which parts of a state all windows share."""
        return [False] if at < 0 else [part.shared for part in self._segments[at].state]

    def _run(self, index: int, state: State, taps: list[str]) -> tuple[State, list[Floats]]:
        segment, wanted = self._segments[index], self._outputs[index]
        asked = [*wanted, *taps] or [next(iter(segment.taps.values()))]  # ONNX Runtime takes no names for all names
        given = self._session(segment).run(asked, dict(zip(segment.inputs, state, strict=True)))
        behind = iter(given)
        following = tuple(state[part.kept] if part.kept is not None else next(behind) for part in segment.state)
        return following, given[len(wanted) : len(wanted) + len(taps)]

    def _session(self, graph: HashedFile) -> Any:
        if graph.file not in self._sessions:
            self._sessions[graph.file] = self._open_file(graph)
        return self._sessions[graph.file]


class OnnxBackend:
    """See :class:`~offramp.runtime.backends.Backend`."""

    name = "onnxruntime"

    def __init__(self, manifest: Manifest, folder: Path, threads: int = 1) -> None:
        """Take a manifest and the folder of its files.

        Raises:
            OfframpError: ONNX Runtime is not installed.
        """
        self._runtime = onnx_runtime()
        self.version: str = self._runtime.__version__
        self.folder: Path | None = folder
        self._folder, self.threads = folder, threads
        self._passes = {task: each for each in manifest.passes for task in each.tasks}
        self._open: dict[int, OnnxSegments] = {}
        self._weights = manifest.weights
        self._as_loaded = {path: _mark_of(path) for path in map(folder.joinpath, manifest.files)}

    def together(self, tasks: Sequence[str]) -> SharedPass:
        shared = self._passes[tasks[0]]
        if id(shared) not in self._open:
            self._open[id(shared)] = OnnxSegments(shared, self._session)
        return SharedPass(self._open[id(shared)], tuple(shared.tasks[task] for task in tasks))

    def head(self, task: BundleTask, exit: str) -> RunHead:
        return task.heads[exit]

    def inputs(self, windows: Floats) -> Floats:
        return windows

    def _session(self, graph: HashedFile) -> Any:
        settings = self._runtime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = self.threads, 1
        settings.log_severity_level = 3
        # threads of a session that waits would keep their cores busy, which those of other sessions need
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = self._folder / graph.file
        for file in (path, self._folder / self._weights.file):
            if _mark_of(file) != self._as_loaded[file]:
                raise BundleError(f"{file} is another file than when the segments were loaded: load them again")
        try:
            session = self._runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever ONNX Runtime raises on a graph
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BundleError(f"{path}: ONNX Runtime refuses it: {reason}") from None
        self._check_names(graph, session)
        return session

    def _check_names(self, graph: HashedFile, session: Any) -> None:
        """The manifest must name inputs and outputs that the graph has."""
        inputs, outputs = ({each.name for each in named} for named in (session.get_inputs(), session.get_outputs()))
        asked = {INPUT}
        if isinstance(graph, SegmentFile):
            asked = set(graph.inputs)
            state = [part.output for part in graph.state if part.output]
            missing = [name for name in (*graph.taps.values(), *state) if name not in outputs]
            if missing:
                raise BundleError(f"{self._folder / graph.file} has no output {missing[0]!r}: {AGAIN}")
        if asked != inputs:
            raise BundleError(
                f"{self._folder / graph.file} takes {', '.join(sorted(inputs))}, not {', '.join(sorted(asked))}: {AGAIN}"
            )


def _mark_of(path: Path) -> tuple[int, ...]:
    """Tells files apart without reading them."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def onnx_runtime() -> ModuleType:
    """The module ``onnxruntime``. Raises :class:`OfframpError` where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise OfframpError("segments need the package onnxruntime: pip install offramp[onnx]") from None
    return onnxruntime  # type: ignore[no-any-return]
