"""The back end torch with compiled stages: by ``torch.compile``, on an accelerator as CUDA graphs, one per stage and bucket of batch sizes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Hashable, Mapping
from types import FunctionType

import torch
from torch import Tensor

from offramp.encoders.base import StagedEncoder, State
from offramp.runtime.torch_segments import TorchSegments

COMPILER = "inductor"
Stage = Callable[..., State]


class CompiledSegments(TorchSegments):
    """Runs every stage as ``torch.compile`` makes it, which takes some seconds a stage when it first runs.

    A stage that cannot be compiled runs as it is, and a warning says so. On an accelerator batches are filled up to the next power of two, so that a CUDA graph
    is recorded for each of these sizes and no other.
    """

    def __init__(self, encoder: StagedEncoder, views: Mapping[Hashable, StagedEncoder]) -> None:
        """Take an encoder in evaluation mode, and as tasks see it, as :class:`TorchSegments` does."""
        super().__init__(encoder, views)
        self._compiled: dict[int, Stage] = {}

    def advance(
        self, after: int, to: int, state: State, seen: Collection[Hashable]
    ) -> tuple[State, dict[Hashable, Tensor]]:
        for stage in range(after + 1, to + 1):
            state = self._run(stage, state)
        return state, {name: self.views[name].tap(to, state, self.pooling) for name in seen}

    def _run(self, stage: int, state: State) -> State:
        on_cpu, count = not self._graphs(state), max(map(len, state))
        size = count if on_cpu else 1 << (count - 1).bit_length()
        try:
            given = self._stage(stage, on_cpu)(*(_filled(part, count, size) for part in state))
        except Exception as error:  # whatever a compiler raises
            reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
            warnings.warn(
                f"torch.compile cannot compile {self.encoder.exits[stage].name}, which runs as it is: {reason}",
                stacklevel=2,
            )
            self._compiled[stage] = self._plain(stage)
            return self._compiled[stage](*state)
        if on_cpu:
            return tuple(given)
        # a graph writes its next answers where these are
        return tuple((part[:count] if len(part) == size else part).clone() for part in given)

    def _graphs(self, state: State) -> bool:
        """Whether CUDA graphs are recorded."""
        return state[0].device.type == "cuda"

    def _stage(self, stage: int, on_cpu: bool) -> Stage:
        if stage not in self._compiled:
            options = {"dynamic": True} if on_cpu else {"dynamic": False, "mode": "reduce-overhead"}
            self._compiled[stage] = torch.compile(self._plain(stage), backend=COMPILER, **options)
        return self._compiled[stage]

    def _plain(self, stage: int) -> Stage:
        def run(*state: Tensor) -> State:
            return self.encoder.advance(stage, state)

        # torch counts what it compiles by code object, and gives up at eight
        own = run.__code__.replace(co_name=f"stage{stage}")
        return FunctionType(own, run.__globals__, own.co_name, None, run.__closure__)


def _filled(part: Tensor, count: int, size: int) -> Tensor:
    """A batch with its last window repeated; what all windows share stays as it is."""
    if len(part) != count or count == size:
        return part
    return torch.cat([part, part[-1:].expand(size - count, *part.shape[1:])])
