"""An encoder with heads on its exits, as one module that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from offramp.bundle import Head, Layer
from offramp.encoders.base import StagedEncoder, State
from offramp.heads.modules import untrained_head


class ExitModel(nn.Module):
    """An encoder and the heads of the exits that are trained.

    Args:
        encoder: To be trained.
        exits: Indices of the exits that get heads, ascending.
        kind: Of the heads, ``linear`` or ``mlp``.
        outputs: Classes or target dimensions.
        shared: Whether exits of one width share a head.
    """

    def __init__(self, encoder: StagedEncoder, exits: Sequence[int], kind: str, outputs: int, shared: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.exits = [encoder.exits[index] for index in exits]
        keys = [exit.width if shared else exit.index for exit in self.exits]
        self.number = [list(dict.fromkeys(keys)).index(key) for key in keys]
        width = dict(zip(self.number, (exit.width for exit in self.exits), strict=True))
        self.heads = nn.ModuleList([untrained_head(kind, width[number], outputs) for number in sorted(width)])

    def head(self, place: int) -> nn.Module:
        """The head of the exit at a place in ``exits``."""
        return self.heads[self.number[place]]

    def forward(self, x: Tensor, places: Sequence[int], skipped: Tensor | None = None) -> list[Tensor]:
        """Outputs ``(n, outputs)`` of the exits at some places in ``exits``, ascending; nothing behind the last of them runs.

        Args:
            x: Input of the encoder.
            places: Which exits.
            skipped: bool ``(stages, n)``: the stages that each window skips, its state staying as it was.
        """
        names = [self.exits[place].name for place in places]
        if skipped is None:
            taps = self.encoder.taps(x, names)
        else:
            taps = {
                self.exits[place].name: tap
                for place, tap in zip(
                    places, self._skipping(x, [self.exits[p].index for p in places], skipped), strict=True
                )
            }
        return [self.head(place)(taps[name]) for place, name in zip(places, names, strict=True)]

    def _skipping(self, x: Tensor, wanted: Sequence[int], skipped: Tensor) -> list[Tensor]:
        state, taps = self.encoder.begin(x), []
        for stage in range(wanted[-1] + 1):
            state = _advanced(self.encoder, stage, state, skipped[stage])
            if stage in wanted:
                taps.append(self.encoder.pool(stage, state))
        return taps


def _advanced(encoder: StagedEncoder, stage: int, state: State, skipped: Tensor) -> State:
    """The state behind a stage that some windows skip: only the others go through it."""
    kept = (~skipped).nonzero()[:, 0]
    if len(kept) == len(skipped):
        return encoder.advance(stage, state)
    if not len(kept):
        return state
    advanced = encoder.advance(stage, tuple(tensor[kept] for tensor in state))
    return tuple(before.index_copy(0, kept, after) for before, after in zip(state, advanced, strict=True))


def skippable_stages(encoder: StagedEncoder, x: Tensor) -> tuple[bool, ...]:
    """Whether each stage leaves the shapes and dtypes of its state as they were, so that a window may skip it.

    Args:
        encoder: Its mode and buffers stay as they are.
        x: A few windows.
    """
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        state, found = encoder.begin(x), []
        for stage in range(len(encoder.exits)):
            before, state = state, encoder.advance(stage, state)
            found.append(_kinds(before) == _kinds(state))
    encoder.train(training)
    return tuple(found)


def _kinds(state: State) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in state]


def set_head(module: nn.Module, head: Head, centre: np.ndarray, spread: np.ndarray) -> None:
    """Let a module of :func:`~offramp.heads.modules.untrained_head` start as ``head``, its outputs standardised."""
    linears = _linears(module)
    with torch.no_grad():
        for linear, (weight, bias) in zip(linears, _scaled(head.layers, 1 / spread, -centre / spread), strict=True):
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))


def get_head(module: nn.Module, centre: np.ndarray, spread: np.ndarray) -> Head:
    """A module of :func:`~offramp.heads.modules.untrained_head` as arrays, its standardised outputs in the target's own unit."""
    layers = tuple(
        (linear.weight.detach().cpu().numpy().copy(), linear.bias.detach().cpu().numpy().copy())
        for linear in _linears(module)
    )
    return Head(_scaled(layers, spread, centre))


def _scaled(layers: Sequence[Layer], factor: np.ndarray, offset: np.ndarray) -> tuple[Layer, ...]:
    """The last layer's outputs times ``factor`` plus ``offset``."""
    *first, (weight, bias) = layers
    last = (weight * factor[:, None], bias * factor + offset)
    return (*first, (last[0].astype(np.float32), last[1].astype(np.float32)))


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def heads_of(model: ExitModel, centre: np.ndarray, spread: np.ndarray) -> Mapping[str, Head]:
    """The heads of all trained exits by name, in order of depth; a shared one is the same object."""
    made = [get_head(head, centre, spread) for head in model.heads]
    return {exit.name: made[number] for exit, number in zip(model.exits, model.number, strict=True)}
