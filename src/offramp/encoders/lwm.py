"""LWM 1.0 and 1.1, the Large Wireless Models of the wi-lab: masked-patch transformers over a MIMO-OFDM channel.

Source: Alikhani, Charan, Alkhateeb, "Large Wireless Model (LWM): A Foundation Model for Wireless Channels"
(arXiv 2411.08872), and the layout of the published checkpoint's state dict; for 1.1 its published description (larger, any
channel size, 2-D patches, 8 heads, up to 512 patches of 32 values) and the tokens and layers of the public code.

1.0: a channel of 32 antennas x 32 subcarriers becomes 128 patches of 16 values: the real part flattened antenna by antenna
gives patches 0 to 63, the imaginary part patches 64 to 127, so that real patch k pairs with imaginary patch k + 64.
1.1: real and imaginary parts are interleaved along the subcarriers, the channel is padded with zeros to multiples of 4 and cut
into patches of 4 antennas x 4 subcarriers, row by row, each flattened antenna by antenna. In both a CLS token of constant 0.2
stands in front, and channels are expected in the pretraining's scale: the physical channel times 1e6.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.encoders.building import Count, Size, Width
from offramp.errors import EncoderError

CLS_VALUE = 0.2
MASK_VALUE = 0.1
PATCH = 16
"""Values in a patch of 1.0."""
HEADS = 12
SIDE = 4
"""Antennas and subcarriers of a patch of 1.1."""
SQUARE_PATCH = 2 * SIDE * SIDE
"""Values in a patch of 1.1."""
SQUARE_HEADS = 8
Positions = Annotated[int, Field(ge=2, le=2**16)]
"""Of the CLS token and the patches behind it."""
LAYER = re.compile(r"layers\.(\d+)\.(.+)")
"""Published names of what a layer holds: its number and the rest."""


class LayerNorm(nn.Module):
    """``alpha (x - mean) / (std + 1e-6) + bias`` over the last axis, with the unbiased standard deviation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)
        scaled: Tensor = self.alpha * (centred / (variance.sqrt() + 1e-6)) + self.bias
        return scaled


class PatchEmbedding(nn.Module):
    """Patches ``(N, P, values)``, P up to ``positions``, to normalised tokens ``(N, P, width)`` with a learned position."""

    def __init__(self, values: int, positions: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(values, width)
        self.pos_embed = nn.Embedding(positions, width)
        self.norm = LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(patches) + self.pos_embed.weight[: patches.shape[1]])
        return tokens


class Attention(nn.Module):
    """Multi-head self-attention. The fused kernel is three times as fast on a CPU; its MACs are counted on the meta device."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        inner = self.heads * self.head_width
        self.W_Q, self.W_K, self.W_V = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(width, inner)
        self.linear = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        n, positions, _ = x.shape
        split = (n, positions, self.heads, self.head_width)
        query, key, value = (project(x).view(split).transpose(1, 2) for project in (self.W_Q, self.W_K, self.W_V))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.linear(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """1.0: ``a = LN(x + attention(x)); x = a + fc2(relu(fc1(a)))``, no norm behind the feed-forward part."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.enc_self_attn = Attention(width, heads)
        self.norm = LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.enc_self_attn(x))
        out: Tensor = x + self.fc2(torch.relu(self.fc1(x)))
        return out


class TwiceNormedLayer(nn.Module):
    """1.1: ``a = LN(2 x + attention(x)); x = LN(a + fc2(relu(fc1(a))))``.

    The published attention adds its input to its output, and the published layer adds it once more.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.enc_self_attn = Attention(width, heads)
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(2 * x + self.enc_self_attn(x))
        out: Tensor = self.norm2(x + self.fc2(torch.relu(self.fc1(x))))
        return out


class MaskedPatchHead(nn.Module):
    """The pretraining head: tokens ``(N, P, width)`` back to patches ``(N, P, values)``."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = LayerNorm(width)
        self.decoder = nn.Linear(width, values)

    def forward(self, tokens: Tensor) -> Tensor:
        patches: Tensor = self.decoder(self.norm(torch.relu(self.linear(tokens))))
        return patches


class _LWM(StagedEncoder):
    """What both versions share: an embedding, layers, taps, and the names of the published state dicts."""

    masked_patch_head: MaskedPatchHead

    def _assemble(self, embedding: PatchEmbedding, layers: Sequence[nn.Module], head: MaskedPatchHead) -> None:
        width = embedding.proj.out_features
        self.stages = nn.ModuleList([embedding, *layers])
        names = ["embedding", *(f"layer{i + 1}" for i in range(len(layers)))]
        self.exits = self.measure_exits(names, [2 * width] * len(names))
        self.masked_patch_head = head

    def advance(self, stage: int, state: State) -> State:
        return (self.stages[stage](state[0]),)

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        tokens = state[0]
        if pooling == "tokens":
            return tokens
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: lwm has default, tokens")
        shape = tokens.shape[-1:]
        parts = (tokens[:, 0], tokens[:, 1:].mean(1))
        return torch.cat([functional.layer_norm(part, shape) for part in parts], dim=-1)

    def _restore(self, patches: Tensor, masked: Tensor) -> Tensor:
        """All patches ``(N, P, values)`` as the network restores them, the CLS token in front left out."""
        hidden = functional.pad(masked, (1, 0)).unsqueeze(-1)
        state: State = (torch.where(hidden, torch.full_like(patches, MASK_VALUE), patches),)
        for stage in range(len(self.exits)):
            state = self.advance(stage, state)
        restored: Tensor = self.masked_patch_head(state[0])[:, 1:]
        return restored

    def _prefix(self, last: int) -> Self:
        prefix = super()._prefix(last)
        prefix._modules.pop("masked_patch_head", None)  # Only reconstruct() runs it; this encoder keeps its own.
        return prefix


class LWM(_LWM):
    """LWM 1.0: input ``(N, 2, 32, 32)`` = real and imaginary part x antennas x subcarriers, times 1e6.

    Exits: ``embedding``, ``layer1`` .. ``layer12``. Default tap: CLS token and mean of the other tokens, each
    layer-normalised without parameters, ``(N, 2 * width)``. Tokens: ``(N, 129, width)``, CLS first.
    """

    architecture = "lwm"

    def __init__(self, layers: Count = 12, width: Width = 64, heads: Count = HEADS, hidden: Size = 256) -> None:
        super().__init__()
        _check_heads(width, heads)
        self.config = {"layers": layers, "width": width, "heads": heads, "hidden": hidden}
        self.input = InputSpec(("batch", "iq", "antennas", "subcarriers"), (2, 32, 32), (2, 32, 32))
        self._assemble(
            PatchEmbedding(PATCH, 2 * 32 * 32 // PATCH + 1, width),
            [Layer(width, heads, hidden) for _ in range(layers)],
            MaskedPatchHead(width, PATCH),
        )

    def begin(self, x: Tensor) -> State:
        """``(N, 2, 32, 32)`` to ``(N, 129, 16)``: the CLS token and 128 patches."""
        patches = x.reshape(x.shape[0], 2 * 32 * 32 // PATCH, PATCH)
        return (functional.pad(patches, (0, 0, 1, 0), value=CLS_VALUE),)

    def reconstruct(self, x: Tensor, masked: Tensor) -> Tensor:
        """The pretraining task: fill in masked patches.

        Args:
            x: Channels ``(N, 2, 32, 32)``, float32, times 1e6.
            masked: ``(N, 64)`` bool; patch pair k is real patch k with imaginary patch k + 64.

        Returns:
            All patches as the network restores them, ``(N, 2, 32, 32)``.
        """
        return self._restore(self.begin(x)[0], torch.cat([masked, masked], dim=1)).reshape(x.shape)

    @classmethod
    def for_checkpoint(cls, tensors: dict[str, Tensor]) -> type[StagedEncoder]:
        """1.1 where the layers have its second norm."""
        return LWM11 if any(name.endswith("layers.0.norm2.alpha") for name in tensors) else cls

    @classmethod
    def convert_checkpoint(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Rename the published state dict. Its unused norms are dropped; the architecture is read from shapes."""
        renamed, config, inner = _convert(tensors, "1.0")
        unused = (".enc_self_attn.norm.alpha", ".enc_self_attn.norm.bias", ".pos_ffn.norm.alpha", ".pos_ffn.norm.bias")
        renamed = {name: tensor for name, tensor in renamed.items() if not name.endswith(unused)}
        if inner // HEADS != config["width"] // HEADS:
            raise EncoderError(
                f"not an LWM 1.0 checkpoint: attention of inner width {inner} does not split into {HEADS} heads"
            )
        return config | {"heads": HEADS}, _flattened(renamed)


@dataclass(frozen=True)
class ChannelInput(InputSpec):
    """A channel of any size, as long as there are positions for its patches of 4 x 4.

    Attributes:
        patches: Most patches.
    """

    patches: int = 512

    def describe(self) -> str:
        """The accepted shapes in words."""
        return f"{super().describe()} with at most {self.patches} patches of {SIDE} x {SIDE}"

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`EncoderError` unless ``shape`` (without the batch axis) is accepted."""
        super().check(shape)
        if math.prod(math.ceil(size / SIDE) for size in shape[1:]) > self.patches:
            given = ", ".join(["N", *map(str, shape)])
            raise EncoderError(f"input of shape ({given}) does not fit: this encoder takes {self.describe()}")


class LWM11(_LWM):
    """LWM 1.1: input ``(N, 2, antennas, subcarriers)`` = real and imaginary part, times 1e6; at most 512 patches.

    Exits and taps as in :class:`LWM`, of twice the width. Tokens: ``(N, 1 + patches, width)``, CLS first.
    """

    architecture = "lwm-1.1"

    def __init__(
        self,
        layers: Count = 12,
        width: Width = 128,
        heads: Count = SQUARE_HEADS,
        hidden: Size = 512,
        positions: Positions = 513,
    ) -> None:
        super().__init__()
        _check_heads(width, heads)
        self.config = {"layers": layers, "width": width, "heads": heads, "hidden": hidden, "positions": positions}
        self.input = ChannelInput(
            ("batch", "iq", "antennas", "subcarriers"), (2, None, None), (2, 1, 1), patches=positions - 1
        )
        self._assemble(
            PatchEmbedding(SQUARE_PATCH, positions, width),
            [TwiceNormedLayer(width, heads, hidden) for _ in range(layers)],
            MaskedPatchHead(width, SQUARE_PATCH),
        )

    def begin(self, x: Tensor) -> State:
        """``(N, 2, antennas, subcarriers)`` to ``(N, 1 + patches, 32)``: the CLS token and the patches."""
        return (functional.pad(square_patches(x), (0, 0, 1, 0), value=CLS_VALUE),)

    def reconstruct(self, x: Tensor, masked: Tensor) -> Tensor:
        """The pretraining task: fill in masked patches.

        Args:
            x: Channels ``(N, 2, antennas, subcarriers)``, float32, times 1e6.
            masked: Which patches, bool ``(N, patches)``.

        Returns:
            All patches as the network restores them, ``(N, patches, 32)``.
        """
        return self._restore(self.begin(x)[0], masked)

    @classmethod
    def convert_checkpoint(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Rename the published state dict; the architecture is read from shapes."""
        renamed, config, inner = _convert(tensors, "1.1")
        if inner % SQUARE_HEADS:
            raise EncoderError(
                f"not an LWM 1.1 checkpoint: attention of inner width {inner} does not split into {SQUARE_HEADS} heads"
            )
        positions = renamed["stages.0.pos_embed.weight"].shape[0]
        return config | {"heads": SQUARE_HEADS, "positions": positions}, _flattened(renamed)


ARCHITECTURES = (LWM, LWM11)


def _check_heads(width: int, heads: int) -> None:
    if heads > width:
        raise EncoderError(f"width={width}, heads={heads}: a head needs at least one value of the width")


def square_patches(x: Tensor) -> Tensor:
    """Channels ``(N, 2, antennas, subcarriers)`` to the patches of LWM 1.1, ``(N, patches, 32)``."""
    n, _, antennas, subcarriers = x.shape
    padded = functional.pad(x, (0, -subcarriers % SIDE, 0, -antennas % SIDE))
    rows, columns = padded.shape[2] // SIDE, padded.shape[3] // SIDE
    blocks = padded.view(n, 2, rows, SIDE, columns, SIDE).permute(0, 2, 4, 3, 5, 1)
    return blocks.reshape(n, rows * columns, SQUARE_PATCH)


def _convert(tensors: dict[str, Tensor], version: str) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """A published state dict under this module's names, its sizes, and the inner width of its attention."""
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    needed = (
        "embedding.proj.weight",
        "embedding.pos_embed.weight",
        "layers.0.enc_self_attn.W_Q.weight",
        "layers.0.pos_ffn.fc1.weight",
    )
    missing = [name for name in needed if name not in tensors]
    if missing:
        found = ", ".join(list(tensors)[:3])
        raise EncoderError(f"not an LWM {version} checkpoint: it lacks {', '.join(missing[:3])}; it has {found}")
    wrong = [
        f"{name} of shape {tuple(tensors[name].shape)}"
        for name in needed
        if tensors[name].dim() != 2 or not tensors[name].numel()
    ]
    if wrong:
        raise EncoderError(f"not an LWM {version} checkpoint: it has {', '.join(wrong[:3])}")
    config = {
        "layers": len({in_layer[1] for name in tensors if (in_layer := LAYER.fullmatch(name))}),
        "width": tensors["embedding.proj.weight"].shape[0],
        "hidden": tensors["layers.0.pos_ffn.fc1.weight"].shape[0],
    }
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("embedding."):
            renamed["stages.0." + name.removeprefix("embedding.")] = tensor
        elif in_layer := LAYER.fullmatch(name):
            renamed[f"stages.{int(in_layer[1]) + 1}.{in_layer[2]}"] = tensor
        elif name == "decoder_bias":
            renamed["masked_patch_head.decoder.bias"] = tensor
        else:
            renamed["masked_patch_head." + name] = tensor
    return renamed, config, tensors["layers.0.enc_self_attn.W_Q.weight"].shape[0]


def _flattened(renamed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The feed-forward part's tensors stand directly in their layer here."""
    return {name.replace(".pos_ffn.", "."): tensor for name, tensor in renamed.items()}
