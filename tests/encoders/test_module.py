"""from_module against the modules themselves: sequences, chains, and what is refused. Traced graphs: test_exported.py."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import offramp.encoders
from offramp.costs import exit_costs
from offramp.encoders import ModuleEncoder, from_module, registry
from offramp.encoders.base import InputSpec
from offramp.encoders.check import check_encoder
from offramp.encoders.registry import load_encoder, register_encoder
from offramp.errors import EncoderError

IQ = InputSpec(("batch", "iq", "antennas", "time"), (2, None, None), (2, 1, 16))


def convolutional(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(2, 4, (1, 5), padding=(0, 2)),
            norm=nn.BatchNorm2d(4),
            act=nn.ReLU(inplace=True),
            body=nn.Conv2d(4, 6, (1, 3), stride=(1, 2)),
            act2=nn.ReLU(inplace=True),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(6, 3),
        )
    )


class Chain(nn.Module):
    """Not a Sequential, but its modules one after another."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, 16, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return x


CHAIN = ["embed", "layers.0", "layers.1"]
TOKENS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


def refused(model: nn.Module, *arguments: Any, **options: Any) -> str:
    with pytest.raises(EncoderError) as caught:
        from_module(model, *arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestSequences:
    def test_every_child_is_a_stage(self) -> None:
        model = convolutional().eval()
        encoder = from_module(model, input=IQ)
        check_encoder(encoder)
        assert [exit.name for exit in encoder.exits] == list(dict(model.named_children()))
        assert [exit.width for exit in encoder.exits] == [4, 4, 4, 6, 6, 6, 6, 3]
        x, state = torch.randn(3, 2, 2, 40), None
        with torch.no_grad():
            taps, state = encoder.taps(x), x
            for child, tap in zip(model, taps.values(), strict=True):
                state = child(state)
                torch.testing.assert_close(tap, state.flatten(2).mean(2) if state.dim() > 2 else state)
            torch.testing.assert_close(taps["head"], model(x), rtol=0, atol=0)

    def test_named_children_end_stages_and_the_rest_is_left_out(self) -> None:
        model = convolutional()
        encoder = from_module(model, ["act", "act2"], input=IQ)
        check_encoder(encoder)
        assert [(exit.name, exit.width, exit.params) for exit in encoder.exits] == [
            ("act", 4, 4 * 2 * 5 + 4 + 8),
            ("act2", 6, 4 * 2 * 5 + 4 + 8 + 6 * 4 * 3 + 6),
        ]

    def test_a_module_that_stands_twice_counts_once(self) -> None:
        shared = nn.Linear(4, 4)
        encoder = from_module(nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh()), input=torch.randn(2, 4))
        check_encoder(encoder)
        assert {exit.params for exit in encoder.exits} == {20}

    def test_one_that_does_more_than_its_children_is_refused(self) -> None:
        class Doubled(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return 2 * super().forward(x) if int(x.sum() * 0) == 0 else x

        message = refused(Doubled(nn.Linear(4, 4), nn.ReLU()), input=torch.randn(2, 4))
        assert "one after another they differ from the model by 0.5 of the largest value" in message

    @settings(max_examples=20, deadline=None)
    @given(widths=st.lists(st.integers(1, 6), min_size=2, max_size=6), seed=st.integers(0, 99), data=st.data())
    def test_any_cut_of_a_perceptron(self, widths: list[int], seed: int, data: st.DataObject) -> None:
        torch.manual_seed(seed)
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        model = nn.Sequential(*(module for layer in layers for module in (layer, nn.Tanh())))
        places = sorted(data.draw(st.sets(st.integers(0, len(model) - 1), min_size=1)))
        x = torch.randn(3, widths[0])
        encoder = from_module(model, [str(place) for place in places], input=x)
        for place, tap in zip(places, encoder.taps(x).values(), strict=True):
            torch.testing.assert_close(tap, model[: place + 1](x), rtol=0, atol=0)


class TestChains:
    def test_the_modules_named_are_the_stages(self) -> None:
        model = Chain().eval()
        encoder = from_module(model, CHAIN, input=TOKENS, channels="last")
        check_encoder(encoder)
        with torch.no_grad():
            tokens = encoder.taps(TOKENS, pooling="tokens")
            assert torch.equal(tokens["layers.1"], model(TOKENS))
            assert torch.equal(tokens["layers.0"], model.layers[0](model.embed(TOKENS)))
            assert torch.equal(encoder.taps(TOKENS)["embed"], model.embed(TOKENS).mean(1))

    def test_modules_do_for_names(self) -> None:
        model = Chain()
        encoder = from_module(model, [model.embed, *model.layers], input=TOKENS, channels="last")
        assert [exit.name for exit in encoder.exits] == CHAIN

    def test_the_first_position_may_stand_for_all(self) -> None:
        encoder = from_module(Chain().eval(), CHAIN, input=TOKENS, channels="last", pooling="cls")
        assert torch.equal(encoder.taps(TOKENS)["layers.0"], encoder.taps(TOKENS, pooling="tokens")["layers.0"][:, 0])

    def test_token_numbers(self) -> None:
        spec = InputSpec(("batch", "tokens"), (None,), (1,), dtype=torch.int64, values=9, maximum=(30,))
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6))
        encoder = from_module(model, input=spec, channels="last")
        check_encoder(encoder)
        costs = exit_costs(encoder, (7,))
        assert [cost.macs for cost in costs.values()] == [0, 7 * 4 * 6]

    def test_channels_may_be_said_for_each_stage(self) -> None:
        model = nn.Sequential(nn.Conv1d(2, 6, 4, stride=4), nn.Flatten(2), Transpose(), nn.Linear(6, 5))
        encoder = from_module(model, ["0", "3"], input=torch.randn(1, 2, 16), channels=["first", "last"])
        check_encoder(encoder)
        assert [exit.width for exit in encoder.exits] == [6, 5]


class Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


CASES: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "sequence": lambda: (convolutional(), {"input": IQ}),
    "chain": lambda: (Chain(), {"stages": CHAIN, "input": TOKENS, "channels": "last"}),
}


@pytest.mark.parametrize("case", list(CASES))
class TestTheModel:
    def test_is_left_as_it_is(self, case: str) -> None:
        model, options = CASES[case]()
        model.train()
        list(model.modules())[2].eval()
        hooks: list[object] = []
        handle = list(model.modules())[1].register_forward_hook(lambda *_: hooks.append(1))
        before = {name: (id(m), m.training, dict(m._forward_hooks)) for name, m in model.named_modules()}
        inplace = [getattr(m, "inplace", None) for m in model.modules()]
        tensors = {name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}
        random = torch.get_rng_state()
        encoder = from_module(model, **options)
        check_encoder(encoder)
        encoder.eval()
        assert before == {name: (id(m), m.training, dict(m._forward_hooks)) for name, m in model.named_modules()}
        assert inplace == [getattr(m, "inplace", None) for m in model.modules()]
        for name, tensor in model.state_dict(keep_vars=True).items():
            assert tensors[name][0] == id(tensor)
            assert torch.equal(tensors[name][1], tensor.detach())
        assert torch.equal(random, torch.get_rng_state())
        handle.remove()

    def test_shares_its_parameters(self, case: str) -> None:
        model, options = CASES[case]()
        encoder = from_module(model, **options)
        assert {id(p) for p in encoder.parameters()} == {id(p) for p in model.parameters()}

    def test_gives_its_training_flags(self, case: str) -> None:
        model, options = CASES[case]()
        model.train()
        next(module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)).eval()
        encoder = from_module(model, **options)
        assert [module.training for module in encoder.stages.modules()].count(False) == 1

    def test_is_drawn_anew_by_its_own_modules(self, case: str) -> None:
        model, options = CASES[case]()
        encoder = from_module(model, **options)
        before = torch.get_rng_state()
        first, again, other = (encoder.reinitialised(seed) for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert first.fingerprint() == again.fingerprint() != other.fingerprint() != encoder.fingerprint()
        assert first.exits == encoder.exits
        check_encoder(first)
        assert not {id(p) for p in first.parameters()} & {id(p) for p in model.parameters()}

    def test_has_macs_on_the_meta_device(self, case: str) -> None:
        model, options = CASES[case]()
        encoder = from_module(model, **options)
        shape = (2, 1, 20) if case == "sequence" else (5, 4)
        macs = [cost.macs for cost in exit_costs(encoder, shape, measure=False).values()]
        if case == "sequence":
            stem, body = 20 * 4 * 2 * 5, 9 * 6 * 4 * 3
            assert macs == [stem] * 3 + [stem + body] * 4 + [stem + body + 6 * 3]
        else:
            layer = 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16
            assert macs == [5 * 4 * 8 + k * layer for k in range(3)]

    def test_cannot_be_saved_without_a_class(self, case: str, tmp_path: Any) -> None:
        model, options = CASES[case]()
        with pytest.raises(
            EncoderError, match=r"'module' cannot be saved: .*derive a class of yours from ModuleEncoder"
        ):
            from_module(model, **options).save(tmp_path / "e")
        assert not (tmp_path / "e").exists()


def test_a_class_of_its_own_is_saved_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))

    @register_encoder
    class Mine(ModuleEncoder):
        architecture = "mine"

        def __init__(self, width: int = 8) -> None:
            super().__init__(Chain(width), CHAIN, input=TOKENS, channels="last")
            self.config = {"width": width}

    encoder = Mine(width=12)
    check_encoder(encoder)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert type(again) is Mine
    assert again.fingerprint() == encoder.fingerprint()
    assert type(encoder.reinitialised(0)) is Mine
    assert load_encoder("mine", weights="random", seed=3, width=6).exits[-1].width == 6


def test_what_a_model_draws_leaves_the_global_random_state_alone() -> None:
    class Draws(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0 * torch.rand(())

    before = torch.get_rng_state()
    from_module(nn.Sequential(Draws(4, 2)), input=torch.arange(4.0)[None])
    after = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(before)
        nn.Linear(4, 2)  # its construction
        assert torch.equal(torch.get_rng_state(), after)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"input": TOKENS}, "where to cut Chain is not clear: name stages=[...] among embed, layers"),
            ({"stages": CHAIN}, "what does the model take? give input="),
            ({"stages": [], "input": TOKENS}, "name at least one place"),
            ({"stages": ["embed", "embed"], "input": TOKENS}, "name at least one place, and each once"),
            ({"stages": CHAIN, "input": TOKENS}, "'embed' gives (N, 5, 8): say channels='first' if it is"),
            ({"stages": CHAIN, "input": TOKENS, "channels": "both"}, "channels='both': say 'first' or 'last'"),
            ({"stages": CHAIN, "input": TOKENS, "channels": ["last"]}, "for all 3 stages or for each of them"),
            ({"stages": CHAIN, "input": TOKENS, "channels": "first", "pooling": "cls"}, "needs channels='last'"),
            ({"stages": CHAIN, "input": TOKENS, "channels": "last", "pooling": "max"}, "pooling='max'"),
            ({"stages": CHAIN, "input": TOKENS.double()}, "input torch.float64 (N, 5, 4): give a float32 batch"),
            ({"stages": CHAIN, "input": TOKENS[:0]}, "give a float32 batch"),
            ({"stages": CHAIN, "input": 0 * TOKENS}, "input holds one value, or NaN, which compares nothing"),
            ({"stages": CHAIN, "input": torch.nan * TOKENS}, "input holds one value, or NaN, which compares nothing"),
            ({"stages": CHAIN, "input": TOKENS.long()}, "for token numbers an InputSpec"),
            (
                {"stages": CHAIN, "input": TOKENS[..., :3]},
                "Chain does not run on (N, 5, 3) torch.float32: RuntimeError",
            ),
            ({"stages": [nn.Linear(4, 4)], "input": TOKENS}, "the stage Linear is no module of the model"),
        ],
    )
    def test_one_line_that_says_what(self, options: dict[str, Any], message: str) -> None:
        assert message in refused(Chain(), **options)

    def test_half_precision(self) -> None:
        assert "parameter embed.weight is torch.float16" in refused(Chain().half(), CHAIN, input=TOKENS)

    def test_a_free_shape_of_what_has_to_be_traced(self) -> None:
        spec = InputSpec(("batch", "time", "values"), (None, 4), (1, 4))
        message = refused(Chain(), ["embed", "layers.1"], input=spec, channels="last")
        assert "one after another they differ from the model by" in message
        assert "torch.export fixes the input's shape: give an example batch" in message

    def test_a_shape_that_the_spec_promises_and_the_model_does_not_take(self) -> None:
        spec = InputSpec(("batch", "time"), (None,), (4,))
        assert "does not run on (N, 97)" in refused(nn.Sequential(nn.Linear(96, 4)), input=spec)

    def test_parameters_that_nothing_draws(self) -> None:
        class Scale(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gamma = nn.Parameter(torch.ones(4))

            def forward(self, x: Tensor) -> Tensor:
                return x * self.gamma

        encoder = from_module(nn.Sequential(nn.Linear(4, 4), Scale()), input=torch.randn(2, 4))
        with pytest.raises(EncoderError, match=r"Scale '1' holds gamma and has no reset_parameters\(\)"):
            encoder.reinitialised(0)

    def test_a_module_that_cannot_be_copied(self) -> None:
        model = convolutional()
        model.stem.lock = __import__("threading").Lock()  # type: ignore[assignment]
        assert "Sequential cannot be copied: TypeError" in refused(model, input=IQ)


def test_stages_that_write_into_their_input_are_found_out() -> None:
    class Grow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    class Hidden(nn.Module):  # cannot be traced either
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 1e9 else x.add_(1)

    x = torch.randn(2, 4)
    check_encoder(from_module(nn.Sequential(nn.Linear(4, 4), Grow(), nn.Linear(4, 2)), input=x))  # traced, functional
    message = refused(nn.Sequential(nn.Linear(4, 4), Hidden(), nn.Linear(4, 2)), input=x)
    assert "one after another they are no stages, for '1' writes into what it is given" in message


def test_attention_is_redrawn_as_its_constructor_draws_it() -> None:
    encoder = from_module(nn.Sequential(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)), input=torch.randn(2, 3, 32), channels="last")  # fmt: skip
    attention = encoder.reinitialised(0).stages[0].self_attn  # type: ignore[union-attr]
    bound = (6 / (32 + 96)) ** 0.5  # xavier uniform of the joint projection
    assert bound * 0.95 < float(attention.in_proj_weight.detach().abs().max()) <= bound
    assert not attention.in_proj_bias.detach().any()
    assert not attention.out_proj.bias.detach().any()


def test_the_names_of_the_room_come_when_they_are_asked_for() -> None:
    assert offramp.encoders.from_module is from_module
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = offramp.encoders.nothing


def test_deep_copies_are_whole() -> None:
    encoder = from_module(convolutional(), input=IQ).eval()
    copied = copy.deepcopy(encoder)
    x = torch.randn(1, 2, 1, 20)
    assert torch.equal(encoder.taps(x)["head"], copied.taps(x)["head"])
    assert copied.reinitialised(1).fingerprint() == encoder.reinitialised(1).fingerprint()
