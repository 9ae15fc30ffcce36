"""Models that have to be traced: skip connections, BatchNorm, sizes and constants across cuts, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hugging_face_models import VIT, make
from torch import Tensor, nn

from offramp.costs import exit_costs
from offramp.encoders import from_module
from offramp.encoders.base import StagedEncoder
from offramp.encoders.check import check_encoder
from offramp.errors import EncoderError


class Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        y += x
        return self.act(y)


class Skipping(nn.Module):
    """What a cut has to get right: a skip over two units, the batch's size, a constant, a shared table, a dict as output."""

    def __init__(self, width: int = 8, time: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, width, 3, padding=1)
        self.first, self.second = Unit(width), Unit(width)
        self.table = nn.Embedding(time, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        count = x.shape[0]
        skip = self.stem(x)
        x = self.second(self.first(skip)) + skip
        place = self.table(torch.arange(x.shape[2], device=x.device))
        tokens = x.reshape(count, x.shape[1], -1).transpose(1, 2) + place
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        start = torch.zeros(count, 1, x.shape[1], device=x.device)
        tokens = self.mix(self.dropout(mixed) + place) + torch.cat([start, tokens[:, 1:]], dim=1)
        return {"logits": self.head(tokens.mean(1)), "tokens": tokens}


PLACES = ["stem", "first", "attention", "mix"]
CHANNELS = ["first", "first", "last", "last"]
WINDOWS = torch.randn(3, 2, 12, generator=torch.Generator().manual_seed(0))


def skipping() -> Skipping:
    torch.manual_seed(1)
    model = Skipping()
    for unit in (model.first, model.second):
        unit.norm.running_mean.normal_()
        unit.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def cut() -> tuple[Skipping, StagedEncoder]:
    model = skipping()
    return model, from_module(model, PLACES, input=WINDOWS, channels=CHANNELS)


Cut = tuple[Skipping, StagedEncoder]


def test_it_keeps_the_contract_of_encoders(cut: Cut) -> None:
    check_encoder(cut[1])


def test_states_are_what_the_named_modules_give(cut: Cut) -> None:
    model, encoder = copy.deepcopy(cut[0]).eval(), copy.deepcopy(cut[1]).eval()
    seen: dict[str, Tensor] = {}
    for name in PLACES:
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: output[0] if isinstance(output, tuple) else output})
        )
    for count in (1, 2, 7):
        x = torch.randn(count, 2, 12)
        with torch.no_grad():
            model(x)
            for name, state in encoder.states(x).items():
                torch.testing.assert_close(state, seen[name], rtol=0, atol=1e-6)


def test_only_what_is_read_later_is_handed_over(cut: Cut) -> None:
    encoder = cut[1].eval()
    counts = [len(state) for _, state in encoder.visit(WINDOWS)]
    assert counts == [1, 2, 2, 2]  # the stem is its own skip; then unit and skip; attention and tokens; mix and tokens


def test_parameters_are_shared_and_counted(cut: Cut) -> None:
    model, encoder = cut
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in encoder.parameters()} <= own
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert [exit.params for exit in encoder.exits] == [
        count["stem"],
        count["stem"] + count["first"],
        count["stem"] + count["first"] + count["second"] + count["table"] + count["attention"],
        sum(count.values()) - count["head"],  # the table is read in two stages and counted once
    ]


def test_macs_by_hand(cut: Cut) -> None:
    width, time = 8, 12
    stem, unit = time * width * 2 * 3, time * width * width * 3
    attention = 4 * time * width * width + 2 * time * time * width
    macs = [cost.macs for cost in exit_costs(cut[1], (2, 12), measure=False).values()]
    mix = stem + 2 * unit + attention + time * width * width
    assert macs == [stem, stem + unit, stem + 2 * unit + attention, mix]


def test_batch_norm_stays_a_module(cut: Cut) -> None:
    encoder = copy.deepcopy(cut[1])
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == 2
    before = [norm.running_mean.clone() for norm in norms]
    encoder.train()
    encoder.taps(WINDOWS)
    assert all(not torch.equal(mean, norm.running_mean) for mean, norm in zip(before, norms, strict=True))


def test_random_weights_are_a_function_of_the_seed(cut: Cut) -> None:
    first, again = cut[1].reinitialised(1), cut[1].reinitialised(1)
    assert first.fingerprint() == again.fingerprint() != cut[1].fingerprint()
    assert first.exits == cut[1].exits
    norm = next(module for module in first.modules() if isinstance(module, nn.BatchNorm1d))
    assert not norm.running_mean.any()


def test_the_model_is_left_as_it_is() -> None:
    model = skipping().train()
    model.first.eval()
    before = {name: (id(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    tensors = {name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}
    random = torch.get_rng_state()
    encoder = from_module(model, ["stem", "second"], input=WINDOWS, channels="first")
    encoder.eval().taps(WINDOWS)
    assert before == {name: (id(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensors[name][0] == id(tensor)
        assert torch.equal(tensors[name][1], tensor.detach())
    assert torch.equal(random, torch.get_rng_state())


def test_a_node_of_the_graph_may_be_named() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))

    model = Plain()
    encoder = from_module(model, ["a", "tanh"], input=torch.randn(2, 4))
    check_encoder(encoder)
    x = torch.randn(5, 4)
    torch.testing.assert_close(encoder.taps(x)["tanh"], torch.tanh(model.a(x)), rtol=0, atol=0)


def test_a_hugging_face_model_may_be_cut_at_other_places() -> None:
    model = make("ViTModel", VIT)
    whole = from_module(model).eval()
    x = whole.input.draw(3, (2, 8, 12))
    traced = from_module(model, ["embeddings", "layers.0", "layers.1.attention"], input=x, channels="last").eval()
    with torch.no_grad():
        assert [len(state) for _, state in traced.visit(x)] == [1, 1, 2]
        states = whole.states(x)
        torch.testing.assert_close(traced.states(x)["embeddings"], states["embedding"], rtol=0, atol=1e-6)
        torch.testing.assert_close(traced.states(x)["layers.0"], states["layer1"], rtol=0, atol=1e-6)
    embedding, first = (cost.macs for cost in list(exit_costs(whole, (2, 8, 12), measure=False).values())[:2])
    assert [cost.macs for cost in exit_costs(traced, (2, 8, 12), measure=False).values()][:2] == [embedding, first]
    check_encoder(traced.reinitialised(0))


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()


class DependsOnValues(Linears):
    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.a(x))
        return self.act(self.b(x + 1 if x.sum() > 0 else x))


class FixesTheBatch(Linears):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).reshape(len(x), 4))


class RunsTwice(Linears):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.act(self.a(x))))


class TimeFirst(Linears):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.transpose(0, 1)))[-1]


class TwoOutputs(Linears):
    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x)
        return self.b(left) * right

    def __init__(self) -> None:
        super().__init__()
        self.both = Both()


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Any:
        return self.line(x).chunk(2, dim=-1)


@pytest.mark.parametrize(
    ("model", "places", "shape", "message"),
    [
        (DependsOnValues, ["a", "b"], (2, 4), "torch.export cannot trace it: GuardOnDataDependentSymNode"),
        (FixesTheBatch, ["a"], (2, 4), "cannot trace it: its code fixes the size of the batch, as len(x) does"),
        (RunsTwice, ["act"], (2, 4), "'act' runs more than once"),
        (RunsTwice, ["b", "a"], (2, 4), "'a' does not lie behind the place before it"),
        (RunsTwice, ["a", "c"], (2, 4), "nothing called 'c' runs: the model runs a, act, b"),
        (TimeFirst, ["a"], (2, 6, 4), "(6, s"),
        (TwoOutputs, ["both"], (2, 4), "'both' gives 2 tensors that are used, not one"),
    ],
)
def test_what_cannot_be_cut_is_one_line(
    model: type[nn.Module],
    places: list[str],
    shape: tuple[int, ...],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(EncoderError) as caught:
        from_module(model(), places, input=torch.randn(shape), channels="last")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    if model is TimeFirst:
        assert "is alive behind 'a' and not batch first" in str(caught.value)
