"""ShuffleNetV2 x0.5 on raw I/Q samples: a window of A antennas and T time samples is an image of height A and width T.

Source: Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (arXiv 1807.11164),
table 5, x0.5. Two changes suit windows that are short and have few antennas:

- The stem keeps its stride 2 in time and drops the max-pooling, so that time shrinks 16-fold instead of 32-fold: the
  shortest window, 64 samples, still leaves 4 positions behind stage 4.
- The antenna axis keeps its full height through the stem and stage 2, where neighbouring antennas are first mixed, and is
  halved (rounded up, so that one antenna stays one) at the start of stages 3 and 4.

Windows are scaled to unit mean power, so that the receiver's gain does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from offramp.encoders.building import Count, Size
from offramp.encoders.iq_convolutional import IQConvolutional
from offramp.errors import EncoderError

Stride = tuple[int, int]


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: Stride) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    ]


class ShuffleUnit(nn.Module):
    """One unit: half the channels pass by, half are convolved; with a stride both halves are convolved."""

    def __init__(self, inputs: int, outputs: int, stride: Stride) -> None:
        super().__init__()
        branch = outputs // 2
        self.split = stride == (1, 1)
        entry = branch if self.split else inputs
        self.side = None if self.split else nn.Sequential(*_depthwise(inputs, stride), *_pointwise(inputs, branch))
        self.main = nn.Sequential(*_pointwise(entry, branch), *_depthwise(branch, stride), *_pointwise(branch, branch))

    def forward(self, x: Tensor) -> Tensor:
        side, main = x.chunk(2, dim=1) if self.side is None else (self.side(x), x)
        # Stacking behind the channel axis interleaves the halves: the channel shuffle with two groups.
        return torch.stack((side, self.main(main)), dim=2).flatten(1, 2)


class IQShuffleNet(IQConvolutional):
    """Input ``(N, 2, antennas, time)``, axis 1 = I, Q; at least 1 antenna and 64 samples.

    Exits: ``stem``, ``stage2.0`` .. ``stage4.3``, ``conv5``. Default tap: global average over antennas and time, ``(N,
    channels)``. Tokens: ``(N, antennas' * time', channels)``, antenna by antenna.
    """

    architecture = "iq-shufflenet"

    def __init__(
        self, channels: Sequence[Size] = (24, 48, 96, 192, 1024), repeats: Sequence[Count] = (4, 8, 4)
    ) -> None:
        super().__init__()
        if len(channels) != len(repeats) + 2:
            raise EncoderError(
                f"iq-shufflenet has channels for stem, {len(channels) - 2} stages and conv5, and repeats for {len(repeats)}"
            )
        if odd := [width for width in channels[1:-1] if width % 2]:
            raise EncoderError(f"iq-shufflenet splits the channels of a stage in halves: {odd[0]} is odd")
        self.config = {"channels": list(channels), "repeats": list(repeats)}
        stem = nn.Sequential(
            nn.Conv2d(2, channels[0], 3, (1, 2), padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        stages: list[nn.Module] = [stem]
        names, widths = ["stem"], [channels[0]]
        for number, (width, units) in enumerate(zip(channels[1:-1], repeats, strict=True), start=2):
            for unit in range(units):
                stride = (1, 1) if unit else (1, 2) if number == 2 else (2, 2)
                stages.append(ShuffleUnit(widths[-1], width, stride))
                names.append(f"stage{number}.{unit}")
                widths.append(width)
        stages.append(nn.Sequential(*_pointwise(widths[-1], channels[-1])))
        self.stages = nn.ModuleList(stages)
        self.exits = self.measure_exits([*names, "conv5"], [*widths, channels[-1]])
        # Depthwise convolutions run about 1.5 times as fast on processors with channels innermost.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


ARCHITECTURES = (IQShuffleNet,)
