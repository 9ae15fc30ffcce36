"""One pass of the encoder answers several tasks; it ends at the deepest of their exits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from offramp.bundle import ENCODER, Bundle, BundleTask, load_bundle
from offramp.encoders.base import StagedEncoder
from offramp.encoders.registry import checkpoint_options, load_encoder
from offramp.errors import BundleError, DataError, OfframpError
from offramp.features import tap_shapes
from offramp.heads import head_module
from offramp.transforms import Transform


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one task says about N windows.

    Attributes:
        task: Name of the task.
        kind: ``classification`` or ``regression``.
        exit: Where its head sits.
        outputs: Class probabilities ``(N, classes)`` or values ``(N, dimensions)``, float32.
        label_names: Names of the classes; empty for regression.
    """

    task: str
    kind: str
    exit: str
    outputs: NDArray[np.float32]
    label_names: tuple[str, ...]

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
        self._heads: dict[str, nn.Module] = {}
        for task in bundle.tasks.values():
            shape = task.transform.output_shape(task.window_shape)
            encoder.input.check(shape)
            _check_tokens(task, encoder, shape)
            self._heads[task.name] = head_module(task.heads[task.exit]).requires_grad_(False).to(self.device)

    def predict(
        self, x: ArrayLike | Tensor, tasks: Sequence[str] | None = None, batch_size: int = 256
    ) -> dict[str, Prediction]:
        """Answer some tasks. Tasks with the same transform share one pass.

        Args:
            x: Raw windows ``(N, *window_shape)`` of any real dtype, as the tasks' data held them; N may be 0.
            tasks: Names of tasks; all whose windows have this shape if None.
            batch_size: Windows that go through the encoder at a time.

        Returns:
            Predictions by task, in the order asked.

        Raises:
            BundleError: Unknown task, or no task takes this shape.
            DataError: Complex or non-numeric windows, another shape than the task's, or NaN or infinity in a window.
        """
        windows = _as_array(x)
        chosen = self._tasks(windows.shape[1:], tasks)
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: it must be at least 1")
        outputs: dict[str, list[NDArray[np.float32]]] = {task.name: [] for task in chosen}
        for start in range(0, len(windows), batch_size):
            batch = _finite(windows[start : start + batch_size], start)
            for name, output in self._outputs(batch, chosen):
                outputs[name].append(output)
        return {
            task.name: Prediction(task.name, task.kind, task.exit, _joined(outputs[task.name], task), task.label_names)
            for task in chosen
        }

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
    def _outputs(
        self, batch: NDArray[np.float32], tasks: Sequence[BundleTask]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        sharing: dict[Transform, list[BundleTask]] = {}
        for task in tasks:
            sharing.setdefault(task.transform, []).append(task)
        for transform, together in sharing.items():
            inputs = torch.from_numpy(transform(batch)).to(self.device)
            for exit, state in self.encoder.visit(inputs, {task.exit for task in together}):
                leaving = [task for task in together if task.exit == exit.name]
                poolings = {task.pooling for task in leaving}
                taps = {pooling: self.encoder.pool(exit.index, state, pooling) for pooling in poolings}
                for task in leaving:
                    output = self._heads[task.name](taps[task.pooling])
                    if task.kind == "classification":
                        output = output.softmax(1)
                    yield task.name, output.cpu().numpy()


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


def _check_tokens(task: BundleTask, encoder: StagedEncoder, shape: tuple[int, ...]) -> None:
    """A bundle holds the width of every default tap; that of tokens is for the encoder to say."""
    head = task.heads[task.exit]
    if head.positions is not None:
        taken, given = (len(head.positions), head.inputs), tap_shapes(encoder, shape, head.pooling)[task.exit]
        if taken != given:
            raise BundleError(
                f"head of task {task.name!r} takes tokens of shape {taken} where the encoder gives {given}: save the bundle again"
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


def _joined(batches: list[NDArray[np.float32]], task: BundleTask) -> NDArray[np.float32]:
    empty = np.empty((0, task.heads[task.exit].outputs), dtype=np.float32)
    return np.concatenate([empty, *batches])


def _with_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"
