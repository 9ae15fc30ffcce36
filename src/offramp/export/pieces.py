"""An encoder cut at exits into pieces that are traced one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from offramp.encoders.base import StagedEncoder, State
from offramp.encoders.taps import inference
from offramp.encoders.view import TaskView


class Piece(nn.Module):
    """The stages behind one exit up to another, with the taps there: the input or a state to new parts of the state and taps."""

    def __init__(
        self, views: Sequence[TaskView], after: int, until: int, kept: Sequence[int | None], last: bool
    ) -> None:
        """Take the encoder as tasks that share a pass see it, the exits by index (-1: the beginning), and what is known of its state.

        Args:
            views: One encoder; its state is that of the first.
            after, until: The exits.
            kept: Of every part of the state at ``until``: which part of the state before it is, None if it is new.
            last: Whether no piece follows, so that only taps are wanted.
        """
        super().__init__()
        self.views = nn.ModuleList(views)
        self.after, self.until = after, until
        self.kept, self.last = tuple(kept), last

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        """The input ``(N, *shape)`` alone, or the parts of a state, to the new parts of the state, if wanted, and a tap for each view."""
        first = self.views[0]
        assert isinstance(first, TaskView)
        current = _followed(first, self.after, self.until, state)
        fresh = [part for part, kept in zip(current, self.kept, strict=True) if kept is None]
        taps = [view.tap(self.until, current) for view in self.views]  # type: ignore[operator]
        return (*([] if self.last else fresh), *taps)


class WholePass(nn.Module):
    """From the input to the last of some exits, with the taps at each of them; nothing leaves on the way."""

    def __init__(self, views: Sequence[TaskView], exits: Sequence[str]) -> None:
        """Take one encoder as tasks that share a pass see it, and names of exits in order of depth."""
        super().__init__()
        self.views = nn.ModuleList(views)
        self.exits = [views[0].exit_index(exit) for exit in exits]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The input ``(N, *shape)`` to the taps, by exit, then by view."""
        first, after, taps = self.views[0], -1, []
        assert isinstance(first, TaskView)
        state: State = (x,)
        for exit in self.exits:
            state = _followed(first, after, exit, state)
            taps += [view.tap(exit, state) for view in self.views]  # type: ignore[operator]
            after = exit
        return tuple(taps)


@dataclass(frozen=True, eq=False)
class CutPiece:
    """A piece and examples of what goes in and comes out.

    Attributes:
        exit: Name of the exit where it ends.
        piece: In evaluation mode.
        state: What it takes: an input alone, or all parts of a state.
        following: The whole state behind it, kept parts too.
    """

    exit: str
    piece: Piece
    state: State
    following: State


def cut_encoder(views: Sequence[TaskView], exits: Sequence[str], x: Tensor) -> list[CutPiece]:
    """Cut an encoder.

    Args:
        views: Of one encoder with BatchNorm folded, as tasks that share a pass see it.
        exits: Names of the exits to cut at, in order of depth.
        x: An example of its input, ``(N, *shape)``.
    """
    first, after = views[0], -1
    state: State = (x,)
    cuts = []
    for number, exit in enumerate(exits):
        until = first.exit_index(exit)
        with inference():
            following = _followed(first, after, until, state)
        kept = [next((i for i, old in enumerate(state) if new is old), None) for new in following]
        piece = Piece(views, after, until, kept, number == len(exits) - 1).eval()
        cuts.append(CutPiece(exit, piece, state, following))
        after, state = until, tuple(part.clone() for part in following)
    return cuts


def _followed(encoder: StagedEncoder, after: int, until: int, state: Sequence[Tensor]) -> State:
    current: State = encoder.begin(state[0]) if after < 0 else tuple(state)
    for stage in range(after + 1, until + 1):
        current = encoder.advance(stage, current)
    return current
