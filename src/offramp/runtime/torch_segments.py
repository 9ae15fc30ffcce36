"""The back end torch: an encoder's own stages, on a processor or an accelerator."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from offramp.encoders.base import StagedEncoder, State
from offramp.encoders.taps import inference
from offramp.policies.criteria import Array
from offramp.policies.policy import Policy
from offramp.policies.simulation import Decisions
from offramp.runtime.execution import Cascade, run_cascades


class TorchSegments:
    """Runs an encoder stage by stage; see :class:`~offramp.runtime.execution.Segments`."""

    def __init__(
        self, encoder: StagedEncoder, views: Mapping[Hashable, StagedEncoder] | None = None, pooling: str = "default"
    ) -> None:
        """Take an encoder in evaluation mode.

        Args:
            encoder: Its stages are run.
            views: By what cascades call it, the encoder as a task sees it; its state is that of ``encoder``. That alone, as
                ``default``, if None.
            pooling: Of the taps.
        """
        self.encoder = encoder
        self.views: Mapping[Hashable, StagedEncoder] = {"default": encoder} if views is None else views
        self.pooling = pooling
        self._of_two: list[list[bool]] = []
        self._shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.encoder.exits)

    def order(self, exit: str) -> int:
        return self.encoder.exit_index(exit)

    def running(self) -> AbstractContextManager[None]:
        return inference()

    def begin(self, x: Tensor) -> State:
        self._shape = tuple(x.shape[1:])
        self.encoder.input.check(self._shape)
        self.encoder.input.check_values(x)
        return self.encoder.begin(x)

    def advance(
        self, after: int, to: int, state: State, seen: Collection[Hashable]
    ) -> tuple[State, dict[Hashable, Tensor]]:
        for stage in range(after + 1, to + 1):
            state = self.encoder.advance(stage, state)
        return state, {name: self.views[name].tap(to, state, self.pooling) for name in seen}

    def through(
        self, state: State, asked: Mapping[int, Collection[Hashable]]
    ) -> Mapping[int, Mapping[Hashable, Tensor]]:
        taps, after = {}, -1
        for exit in sorted(asked):
            state, taps[exit] = self.advance(after, exit, state, asked[exit])
            after = exit
        return taps

    def keep(self, state: State, stay: Array) -> State:
        kept = stay if isinstance(stay, Tensor) else torch.from_numpy(stay)
        return tuple(_selected(part, kept) for part in state)

    def numbers(self, x: Tensor) -> Array:
        return np.arange(len(x)) if decides_on_numpy(x.device) else torch.arange(len(x), device=x.device)

    def outputs(self, given: Tensor) -> Array:
        return given.numpy() if decides_on_numpy(given.device) else given

    def repeated(self, window: Tensor, count: int) -> Tensor:
        return window.repeat_interleave(count, 0)

    def joined(self, at: int, states: Sequence[State]) -> State:
        if len(states) == 1:
            return states[0]
        parts = zip(*states, strict=True)
        return tuple(
            part[0] if own else torch.cat(part) for part, own in zip(parts, self._shared(at, states[0]), strict=True)
        )

    def divided(self, at: int, state: State, counts: Sequence[int]) -> list[State]:
        if len(counts) == 1:
            return [state]
        divided = [
            (part,) * len(counts) if own else torch.split(part, list(counts))
            for part, own in zip(state, self._shared(at, state), strict=True)
        ]
        return list(zip(*divided, strict=True))

    def _shared(self, at: int, state: State) -> list[bool]:
        """Which parts of a state all windows share: those that one row of is there for two windows."""
        if at < 0:
            return [False] * len(state)
        if not self._of_two:
            with inference():
                pair = self.encoder.input.draw(2, self._shape).to(state[0].device)
                self._of_two += [[len(part) == 1 for part in each] for _, each in self.encoder.visit(pair)]
        return self._of_two[at]

    def blank(self, x: Tensor) -> Tensor:
        return x.new_zeros(1, *x.shape[1:])


def decides_on_numpy(device: torch.device) -> bool:
    """Whether policies work on NumPy arrays, where small operations are faster than in torch."""
    return device.type == "cpu"


def run_cascade(
    encoder: StagedEncoder,
    heads: Mapping[str, nn.Module],
    policy: Policy,
    x: Tensor,
    pooling: str = "default",
    first: int = 0,
) -> Decisions:
    """Answer windows of one task under a policy, each at the exit where it leaves; see :func:`~offramp.runtime.execution.run_cascades`.

    Args:
        encoder: In evaluation mode.
        heads: A head on the encoder's device for each exit that the policy consults.
        policy: Decides where windows leave.
        x: Input ``(N, *encoder.input.shape)`` on the encoder's device; N may be 0.
        pooling: Of the taps that the heads take.
        first: Number of the first window, for messages.
    """
    return run_cascades(TorchSegments(encoder, pooling=pooling), [Cascade(heads, policy)], x, first)[0]


def _selected(part: Tensor, keep: Tensor) -> Tensor:
    """Rows of a batch, laid out in memory as the batch is: ``index_select`` alone would undo channels_last, and cost more."""
    if len(part) == 1:  # shared by all windows, for a batch of one is never compacted
        return part
    if part.stride(0) == 0:  # one row, expanded
        return part[: len(keep)]
    order = sorted(range(part.dim()), key=part.stride, reverse=True)
    if order == list(range(part.dim())):
        return part.index_select(0, keep)
    rows = part.permute(order).index_select(order.index(0), keep)
    return rows.permute([order.index(axis) for axis in range(part.dim())])
