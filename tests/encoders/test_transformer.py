"""The parts of vision transformers: attention and feed-forward against plain sums, the block's residuals, the position table."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.encoders.transformer import Block, FeedForward, SelfAttention, initialise_linear, sine_cosine_table


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(module: nn.Module) -> nn.Module:
    """With parameters that all differ, biases and norms too."""
    for number, parameter in enumerate(module.parameters()):
        parameter.data = noise(*parameter.shape, seed=number)
    return module.eval()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_a_softmax_average_of_values_per_head(heads: int) -> None:
    attention, x = filled(SelfAttention(8, heads)), noise(2, 5, 8)
    with torch.no_grad():
        ours = attention(x)
        projected = (x.double() @ attention.qkv.weight.double().T + attention.qkv.bias.double()).numpy()
    width = 8 // heads
    mixed = np.zeros((2, 5, 8))
    for n in range(2):
        for head in range(heads):
            query, key, value = (
                projected[n, :, start + head * width : start + (head + 1) * width] for start in (0, 8, 16)
            )
            for position in range(5):
                weights = np.array([math.exp(query[position] @ other / math.sqrt(width)) for other in key])
                mixed[n, position, head * width : (head + 1) * width] = weights / weights.sum() @ value
    expected = mixed @ attention.proj.weight.detach().double().numpy().T + attention.proj.bias.detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_attention_knows_no_order() -> None:
    attention, x, order = filled(SelfAttention(8, 2)), noise(1, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])


def test_the_feed_forward_part_uses_the_exact_gelu() -> None:
    layer, x = filled(FeedForward(4, 6)), noise(3, 4)
    with torch.no_grad():
        ours, hidden = layer(x), layer.fc1(x).double().numpy()
        gelu = np.vectorize(lambda value: value * (1 + math.erf(value / math.sqrt(2))) / 2)(hidden)
        expected = gelu @ layer.fc2.weight.double().numpy().T + layer.fc2.bias.numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_a_block_adds_what_its_parts_make_of_the_normalised_state() -> None:
    block, x = filled(Block(8, 2, 12, eps=0.5)), noise(2, 5, 8)
    with torch.no_grad():
        ours = block(x)

        def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            return centred / (centred.square().mean(-1, keepdim=True) + 0.5).sqrt() * layer.weight + layer.bias

        after_attention = x + block.attn(norm(block.norm1, x))
        torch.testing.assert_close(ours, after_attention + block.mlp(norm(block.norm2, after_attention)))
        for last in (block.attn.proj, block.mlp.fc2):
            last.weight.zero_(), last.bias.zero_()
        assert torch.equal(block(x), x)


def test_linear_layers_begin_xavier_uniform_and_nothing_else_changes() -> None:
    module = nn.Sequential(nn.Linear(30, 50), nn.LayerNorm(50), nn.Linear(50, 20, bias=False), nn.Conv1d(2, 3, 4))
    filled(module)
    others = [p.clone() for p in (*module[1].parameters(), *module[3].parameters())]
    initialise_linear(module)
    for layer in (module[0], module[2]):
        limit = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.95 * limit < float(layer.weight.detach().abs().max()) <= limit
        assert float(layer.weight.detach().std()) == pytest.approx(limit / math.sqrt(3), rel=0.1)
    assert not module[0].bias.any()
    kept = (*module[1].parameters(), *module[3].parameters())
    assert all(torch.equal(p, before) for p, before in zip(kept, others, strict=True))


@given(positions=st.integers(1, 1025), width=st.integers(1, 64).map(lambda half: 2 * half))
def test_the_position_table_holds_all_sines_then_all_cosines(positions: int, width: int) -> None:
    table = sine_cosine_table(positions, width)
    assert table.shape == (positions, width)
    assert table.dtype == torch.float32
    half = width // 2
    for position in {0, positions // 2, positions - 1}:
        for i in {0, half // 2, half - 1}:
            frequency = float(np.float32(10000 ** (-2 * i / width)))
            # Powers in float32 may round the last bit the other way: 1e-7 of a phase that grows with the position.
            tolerance = 2e-7 * (1 + position * frequency)
            assert float(table[position, i]) == pytest.approx(math.sin(position * frequency), abs=tolerance)
            assert float(table[position, half + i]) == pytest.approx(math.cos(position * frequency), abs=tolerance)
