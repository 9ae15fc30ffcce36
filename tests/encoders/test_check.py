"""check_encoder passes a correct encoder and catches every way of breaking the contract by the name of its check."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from offramp.encoders import registry
from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.encoders.check import CHECKS, check_encoder, default_input_shape
from offramp.encoders.registry import list_encoders, load_encoder, register_encoder
from offramp.errors import EncoderError


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTERED", dict(registry.REGISTERED))


class Toy(StagedEncoder):
    """Three convolutions over time; the state also carries a mask."""

    architecture = "toy"

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.config = {"width": width}
        self.input = InputSpec(("batch", "iq", "time"), (2, None), (2, 8))
        self.stages = nn.ModuleList(nn.Conv1d(c, width, 3, padding=1) for c in (2, width, width))
        self.exits = self.measure_exits(["one", "two", "three"], [width] * 3)

    def begin(self, x: Tensor) -> State:
        return x, torch.ones_like(x[:, 0], dtype=torch.bool)

    def advance(self, stage: int, state: State) -> State:
        return self.stages[stage](state[0]).tanh(), state[1]

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        if pooling == "tokens":
            return state[0].transpose(1, 2)
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: toy has default, tokens")
        return state[0].mean(2)


def test_a_correct_encoder_passes_and_is_left_as_it_was() -> None:
    register_encoder(Toy)
    assert "toy" in list_encoders()
    encoder = load_encoder("toy", weights="random", width=6)
    encoder.stages[1].eval()
    encoder.stages[0].weight.requires_grad_(False)
    before = encoder.fingerprint(), torch.get_rng_state()
    check_encoder(encoder)
    check_encoder(encoder, input_shape=(2, 8), seed=3)
    assert encoder.fingerprint() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert [m.training for m in encoder.stages] == [True, False, True]
    assert [p.requires_grad for p in encoder.parameters()] == [False, True, True, True, True, True]
    assert "advance" not in vars(encoder)
    assert not any(m._forward_pre_hooks for m in encoder.modules())
    assert all(p.grad is None for p in encoder.parameters())


def test_default_shape_is_small_but_accepted() -> None:
    encoder = Toy()
    assert default_input_shape(encoder) == (2, 96)
    encoder.input = InputSpec(("batch", "iq", "antennas", "time"), (2, None, None), (2, 3, 128))
    assert default_input_shape(encoder) == (2, 3, 128)


class CountsCalls(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def begin(self, x: Tensor) -> State:
        self.calls += 1
        return super().begin(x)


class CountsItsFirstCall(CountsCalls):
    def begin(self, x: Tensor) -> State:
        state = super().begin(x)
        self.calls.clamp_(max=1)
        return state


class HasADeadParameter(Toy):
    """A parameter that no tap depends on, but that stands in the counts and in the truncated network."""

    def __init__(self) -> None:
        super().__init__()
        self.stages[0].unused = nn.Parameter(torch.zeros(3))
        self.exits = self.measure_exits(["one", "two", "three"], [4] * 3)


class WritesInput(Toy):
    def begin(self, x: Tensor) -> State:
        x.sub_(x.mean(2, keepdim=True))
        return super().begin(x)


class DrawsRandomNumbers(Toy):
    def begin(self, x: Tensor) -> State:
        torch.rand(1)
        return super().begin(x)


class AddsNoiseOfItsOwn(Toy):
    noise = torch.Generator()

    def begin(self, x: Tensor) -> State:
        return super().begin(x + torch.randn(x.shape, generator=self.noise))


class SwitchesToTraining(Toy):
    def begin(self, x: Tensor) -> State:
        self.stages.train()
        return super().begin(x)


class RunsAllStages(Toy):
    def taps(self, x: Tensor, exits: object = None, pooling: str = "default") -> dict[str, Tensor]:
        wanted = [e.name for e in self.exits if exits is None or e.name in list(exits)]  # type: ignore[call-overload]
        for name in exits or ():  # type: ignore[attr-defined]
            self.exit_index(name)
        everything = super().taps(x, None, pooling)
        return {name: everything[name] for name in wanted}


class LooksAhead(Toy):
    def advance(self, stage: int, state: State) -> State:
        self.stages[min(stage + 1, len(self.stages) - 1)](self.stages[stage](state[0]))
        return super().advance(stage, state)


class UsesBatchStatistics(Toy):
    def advance(self, stage: int, state: State) -> State:
        main, mask = super().advance(stage, state)
        return nn.functional.batch_norm(main, None, None, training=True), mask


class LosesTheBatchInItsMask(Toy):
    def advance(self, stage: int, state: State) -> State:
        main, mask = super().advance(stage, state)
        return main * (1 if mask.shape[0] != 2 else 1.1), mask


class SaysAnotherWidth(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.exits = (self.exits[0], dataclasses.replace(self.exits[1], width=5), self.exits[2])


class SaysOtherParams(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.exits = (*self.exits[:2], dataclasses.replace(self.exits[2], params=self.exits[2].params + 1))


class RepeatsAName(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.exits = tuple(dataclasses.replace(e, name="three" if e.index else "one") for e in self.exits)


class GivesDoubles(Toy):
    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        return super().pool(exit, state, pooling).double()


class GivesInfinity(Toy):
    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        return super().pool(exit, state, pooling) / (1 if exit < 2 else 0)


class WorksInPlace(Toy):
    def advance(self, stage: int, state: State) -> State:
        if stage:
            state[0].mul_(2)
        return super().advance(stage, state)


class FlattensTokens(Toy):
    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        return super().pool(exit, state, pooling).flatten(1)


class CopiesOnTruncation(Toy):
    def truncate(self, exit: str) -> nn.Module:  # type: ignore[override]
        import copy

        return copy.deepcopy(super().truncate(exit))


class KeepsAllOnTruncation(Toy):
    def _prefix(self, last: int) -> KeepsAllOnTruncation:
        prefix = super()._prefix(last)
        prefix.stages = self.stages
        return prefix


class ForgetsInSegments(Toy):
    """Hands a value from begin to advance beside the state, so that a later segment does not see it."""

    gain: object = None

    def begin(self, x: Tensor) -> State:
        object.__setattr__(self, "gain", x.abs().amax((1, 2), keepdim=True))
        return super().begin(x)

    def advance(self, stage: int, state: State) -> State:
        main, mask = super().advance(stage, state)
        gain = self.gain if isinstance(self.gain, Tensor) and len(self.gain) == len(main) else 1.0
        object.__setattr__(self, "gain", self.gain if stage + 1 < len(self.exits) else None)
        return main * gain, mask


class TakesAnyShape(Toy):
    def _begin_checked(self, x: Tensor) -> State:
        return self.begin(x)


class TakesAnyDtype(Toy):
    def _begin_checked(self, x: Tensor) -> State:
        self.input.check(tuple(x.shape[1:]))
        return self.begin(x.real.float() if x.is_complex() else x.float())


class RaisesKeyError(Toy):
    def exit_index(self, exit: str) -> int:
        return {e.name: e.index for e in self.exits}[exit]


class IgnoresPooling(Toy):
    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        return super().pool(exit, state, pooling if pooling == "tokens" else "default")


class StopsInTheMiddle(Toy):
    def advance(self, stage: int, state: State) -> State:
        raise IndexError("broken")


class MissesAMinimum(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.input = InputSpec(("batch", "time"), (2, 8), (2, 8))


BROKEN: list[tuple[type[Toy], str, str]] = [
    (MissesAMinimum, "check_input_spec", "layout"),
    (SaysAnotherWidth, "check_taps", "'two'"),
    (GivesDoubles, "check_taps", "float64"),
    (GivesInfinity, "check_taps", "'three' is not finite"),
    (RepeatsAName, "check_exits", "three"),
    (StopsInTheMiddle, "check_no_mutation", "IndexError: broken"),
    (SaysOtherParams, "check_truncate|check_params", "'three'"),
    (AddsNoiseOfItsOwn, "check_determinism", "'one'"),
    (CountsItsFirstCall, "check_no_mutation", "'calls'"),
    (CountsCalls, "check_no_mutation", "'calls'"),
    (WritesInput, "check_no_mutation", "the input is changed"),
    (DrawsRandomNumbers, "check_no_mutation", "random state of torch"),
    (SwitchesToTraining, "check_no_mutation", "'stages' is switched to training"),
    (RunsAllStages, "check_stop_early", "'one'"),
    (LooksAhead, "check_stop_early", r"'one' runs stages behind it: \[1\]"),
    (CopiesOnTruncation, "check_truncate", "share"),
    (KeepsAllOnTruncation, "check_truncate", "'one'.* stage 1"),
    (WorksInPlace, "check_states", "'one'|'two'"),
    (FlattensTokens, "check_tokens", "positions"),
    (ForgetsInSegments, "check_segment", "segment"),
    (UsesBatchStatistics, "check_batch_invariance", "'one'"),
    (LosesTheBatchInItsMask, "check_batch_invariance", "leave"),
    (HasADeadParameter, "check_params", "'one'"),
    (TakesAnyShape, "check_errors", "shape"),
    (TakesAnyDtype, "check_errors", "float64"),
    (RaisesKeyError, "check_errors", "unknown exit is a KeyError"),
    (IgnoresPooling, "check_errors", "pooling"),
]


@pytest.mark.parametrize(("broken", "check", "names"), BROKEN, ids=[b.__name__ for b, _, _ in BROKEN])
def test_a_broken_encoder_is_caught_by_name(broken: type[Toy], check: str, names: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=f"^({check}): .*({names})"):
        check_encoder(broken())


class Tokens(Toy):
    """Takes token numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.input = InputSpec(("batch", "tokens"), (None,), (1,), maximum=(9,), dtype=torch.int64, values=7)
        self.stages = nn.ModuleList([nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
        self.exits = self.measure_exits(["one", "two", "three"], [4] * 3)

    def begin(self, x: Tensor) -> State:
        return (x % 7,)

    def advance(self, stage: int, state: State) -> State:
        return (self.stages[stage](state[0]),)

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        return super().pool(exit, (state[0].transpose(1, 2),), pooling)


class TakesAnyNumber(Tokens):
    def _begin_checked(self, x: Tensor) -> State:
        self.input.check(tuple(x.shape[1:]))
        if x.dtype != torch.int64:
            raise EncoderError(f"input is {x.dtype}")
        return self.begin(x)


class TakesAnyLength(Tokens):
    def _begin_checked(self, x: Tensor) -> State:
        if x.dim() != 2:
            raise EncoderError(f"input of shape (N, {', '.join(map(str, x.shape[1:]))})")
        self.input.check_values(x)
        return self.begin(x)


def test_an_encoder_of_token_numbers_passes_and_its_faults_are_caught() -> None:
    check_encoder(Tokens())
    with pytest.raises(AssertionError, match=r"^check_errors: the token number -1 is accepted"):
        check_encoder(TakesAnyNumber())
    with pytest.raises(AssertionError, match=r"^check_errors: input of shape \(N, 10\) is accepted"):
        check_encoder(TakesAnyLength())


def test_every_check_catches_something() -> None:
    caught = {name for _, check, _ in BROKEN for name in check.split("|")}
    assert caught == {check.__name__ for check in CHECKS}


def test_a_failed_check_still_restores_modes_and_hooks() -> None:
    encoder = LooksAhead().train()
    with pytest.raises(AssertionError):
        check_encoder(encoder)
    assert all(m.training for m in encoder.modules())
    assert "advance" not in vars(encoder)
    assert not any(m._forward_pre_hooks for m in encoder.modules())


@pytest.mark.parametrize(
    ("name", "config"),
    [("iq-resnet", {}), ("iq-shufflenet", {}), ("lwm", {"layers": 3, "width": 16, "heads": 4, "hidden": 32})],
)
def test_shipped_architectures_pass(name: str, config: dict[str, int]) -> None:
    check_encoder(load_encoder(name, weights="random", **config))
