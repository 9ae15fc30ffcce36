"""amc-ssl: public contrastive encoders of raw I/Q, three convolutions and two transformer layers, pretrained on RadioML.

Source: github.com/Yanziming66/amc-ssl-radioml-2026 (MIT): NT-Xent between augmented views, on RadioML 2018.01A (1,024 samples) or 2016.10a
(128 samples). The state dict has the keys ``conv.{0,1,3,4,6,7}`` (convolution and BatchNorm in turn), ``transformer.layers.{0,1}`` (torch's own
``nn.TransformerEncoderLayer``, norm behind each part, exact GELU, no position embedding) and ``head.0``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.encoders.transformer import FeedForward, SelfAttention
from offramp.errors import EncoderError

WIDTH, HEADS, HIDDEN = 128, 4, 256
CONVOLUTIONS = ((2, 64, 9), (64, 128, 7), (128, 128, 5))
"""Input channels, output channels, kernel; each has stride 2."""
LAYERS = 2


class PostNormBlock(nn.Module):
    """``x = LN(x + attention(x)); x = LN(x + feed_forward(x))`` on ``(N, positions, 128)``."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = SelfAttention(WIDTH, HEADS)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.mlp = FeedForward(WIDTH, HIDDEN)
        self.norm2 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn(x))
        out: Tensor = self.norm2(x + self.mlp(x))
        return out


class AmcSsl(StagedEncoder):
    """Input ``(N, 2, antennas, time)``, axis 1 = I, Q; 8 samples at least.

    Exits: ``conv1``, ``conv2``, ``conv3``, ``attention1``, ``attention2``, ``head``. Antennas are seen one by one by the same weights; the state is
    ``(N, antennas, channels, time)``, behind ``conv3`` ``(N, antennas, time, 128)``, and at ``head`` ``(N, antennas, 128)``. Default tap: mean over antennas and
    time. Tokens: ``(N, antennas x time, width)``; at ``head`` one for each antenna.
    """

    architecture = "amc-ssl"
    checkpoint_options = ("scale",)

    def __init__(self, scale: Literal["unit_power", "none"] = "unit_power") -> None:
        """Take how windows are scaled.

        Args:
            scale: ``unit_power`` divides every window by the root of its mean power: RadioML 2018.01A, which two of the three checkpoints learned
                from, is stored so, and a receiver's gain then does not matter. ``none`` takes windows as they are; 2016.10a is stored with
                far smaller values, and its checkpoint saw those.
        """
        super().__init__()
        if scale not in ("unit_power", "none"):
            raise EncoderError(f"scale={scale!r}: choose unit_power or none")
        self.config = {"scale": scale}
        self.input = InputSpec(("batch", "iq", "antennas", "time"), (2, None, None), (2, 1, 8))
        convolutions = [
            nn.Sequential(nn.Conv1d(inputs, outputs, kernel, 2, kernel // 2), nn.BatchNorm1d(outputs), nn.ReLU())
            for inputs, outputs, kernel in CONVOLUTIONS
        ]
        head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
        self.stages = nn.ModuleList([*convolutions, *(PostNormBlock() for _ in range(LAYERS)), head])
        names = ["conv1", "conv2", "conv3", "attention1", "attention2", "head"]
        widths = [*(outputs for _, outputs, _ in CONVOLUTIONS), WIDTH, WIDTH, WIDTH]
        self.exits = self._measure_exits(names, widths)

    def begin(self, x: Tensor) -> State:
        if self.config["scale"] == "unit_power":
            power = x.square().sum(1, keepdim=True).mean((2, 3), keepdim=True)
            x = x * torch.rsqrt(power.clamp_min(torch.finfo(x.dtype).tiny))
        return (x.transpose(1, 2),)

    def advance(self, stage: int, state: State) -> State:
        x = state[0]
        n, antennas = x.shape[:2]
        if stage == len(CONVOLUTIONS):
            x = x.transpose(2, 3)
        if stage == len(CONVOLUTIONS) + LAYERS:
            x = x.mean(2)
        out = self.stages[stage](x.flatten(0, 1))
        return (out.view(n, antennas, *out.shape[1:]),)

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        x = state[0]
        if exit < len(CONVOLUTIONS):
            x = x.transpose(2, 3)
        tokens = x.flatten(1, -2)
        if pooling == "tokens":
            return tokens
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: amc-ssl has default, tokens")
        return tokens.mean(1)

    def antenna_maps(self, exit: int, state: State) -> Tensor | None:
        x = state[0]
        if x.shape[1] < 2 or x.ndim < 4:
            return None
        return x if exit < len(CONVOLUTIONS) else x.transpose(2, 3)

    @classmethod
    def convert_checkpoint(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Names of torch's layers to those of ours; a layer's input projection holds query, key and value one behind the other."""
        layers = {
            "self_attn.in_proj_": "attn.qkv.",
            "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.",
        }
        converted = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            number, _, leaf = rest.partition(".")
            if part == "conv" and number.isdigit():
                name = f"stages.{int(number) // 3}.{int(number) % 3}.{leaf}"
            elif part == "transformer" and rest.startswith("layers."):
                number, _, leaf = rest.removeprefix("layers.").partition(".")
                for theirs, ours in layers.items():
                    leaf = leaf.replace(theirs, ours)
                name = f"stages.{len(CONVOLUTIONS) + int(number)}.{leaf}" if number.isdigit() else name
            elif part == "head":
                name = f"stages.{len(CONVOLUTIONS) + LAYERS}.{rest}"
            converted[name] = tensor
        return dict(options), converted


ARCHITECTURES = (AmcSsl,)
