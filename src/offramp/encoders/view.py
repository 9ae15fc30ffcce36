"""An encoder as one task sees it: taps pooled in the task's own way, side features beside every tap, and an exit before the encoder."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.encoders.base import Exit, StagedEncoder, State
from offramp.encoders.side import Side, side_features
from offramp.encoders.taps import inference
from offramp.errors import EncoderError
from offramp.schema.tasks import BEFORE_ENCODER


class TaskView(StagedEncoder):
    """Shares all weights with the encoder it shows; its default taps are what the task's heads take.

    With side features the first stage computes them from the input, and the exit behind it is ``input``. Their tensors stand in front of the
    encoder's own state, so that a pass goes on with them wherever it is cut. Views of one encoder that carry the same side features differ in
    their taps alone: one pass serves them all.
    """

    def __init__(
        self,
        encoder: StagedEncoder,
        shape: tuple[int, ...],
        poolings: Mapping[str, str],
        side: str | None = None,
        carried: Sequence[str] | None = None,
    ) -> None:
        """Look at an encoder.

        Args:
            encoder: In evaluation mode. It runs once, on one made-up window, for the widths of the taps.
            shape: Of one window, as the encoder takes it.
            poolings: By exit of the encoder, see :meth:`StagedEncoder.tap`; ``default`` where an exit is left out.
            side: Name of the side features that stand in front of every tap; none if None.
            carried: All side features that the state holds, for a pass that several views share; those of this view if None.

        Raises:
            EncoderError: The encoder does not take windows of this shape, or there is no such pooling or side feature.
        """
        super().__init__()
        self.architecture = encoder.architecture  # type: ignore[misc]
        self.config = encoder.config
        self.encoder = encoder
        self.shape = shape
        self.poolings = {exit.name: poolings.get(exit.name, "default") for exit in encoder.exits}
        self.side = side
        self.carried = tuple(carried) if carried is not None else (() if side is None else (side,))
        self.input = encoder.input
        self._sides: list[Side] = [side_features(name) for name in self.carried]
        self._link(encoder)
        self.exits = self._shown(encoder)
        self.tap_shapes = self._measured()
        self.exits = tuple(replace(exit, width=self.tap_shapes[exit.name][-1]) for exit in self.exits)

    @property
    def seen(self) -> Hashable:
        """What tells views of one encoder apart whose pass is shared."""
        return self.side, tuple(self.poolings.items())

    def carrying(self, carried: Iterable[str]) -> TaskView:
        """The same view in a pass that holds these side features, in their order."""
        return TaskView(self.encoder, self.shape, self.poolings, self.side, tuple(carried))

    def begin(self, x: Tensor) -> State:
        return (x,) if self._sides else self.encoder.begin(x)

    def advance(self, stage: int, state: State) -> State:
        if not self._sides:
            return self.encoder.advance(stage, state)
        if stage == 0:
            return (*(side.compute(state[0]) for side in self._sides), state[0])
        sides, inner = state[: len(self._sides)], state[len(self._sides) :]
        if stage == 1:
            inner = self.encoder.begin(inner[0])
        return (*sides, *self.encoder.advance(stage - 1, inner))

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: every exit of a task has its own, which is its default")
        inner = exit - (1 if self._sides else 0)
        beside = None if self.side is None else state[self.carried.index(self.side)]
        if inner < 0:
            return state[0][:, :0] if beside is None else beside
        name = self.exits[exit].name
        tap = self.encoder.tap(inner, state[len(self._sides) :], self.poolings[name])
        if beside is None:
            return tap
        if tap.ndim > beside.ndim:
            beside = beside[:, None].expand(-1, tap.shape[1], -1)
        if beside.shape[1:-1] != tap.shape[1:-1]:
            raise EncoderError(
                f"side features {self.side!r} give {_positions(beside)}, and the tap at {name!r} has {_positions(tap)}: "
                "give as many, or one row for the whole window"
            )
        return torch.cat([beside, tap], dim=-1)

    def target_positions(self, shape: tuple[int, ...], positions: int) -> NDArray[np.int64]:
        return self.encoder.target_positions(shape, positions)

    def uncounted_macs(self, stage: int, shape: tuple[int, ...]) -> int:
        if not self._sides:
            return self.encoder.uncounted_macs(stage, shape)
        if stage == 0:
            return sum(side.macs(shape) for side in self._sides)
        return self.encoder.uncounted_macs(stage - 1, shape)

    @property
    def rebuildable(self) -> bool:
        return False

    def _link(self, encoder: StagedEncoder) -> None:
        self.stages = nn.ModuleList([*([nn.Identity()] if self._sides else []), *encoder.stages])

    def _shown(self, encoder: StagedEncoder) -> tuple[Exit, ...]:
        if not self._sides:
            return encoder.exits
        if BEFORE_ENCODER in (exit.name for exit in encoder.exits):
            raise EncoderError(
                f"an encoder with an exit named {BEFORE_ENCODER!r} cannot have side features: name the exit otherwise"
            )
        return (Exit(BEFORE_ENCODER, 0, 0, 0), *(replace(exit, index=exit.index + 1) for exit in encoder.exits))

    def _measured(self) -> dict[str, tuple[int, ...]]:
        device = next(self.encoder.parameters()).device
        with inference():
            taps = self.taps(self.input.draw(1, self.shape).to(device))
        return {name: tuple(tap.shape[1:]) for name, tap in taps.items()}

    def _prefix(self, last: int) -> Self:
        prefix = super()._prefix(last)
        prefix.encoder = self.encoder._prefix(last - (1 if self._sides else 0))
        if not prefix.encoder.exits:  # it does not even begin
            prefix.encoder._modules, prefix.encoder._parameters, prefix.encoder._buffers = {}, {}, {}
            prefix.encoder.stages = nn.ModuleList()
        return prefix

    def _drop_before(self, stage: int) -> None:
        super()._drop_before(stage)
        self.encoder._drop_before(max(0, stage - (1 if self._sides else 0)))


def _positions(rows: Tensor) -> str:
    return f"{rows.shape[1]} positions" if rows.ndim == 3 else "one row"
