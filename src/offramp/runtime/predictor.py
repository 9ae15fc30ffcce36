"""One pass of the encoder answers several tasks; it ends at the deepest of their exits, or where policies let the windows leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from offramp.bundle import ENCODER, Bundle, BundleTask, load_bundle
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import checkpoint_options, load_encoder
from offramp.encoders.taps import tap_shapes
from offramp.errors import BundleError, DataError, OfframpError
from offramp.heads.modules import head_module
from offramp.policies.criteria import softmax
from offramp.policies.policy import Policy
from offramp.policies.simulation import Decisions
from offramp.runtime.execution import Cascade, run_cascades
from offramp.runtime.stored import policies_of
from offramp.transforms import Transform


@dataclass(frozen=True, eq=False)
class Routing:
    """Where N windows left under a policy.

    Attributes:
        policy: Its name.
        exits: Names of the exits that it consults, in order of depth.
        indices: Which of them each window left at, int64 ``(N,)``.
        rejected: Windows that the policy would rather not answer, bool ``(N,)``.
    """

    policy: str
    exits: tuple[str, ...]
    indices: NDArray[np.int64]
    rejected: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one task says about N windows.

    Attributes:
        task: Name of the task.
        kind: ``classification`` or ``regression``.
        exit: Where its head sits; under a policy the last exit that windows may reach.
        outputs: Class probabilities ``(N, classes)`` or values ``(N, dimensions)``, float32.
        label_names: Names of the classes; empty for regression.
        routing: Where each window left; None without a policy.
    """

    task: str
    kind: str
    exit: str
    outputs: NDArray[np.float32]
    label_names: tuple[str, ...]
    routing: Routing | None = None

    @property
    def exits(self) -> list[str]:
        """Name of the exit where each window left."""
        if self.routing is None:
            return [self.exit] * len(self.outputs)
        return [self.routing.exits[index] for index in self.routing.indices]

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Windows that the policy rejects, bool ``(N,)``: what the other properties say of them is not to be relied on."""
        return np.zeros(len(self.outputs), np.bool_) if self.routing is None else self.routing.rejected

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
    """A bundle with its encoder, ready to run. Made by :func:`load`."""

    def __init__(self, bundle: Bundle, encoder: StagedEncoder) -> None:
        """Take a bundle and the encoder that belongs to it; the encoder is frozen in evaluation mode."""
        self.bundle = bundle
        self.encoder = encoder.eval().requires_grad_(False)
        self.device = next(encoder.parameters()).device
        self._policies: dict[str, dict[str, Policy]] = {}
        self._heads: dict[str, dict[str, nn.Module]] = {}
        for task in bundle.tasks.values():
            shape = task.transform.output_shape(task.window_shape)
            encoder.input.check(shape)
            policies = self._policies[task.name] = policies_of(task)
            exits = {task.exit, *(exit for policy in policies.values() for exit in policy.exits)}
            _check_tokens(task, exits, encoder, shape)
            self._heads[task.name] = {
                exit: head_module(task.heads[exit]).requires_grad_(False).to(self.device) for exit in exits
            }

    def predict(
        self,
        x: ArrayLike | Tensor,
        tasks: Sequence[str] | None = None,
        batch_size: int = 256,
        policy: str | None = None,
        first: int = 0,
    ) -> dict[str, Prediction]:
        """Answer some tasks. Tasks with the same transform share one pass.

        Args:
            x: Raw windows ``(N, *window_shape)`` of any real dtype, as the tasks' data held them; N may be 0.
            tasks: Names of tasks; all whose windows have this shape if None.
            batch_size: Windows that go through the encoder at a time.
            policy: Name of a policy that each of the tasks has. A window then leaves a pass as soon as the policies of all tasks
                that share it let it go, and probabilities are at the temperatures of the policy. None for the tasks' fixed exits.
            first: Number of the first window, for messages.

        Returns:
            Predictions by task, in the order asked.

        Raises:
            BundleError: Unknown task or policy, or no task takes this shape.
            DataError: Complex or non-numeric windows, another shape than the task's, NaN or infinity in a window or, under a
                policy, in an answer.
        """
        windows = _as_array(x)
        chosen = self._tasks(windows.shape[1:], tasks)
        policies = {} if policy is None else {task.name: self.policy(task.name, policy) for task in chosen}
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: it must be at least 1")
        sharing: dict[Transform, list[BundleTask]] = {}
        for task in chosen:
            sharing.setdefault(task.transform, []).append(task)
        answers: dict[str, list[_Answer]] = {task.name: [] for task in chosen}
        for start in range(0, len(windows), batch_size):
            batch = _finite(windows[start : start + batch_size], first + start)
            for transform, together in sharing.items():
                inputs = torch.from_numpy(transform(batch)).to(self.device)
                found = (
                    self._routed(inputs, together, policies, first + start)
                    if policies
                    else self._fixed(inputs, together)
                )
                for name, answer in found:
                    answers[name].append(answer)
        return {task.name: _prediction(task, answers[task.name], policy, policies.get(task.name)) for task in chosen}

    def policy(self, task: str, name: str) -> Policy:
        """A task's policy by name; raises :class:`BundleError` that lists those there are if there is none."""
        known = self._policies[self.bundle.task(task).name]
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it has none; run a suite with policies: to fit some"
            raise BundleError(f"task {task!r} has no policy {name!r}: {there}")
        return known[name]

    def _tasks(self, shape: tuple[int, ...], names: Sequence[str] | None) -> list[BundleTask]:
        if names is None:
            fitting = [task for task in self.bundle.tasks.values() if task.window_shape == shape]
            if not fitting:
                known = ", ".join(f"{t.name} {_with_batch(t.window_shape)}" for t in self.bundle.tasks.values())
                raise DataError(f"no task takes windows of shape {_with_batch(shape)}: the bundle has {known}")
            return fitting
        if isinstance(names, str):
            raise BundleError(f"tasks={names!r} is a name: give a list, tasks=[{names!r}]")
        chosen = [self.bundle.task(name) for name in names]
        for task in chosen:
            if task.window_shape != shape:
                raise DataError(
                    f"task {task.name!r} takes windows of shape {_with_batch(task.window_shape)}, not {_with_batch(shape)}"
                )
        return chosen

    @torch.inference_mode()
    def _fixed(self, inputs: Tensor, tasks: Sequence[BundleTask]) -> Iterator[tuple[str, _Answer]]:
        for exit, state in self.encoder.visit(inputs, {task.exit for task in tasks}):
            leaving = [task for task in tasks if task.exit == exit.name]
            poolings = {task.pooling for task in leaving}
            taps = {pooling: self.encoder.pool(exit.index, state, pooling) for pooling in poolings}
            for task in leaving:
                output = self._heads[task.name][task.exit](taps[task.pooling])
                if task.kind == "classification":
                    output = output.softmax(1)
                yield task.name, (output.cpu().numpy(), None)

    def _routed(
        self, inputs: Tensor, tasks: Sequence[BundleTask], policies: Mapping[str, Policy], first: int
    ) -> Iterator[tuple[str, _Answer]]:
        cascades = [Cascade(self._heads[task.name], policies[task.name], task.pooling) for task in tasks]
        decided = run_cascades(self.encoder, cascades, inputs, first)
        for task, decisions in zip(tasks, decided, strict=True):
            output = decisions.outputs
            if task.kind == "classification":
                temperatures = np.asarray(policies[task.name].answer_temperatures, np.float32)
                output = softmax(output / temperatures[decisions.exit, None])
            yield task.name, (output, decisions)


_Answer = tuple[NDArray[np.float32], Decisions | None]
"""Probabilities or values of a batch and, under a policy, where its windows left."""


def _prediction(task: BundleTask, answers: list[_Answer], name: str | None, policy: Policy | None) -> Prediction:
    empty = np.empty((0, task.heads[task.exit].outputs), dtype=np.float32)
    outputs = np.concatenate([empty, *(output for output, _ in answers)])
    if name is None or policy is None:
        return Prediction(task.name, task.kind, task.exit, outputs, task.label_names)
    decided = [decisions for _, decisions in answers if decisions is not None]
    routing = Routing(
        name,
        policy.exits,
        np.concatenate([np.empty(0, np.int64), *(decisions.exit for decisions in decided)]),
        np.concatenate([np.empty(0, np.bool_), *(decisions.rejected for decisions in decided)]),
    )
    return Prediction(task.name, task.kind, policy.exits[-1], outputs, task.label_names, routing)


def load(folder: str | Path, device: str = "cpu") -> Predictor:
    """Load a bundle, so that it can predict.

    Raises:
        BundleError: The folder is not a whole bundle, or its encoder is missing or has other weights than the heads were
            fitted on.
        EncoderError: The encoder cannot be read, or ``device`` cannot be used.
    """
    folder = Path(folder)
    bundle = load_bundle(folder)
    return Predictor(bundle, load_bundle_encoder(bundle, folder, device))


def load_bundle_encoder(bundle: Bundle, folder: Path, device: str = "cpu") -> StagedEncoder:
    """The encoder of a bundle that was read from ``folder``, in evaluation mode; its hash is checked."""
    path = folder / (bundle.encoder_path or ENCODER)
    if not path.exists():
        raise BundleError(f"the bundle's encoder is missing: {path} does not exist")
    if path.is_dir():
        encoder = load_encoder(path, device=device)
    else:
        name, config = bundle.encoder["architecture"], bundle.encoder["config"]
        options = {option: config[option] for option in checkpoint_options(name)}
        encoder = load_encoder(name, checkpoint=path, device=device, **options)
    found, expected = encoder.fingerprint(), bundle.encoder["sha256"]
    if found != expected:
        raise BundleError(
            f"{path} is another encoder: its hash is {found}, the bundle's heads were fitted on {expected}"
        )
    return encoder.eval().requires_grad_(False)


def _check_tokens(task: BundleTask, exits: Iterable[str], encoder: StagedEncoder, shape: tuple[int, ...]) -> None:
    """A bundle holds the width of every default tap; that of tokens is for the encoder to say."""
    if task.pooling == "default":
        return
    given = tap_shapes(encoder, shape, task.pooling)
    for exit in exits:
        head = task.heads[exit]
        taken = (0 if head.positions is None else len(head.positions), head.inputs)
        if taken != given[exit]:
            raise BundleError(
                f"head of task {task.name!r} takes tokens of shape {taken} where the encoder gives {given[exit]}: save the bundle again"
            )


def _as_array(x: ArrayLike | Tensor) -> NDArray[np.generic]:
    windows = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if np.iscomplexobj(windows):
        raise DataError("windows are complex: split them into real and imaginary part, float32 (N, 2, antennas, time)")
    if windows.dtype.kind not in "fiub":
        raise DataError(f"windows are {windows.dtype}: they must be numbers that convert to float32")
    if windows.ndim == 0:
        raise DataError("windows are a single number: give an array (N, ...)")
    return windows


def _finite(windows: NDArray[np.generic], start: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        batch = np.require(windows, np.float32, ["C", "W"])
    finite = np.isfinite(batch).reshape(len(batch), -1).all(axis=1)
    if not finite.all():
        raise DataError(f"window {start + int(np.argmin(finite))} holds NaN or infinity in float32: remove or mend it")
    return batch


def _with_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"
