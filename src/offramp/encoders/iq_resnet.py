"""A residual network of plain convolutions on raw I/Q samples: antennas are mixed early, the rest is one-dimensional in time.

Source of the units: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), the basic block of
figure 2 with projection shortcuts (option B). What suits windows of I/Q samples:

- The stem is shared by the antennas: a kernel (1, k) sees one antenna at a time.
- The mixing stage convolves over neighbouring antennas, rectifies, and only then averages the antenna axis away. A filter over
  neighbours is a beam; the mean of its rectified output grows with the power that arrives along it. The phase between antennas,
  and with it the direction of arrival, therefore outlives the average, and any number of antennas leaves the same map.
- Behind mixing, cost does not depend on the number of antennas.

Windows are scaled to unit mean power, so that the receiver's gain does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.building import Count, Size
from offramp.encoders.iq_convolutional import IQConvolutional
from offramp.errors import EncoderError


def _convolution(inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1) -> list[nn.Module]:
    """Over (antennas, time), with BatchNorm; the stride is in time, the antenna axis keeps its size."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return [nn.Conv2d(inputs, outputs, kernel, (1, stride), padding, bias=False), nn.BatchNorm2d(outputs)]


class AntennaMean(nn.Module):
    """``(N, channels, antennas, time)`` to ``(N, channels, 1, time)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2, keepdim=True)


class ResidualUnit(nn.Module):
    """Two convolutions in time beside a shortcut, which is a pointwise convolution where width or stride change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_convolution(inputs, outputs, (1, 3), stride),
            nn.ReLU(inplace=True),
            *_convolution(outputs, outputs, (1, 3)),
        )
        keeps = stride == 1 and inputs == outputs
        self.side = None if keeps else nn.Sequential(*_convolution(inputs, outputs, (1, 1), stride))

    def forward(self, x: Tensor) -> Tensor:
        # The batch as one tall image, (1, channels, N, time): a view with channels innermost, and the same convolution in time.
        # On short maps, processors train up to twice as fast on it as on N images of height 1.
        x = x.transpose(0, 2)
        side = x if self.side is None else self.side(x)
        return functional.relu(self.main(x) + side, inplace=True).transpose(0, 2)


class IQResNet(IQConvolutional):
    """Input ``(N, 2, antennas, time)``, axis 1 = I, Q; at least 1 antenna and 64 samples.

    Exits: ``stem``, ``mixing``, then ``stage1.0`` and so on, one per residual unit. Time halves (rounded up) at the stem, at
    mixing and at the first unit of every stage. Default tap: mean over antennas and time, ``(N, channels)``. Tokens: ``(N,
    positions, channels)``: time, at the stem antenna by antenna.
    """

    architecture = "iq-resnet"

    def __init__(self, channels: Sequence[Size] = (24, 32, 64, 96, 160), repeats: Sequence[Count] = (2, 2, 2)) -> None:
        """Take the channels of stem, mixing and every stage, and the number of units of every stage."""
        super().__init__()
        if len(channels) != len(repeats) + 2:
            raise EncoderError(
                f"iq-resnet has channels for stem, mixing and {len(channels) - 2} stages, and repeats for {len(repeats)}"
            )
        self.config = {"channels": list(channels), "repeats": list(repeats)}
        stem, mixed, *wide = channels
        stages: list[nn.Module] = [
            nn.Sequential(*_convolution(2, stem, (1, 7), 2), nn.ReLU(inplace=True)),
            nn.Sequential(*_convolution(stem, mixed, (3, 3), 2), nn.ReLU(inplace=True), AntennaMean()),
        ]
        names, widths = ["stem", "mixing"], [stem, mixed]
        for number, (width, units) in enumerate(zip(wide, repeats, strict=True), start=1):
            for unit in range(units):
                stages.append(ResidualUnit(widths[-1], width, 1 if unit else 2))
                names.append(f"stage{number}.{unit}")
                widths.append(width)
        self.stages = nn.ModuleList(stages)
        self.exits = self.measure_exits(names, widths)
        # Convolutions run up to 1.4 times as fast on processors with channels innermost, and faster than as Conv1d.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


ARCHITECTURES = (IQResNet,)
