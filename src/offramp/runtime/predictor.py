"""One pass of the encoder answers several tasks; it ends at the deepest of their exits, or where policies let the windows leave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.bundle import Bundle, BundleTask
from offramp.errors import BundleError, DataError, OfframpError
from offramp.policies.criteria import softmax
from offramp.policies.policy import Policy
from offramp.policies.simulation import Decisions, check_finite
from offramp.runtime.arrays import array_of
from offramp.runtime.backends import Backend, SharedPass
from offramp.runtime.execution import Cascade, RunHead, run_cascades, run_tap
from offramp.runtime.stored import FIXED, policies_of
from offramp.transforms import Transform, check_range, iq_of_complex, with_antenna

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one task says about N windows.

    Attributes:
        task: Name of the task.
        kind: ``classification`` or ``regression``.
        outputs: Class probabilities ``(N, classes)`` at the temperature of the exit that gave them, or values ``(N, dimensions)``,
            float32.
        label_names: Names of the classes; empty for regression.
        policy: Name of the policy that said where windows leave; ``fixed`` for the task's one exit.
        consulted: Names of the exits that it consults, in order of depth.
        left: Which of them each window left at, int64 ``(N,)``.
        rejected: Windows that the policy would rather not answer, bool ``(N,)``: what the other properties say of them is not to be
            relied on.
    """

    task: str
    kind: str
    outputs: NDArray[np.float32]
    label_names: tuple[str, ...]
    policy: str
    consulted: tuple[str, ...]
    left: NDArray[np.int64]
    rejected: NDArray[np.bool_]

    @property
    def exit(self) -> str:
        """The deepest exit that windows may reach."""
        return self.consulted[-1]

    @property
    def exits(self) -> list[str]:
        """Name of the exit where each window left."""
        return [self.consulted[index] for index in self.left]

    @property
    def classes(self) -> NDArray[np.int64]:
        """Most probable class of each window, int64 ``(N,)``."""
        classes: NDArray[np.int64] = self._probabilities().argmax(1)
        return classes

    @property
    def labels(self) -> list[str]:
        """Name of the most probable class of each window; its number where the classes have no names."""
        names = self.label_names or tuple(map(str, range(self.outputs.shape[1])))
        return [names[index] for index in self.classes]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of the most probable class, float32 ``(N,)``."""
        confidence: NDArray[np.float32] = self._probabilities().max(1)
        return confidence

    def _probabilities(self) -> NDArray[np.float32]:
        if self.kind != "classification":
            raise OfframpError(f"task {self.task!r} is a regression: its values are in .outputs")
        return self.outputs


class Predictor:
    """A bundle and what runs its encoder, ready to answer. Made by :func:`~offramp.runtime.loading.load`."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Take a bundle and the back end that has its encoder."""
        self.bundle = bundle
        self.backend = backend
        self._shapes = {task.window_shape for task in bundle.tasks.values()}
        self._policies: dict[str, dict[str, Policy]] = {}
        self._heads: dict[str, dict[str, RunHead]] = {}
        self._shared: dict[tuple[str, ...], SharedPass] = {}
        for task in bundle.tasks.values():
            policies = self._policies[task.name] = policies_of(task)
            exits = {exit for policy in policies.values() for exit in policy.exits}
            self._heads[task.name] = {exit: backend.head(task, exit) for exit in exits}

    def predict(
        self,
        x: ArrayLike | Tensor,
        tasks: Sequence[str] | None = None,
        batch_size: int = 256,
        policy: str | None = None,
        first: int = 0,
    ) -> dict[str, Prediction]:
        """Answer some tasks. Tasks with the same transform and BatchNorm statistics share one pass.

        Args:
            x: Raw windows as the tasks' data held them, of any dtype of numbers; N may be 0: ``(N, *window_shape)``, or for a window
                shape ``(2, antennas, time)`` complex ``(N, antennas, time)``, and with one antenna complex ``(N, time)`` or real
                ``(N, 2, time)`` or ``(N, time, 2)``.
            tasks: Names of tasks; all whose windows have this shape if None.
            batch_size: Windows that go through the encoder at a time.
            policy: Name of a policy that each of the tasks has; None for the tasks' fixed exits. A window leaves a pass as soon as the
                policies of all tasks that share it let it go.
            first: Number of the first window, for messages.

        Returns:
            Predictions by task, in the order asked.

        Raises:
            BundleError: Unknown task or policy, or no task takes this shape.
            DataError: Windows that are no numbers or of another shape than the task's; NaN or infinity in a window, behind its
                transform or in an answer.
        """
        windows = self.raw_windows(x)
        chosen = self._tasks(windows.shape[1:], tasks)
        named = policy or FIXED
        policies = {task.name: self.policy(task.name, named) for task in chosen}
        _check_batch_size(batch_size)
        sharing: dict[tuple[Transform, str | None], list[BundleTask]] = {}
        for task in chosen:
            sharing.setdefault((task.transform, task.statistics), []).append(task)
        decided: dict[str, list[Decisions]] = {task.name: [] for task in chosen}
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size]
            for together in sharing.values():
                inputs = self.backend.inputs(transformed(together[0], batch, first + start))
                shared = self._sharing(tuple(task.name for task in together))
                cascades = [
                    Cascade(self._heads[task.name], policies[task.name], seen)
                    for task, seen in zip(together, shared.seen, strict=True)
                ]
                found = run_cascades(shared.segments, cascades, inputs, first + start)
                for task, decisions in zip(together, found, strict=True):
                    decided[task.name].append(decisions)
        return {
            task.name: prediction_of(task, named, policies[task.name], decided[task.name], first) for task in chosen
        }

    def features(self, x: ArrayLike | Tensor, task: str, exit: str, batch_size: int = 256) -> NDArray[np.float32]:
        """What a task's head sees at an exit, float32 ``(N, width)``; tokens are averaged over positions. Nothing behind the exit runs.

        Args:
            x: Raw windows in any form that :meth:`predict` takes.
            task: Its name.
            exit: Where; of segments one that is cut, as that of the task's :class:`~offramp.bundle.TaskReference` is.
            batch_size: Windows that go through the encoder at a time.

        Raises:
            BundleError: Unknown task, or no segment ends there.
            EncoderError: Unknown exit.
            DataError: Windows that are no numbers, of another shape than the task's, or not finite.
        """
        windows = self.raw_windows(x)
        (stored,) = self._tasks(windows.shape[1:], [task])
        _check_batch_size(batch_size)
        if not len(windows):  # not every encoder runs on no windows
            return self.features(np.zeros((1, *windows.shape[1:])), task, exit)[:0]
        shared = self._sharing((stored.name,))
        rows = []
        for start in range(0, len(windows), batch_size):
            inputs = self.backend.inputs(transformed(stored, windows[start : start + batch_size], start))
            taps = run_tap(shared.segments, exit, shared.seen[0], inputs)
            rows.append(row_per_window(taps))
        return _joined(rows)

    def _sharing(self, tasks: tuple[str, ...]) -> SharedPass:
        if tasks not in self._shared:
            ordered = tuple(sorted(tasks))
            if ordered == tasks:
                self._shared[tasks] = self.backend.together(tasks)
            else:  # the same pass, whatever the order
                shared = self._sharing(ordered)
                seen = dict(zip(ordered, shared.seen, strict=True))
                self._shared[tasks] = SharedPass(shared.segments, tuple(seen[task] for task in tasks))
        return self._shared[tasks]

    def policy(self, task: str, name: str) -> Policy:
        """A task's policy by name; raises :class:`BundleError` that lists those there are if there is none."""
        known = self._policies[self.bundle.task(task).name]
        if not isinstance(name, str) or name not in known:
            others = [other for other in known if other != FIXED]
            there = f"it has {', '.join(others)}" if others else "it has none; run a suite with policies: to fit some"
            raise BundleError(f"task {task!r} has no policy {name!r}: {there}")
        return known[name]

    def raw_windows(self, x: ArrayLike | Tensor) -> NDArray[np.generic]:
        """Windows as the bundle's tasks have them, real ``(N, *window_shape)``, from any of the forms that :meth:`predict` takes.

        Raises:
            DataError: They are no numbers, or either of two axes may hold I and Q.
        """
        windows = _as_array(x)
        return windows if windows.shape[1:] in self._shapes else with_antenna(windows)

    def _tasks(self, shape: tuple[int, ...], names: Sequence[str] | None) -> list[BundleTask]:
        if names is None:
            fitting = [task for task in self.bundle.tasks.values() if task.window_shape == shape]
            if not fitting:
                known = ", ".join(f"{t.name} {_with_batch(t.window_shape)}" for t in self.bundle.tasks.values())
                raise DataError(f"no task takes windows of shape {_with_batch(shape)}: the bundle has {known}")
            return fitting
        if isinstance(names, str):
            raise BundleError(f"tasks={names!r} is a name: give a list, tasks=[{names!r}]")
        if not isinstance(names, Iterable):
            raise BundleError(f"tasks={names!r}: give a list of names")
        chosen = list({task.name: task for task in map(self.bundle.task, names)}.values())
        for task in chosen:
            if task.window_shape != shape:
                raise DataError(
                    f"task {task.name!r} takes windows of shape {_with_batch(task.window_shape)}, not {_with_batch(shape)}"
                )
        return chosen


def row_per_window(taps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Taps ``(N, width)`` as they are, ``(N, positions, width)`` averaged over positions."""
    return taps if taps.ndim == 2 else taps.mean(axis=1, dtype=np.float32)


def transformed(task: BundleTask, windows: NDArray[np.generic], first: int = 0) -> NDArray[np.float32]:
    """Windows behind a task's transform, float32; raises :class:`DataError` that names one which is not finite."""
    batch = _float32(windows)
    behind = task.transform(batch)
    if behind is not batch:
        _check_finite(batch, first)
    try:
        check_range(behind, range(first, first + len(behind)))
    except DataError:
        _check_finite(batch, first)  # it is the window itself rather than what the transform made of it
        raise
    return behind


def prediction_of(
    task: BundleTask, name: str, policy: Policy, decided: Sequence[Decisions], first: int = 0
) -> Prediction:
    """The answers of all batches under the policy called ``name``; logits become probabilities at the temperature of the exit that gave them."""
    nothing = np.empty((0, task.heads[task.exit].outputs), np.float32)
    parts = decided or [Decisions(np.empty(0, np.int64), nothing, np.empty(0, np.bool_))]
    outputs = _joined([part.outputs for part in parts])
    left = _joined([part.exit for part in parts])
    rejected = _joined([part.rejected for part in parts])
    if task.kind == "classification" and len(outputs):
        temperatures: Any = np.float32(policy.answer_temperatures[0])
        if len(policy.exits) > 1:
            temperatures = np.asarray(policy.answer_temperatures, np.float32)[left, None]
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = softmax(outputs / temperatures)
    check_finite(outputs, first)
    return Prediction(task.name, task.kind, outputs, task.label_names, name, policy.exits, left, rejected)


def _check_batch_size(size: int) -> None:
    if not isinstance(size, int | np.integer) or size < 1:
        raise DataError(f"batch_size={size!r}: it must be a whole number of at least 1")


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_array(x: ArrayLike | Tensor) -> NDArray[np.generic]:
    windows = array_of(x)
    if np.iscomplexobj(windows):
        return iq_of_complex(windows)
    if windows.dtype.kind not in "fiub":
        raise DataError(f"windows are {windows.dtype}: they must be numbers that convert to float32")
    if windows.ndim == 0:
        raise DataError("windows are a single number: give an array (N, ...)")
    return windows


def _float32(windows: NDArray[np.generic]) -> NDArray[np.float32]:
    if windows.dtype == np.float32 and windows.flags.carray:
        return windows  # type: ignore[return-value]
    with np.errstate(over="ignore"):
        return np.require(windows, np.float32, ["C", "W"])


def _check_finite(batch: NDArray[np.float32], first: int) -> None:
    finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"window {first + int(np.argmin(finite))} holds NaN or infinity in float32: remove or correct it"
        )


def _with_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"
