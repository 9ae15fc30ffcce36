"""What vision-transformer encoders share: the pre-norm block and sine-cosine position tables.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929); the tables are those of "Attention Is All You
Need" (arXiv 1706.03762) in the layout of MAE (He et al., arXiv 2111.06377): all sines first, then all cosines.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value: ``(N, positions, width)`` to the same shape."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, positions, width = x.shape
        split = self.qkv(x).view(n, positions, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, positions, width))
        return out


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """``x = x + attention(LN(x)); x = x + feed_forward(LN(x))`` on ``(N, positions, width)``."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in all linear layers, as MAE and WavesFM begin."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sine_cosine_table(positions: int, width: int) -> Tensor:
    """Float32 ``(positions, width)``: entry (p, i) is sin(p w_i) for i < width / 2, then cos(p w_i), w_i = 10000^(-2 i / width).

    The frequencies are rounded to float32 before they are multiplied, as in the published tables: at position 1,000 this
    shifts the phase by up to 6e-5. On the default device ``meta`` it has a shape alone.
    """
    if torch.get_default_device().type == "meta":
        return torch.empty(positions, width)
    frequency = (1.0 / 10000 ** (np.arange(width // 2, dtype=np.float32) / np.float32(width / 2))).astype(np.float32)
    phase = np.outer(np.arange(positions, dtype=np.float64), frequency.astype(np.float64))
    return torch.from_numpy(np.concatenate([np.sin(phase), np.cos(phase)], axis=1)).float()
