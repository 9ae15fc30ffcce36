"""LWM v1.0, the Large Wireless Model of the wi-lab: a masked-patch transformer over a MIMO-OFDM channel.

Source: Alikhani, Charan, Alkhateeb, "Large Wireless Model (LWM): A Foundation Model for Wireless Channels"
(arXiv 2411.08872), and the layout of the published checkpoint's state dict.

A channel of 32 antennas x 32 subcarriers becomes 128 patches of 16 values: the real part flattened antenna by antenna
gives patches 0 to 63, the imaginary part patches 64 to 127, so that real patch k pairs with imaginary patch k + 64. A CLS
token of constant 0.2 stands in front. Channels are expected in the pretraining's scale: the physical channel times 1e6.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.errors import EncoderError

CLS_VALUE = 0.2
MASK_VALUE = 0.1
PATCH = 16


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


class Embedding(nn.Module):
    """Patches ``(N, P, 16)`` to normalised tokens ``(N, P, width)`` with a learned position."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(PATCH, width)
        self.pos_embed = nn.Embedding(positions, width)
        self.norm = LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(patches) + self.pos_embed.weight)
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
        out: Tensor = self.linear(mixed.transpose(1, 2).reshape(n, positions, -1))
        return out


class Layer(nn.Module):
    """``a = LN(x + attention(x)); x = a + fc2(relu(fc1(a)))``: no norm behind the feed-forward part."""

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


class MaskedPatchHead(nn.Module):
    """The pretraining head: tokens ``(N, P, width)`` back to patches ``(N, P, 16)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = LayerNorm(width)
        self.decoder = nn.Linear(width, PATCH)

    def forward(self, tokens: Tensor) -> Tensor:
        patches: Tensor = self.decoder(self.norm(torch.relu(self.linear(tokens))))
        return patches


class LWM(StagedEncoder):
    """LWM v1.0: input ``(N, 2, 32, 32)`` = real and imaginary part x antennas x subcarriers, times 1e6.

    Exits: ``embedding``, ``layer1`` .. ``layer12``. Default tap: CLS token and mean of the other tokens, each
    layer-normalised without parameters, ``(N, 2 * width)``. Tokens: ``(N, 129, width)``, CLS first.
    """

    architecture = "lwm"

    def __init__(self, layers: int = 12, width: int = 64, heads: int = 12, hidden: int = 256) -> None:
        super().__init__()
        self.config = {"layers": layers, "width": width, "heads": heads, "hidden": hidden}
        self.input = InputSpec(("batch", "iq", "antennas", "subcarriers"), (2, 32, 32), (2, 32, 32))
        self.stages = nn.ModuleList(
            [Embedding(2 * 32 * 32 // PATCH + 1, width), *(Layer(width, heads, hidden) for _ in range(layers))]
        )
        names = ["embedding", *(f"layer{i + 1}" for i in range(layers))]
        self.exits = self._measure_exits(names, [2 * width] * (layers + 1))
        self.masked_patch_head = MaskedPatchHead(width)

    def begin(self, x: Tensor) -> State:
        """``(N, 2, 32, 32)`` to ``(N, 129, 16)``: the CLS token and 128 patches."""
        return (functional.pad(x.reshape(x.shape[0], -1, PATCH), (0, 0, 1, 0), value=CLS_VALUE),)

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

    def reconstruct(self, x: Tensor, masked: Tensor) -> Tensor:
        """The pretraining task: fill in masked patches.

        Args:
            x: Channels ``(N, 2, 32, 32)``, float32, times 1e6.
            masked: ``(N, 64)`` bool; patch pair k is real patch k with imaginary patch k + 64.

        Returns:
            All patches as the network restores them, ``(N, 2, 32, 32)``.
        """
        (patches,) = self.begin(x)
        hidden = functional.pad(torch.cat([masked, masked], dim=1), (1, 0)).unsqueeze(-1)
        state: State = (torch.where(hidden, torch.full_like(patches, MASK_VALUE), patches),)
        for stage in range(len(self.exits)):
            state = self.advance(stage, state)
        restored: Tensor = self.masked_patch_head(state[0])[:, 1:].reshape(x.shape)
        return restored

    def _prefix(self, last: int) -> Self:
        prefix = super()._prefix(last)
        del prefix.masked_patch_head  # Only reconstruct() runs it; this encoder keeps its own.
        return prefix

    @classmethod
    def convert_checkpoint(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Rename the published state dict. Its unused norms are dropped; the architecture is read from shapes."""
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
        try:
            width = tensors["embedding.proj.weight"].shape[0]
            inner = tensors["layers.0.enc_self_attn.W_Q.weight"].shape[0]
            hidden = tensors["layers.0.pos_ffn.fc1.weight"].shape[0]
        except KeyError as missing:
            raise EncoderError(f"not an LWM v1.0 checkpoint: it lacks {missing}") from None
        layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
        heads = 12
        if inner // heads != width // heads:
            raise EncoderError(
                f"not an LWM v1.0 checkpoint: attention of inner width {inner} does not split into {heads} heads"
            )
        renamed = {}
        for name, tensor in tensors.items():
            if name.endswith(
                (".enc_self_attn.norm.alpha", ".enc_self_attn.norm.bias", ".pos_ffn.norm.alpha", ".pos_ffn.norm.bias")
            ):
                continue
            if name.startswith("embedding."):
                renamed["stages.0." + name.removeprefix("embedding.")] = tensor
            elif name.startswith("layers."):
                _, index, rest = name.split(".", 2)
                renamed[f"stages.{int(index) + 1}." + rest.removeprefix("pos_ffn.")] = tensor
            elif name == "decoder_bias":
                renamed["masked_patch_head.decoder.bias"] = tensor
            else:
                renamed["masked_patch_head." + name] = tensor
        return {"layers": layers, "width": width, "heads": heads, "hidden": hidden}, renamed
