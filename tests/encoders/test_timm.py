"""Vision transformers with timm's attributes, on a stand-in: timm itself cannot be installed beside our torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offramp.costs import exit_costs
from offramp.encoders import from_module
from offramp.encoders.base import InputSpec
from offramp.encoders.check import check_encoder
from offramp.encoders.transformer import Block
from offramp.errors import EncoderError

SIDE, PATCH, WIDTH, HEADS, HIDDEN, DEPTH = 12, 4, 8, 2, 16, 3


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class StandIn(nn.Module):
    """The attributes and the contract of ``forward_intermediates`` that timm's vision transformer has."""

    def __init__(self, global_pool: str = "token", registers: int = 2) -> None:
        super().__init__()
        self.global_pool, self.embed_dim, self.num_prefix_tokens = global_pool, WIDTH, 1 + registers
        patches = (SIDE // PATCH) ** 2
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.reg_token = nn.Parameter(torch.zeros(1, registers, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, WIDTH))
        self.pos_drop = nn.Dropout(0.1)
        self.patch_drop = nn.Identity()
        self.norm_pre = nn.LayerNorm(WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH, HEADS, HIDDEN, 1e-6) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.fc_norm = nn.Identity()
        self.head = nn.Linear(WIDTH, 5)
        self.init_weights()

    def init_weights(self, mode: str = "") -> None:
        for parameter in (self.cls_token, self.reg_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.2)
                nn.init.normal_(module.bias, std=0.1)

    def _pos_embed(self, x: Tensor) -> Tensor:
        prefix = torch.cat([self.cls_token, self.reg_token], dim=1).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([prefix, x + self.pos_embed], dim=1))

    def run_blocks(self, x: Tensor) -> list[Tensor]:
        states = []
        for block in self.blocks:
            x = block(x)
            states.append(x)
        return states

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        assert indices is None, output_fmt == "NLC"
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        states = self.run_blocks(tokens)
        kept = [(self.norm(state) if norm else state)[:, self.num_prefix_tokens :] for state in states]
        return kept if intermediates_only else (self.norm(states[-1]), kept)

    def forward(self, x: Tensor) -> Tensor:
        tokens, _ = self.forward_intermediates(x, output_fmt="NLC")
        pooled = tokens[:, 0] if self.global_pool == "token" else tokens[:, self.num_prefix_tokens :].mean(1)
        return self.head(self.fc_norm(pooled))


IMAGES = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def stand_in(**options: Any) -> StandIn:
    torch.manual_seed(0)
    return StandIn(**options)


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_it_keeps_the_contract_and_ends_as_the_model_ends(global_pool: str) -> None:
    model = stand_in(global_pool=global_pool).eval()
    encoder = from_module(model, input=IMAGES)
    check_encoder(encoder)
    assert [exit.name for exit in encoder.exits] == ["embedding", "block1", "block2", "block3"]
    with torch.no_grad():
        taps, tokens = encoder.taps(IMAGES), encoder.taps(IMAGES, pooling="tokens")
        torch.testing.assert_close(model.head(taps["block3"]), model(IMAGES), rtol=0, atol=1e-6)
        theirs = model.forward_intermediates(IMAGES, norm=True, output_fmt="NLC", intermediates_only=True)
        for name, expected in zip(["block1", "block2", "block3"], theirs, strict=True):
            torch.testing.assert_close(tokens[name][:, 3:], expected, rtol=0, atol=1e-6)
        assert torch.equal(taps["embedding"], tokens["embedding"].mean(1))


def test_parameters_and_macs_by_hand() -> None:
    encoder = from_module(stand_in(), input=IMAGES)
    patches, tokens = 9, 12
    norm = 2 * WIDTH
    embedding = PATCH**2 * WIDTH + WIDTH + (1 + 2 + patches) * WIDTH + norm
    block = 2 * norm + 4 * WIDTH * WIDTH + 4 * WIDTH + 2 * WIDTH * HIDDEN + HIDDEN + WIDTH
    assert [exit.params for exit in encoder.exits] == [embedding + norm + k * block for k in range(DEPTH + 1)]
    macs = [cost.macs for cost in exit_costs(encoder, (1, SIDE, SIDE), measure=False).values()]
    layer = 4 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH + 2 * tokens * WIDTH * HIDDEN
    assert macs == [patches * PATCH**2 * WIDTH + k * layer for k in range(DEPTH + 1)]


def test_the_model_is_left_as_it_is() -> None:
    model = stand_in().train()
    model.blocks[1].eval()
    before = {name: (id(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    tensors = {name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}
    random = torch.get_rng_state()
    encoder = from_module(model, input=IMAGES)
    assert [stage.training for stage in encoder.stages] == [True, True, False, True]
    check_encoder(encoder)
    encoder.eval()
    assert before == {name: (id(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensors[name][0] == id(tensor)
        assert torch.equal(tensors[name][1], tensor.detach())
    assert torch.equal(random, torch.get_rng_state())
    assert {id(p) for p in encoder.parameters()} < {id(p) for p in model.parameters()}


def test_random_weights_are_those_of_init_weights() -> None:
    encoder = from_module(stand_in(), input=IMAGES)
    first, again, other = (encoder.reinitialised(seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint() != encoder.fingerprint()
    check_encoder(first)
    with pytest.raises(EncoderError, match="'timm' cannot be saved"):
        first.save("nowhere")


def test_it_may_be_cut_elsewhere() -> None:
    encoder = from_module(stand_in(), ["patch_embed", "blocks.0"], input=IMAGES, channels="last")
    check_encoder(encoder)
    x = IMAGES
    whole = from_module(stand_in(), input=IMAGES).eval()
    torch.testing.assert_close(encoder.eval().states(x)["blocks.0"], whole.states(x)["block1"], rtol=0, atol=1e-6)


class MixesBlocks(StandIn):
    def run_blocks(self, x: Tensor) -> list[Tensor]:
        first = self.blocks[0](x)
        return [first, self.blocks[1](first), self.blocks[2](first)]


class BlocksTakeMore(StandIn):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.forward = lambda x, rope: x + rope  # type: ignore[method-assign]

    def run_blocks(self, x: Tensor) -> list[Tensor]:
        return [block(x, 0.0) for block in self.blocks]


class NoBlocks(nn.Module):
    def forward_intermediates(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MixesBlocks, "MixesBlocks is more than its blocks one after another: at block3 they differ"),
        (BlocksTakeMore, "BlocksTakeMore cannot be cut at its blocks: TypeError"),
        (NoBlocks, r"NoBlocks is no vision transformer of timm, it lacks patch_embed: name stages=\[\.\.\.\]"),
        (lambda: stand_in().half(), r"convert the model with model\.float\(\)"),
    ],
)
def test_what_cannot_be_cut_is_one_line(model: Any, message: str) -> None:
    with pytest.raises(EncoderError, match=message) as caught:
        from_module(model(), input=IMAGES)
    assert "\n" not in str(caught.value)


def test_its_pooling_is_its_own() -> None:
    with pytest.raises(EncoderError, match="says its pooling and layout itself"):
        from_module(stand_in(), input=IMAGES, pooling="mean")
    spec = InputSpec(("batch", "channels", "height", "width"), (1, SIDE, SIDE), (1, SIDE, SIDE))
    check_encoder(from_module(stand_in(), input=spec))
