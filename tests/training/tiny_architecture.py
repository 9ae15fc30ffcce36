"""The tests' tiny encoder as an architecture that has a name."""

from __future__ import annotations

from collections.abc import Sequence

from offramp.encoders.iq_shufflenet import IQShuffleNet


class Tiny(IQShuffleNet):
    architecture = "tiny-test"

    def __init__(self, channels: Sequence[int] = (8, 8, 16, 16, 32), repeats: Sequence[int] = (2, 2, 2)) -> None:
        super().__init__(channels, repeats)
