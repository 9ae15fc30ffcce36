"""Encoders cut into stages: the one interface that everything else in Offramp is written against."""

from __future__ import annotations

import copy
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.encoders.pooling import OF_TOKENS, neighbours, statistics
from offramp.encoders.storage import save_encoder
from offramp.errors import EncoderError

State = tuple[Tensor, ...]
"""What an encoder holds between stages: batch first in every tensor, so that ``t[keep]`` drops samples."""


@dataclass(frozen=True)
class Exit:
    """A named place after a stage where inference may stop.

    Attributes:
        name: Unique within the encoder, e.g. ``"stage2.3"``.
        index: Position in the encoder's ``exits``, 0 for the shallowest. Stage ``index`` ends here.
        width: Number of features of a default tap, i.e. ``pool(index, state)`` is ``(N, width)``.
        params: Parameters of the encoder that run up to and including this exit.
    """

    name: str
    index: int
    width: int
    params: int


@dataclass(frozen=True)
class InputSpec:
    """The input that an encoder takes, batch first.

    Attributes:
        layout: Names of the axes, e.g. ``("batch", "iq", "antennas", "time")``.
        shape: Size of each axis behind the batch; ``None`` where any size fits.
        minimum: Smallest size of each axis behind the batch.
        multiple: What the size of each axis behind the batch must be a multiple of; any size fits if it is empty.
        maximum: Largest size of each axis behind the batch, None where there is none; no axis has one if it is empty.
        dtype: Of the values: float32, or int64 for token numbers.
        values: How many token numbers there are, 0 to ``values - 1``; None for float32.
    """

    layout: tuple[str, ...]
    shape: tuple[int | None, ...]
    minimum: tuple[int, ...]
    multiple: tuple[int, ...] = ()
    maximum: tuple[int | None, ...] = ()
    dtype: torch.dtype = torch.float32
    values: int | None = None

    def describe(self) -> str:
        """The accepted input in words, e.g. ``(N, 2, antennas >= 1, time >= 64)``; the dtype is said if it is not float32."""
        axes = [
            str(size) if size is not None else _range_of(name, least, most, step)
            for name, size, least, most, step in zip(self.layout[1:], self.shape, *self._limits, strict=True)
        ]
        kind = "" if self.values is None else f" {self.dtype} below {self.values}"
        return f"(N, {', '.join(axes)}){kind}"

    @property
    def _limits(self) -> tuple[tuple[int, ...], tuple[int | None, ...], tuple[int, ...]]:
        """Smallest, largest and step of each axis behind the batch."""
        axes = len(self.shape)
        return self.minimum, self.maximum or (None,) * axes, self.multiple or (1,) * axes

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`EncoderError` unless ``shape`` (without the batch axis) is accepted."""
        fits = len(shape) == len(self.shape) and all(
            least <= size <= (size if most is None else most) and size % step == 0 and expected in (None, size)
            for size, expected, least, most, step in zip(shape, self.shape, *self._limits, strict=True)
        )
        if not fits:
            given = ", ".join(["N", *map(str, shape)])
            raise EncoderError(f"input of shape ({given}) does not fit: this encoder takes {self.describe()}")

    def check_values(self, x: Tensor) -> None:
        """Raise :class:`EncoderError` unless ``x`` has the dtype and, where values are token numbers, they are known ones."""
        if x.dtype != self.dtype:
            convert = "x.float()" if self.dtype == torch.float32 else f"x.to({self.dtype})"
            raise EncoderError(f"input is {x.dtype}: this encoder takes {self.dtype}, convert with {convert}")
        if self.values is not None and x.numel() and not torch.compiler.is_compiling():  # a traced graph cannot look
            least, most = int(x.min()), int(x.max())
            if least < 0 or most >= self.values:
                raise EncoderError(f"input holds {least} to {most}: this encoder takes 0 to {self.values - 1}")

    def example_shape(self) -> tuple[int, ...]:
        """A small accepted shape of one window: free axes get 2, the last one 96, as far as their limits let them."""
        last = len(self.shape) - 1
        return tuple(
            size if size is not None else _nearest(96 if axis == last else 2, least, most, step)
            for axis, (size, least, most, step) in enumerate(zip(self.shape, *self._limits, strict=True))
        )

    def draw(self, count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
        """Random windows ``(count, *shape)`` on the CPU: standard normal, or token numbers."""
        generator = torch.Generator().manual_seed(seed)
        if self.values is not None:
            return torch.randint(self.values, (count, *shape), generator=generator, dtype=self.dtype)
        return torch.randn((count, *shape), generator=generator, dtype=self.dtype)


def _nearest(size: int, least: int, most: int | None, step: int) -> int:
    size = max(size, least)
    size = size if most is None else min(size, most)
    return math.ceil(size / step) * step


def _range_of(name: str, least: int, most: int | None, step: int) -> str:
    return (
        f"{name} >= {least}{f' and <= {most}' if most is not None else ''}{f' in steps of {step}' if step > 1 else ''}"
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws within start from ``seed``; torch's global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set the accelerators' states too
        yield


class StagedEncoder(nn.Module, ABC):
    """An encoder that can stop after any of its stages.

    A subclass sets ``name``, ``config`` (its constructor arguments), ``input``, ``exits``, and ``stages``: a ``ModuleList``
    in which the parameters of stage ``i`` live at ``stages[i]``. It implements :meth:`begin`, :meth:`advance` and
    :meth:`pool`; all else is derived here. Freezing and inference mode are the caller's.
    """

    architecture: ClassVar[str]
    checkpoint_options: ClassVar[tuple[str, ...]] = ()
    """Names of what a foreign checkpoint leaves open, so that whoever loads it may say it; each is a key of ``config`` too."""
    config: dict[str, Any]
    input: InputSpec
    exits: tuple[Exit, ...]
    stages: nn.ModuleList

    @abstractmethod
    def begin(self, x: Tensor) -> State:
        """Scale and patch an input ``(N, *input.shape)`` of ``input.dtype`` into the state before stage 0."""

    @abstractmethod
    def advance(self, stage: int, state: State) -> State:
        """Run one stage: the state before it to the state after it."""

    @abstractmethod
    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        """The tap at an exit: ``(N, width)`` float32, or ``(N, positions, width)`` with ``pooling="tokens"``; no other pooling is asked for."""

    def tap(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        """The tap at an exit in any pooling: those that :meth:`pool` has, or ``statistics``, ``quantiles`` and ``second_order`` of its tokens.

        ``(N, width)`` float32; ``(N, positions, width)`` for ``tokens``; ``(N, 2 width)`` for ``statistics`` and ``(N, 5 width)`` for ``quantiles`` of
        the tokens' width; ``second_order`` is ``statistics`` and, where :meth:`antenna_maps` has antennas, ``(N, lags x width)`` of
        :func:`~offramp.encoders.pooling.neighbours`.
        """
        if pooling == "second_order":
            maps = self.antenna_maps(exit, state)
            plain = statistics(self.pool(exit, state, "tokens"))
            return plain if maps is None else torch.cat([plain, neighbours(maps)], dim=1)
        if pooling in OF_TOKENS:
            return OF_TOKENS[pooling](self.pool(exit, state, "tokens"))
        return self.pool(exit, state, pooling)

    def antenna_maps(self, exit: int, state: State) -> Tensor | None:
        """The state antenna by antenna, float32 ``(N, antennas, width, positions)``; None where antennas are no longer apart."""
        return None

    def uncounted_macs(self, stage: int, shape: tuple[int, ...]) -> int:
        """MACs of a stage for one window of a shape that are no matrix product or convolution, such as a Fourier transform's."""
        return 0

    @classmethod
    def for_checkpoint(cls, tensors: dict[str, Tensor]) -> type[StagedEncoder]:
        """The class that reads a foreign state dict: this one, unless it knows another version of itself."""
        return cls

    @classmethod
    def convert_checkpoint(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Read a foreign state dict: constructor arguments and tensors under this class's own names.

        ``options`` are those of ``checkpoint_options`` that the caller gave.
        """
        return dict(options), tensors

    def reinitialised(self, seed: int) -> StagedEncoder:
        """A new encoder of the same configuration with its own random weights; the global random state is left as it was."""
        with seeded(seed):
            return type(self)(**self.config)

    def taps(self, x: Tensor, exits: Iterable[str] | None = None, pooling: str = "default") -> dict[str, Tensor]:
        """Pooled states at the named exits (all if None), in order of depth; nothing behind the deepest runs.

        Args:
            x: Input ``(N, *input.shape)`` of ``input.dtype``.
            exits: Names of exits.
            pooling: See :meth:`tap`.

        Raises:
            EncoderError: An exit is unknown, or the input has another shape or dtype.
        """
        return {exit.name: self.tap(exit.index, state, pooling) for exit, state in self.visit(x, exits)}

    def states(self, x: Tensor, exits: Iterable[str] | None = None) -> dict[str, Tensor]:
        """The main tensor of the state at the named exits, before any final norm and pooling."""
        return {exit.name: state[0] for exit, state in self.visit(x, exits)}

    def visit(self, x: Tensor, exits: Iterable[str] | None = None) -> Iterator[tuple[Exit, State]]:
        """The whole state at each of the named exits (all if None), in order of depth; nothing behind the deepest runs.

        One pass may so be pooled in several ways. Raises what :meth:`taps` raises.
        """
        wanted = {self.exit_index(name) for name in exits} if exits is not None else set(range(len(self.exits)))
        if not wanted:
            return
        state = self._begin_checked(x)
        for stage in range(max(wanted) + 1):
            state = self.advance(stage, state)
            if stage in wanted:
                yield self.exits[stage], state

    def target_positions(self, shape: tuple[int, ...], positions: int) -> NDArray[np.int64]:
        """Which entries of a target each position of a token tap answers for.

        Here the flattened target is cut into as many equal runs as there are positions, in their order.

        Args:
            shape: Of one window's target, e.g. ``(2, slots, antennas, subcarriers)``.
            positions: Of the tap ``(N, positions, width)``.

        Returns:
            int64 ``(positions, values)``, indices into the flattened target, each exactly once.

        Raises:
            EncoderError: The target's entries cannot be divided evenly among the positions.
        """
        entries = math.prod(shape)
        if entries % positions:
            raise EncoderError(
                f"a target of shape {shape} has {entries} values, which {positions} positions cannot share evenly: "
                f"choose another target, or pooling: default"
            )
        return np.arange(entries).reshape(positions, -1)

    def truncate(self, exit: str, pooling: str = "default") -> Truncated:
        """The network that ends at an exit: ``x -> tap``. It shares this encoder's weights and holds no later stage."""
        return Truncated(self._prefix(self.exit_index(exit)), exit, pooling)

    def segment(self, after: str | None, to: str) -> Segment:
        """The stages behind exit ``after`` (from the input if None) up to exit ``to``: state (or x) to state."""
        first = 0 if after is None else self.exit_index(after) + 1
        last = self.exit_index(to)
        if first > last:
            raise EncoderError(f"segment from {after!r} to {to!r} is empty: the exit 'to' must lie deeper")
        return Segment(self._prefix(last), None if after is None else first)

    def exit_index(self, exit: str) -> int:
        """Index of an exit by name; raises :class:`EncoderError` if there is none."""
        for candidate in self.exits:
            if candidate.name == exit:
                return candidate.index
        known = ", ".join(e.name for e in self.exits)
        raise EncoderError(f"unknown exit {exit!r}: {self.architecture} has {known}")

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes and values of all parameters and buffers, and the configuration."""
        digest = hashlib.sha256(repr((self.architecture, sorted(self.config.items()))).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def rebuildable(self) -> bool:
        """Whether ``architecture`` and ``config`` say all that is needed to build this encoder again, so that it can be saved."""
        return True

    def save(self, folder: str | Path, provenance: dict[str, Any] | None = None) -> None:
        """Write an encoder folder, ``config.json`` and ``model.safetensors``, that ``load_encoder(folder)`` reads.

        Args:
            folder: Made if it is missing; what it holds of an encoder is replaced.
            provenance: What to note on where the weights come from, JSON types.

        Raises:
            EncoderError: It cannot be built from a configuration.
            OfframpError: The folder cannot be written.
        """
        save_encoder(self, Path(folder), provenance)

    def _begin_checked(self, x: Tensor) -> State:
        self.input.check(tuple(x.shape[1:]))
        self.input.check_values(x)
        return self.begin(x)

    def _prefix(self, last: int) -> Self:
        prefix = copy.copy(self)
        prefix._modules = dict(self._modules)
        prefix.stages = nn.ModuleList(list(self.stages)[: last + 1])
        prefix.exits = self.exits[: last + 1]
        return prefix

    def _drop_before(self, stage: int) -> None:
        """Of a prefix: let go of the stages before one."""
        for skipped in range(stage):
            self.stages[skipped] = nn.Identity()

    def measure_exits(self, names: Iterable[str], widths: Iterable[int]) -> tuple[Exit, ...]:
        """Exits with their cumulative parameter counts, for subclasses to call when their stages stand."""
        named = self.named_parameters(remove_duplicate=False)
        counted = {parameter for name, parameter in named if not name.startswith("stages.")}
        exits = []
        for index, (name, width, stage) in enumerate(zip(names, widths, self.stages, strict=True)):
            counted.update(stage.parameters())  # a set, for stages may share parameters
            exits.append(Exit(name, index, width, sum(parameter.numel() for parameter in counted)))
        return tuple(exits)

    _measure_exits = measure_exits
    """Its name in encoders written before it was public."""


class Truncated(nn.Module):
    """A network that ends at one exit, made by :meth:`StagedEncoder.truncate`: input to tap."""

    def __init__(self, prefix: StagedEncoder, exit: str, pooling: str = "default") -> None:
        super().__init__()
        self.prefix = prefix
        self.exit = exit
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *input.shape)`` float32 to ``(N, width)`` float32, or ``(N, positions, width)`` with ``pooling="tokens"``."""
        return self.prefix.taps(x, [self.exit], self.pooling)[self.exit]


class Segment(nn.Module):
    """Consecutive stages, made by :meth:`StagedEncoder.segment`: state tensors (or the input) to state tensors."""

    def __init__(self, prefix: StagedEncoder, first: int | None) -> None:
        super().__init__()
        self.first = first or 0
        self.from_input = first is None
        prefix._drop_before(self.first)
        self.prefix = prefix

    def forward(self, *state: Tensor) -> State:
        """The state after the last stage. Takes the input ``x`` when the segment starts there, else the state's tensors."""
        current: State = self.prefix._begin_checked(state[0]) if self.from_input else state
        for stage in range(self.first, len(self.prefix.exits)):
            current = self.prefix.advance(stage, current)
        return current
