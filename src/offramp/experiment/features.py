"""The FeatureBank: the frozen encoder runs once over all windows and every exit's tap goes to disk."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offramp.data.table import WindowSource
from offramp.encoders.base import StagedEncoder
from offramp.encoders.side import side_features
from offramp.encoders.taps import inference, tap_shapes
from offramp.errors import DataError, EncoderError, OfframpError
from offramp.files import free_bytes, write_text
from offramp.heads.rows import FeatureRows
from offramp.progress import OnProgress, silent
from offramp.schema.tasks import BEFORE_ENCODER, DegradeSpec, SpectrogramSpec, TransformSpec
from offramp.transforms import Transform, check_range

BATCH_VALUES = 1 << 19
"""Input values in one batch: 256 windows of 2 x 4 x 256. Fixed, so that a resumed pass computes the very same batches."""
BATCH_TAP_VALUES = 1 << 24
"""Most tap values of one batch, over all exits (64 MB): token taps may be larger than the windows they come from."""
SAVE_EVERY = 16
"""Batches between two records of progress."""
RELEASE_BYTES = 1 << 28
"""A memory-mapped tap matrix hands its pages back after this many bytes were read."""

BANK = re.compile("[0-9a-f]{20}")
"""What :func:`digest` calls folders."""

Compute = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


class TapMatrix:
    """Features on disk, read by index, in bounded memory: ``matrix[indices]`` is ``(n, width)`` or ``(n, positions, width)`` float32."""

    def __init__(self, path: Path) -> None:
        self._rows = np.load(path, mmap_mode="r")
        self.shape: tuple[int, ...] = self._rows.shape
        self._read = 0

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = np.asarray(self._rows[indices], dtype=np.float32)
        self._read += rows.nbytes
        if self._read > RELEASE_BYTES:
            self._rows._mmap.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return rows


@dataclass(frozen=True)
class FeatureBank:
    """Taps of all exits for all windows of one source.

    Attributes:
        folder: One ``.npy`` per exit and, if there are several, pooling; float32 ``(N, width)``, or ``(N, positions, width)`` where the pooling is ``tokens``.
        names: The exits, in order of depth.
        poolings: Those that every exit was pooled with.
    """

    folder: Path
    names: tuple[str, ...]
    poolings: tuple[str, ...] = ("default",)

    def taps(self, name: str, pooling: str | None = None) -> TapMatrix:
        """The taps of one exit, by default in the first pooling; ``matrix[indices]`` loads those of the windows ``indices`` alone."""
        return TapMatrix(self.folder / f"{_column(name, pooling or self.poolings[0], self.poolings)}.npy")


def _column(exit: str, pooling: str, poolings: Sequence[str]) -> str:
    """What the taps of an exit are called on disk and in messages."""
    return exit if len(poolings) == 1 else f"{exit}.{pooling}"


class Beside:
    """Side features in front of taps, ``(N, side + width)`` or ``(N, positions, side + width)`` float32, put together as they are read."""

    def __init__(self, side: FeatureRows, taps: FeatureRows) -> None:
        self._side, self._taps = side, taps
        self.shape: tuple[int, ...] = (*taps.shape[:-1], side.shape[-1] + taps.shape[-1])

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        side, taps = self._side[indices], self._taps[indices]
        if side.ndim < taps.ndim:
            side = np.broadcast_to(side[:, None], (*taps.shape[:-1], side.shape[-1]))
        return np.concatenate([side, taps], axis=-1)


@dataclass(frozen=True, eq=False)
class TaskFeatures:
    """What the heads of one task may see: side features alone at the exit ``input``, and in front of every tap.

    Attributes:
        bank: Taps of every exit in every pooling that is tried.
        side: The side features, ``(N, width)`` or ``(N, positions, width)``; None without.
        poolings: By exit of the encoder, the one that its heads take; the bank's first where none is chosen.
    """

    bank: FeatureBank
    side: TapMatrix | None = None
    poolings: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All exits, in order of depth."""
        return self.bank.names if self.side is None else (BEFORE_ENCODER, *self.bank.names)

    def candidates(self, name: str) -> tuple[str, ...]:
        """The poolings that are tried at an exit."""
        return ("default",) if name == BEFORE_ENCODER and self.side is not None else self.bank.poolings

    def rows(self, name: str, pooling: str) -> FeatureRows:
        """What heads see at an exit with a pooling."""
        if self.side is None:
            return self.bank.taps(name, pooling)
        return self.side if name == BEFORE_ENCODER else Beside(self.side, self.bank.taps(name, pooling))

    def taps(self, name: str) -> FeatureRows:
        """What the task's heads see at an exit."""
        return self.rows(name, self.poolings.get(name, self.candidates(name)[0]))


def fill_bank(
    encoder: StagedEncoder,
    windows: WindowSource,
    transform: Transform,
    root: Path,
    on_progress: OnProgress = silent,
    device: str = "cpu",
    poolings: Sequence[str] = ("default",),
) -> FeatureBank:
    """Run the encoder once over all windows; go on where an earlier pass was cut off, and skip what is there.

    Args:
        encoder: Frozen with :func:`~offramp.encoders.taps.freeze`.
        windows: N windows of one shape.
        transform: Applied to every window first.
        root: Folder of banks; this one gets a sub-folder named by the hash of source, transform, encoder and poolings.
        on_progress: Called with windows done and windows in all.
        device: Where the encoder is.
        poolings: How every state is pooled, one tap each: see :meth:`StagedEncoder.tap`.

    Raises:
        EncoderError: The encoder does not take windows of this shape, or has no such pooling.
        DataError: A window, or a feature of one, is not finite; it is named by its index.
        OfframpError: The disk is full.
    """
    shape = transform.output_shape(windows.shape)
    try:
        encoder.input.check(shape)
    except EncoderError as error:
        raise EncoderError(f"{windows.name}: {error}") from None
    key = [windows.fingerprint, transform.to_dict(), encoder.fingerprint(), *poolings]
    shapes = {
        _column(name, pooling, poolings): tap
        for pooling in poolings
        for name, tap in tap_shapes(encoder, shape, pooling).items()
    }

    def compute(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with inference():
            return {
                _column(exit.name, pooling, poolings): encoder.tap(exit.index, state, pooling).float().cpu().numpy()
                for exit, state in encoder.visit(torch.from_numpy(batch).to(device))
                for pooling in poolings
            }

    folder = fill_rows(windows, transform, compute, shapes, root / digest(key), on_progress)
    return FeatureBank(folder, tuple(exit.name for exit in encoder.exits), tuple(poolings))


def fill_side(
    name: str, windows: WindowSource, transform: Transform, root: Path, on_progress: OnProgress = silent
) -> TapMatrix:
    """Side features of all windows behind a transform, ``(N, width)`` on disk under ``root``, resumable; see :func:`side_features`.

    Raises:
        EncoderError: There are no such features, or they do not take such windows.
        DataError: A feature is not finite; the window is named.
    """
    side = side_features(name)

    def compute(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with inference():
            return {BEFORE_ENCODER: side.compute(torch.from_numpy(batch)).float().numpy()}

    shape = compute(encoder_inputs(windows, transform, np.arange(1)))[BEFORE_ENCODER].shape[1:]
    key = ["side", side.version, name, windows.fingerprint, windows.shape, transform.to_dict()]
    folder = fill_rows(windows, transform, compute, {BEFORE_ENCODER: shape}, root / digest(key), on_progress)
    return TapMatrix(folder / f"{BEFORE_ENCODER}.npy")


def fill_rows(
    windows: WindowSource,
    transform: Transform,
    compute: Compute,
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    on_progress: OnProgress = silent,
) -> Path:
    """Compute named features of all windows batch by batch into ``folder/NAME.npy``, resumably.

    ``shapes`` are those of one window's features: ``compute`` gives arrays ``(n, *shape)``.
    """
    done = _rows_done(folder, windows.count, shapes)
    if done == windows.count:
        return folder
    values = sum(math.prod(shape) for shape in shapes.values())
    needed = 4 * values * (windows.count - done)
    if needed > free_bytes(folder):
        raise OfframpError(
            f"the features of {windows.name} need {needed / 1e6:,.1f} MB in {folder.parent}, and "
            f"{free_bytes(folder) / 1e6:,.1f} MB are free: free some space or choose another --out"
        )
    batch = min(batch_size(windows.shape), _power_of_two(BATCH_TAP_VALUES // values))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            outputs = {}
            for name, shape in shapes.items():
                header = _ensure_npy(folder / f"{name}.npy", (windows.count, *shape))
                outputs[name] = stack.enter_context((folder / f"{name}.npy").open("r+b"))
                outputs[name].seek(header + done * math.prod(shape) * 4)
            on_progress(done, windows.count)
            for number, start in enumerate(range(done, windows.count, batch), start=1):
                stop = min(start + batch, windows.count)
                rows = compute(encoder_inputs(windows, transform, np.arange(start, stop)))
                for name, output in outputs.items():
                    finite = np.isfinite(rows[name]).reshape(stop - start, -1).all(axis=1)
                    if not finite.all():
                        raise DataError(
                            f"{windows.name}: features at {name} of window {start + int(np.argmin(finite))} are not finite; "
                            "scale the input or check the encoder's weights"
                        )
                    output.write(np.ascontiguousarray(rows[name]).data)
                if number % SAVE_EVERY == 0 or stop == windows.count:
                    for output in outputs.values():
                        output.flush()
                        os.fsync(output.fileno())
                    write_text(folder / "progress.json", json.dumps({"done": stop}))
                on_progress(stop, windows.count)
    except OSError as error:
        raise OfframpError(f"cannot write features to {folder}: {error.strerror}; free some space") from error
    return folder


def encoder_inputs(windows: WindowSource, transform: Transform, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some windows as the encoder takes them, float32 ``(n, *transform.output_shape(windows.shape))``, C-contiguous.

    Raises:
        DataError: A window holds NaN or infinity, as stored or behind the transform; it is named by its index.
    """
    inputs = np.ascontiguousarray(transform(windows.read(indices)))
    check_range(inputs, indices, windows.name)
    return inputs


def batch_size(shape: tuple[int, ...]) -> int:
    """Windows per batch: a power of two from 8 to 256 that bounds memory."""
    return min(256, max(8, _power_of_two(BATCH_VALUES // math.prod(shape))))


def _power_of_two(most: int) -> int:
    """The largest power of two up to ``most``; 1 below that."""
    return 1 << max(0, most.bit_length() - 1)


def fit_transform(asked: TransformSpec, windows: WindowSource, indices: NDArray[np.int64]) -> Transform:
    """Fit a transform's statistics on windows that are not in the test set, batch by batch."""
    if isinstance(asked, DegradeSpec):
        return Transform(asked.name, snr_db=asked.snr_db, antennas=asked.antennas)
    if isinstance(asked, SpectrogramSpec):
        return Transform(asked.name, frames=asked.frames)
    if asked != "standardize":
        return Transform(asked)
    channels = windows.shape[0]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for block in _blocks(indices, batch_size(windows.shape)):
        values = windows.read(block).reshape(len(block), channels, -1).astype(np.float64)
        count += values.shape[0] * values.shape[2]
        total += values.sum((0, 2))
        squares += np.square(values).sum((0, 2))
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
    return Transform(asked, tuple(mean.astype(np.float32).tolist()), tuple(scale.astype(np.float32).tolist()))


def _blocks(indices: NDArray[np.int64], size: int) -> Iterable[NDArray[np.int64]]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def digest(key: Sequence[object]) -> str:
    """A folder name for rows that are determined by ``key``."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]


def remove_banks(root: Path) -> None:
    """Remove the banks in a folder, and the folder if nothing else is in it."""
    for folder in root.glob("*"):
        if BANK.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        root.rmdir()


def _rows_done(folder: Path, count: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows that an earlier pass wrote; 0 if any file is missing or has another size."""
    try:
        done = int(json.loads((folder / "progress.json").read_text())["done"])
        found = {name: np.load(folder / f"{name}.npy", mmap_mode="r").shape for name in shapes}
    except (OSError, ValueError, KeyError, EOFError):
        return 0
    return done if found == {name: (count, *shape) for name, shape in shapes.items()} else 0


def _ensure_npy(path: Path, shape: tuple[int, ...]) -> int:
    """Create a .npy of zeros unless one of that shape is there; returns the header's length in bytes."""
    try:
        existing = np.load(path, mmap_mode="r")
        if existing.shape == shape:
            return int(existing.offset)
    except (OSError, ValueError, EOFError):  # an empty file: killed before its header was written
        pass
    created = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    return int(created.offset)
