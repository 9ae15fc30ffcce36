"""An encoder as one task sees it: its taps are side features and pooled states one behind the other, wherever it is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bundles import IQ_SHAPE, seeing_task, small_shufflenet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from offramp.costs import exit_costs
from offramp.encoders.amc_ssl import AmcSsl
from offramp.encoders.base import StagedEncoder
from offramp.encoders.check import check_encoder
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.lwm import LWM
from offramp.encoders.registry import random_encoder
from offramp.encoders.side import SIDES
from offramp.encoders.taps import freeze, tap_shapes
from offramp.encoders.view import TaskView
from offramp.encoders.wavesfm import WavesFM
from offramp.errors import EncoderError
from offramp.heads.modules import head_module
from offramp.policies import Policy
from offramp.runtime.execution import Cascade, run_cascades
from offramp.runtime.torch_segments import TorchSegments
from offramp.runtime.views import sharing_a_pass

POOLINGS = ("default", "statistics", "quantiles", "second_order")
ENCODERS: dict[str, tuple[Callable[[], StagedEncoder], tuple[int, ...]]] = {
    "iq-shufflenet": (small_shufflenet, IQ_SHAPE),
    "iq-resnet": (lambda: random_encoder(IQResNet, {"channels": [8, 8, 16, 16], "repeats": [2, 1]}, 0), (2, 3, 64)),
    "lwm": (lambda: random_encoder(LWM, {"layers": 2, "width": 24, "hidden": 32}, 0), (2, 32, 32)),
    "wavesfm": (lambda: random_encoder(WavesFM, {"width": 16, "depth": 3, "heads": 2}, 0), (2, 2, 64)),
    "amc-ssl": (lambda: random_encoder(AmcSsl, {}, 0), (2, 2, 40)),
}


@pytest.fixture(params=ENCODERS)
def made(request: pytest.FixtureRequest) -> tuple[StagedEncoder, tuple[int, ...]]:
    build, shape = ENCODERS[request.param]
    return freeze(build()), shape


def each_its_own(encoder: StagedEncoder) -> dict[str, str]:
    """Poolings that change from exit to exit; the last is left out."""
    return {exit.name: POOLINGS[exit.index % 4] for exit in encoder.exits[:-1]}


def by_hand(encoder: StagedEncoder, x: Tensor, poolings: dict[str, str], side: str | None) -> dict[str, Tensor]:
    """What a task's heads see, put together without a view."""
    beside = [] if side is None else [SIDES[side].compute(x)]
    found = {"input": beside[0]} if beside else {}
    for exit in encoder.exits:
        pooling = poolings.get(exit.name, "default")
        found[exit.name] = torch.cat([*beside, encoder.taps(x, [exit.name], pooling)[exit.name]], 1)
    return found


class TestTaps:
    @pytest.mark.parametrize("side", [None, "power_only", "handmade"])
    def test_side_features_and_pooled_states_one_behind_the_other(
        self, made: tuple[StagedEncoder, tuple[int, ...]], side: str | None
    ) -> None:
        encoder, shape = made
        x, poolings = encoder.input.draw(4, shape, seed=1), each_its_own(encoder)
        view = TaskView(encoder, shape, poolings, side)
        expected, found = by_hand(encoder, x, poolings, side), view.taps(x)
        assert list(found) == list(expected)
        for (name, tap), exit in zip(found.items(), view.exits, strict=True):
            torch.testing.assert_close(tap, expected[name], rtol=1e-5, atol=1e-6)
            assert (exit.name, exit.width) == (name, tap.shape[1])
            assert view.tap_shapes[name] == tuple(tap.shape[1:])
        assert [exit.params for exit in view.exits][-len(encoder.exits) :] == [exit.params for exit in encoder.exits]

    @pytest.mark.parametrize("carried", [None, ("dft_power", "power_only")])
    @pytest.mark.parametrize("side", [None, "power_only"])
    def test_a_view_keeps_the_contract_of_encoders(
        self, made: tuple[StagedEncoder, tuple[int, ...]], side: str | None, carried: tuple[str, ...] | None
    ) -> None:
        """Cut, truncated, in segments, with windows that leave on the way, without a change to anything."""
        encoder, shape = made
        check_encoder(TaskView(encoder, shape, each_its_own(encoder), side, carried), shape)

    def test_tokens(self) -> None:
        encoder = freeze(small_shufflenet())
        x = encoder.input.draw(3, IQ_SHAPE)
        view = TaskView(encoder, IQ_SHAPE, dict.fromkeys([e.name for e in encoder.exits], "tokens"), "power_only")
        beside, taps = SIDES["power_only"].compute(x), view.taps(x)
        assert torch.equal(taps.pop("input"), beside)
        for name, tokens in encoder.taps(x, pooling="tokens").items():
            for position in range(tokens.shape[1]):
                torch.testing.assert_close(taps[name][:, position], torch.cat([beside, tokens[:, position]], 1))
        assert view.target_positions((2, 3, 48), 48).tolist() == encoder.target_positions((2, 3, 48), 48).tolist()

    @pytest.mark.parametrize("side", [None, "handmade"])
    def test_a_truncated_view_is_cut_again(self, made: tuple[StagedEncoder, tuple[int, ...]], side: str | None) -> None:
        encoder, shape = made
        x = encoder.input.draw(3, shape)
        view = TaskView(encoder, shape, each_its_own(encoder), side)
        first, middle, last = view.exits[0].name, view.exits[1].name, view.exits[-1].name
        prefix = view.truncate(middle).prefix
        for _ in range(2):
            assert torch.equal(prefix.truncate(first)(x), view.taps(x, [first])[first])
            with pytest.raises(EncoderError, match=f"unknown exit '{last}'"):
                prefix.truncate(last)
            prefix = prefix.truncate(first).prefix

    def test_only_what_runs_is_held(self) -> None:
        encoder = freeze(small_shufflenet())
        view = TaskView(encoder, IQ_SHAPE, {}, "power_only")

        def names(module: nn.Module) -> set[str]:
            own = {id(parameter): name for name, parameter in encoder.named_parameters()}
            return {own[id(parameter)].split(".")[1] for parameter in module.parameters()}

        assert names(view.truncate("input")) == set()
        assert names(view.truncate("stem")) == {"0"}
        assert names(view.segment("stem", "stage2.1")) == {"1", "2"}
        assert names(view.segment("input", "stem")) == {"0"}
        assert view.encoder is encoder
        assert len(encoder.stages) == len(encoder.exits), "the encoder is left whole"

    def test_leaving_at_the_input_runs_no_stage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = freeze(small_shufflenet())
        view = TaskView(encoder, IQ_SHAPE, {}, "power_only")
        for method in ("begin", "advance"):
            monkeypatch.setattr(encoder, method, lambda *_: pytest.fail("the encoder runs"))
        x = encoder.input.draw(2, IQ_SHAPE)
        assert torch.equal(view.taps(x, ["input"])["input"], SIDES["power_only"].compute(x))

    def test_weights_are_shared(self) -> None:
        encoder = freeze(small_shufflenet())
        view = TaskView(encoder, IQ_SHAPE, {}, "power_only")
        assert {id(p) for p in view.parameters()} == {id(p) for p in encoder.parameters()}


class TestCosts:
    @pytest.mark.parametrize("side", [None, *SIDES])
    def test_every_exit_costs_the_side_features_more(
        self, made: tuple[StagedEncoder, tuple[int, ...]], side: str | None
    ) -> None:
        encoder, shape = made
        view = TaskView(encoder, shape, {}, side)
        plain, seen = exit_costs(encoder, shape, measure=False), exit_costs(view, shape, measure=False)
        of_side = 0 if side is None else SIDES[side].macs(shape)
        for name, cost in plain.items():
            assert (seen[name].reach_macs, seen[name].params) == (cost.reach_macs + of_side, cost.params)
        if side is not None:
            assert (seen["input"].reach_macs, seen["input"].params) == (of_side, 0)

    def test_heads_are_counted_at_their_widths(self) -> None:
        encoder = freeze(small_shufflenet())
        view = TaskView(encoder, IQ_SHAPE, {"stem": "statistics"}, "power_only")
        heads = {exit.name: nn.Linear(exit.width, 5) for exit in view.exits}
        costs = exit_costs(view, IQ_SHAPE, heads, measure=False)
        width = 1 + 16 + 2  # of power_only with two antennas
        assert (costs["input"].head_macs, costs["stem"].head_macs) == (5 * width, 5 * (width + 2 * 8))
        assert costs["conv5"].head_macs == 5 * (width + encoder.exits[-1].width)


@st.composite
def seen(draw: Any) -> tuple[str | None, dict[str, str], tuple[str, ...]]:
    """Side features, poolings, and some exits of the small encoder in order of depth."""
    side = draw(st.sampled_from([None, "power_only", "dft_power"]))
    names = [exit.name for exit in small_shufflenet().exits]
    poolings = {name: draw(st.sampled_from(POOLINGS)) for name in names[:4]}
    there = names if side is None else ["input", *names]
    exits = draw(st.lists(st.sampled_from(there), min_size=1, max_size=4, unique=True))
    return side, poolings, tuple(sorted(exits, key=there.index))


@settings(max_examples=25, deadline=None)
@given(st.lists(seen(), min_size=1, max_size=4), st.integers(0, 2**16), st.integers(1, 12))
def test_tasks_that_share_a_pass_answer_as_they_do_alone(
    tasks: list[tuple[str | None, dict[str, str], tuple[str, ...]]], seed: int, count: int
) -> None:
    """With different side features, poolings, exits and thresholds, windows leaving one after another."""
    encoder, rng = freeze(small_shufflenet()), np.random.default_rng(seed)
    x = encoder.input.draw(count, IQ_SHAPE, seed)
    cascades, alone_views = [], []
    for number, (side, poolings, exits) in enumerate(tasks):
        stored = seeing_task(encoder, "t" * (number + 1), exits[0], IQ_SHAPE, poolings, side)
        ones = (1.0,) * len(exits)
        thresholds = tuple(rng.uniform(0.4, 0.8, len(exits) - 1).tolist())
        policy = Policy("classification", "confidence", exits, thresholds, ones, ones)
        view = TaskView(encoder, IQ_SHAPE, poolings, side)
        cascades.append(Cascade({exit: head_module(stored.heads[exit]) for exit in exits}, policy, view.seen))
        alone_views.append(view)
    alone = [
        run_cascades(TorchSegments(view, {view.seen: view}), [each], x)[0]
        for each, view in zip(cascades, alone_views, strict=True)
    ]
    views = sharing_a_pass(alone_views)
    segments = TorchSegments(views[0], {view.seen: view for view in views})
    for one, together in zip(alone, run_cascades(segments, cascades, x), strict=True):
        np.testing.assert_array_equal(one.exit, together.exit)
        np.testing.assert_allclose(one.outputs, together.outputs, rtol=1e-4, atol=1e-5)


def test_a_pass_computes_side_features_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = freeze(small_shufflenet())
    calls: list[str] = []

    def counting(name: str) -> Any:
        side = SIDES[name]

        def compute(x: Tensor) -> Tensor:
            calls.append(name)
            return side.compute(x)

        return type(side)(name, "", compute, side.macs)

    for name in ("power_only", "dft_power"):
        monkeypatch.setitem(SIDES, name, counting(name))
    views = [
        TaskView(encoder, IQ_SHAPE, {}, side) for side in ("power_only", "dft_power", None, "power_only", "power_only")
    ]
    shared = sharing_a_pass(views)
    assert {view.carried for view in shared} == {("power_only", "dft_power")}
    calls.clear()
    shared[0].taps(encoder.input.draw(4, IQ_SHAPE))
    assert calls == ["power_only", "dft_power"]


class Input(StagedEncoder):
    """Its first exit has the name of the exit before the encoder."""

    architecture = "with-input"

    def __init__(self) -> None:
        super().__init__()
        self.config = {}
        self.input = small_shufflenet().input
        self.stages = nn.ModuleList([nn.Conv2d(2, 4, 1)])
        self.exits = self.measure_exits(["input"], [4])

    def begin(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def advance(self, stage: int, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.stages[stage](state[0]),)

    def pool(self, exit: int, state: tuple[Tensor, ...], pooling: str = "default") -> Tensor:
        return state[0].mean((2, 3))


def of_three_positions(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :6].view(-1, 3, 2)


class TestRefusals:
    def test_an_encoder_with_an_exit_named_input(self) -> None:
        encoder = freeze(Input())
        assert TaskView(encoder, IQ_SHAPE, {}).exits[0].width == 4, "without side features it is an exit like others"
        with pytest.raises(
            EncoderError, match=r"exit named 'input' cannot have side features: name the exit otherwise"
        ):
            TaskView(encoder, IQ_SHAPE, {}, "power_only")

    @pytest.mark.parametrize("pooling", ["tokens", "statistics", "second_order", "cls"])
    def test_poolings_are_fixed(self, pooling: str) -> None:
        encoder = freeze(small_shufflenet())
        view = TaskView(encoder, IQ_SHAPE, {}, "power_only")
        with pytest.raises(EncoderError, match="unknown pooling"):
            view.taps(encoder.input.draw(2, IQ_SHAPE), pooling=pooling)

    @pytest.mark.parametrize(
        ("shape", "poolings", "side", "message"),
        [
            ((2, 2, 63), {}, None, "time >= 64"),
            (IQ_SHAPE, {"stem": "cls"}, None, "unknown pooling 'cls'"),
            (IQ_SHAPE, {}, "spectrum", "unknown side features 'spectrum'"),
            (IQ_SHAPE, {}, f"{__name__}:of_three_positions", "give 3 positions, and the tap at 'stem' has one row"),
            (
                IQ_SHAPE,
                {"stem": "tokens"},
                f"{__name__}:of_three_positions",
                "give 3 positions, and the tap at 'stem' has 96 positions: give as many, or one row",
            ),
        ],
    )
    def test_what_does_not_fit_is_one_line(
        self, shape: tuple[int, ...], poolings: dict[str, str], side: str | None, message: str
    ) -> None:
        with pytest.raises(EncoderError, match=message) as caught:
            TaskView(freeze(small_shufflenet()), shape, poolings, side)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    def test_a_view_is_not_saved(self, tmp_path: Any) -> None:
        with pytest.raises(EncoderError):
            TaskView(freeze(small_shufflenet()), IQ_SHAPE, {}).save(tmp_path / "view")


def test_shapes_of_taps_are_those_of_the_encoder(made: tuple[StagedEncoder, tuple[int, ...]]) -> None:
    encoder, shape = made
    for pooling in ("default", "statistics", "quantiles"):
        view = TaskView(encoder, shape, {exit.name: pooling for exit in encoder.exits})
        assert view.tap_shapes == tap_shapes(encoder, shape, pooling)
