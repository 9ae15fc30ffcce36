"""The tasks of a bundle as models: one each, and ``shared``, which answers many from one input."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import Bundle, BundleTask, load_bundle
from offramp.errors import BundleError, DataError
from offramp.runtime.engine import DEFAULT, Answer, Engine
from offramp.serving.protocol.faults import BadRequest, NotFound, Unavailable
from offramp.serving.protocol.requests import AnswerPart, InferRequest, ModelSpec, Parameters, Pending, TensorSpec

WINDOWS = "windows"
SHARED = "shared"
"""The model that answers all tasks. Where these take windows of several shapes, it is for the shape that most take, and each other shape has
``shared_`` with its sizes; a task of that name makes them ``shared_tasks``."""
PARAMETERS = ("slice", "deadline_ms", "policy", "exit", "source")
"""Of a request."""
LONGEST = 200
"""Letters of a parameter."""
OF_CLIENTS = ("timeout", "priority", "sequence_id", "sequence_start", "sequence_end")
"""That Triton's clients may send: ``timeout``, in microseconds, is a deadline too, and the others change nothing."""
SHORT_S = 0.002
"""What takes no longer is computed by whoever asks."""
OnAnswer = Callable[[BundleTask, NDArray[Any], Answer, str], object]
"""Called with a task, the windows ``(N, *window_shape)``, what it answered, and the source that the request named."""


@dataclass(frozen=True, eq=False)
class TaskModel:
    """One task, or several from one pass.

    Attributes:
        engine: That computes.
        spec: As clients see it.
        tasks: The task, or all that are shared.
        shared: Whether outputs are called ``TASK.OUTPUT``.
        on_answer: Who wants to know.
    """

    engine: Engine
    spec: ModelSpec
    tasks: Mapping[str, BundleTask]
    shared: bool
    on_answer: OnAnswer

    def go_on(self) -> bool:
        return self.engine.compute(SHORT_S)

    def ask(self, request: InferRequest) -> Sequence[Pending]:
        """Hand the windows to the engine; every task that an output is wanted of is a part."""
        windows, said = request.inputs[WINDOWS], read_parameters(request.parameters)
        names = list(self.tasks) if request.outputs is None else self._asked(request.outputs)
        try:
            submission = self.engine.submit(
                windows,
                names,
                said.slice,
                said.deadline_ms,
                exit=said.exit,
                policy=said.policy,
                as_reached=request.streamed and len(names) > 1,
                wake=False,
            )
        except DataError as error:
            raise BadRequest(f"input {WINDOWS!r}: {error}") from None
        wanted = None if request.outputs is None else frozenset(request.outputs)
        return [
            Pending(submission.answers[name], partial(self._part, name, windows, said.source, wanted)) for name in names
        ]

    @cached_property
    def _task_of(self) -> dict[str, str]:
        if not self.shared:
            return {each.name: name for each in self.spec.outputs for name in self.tasks}
        return {each.name: name for name, task in self.tasks.items() for each in outputs_of(task, f"{name}.")}

    @cached_property
    def _labels(self) -> dict[str, NDArray[Any]]:
        return {name: _texts(task.label_names) for name, task in self.tasks.items()}

    def _asked(self, outputs: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(self._task_of[output] for output in outputs))

    def _part(
        self, name: str, windows: NDArray[Any], source: str, wanted: frozenset[str] | None, answer: Answer
    ) -> AnswerPart:
        task = self.tasks[name]
        self.on_answer(task, windows, answer, source)
        before = f"{name}." if self.shared else ""
        makers = (
            _MAKERS[task.kind] if wanted is None else [(n, m) for n, m in _MAKERS[task.kind] if before + n in wanted]
        )
        outputs = {before + output: maker(self, answer) for output, maker in makers}
        return AnswerPart(outputs, {"task": name, "slice": answer.slice, "age_ms": round(answer.milliseconds, 3)})

    def _label(self, answer: Answer) -> NDArray[Any]:
        labels = self._labels[answer.prediction.task][answer.prediction.classes]
        labels[answer.prediction.rejected] = b""
        return labels


def _outputs(model: TaskModel, answer: Answer) -> NDArray[Any]:
    return answer.prediction.outputs


def _exit(model: TaskModel, answer: Answer) -> NDArray[Any]:
    return _texts(answer.prediction.consulted)[answer.prediction.left]


def _reason(model: TaskModel, answer: Answer) -> NDArray[Any]:
    return np.full(len(answer.prediction.left), answer.why.encode(), dtype=object)


_WHERE = [("exit", _exit), ("reason", _reason)]
_MAKERS: dict[str, list[tuple[str, Callable[[TaskModel, Answer], NDArray[Any]]]]] = {
    "classification": [("probabilities", _outputs), ("label", TaskModel._label), *_WHERE],
    "regression": [("values", _outputs), *_WHERE],
}
"""What makes each output of a kind of task."""


@dataclass(frozen=True)
class SaidParameters:
    """Parameters of a request to a task; see :data:`PARAMETERS`."""

    slice: str = DEFAULT
    deadline_ms: float | None = None
    policy: str | None = None
    exit: str | None = None
    source: str = ""


def read_parameters(given: Parameters) -> SaidParameters:
    """Check parameters. Raises :class:`~offramp.serving.protocol.faults.BadRequest` for one that is unknown or of another type."""
    for name in given:
        if name not in PARAMETERS and name not in OF_CLIENTS:
            raise BadRequest(f"unknown parameter {name!r}: choose {', '.join(PARAMETERS)}")
    for name in ("slice", "policy", "exit", "source"):
        if name in given and not (isinstance(given[name], str) and len(str(given[name])) <= LONGEST):
            raise BadRequest(f"parameter {name!r} must be a text of at most {LONGEST} letters")
    deadline = _number(given, "deadline_ms", "milliseconds")
    if deadline is None and (timeout := _number(given, "timeout", "microseconds")):
        deadline = timeout / 1e3
    text = {name: str(given[name]) for name in ("slice", "policy", "exit", "source") if name in given}
    return SaidParameters(deadline_ms=deadline, **text)


def _number(given: Parameters, name: str, unit: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool | str) or not abs(value) <= sys.float_info.max:
        raise BadRequest(f"parameter {name!r}: {value!r}: {unit} are expected")
    return float(value)


def outputs_of(task: BundleTask, before: str = "") -> tuple[TensorSpec, ...]:
    """What a task gives, as tensors with names that begin with ``before``."""
    width = task.heads[task.exit].outputs
    names = task.label_names or tuple(map(str, range(width)))
    own = (
        (TensorSpec(f"{before}probabilities", "FP32", (-1, width), names), TensorSpec(f"{before}label", "BYTES", (-1,)))
        if task.kind == "classification"
        else (TensorSpec(f"{before}values", "FP32", (-1, width)),)
    )
    return (*own, TensorSpec(f"{before}exit", "BYTES", (-1,)), TensorSpec(f"{before}reason", "BYTES", (-1,)))


class BundleSource:
    """The tasks of a bundle folder as models that can be loaded anew: a folder that was written again has newer versions."""

    def __init__(self, engine: Engine, folder: Path, bundle: Bundle, on_answer: OnAnswer) -> None:
        """Take an engine that has the tasks of a folder."""
        self._engine, self._folder, self._on_answer = engine, folder, on_answer
        self._encoder = bundle.encoder["sha256"]
        self._known, self._loaded, self._fresh = dict(bundle.tasks), dict(bundle.tasks), dict(bundle.tasks)
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._known, *self._shapes())

    def dependents(self, name: str) -> tuple[str, ...]:
        return () if name in self._shapes() else tuple(self._shapes())

    def load(self, name: str, version: int) -> TaskModel:
        """A task as the folder has it now, or what shares those that are loaded.

        Raises:
            BundleError: The folder is damaged, or its task does not fit the engine's encoder.
            NotFound: The folder has no such task.
            Unavailable: None of the tasks that are to be shared is loaded.
        """
        with self._lock:
            if name in self._shapes():
                return self._shared(name, version)
            task = self._fresh.pop(name, None)
            if task is None:
                task = self._read(name)
                self._engine.put(task)
            self._known[name] = self._loaded[name] = task
        return self._model(name, {name: task}, version, shared=False)

    def unload(self, name: str) -> None:
        with self._lock:
            if self._loaded.pop(name, None) is not None:
                self._engine.remove(name)

    def _read(self, name: str) -> BundleTask:
        bundle = load_bundle(self._folder)
        if name not in bundle.tasks:
            raise NotFound(f"there is no model {name!r}: the folder has the tasks {', '.join(bundle.tasks)}")
        if bundle.encoder["sha256"] != self._encoder:
            raise BundleError("the folder has another encoder now: start the server anew")
        return bundle.tasks[name]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The models that share, with the shape of their windows."""
        shapes = Counter(task.window_shape for task in self._known.values()).most_common()
        base = f"{SHARED}_tasks" if SHARED in self._known else SHARED
        return {
            base if not place else f"{base}_{'_'.join(map(str, shape))}": shape
            for place, (shape, _) in enumerate(shapes)
        }

    def _shared(self, name: str, version: int) -> TaskModel:
        shape = self._shapes()[name]
        tasks = {each: task for each, task in self._loaded.items() if task.window_shape == shape}
        if not tasks:
            raise Unavailable(f"model {name!r}: none of the tasks that it shares is loaded")
        return self._model(name, tasks, version, shared=True)

    def _model(self, name: str, tasks: Mapping[str, BundleTask], version: int, shared: bool) -> TaskModel:
        first = next(iter(tasks.values()))
        inputs = (TensorSpec(WINDOWS, "FP32", (-1, *first.window_shape)),)
        outputs = [each for task in tasks.values() for each in outputs_of(task, f"{task.name}." if shared else "")]
        said = {"tasks": ", ".join(tasks)} if shared else _described(first, self._engine.exits(name))
        spec = ModelSpec(name, inputs, tuple(outputs), str(version), "offramp", shared, said)
        return TaskModel(self._engine, spec, tasks, shared, self._on_answer)


def _described(task: BundleTask, exits: Sequence[str]) -> dict[str, str]:
    return {
        "kind": task.kind,
        "metric": task.metric,
        "exit": task.exit,
        "exits": ", ".join(exits),
        "policies": ", ".join(task.policies),
    }


def _texts(names: Sequence[str]) -> NDArray[Any]:
    found = np.empty(len(names), dtype=object)
    found[:] = [name.encode() for name in names]
    return found
