"""What is executed decides as the simulation of the same heads does, and really stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from policy_samples import PAIRS, Scripted, drawn_policy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from offramp.encoders.base import StagedEncoder
from offramp.encoders.channel_transformer import ChannelTransformer
from offramp.encoders.iq_resnet import IQResNet
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.lwm import LWM
from offramp.encoders.module import from_module
from offramp.encoders.registry import random_encoder
from offramp.encoders.wavesfm import WavesFM
from offramp.errors import DataError, EncoderError, PolicyError
from offramp.policies import Decisions, Policy, simulate
from offramp.policies.simulation import certainties
from offramp.runtime import torch_segments
from offramp.runtime.execution import Cascade, run_cascades
from offramp.runtime.torch_segments import TorchSegments, run_cascade

CLOSE = 1e-5
"""A criterion this near to its threshold, or two classes this near to each other, may be decided either way."""
OUTPUTS = 3


def _sequential() -> StagedEncoder:
    torch.manual_seed(0)
    layers = [nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten()]
    return from_module(nn.Sequential(*layers, nn.Linear(8 * 16, 6)), input=torch.randn(2, 2, 16), channels="first")


ENCODERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "iq-shufflenet": (
        lambda: random_encoder(IQShuffleNet, {"channels": [8, 8, 16, 16, 32], "repeats": [1, 2, 1]}, 0),
        (2, 2, 64),
    ),
    "iq-resnet": (
        lambda: random_encoder(IQResNet, {"channels": [8, 8, 16, 16], "repeats": [2, 1]}, 0),
        (2, 2, 64),
    ),
    "lwm": (lambda: random_encoder(LWM, {"layers": 2, "width": 24, "hidden": 32}, 0), (2, 32, 32)),
    "wavesfm": (lambda: random_encoder(WavesFM, {"width": 16, "depth": 3, "heads": 2}, 0), (2, 2, 64)),
    "channel-transformer": (
        lambda: random_encoder(ChannelTransformer, {"width": 16, "depth": 3, "heads": 2}, 0),
        (2, 2, 8, 8),
    ),
    "module": (_sequential, (2, 16)),
}


@cache
def made(name: str) -> tuple[StagedEncoder, dict[str, nn.Module]]:
    """An encoder, and heads whose outputs have unit variance so that windows differ."""
    build, _ = ENCODERS[name]
    encoder = build().eval().requires_grad_(False)
    torch.manual_seed(1)
    heads: dict[str, nn.Module] = {}
    with torch.inference_mode():
        for exit, tap in encoder.taps(drawn(name, 64)).items():
            norm, linear = nn.BatchNorm1d(tap.shape[1], momentum=None), nn.Linear(tap.shape[1], OUTPUTS)
            norm(tap)  # takes mean and variance
            nn.init.normal_(linear.weight, std=1.5 * tap.shape[1] ** -0.5)
            heads[exit] = nn.Sequential(norm, linear).eval()
    return encoder, heads


def drawn(name: str, count: int, seed: int = 0) -> Tensor:
    """Windows of unlike kinds: the noise is coloured by a random amount."""
    x = torch.randn(count, *ENCODERS[name][1], generator=torch.Generator().manual_seed(seed))
    amount = torch.rand(count, *[1] * (x.ndim - 1), generator=torch.Generator().manual_seed(seed + 1))
    return x + 2 * amount * x.roll(1, -1)


@torch.inference_mode()
def all_outputs(encoder: StagedEncoder, heads: dict[str, nn.Module], x: Tensor) -> dict[str, np.ndarray]:
    return {exit: heads[exit](tap).numpy() for exit, tap in encoder.taps(x).items()}


def may_differ(policy: Policy, outputs: dict[str, np.ndarray]) -> np.ndarray:
    """Windows that lie within rounding of another decision."""
    thresholds = np.asarray(policy.thresholds)[:, None]
    near = (np.abs(certainties(policy, outputs)[:-1] - thresholds) <= CLOSE).any(0)
    if policy.kind == "classification":
        for exit in policy.exits:  # classes that tie
            two = np.sort(outputs[exit], axis=1)[:, -2:]
            near |= two[:, 1] - two[:, 0] <= CLOSE
    return near


def assert_same(found: Decisions, expected: Decisions, policy: Policy, outputs: dict[str, np.ndarray]) -> None:
    sure = ~may_differ(policy, outputs)
    np.testing.assert_array_equal(found.exit[sure], expected.exit[sure])
    same = found.exit == expected.exit
    np.testing.assert_allclose(found.outputs[same], expected.outputs[same], rtol=1e-3, atol=1e-4)
    if policy.reject_below is not None:
        answer = policy.confidence(policy.exits[-1], expected.outputs)
        sure &= np.abs(answer - policy.reject_below) > CLOSE
    np.testing.assert_array_equal(found.rejected[sure], expected.rejected[sure])


def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide as on an accelerator."""
    monkeypatch.setattr(torch_segments, "decides_on_numpy", lambda device: False)


@pytest.mark.parametrize("path", ["numpy", "torch"])
@pytest.mark.parametrize("name", ENCODERS)
def test_decisions_are_those_of_the_simulation(name: str, path: str, monkeypatch: pytest.MonkeyPatch):
    """Every criterion, random exits, thresholds and sizes of the batch."""
    if path == "torch":
        on_torch(monkeypatch)
    encoder, heads = made(name)
    names = [exit.name for exit in encoder.exits]
    rng = np.random.default_rng(len(name))
    left, undecided, total = set(), 0, 0
    for criterion, kind in PAIRS:
        for count in (1, int(rng.integers(2, 30)), int(rng.integers(30, 90))):
            outputs = all_outputs(encoder, heads, drawn(name, max(count, 40), seed=count))
            chosen = np.sort(rng.choice(len(names), rng.integers(2, len(names) + 1), replace=False))
            policy = drawn_policy(criterion, kind, tuple(names[i] for i in chosen), outputs, rng)
            windows = drawn(name, max(count, 40), seed=count)[:count]
            outputs = all_outputs(encoder, heads, windows)
            found = run_cascade(encoder, heads, policy, windows)
            assert_same(found, simulate(policy, outputs), policy, outputs)
            left |= set(found.exit.tolist())
            undecided, total = undecided + int(may_differ(policy, outputs).sum()), total + count
    assert len(left) > 2
    assert undecided < total / 50


def test_thousands_of_windows():
    encoder, heads = made("wavesfm")
    windows = drawn("wavesfm", 4096)
    outputs = all_outputs(encoder, heads, windows)
    policy = drawn_policy("entropy", "classification", tuple(heads), outputs, np.random.default_rng(3))
    found = run_cascade(encoder, heads, policy, windows)
    assert_same(found, simulate(policy, outputs), policy, outputs)
    assert may_differ(policy, outputs).sum() < 40
    assert len(set(found.exit.tolist())) == 3


VALUES = st.one_of(st.floats(-4, 4, width=32, allow_subnormal=False), st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))


class TestKnownOutputs:
    """An encoder that gives what it is told: nothing may differ by rounding."""

    @settings(max_examples=150, deadline=None)
    @given(
        script=arrays(np.float32, st.tuples(st.integers(1, 12), st.just(4), st.just(3)), elements=VALUES),
        pair=st.sampled_from(PAIRS),
        seed=st.integers(0, 1000),
    )
    @np.errstate(invalid="ignore", over="ignore")
    def test_whatever_the_outputs(self, script: np.ndarray, pair: tuple[str, str], seed: int):
        encoder = Scripted()
        outputs = {exit.name: script[:, exit.index] for exit in encoder.exits}
        policy = drawn_policy(*pair, tuple(outputs), outputs, np.random.default_rng(seed))
        expected = _or_refusal(lambda: simulate(policy, outputs))
        found = _or_refusal(lambda: run_cascade(encoder, encoder.heads(), policy, torch.from_numpy(script)))
        if isinstance(expected, str) or isinstance(found, str):
            assert found == expected
            return
        np.testing.assert_array_equal(found.exit, expected.exit)
        np.testing.assert_array_equal(found.outputs, expected.outputs)
        np.testing.assert_array_equal(found.rejected, expected.rejected)

    @pytest.mark.parametrize("path", ["numpy", "torch"])
    def test_nothing_runs_for_those_that_left(self, path: str, monkeypatch: pytest.MonkeyPatch):
        if path == "torch":
            on_torch(monkeypatch)
        script = np.zeros((5, 4, 3), np.float32)
        script[[0, 3], 1, 1] = 9  # certain at the exit e1
        script[4, 2, 2] = 9  # not consulted
        encoder = Scripted()
        ones = (1.0,) * 2
        policy = Policy("classification", "confidence", ("e1", "e3"), (0.9,), ones, ones)
        heads = {"e1": nn.Identity(), "e3": nn.Identity(), "e2": _Forbidden()}
        found = run_cascade(encoder, heads, policy, torch.from_numpy(script))
        assert encoder.advanced == [(0, 5), (1, 5), (2, 3), (3, 3)]
        assert encoder.pooled == [(1, 5), (3, 3)]
        assert found.exit.tolist() == [0, 1, 1, 0, 1]
        assert found.exit.dtype == np.int64
        np.testing.assert_array_equal(found.outputs[:, 1], [9, 0, 0, 9, 0])

    @pytest.mark.parametrize("path", ["numpy", "torch"])
    def test_the_pass_ends_with_the_last_window(self, path: str, monkeypatch: pytest.MonkeyPatch):
        if path == "torch":
            on_torch(monkeypatch)
        script = np.zeros((3, 4, 3), np.float32)
        script[:, 1, 0] = 9
        encoder = Scripted()
        ones = (1.0,) * 4
        policy = Policy("classification", "confidence", ("e0", "e1", "e2", "e3"), (0.9,) * 3, ones, ones)
        assert run_cascade(encoder, encoder.heads(), policy, torch.from_numpy(script)).exit.tolist() == [1, 1, 1]
        assert encoder.advanced == [(0, 3), (1, 3)]

    def test_nan_never_leaves_and_is_named(self):
        script = np.full((6, 4, 3), 9, np.float32) * np.float32([1, 0, 0])
        script[4, :3] = np.nan  # answers at the last exit
        encoder = Scripted()
        ones = (1.0,) * 4
        policy = Policy("classification", "confidence", ("e0", "e1", "e2", "e3"), (-np.inf,) * 3, ones, ones)
        found = run_cascade(encoder, encoder.heads(), policy, torch.from_numpy(script))
        assert found.exit.tolist() == [0, 0, 0, 0, 3, 0]
        script[4, 3, 2] = np.nan
        with pytest.raises(DataError, match=r"window 104: .*not finite"):
            run_cascade(encoder, encoder.heads(), policy, torch.from_numpy(script), first=100)

    def test_no_windows(self):
        encoder = Scripted()
        ones = (1.0,) * 2
        policy = Policy("classification", "confidence", ("e1", "e3"), (0.9,), ones, ones)
        found = run_cascade(encoder, encoder.heads(), policy, torch.empty(0, 4, 3))
        assert (found.exit.shape, found.outputs.shape, found.rejected.shape) == ((0,), (0, 3), (0,))


def _or_refusal(call: Callable[[], Decisions]) -> Decisions | str:
    try:
        return call()
    except DataError as error:
        return str(error)


class _Forbidden(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("this head is not consulted")


@pytest.mark.parametrize("name", ENCODERS)
def test_no_windows_of_real_encoders(name: str):
    encoder, heads = made(name)
    ones = (1.0,) * len(heads)
    policy = Policy("classification", "confidence", tuple(heads), (0.9,) * (len(heads) - 1), ones, ones)
    assert run_cascade(encoder, heads, policy, drawn(name, 0)).outputs.shape == (0, OUTPUTS)


@pytest.mark.parametrize("path", ["numpy", "torch"])
def test_several_tasks_share_a_pass(path: str, monkeypatch: pytest.MonkeyPatch):
    """Each decides as it does alone; a window runs on until the last of them has its answer."""
    if path == "torch":
        on_torch(monkeypatch)
    rng = np.random.default_rng(0)
    script = torch.from_numpy(rng.normal(size=(40, 4, 3)).astype(np.float32) * 3)
    outputs = {f"e{depth}": script[:, depth].numpy() for depth in range(4)}
    asked = [
        ("confidence", "classification", ("e0", "e2")),
        ("margin", "classification", ("e0", "e1", "e2", "e3")),
        ("agreement", "regression", ("e0", "e1", "e3")),
    ]
    policies = [drawn_policy(criterion, kind, exits, outputs, rng) for criterion, kind, exits in asked]
    encoder = Scripted()
    found = run_cascades(TorchSegments(encoder), [Cascade(encoder.heads(), policy) for policy in policies], script)
    for policy, decisions in zip(policies, found, strict=True):
        alone = simulate(policy, outputs)
        np.testing.assert_array_equal(decisions.exit, alone.exit)
        np.testing.assert_array_equal(decisions.outputs, alone.outputs)
        np.testing.assert_array_equal(decisions.rejected, alone.rejected)
    depth = np.stack(
        [np.array([int(exit[1]) for exit in p.exits])[d.exit] for p, d in zip(policies, found, strict=True)]
    )
    assert encoder.advanced == [(stage, int((depth.max(0) >= stage).sum())) for stage in range(4)]
    assert len(set(encoder.advanced)) == 4
    assert encoder.advanced[3][1] < encoder.advanced[1][1]


def test_tokens():
    """Heads on tokens take another pooling of the same state."""
    encoder, _ = made("lwm")
    torch.manual_seed(0)
    heads = {exit.name: nn.Sequential(nn.Linear(24, 1), nn.Flatten()) for exit in encoder.exits}
    windows = drawn("lwm", 20)
    with torch.inference_mode():
        outputs = {exit: heads[exit](tap).numpy() for exit, tap in encoder.taps(windows, pooling="tokens").items()}
    policy = drawn_policy("agreement", "regression", tuple(heads), outputs, np.random.default_rng(1))
    found = run_cascade(encoder, heads, policy, windows, "tokens")
    assert_same(found, simulate(policy, outputs), policy, outputs)


class TestState:
    @pytest.mark.parametrize("name", ENCODERS)
    def test_compaction_keeps_windows_and_layout(self, name: str):
        encoder, _ = made(name)
        keep = torch.tensor([0, 2, 3, 8])
        for _, state in encoder.visit(drawn(name, 9)):
            for whole, part in zip(state, TorchSegments(encoder).keep(state, keep), strict=True):
                torch.testing.assert_close(part, whole[keep], rtol=0, atol=0)
                inner = [axis for axis in range(1, whole.dim()) if whole.shape[axis] > 1]
                assert [part.stride(axis) for axis in inner] == [whole.stride(axis) for axis in inner]

    def test_what_windows_share(self):
        shared, expanded = torch.randn(1, 4), torch.randn(1, 4).expand(6, 4)
        one, other = TorchSegments(made("lwm")[0]).keep((shared, expanded), torch.tensor([1, 5]))
        assert one is shared
        torch.testing.assert_close(other, expanded[:2])
        assert other.stride(0) == 0


class ReadBacks(TorchDispatchMode):
    """Counts what would wait for an accelerator: values read as Python numbers, and sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = (
            [index for index in args[1] if index is not None] if name in ("index", "index_put", "index_put_") else []
        )
        if name in (
            "_local_scalar_dense",
            "item",
            "nonzero",
            "masked_select",
            "equal",
            "is_nonzero",
            "unique_dim",
            "_unique2",
        ):
            self.count += 1
        self.count += any(mask.dtype in (torch.bool, torch.uint8) for mask in masks)
        return func(*args, **(kwargs or {}))


def test_that_read_backs_are_counted():
    values = torch.arange(4.0)
    for read in (
        lambda: values.sum().item(),
        lambda: bool((values > 9).any()),
        lambda: values[values > 1],
        lambda: (values > 1).nonzero(),
        lambda: int(values.sum()),
    ):
        with ReadBacks() as counted:
            read()
        assert counted.count >= 1
    with ReadBacks() as counted:
        values[torch.tensor([1, 2])]
    assert counted.count == 0


@pytest.mark.parametrize(("criterion", "kind"), PAIRS)
def test_one_read_back_per_exit(criterion: str, kind: str, monkeypatch: pytest.MonkeyPatch):
    on_torch(monkeypatch)
    rng = np.random.default_rng(0)
    script = torch.from_numpy(rng.normal(size=(200, 4, 3)).astype(np.float32) * 3)
    outputs = {f"e{depth}": script[:, depth].numpy() for depth in range(4)}
    policy = replace(drawn_policy(criterion, kind, tuple(outputs), outputs, rng), reject_below=None)
    encoder = Scripted()
    with ReadBacks() as counted:
        found = run_cascade(encoder, encoder.heads(), policy, script)
    assert len(set(found.exit.tolist())) > 1
    consulted = {exit for exit, _ in encoder.pooled}
    assert 0 < counted.count <= len(consulted)
    np.testing.assert_array_equal(found.exit, simulate(policy, outputs).exit)


class TestRefusals:
    ONES = (1.0,) * 2

    def test_an_exit_without_a_head(self):
        encoder = Scripted()
        policy = Policy("classification", "confidence", ("e1", "e3"), (0.9,), self.ONES, self.ONES)
        with pytest.raises(PolicyError, match="no head at exit 'e3'"):
            run_cascade(encoder, {"e1": nn.Identity()}, policy, torch.zeros(2, 4, 3))

    def test_exits_out_of_order(self):
        encoder = Scripted()
        policy = Policy("classification", "confidence", ("e3", "e1"), (0.9,), self.ONES, self.ONES)
        with pytest.raises(PolicyError, match="e3, e1: name the exits in order of depth"):
            run_cascade(encoder, encoder.heads(), policy, torch.zeros(2, 4, 3))

    def test_an_unknown_exit(self):
        encoder = Scripted()
        policy = Policy("classification", "confidence", ("e1", "e9"), (0.9,), self.ONES, self.ONES)
        with pytest.raises(EncoderError, match="unknown exit 'e9'"):
            run_cascade(encoder, encoder.heads(), policy, torch.zeros(2, 4, 3))

    @pytest.mark.parametrize("count", [0, 2])
    def test_windows_of_another_shape(self, count: int):
        encoder = Scripted()
        policy = Policy("classification", "confidence", ("e1", "e3"), (0.9,), self.ONES, self.ONES)
        with pytest.raises(EncoderError, match="does not fit"):
            run_cascade(encoder, encoder.heads(), policy, torch.zeros(count, 5, 3))
        with pytest.raises(EncoderError, match="convert with"):
            run_cascade(encoder, encoder.heads(), policy, torch.zeros(count, 4, 3, dtype=torch.float64))
