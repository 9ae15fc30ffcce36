"""A residual network of plain convolutions on raw I/Q samples: antennas are mixed early, the rest is one-dimensional in time.

Source of the units: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), the basic block of
figure 2 with projection shortcuts (option B). What suits windows of I/Q samples:

- The stem is shared by the antennas: a kernel (1, k) sees one antenna at a time.
- The mixing stage convolves over neighbouring antennas, rectifies, and only then averages the antenna axis away. A filter over
  neighbours is a beam; the mean of its rectified output grows with the power that arrives along it. The phase between antennas,
  and with it the direction of arrival, therefore outlives the average, and any number of antennas leaves the same map.
- Behind mixing, cost does not depend on the number of antennas.

Mixing by a full convolution (``iq-resnet``) is a quarter of all operations with four antennas, and nothing can leave inside it.
``iq-resnet-small`` and ``iq-resnet-base`` mix by depthwise separable units instead (Howard et al., "MobileNets", arXiv 1704.04861):
every one is an exit, so that there are exits at about 5, 10, 15 and 20% of the operations. A filter over neighbours is then a sum over
channels of one filter per channel, which is still a beam: the stem's channels hold both I and Q.

Windows are scaled to unit mean power, so that the receiver's gain does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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


class MixingUnit(nn.Module):
    """A depthwise convolution over neighbouring antennas and time, then a pointwise one; a shortcut where the map stays alike."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.neighbours = nn.Conv2d(inputs, inputs, (3, 3), (1, stride), (1, 1), groups=inputs, bias=False)
        self.channels = nn.Sequential(*_convolution(inputs, outputs, (1, 1)))
        self.keeps = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.channels(self.neighbours(x))
        return functional.relu(mixed + x if self.keeps else mixed, inplace=True)


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

    Exits: ``stem``, ``mixing`` (``mixing.0`` and so on where mixing has units), then ``stage1.0`` and so on, one per residual
    unit. Time halves (rounded up) at the stem, at mixing and at the first unit of every stage. Default tap: mean over antennas
    and time, ``(N, channels)``. Tokens: ``(N, positions, channels)``: time, before the antennas are averaged antenna by antenna.
    """

    architecture = "iq-resnet"

    def __init__(
        self,
        channels: Sequence[Size] = (24, 32, 64, 96, 160),
        repeats: Sequence[Count] = (2, 2, 2),
        mixing_units: Count | Literal[0] = 0,
    ) -> None:
        """Take the channels of stem, mixing and every stage, and the number of units of every stage.

        Args:
            channels: Of the stem, of mixing, and of every stage.
            repeats: Residual units of every stage.
            mixing_units: Separable units that mix the antennas, the last of which averages them; 0 for one full convolution.
        """
        super().__init__()
        if len(channels) != len(repeats) + 2:
            raise EncoderError(
                f"{self.architecture} has channels for stem, mixing and {len(channels) - 2} stages, "
                f"and repeats for {len(repeats)}"
            )
        self.config = {"channels": list(channels), "repeats": list(repeats), "mixing_units": mixing_units}
        stem, mixed, *wide = channels
        stages: list[nn.Module] = [
            nn.Sequential(*_convolution(2, stem, (1, 7), 2), nn.ReLU(inplace=True)),
            *_mixing(stem, mixed, mixing_units),
        ]
        names = ["stem", *([f"mixing.{unit}" for unit in range(mixing_units)] or ["mixing"])]
        widths = [stem, *[mixed] * (len(names) - 1)]
        for number, (width, units) in enumerate(zip(wide, repeats, strict=True), start=1):
            for unit in range(units):
                stages.append(ResidualUnit(widths[-1], width, 1 if unit else 2))
                names.append(f"stage{number}.{unit}")
                widths.append(width)
        self.stages = nn.ModuleList(stages)
        self.exits = self.measure_exits(names, widths)
        # Convolutions run up to 1.4 times as fast on processors with channels innermost, and faster than as Conv1d.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _mixing(inputs: int, outputs: int, units: int) -> list[nn.Module]:
    """The stages that mix antennas, of which the last averages them."""
    if units == 0:
        return [nn.Sequential(*_convolution(inputs, outputs, (3, 3), 2), nn.ReLU(inplace=True), AntennaMean())]
    mixing: list[nn.Module] = [
        MixingUnit(outputs if unit else inputs, outputs, 1 if unit else 2) for unit in range(units)
    ]
    return [*mixing[:-1], nn.Sequential(mixing[-1], AntennaMean())]


class IQResNetSmall(IQResNet):
    """As large as ``iq-resnet``, with exits at about 5, 10, 15 and 20% of its operations, however many antennas."""

    architecture = "iq-resnet-small"

    def __init__(
        self,
        channels: Sequence[Size] = (24, 32, 48, 96, 160),
        repeats: Sequence[Count] = (2, 2, 2),
        mixing_units: Count | Literal[0] = 2,
    ) -> None:
        super().__init__(channels, repeats, mixing_units)


class IQResNetBase(IQResNet):
    """About four times as large as ``iq-resnet-small``, and deeper: exits of nearly equal cost all the way."""

    architecture = "iq-resnet-base"

    def __init__(
        self,
        channels: Sequence[Size] = (32, 56, 96, 160, 256),
        repeats: Sequence[Count] = (4, 4, 3),
        mixing_units: Count | Literal[0] = 2,
    ) -> None:
        super().__init__(channels, repeats, mixing_units)


ARCHITECTURES = (IQResNet, IQResNetSmall, IQResNetBase)
