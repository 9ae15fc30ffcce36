"""What StagedEncoder derives for every architecture, on a small one. The contract itself is in tests/test_testing.py."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import EXITS, tiny_encoder

from offramp.encoders.base import InputSpec, StagedEncoder, seeded
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.errors import EncoderError


@pytest.fixture
def encoder() -> StagedEncoder:
    return tiny_encoder().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 2, 2, 64, generator=torch.Generator().manual_seed(0))


def test_taps_come_in_order_of_depth_whatever_the_question(encoder: StagedEncoder, x: torch.Tensor) -> None:
    asked = ["conv5", "stem", "stage3.0", "stem"]
    assert list(encoder.taps(x, asked)) == ["stem", "stage3.0", "conv5"]
    assert list(encoder.taps(x, iter(asked))) == ["stem", "stage3.0", "conv5"]
    assert list(encoder.taps(x)) == EXITS
    assert encoder.taps(x, []) == {}


def test_truncate_follows_later_changes_of_the_weights(encoder: StagedEncoder, x: torch.Tensor) -> None:
    network = encoder.truncate("stage2.1")
    before = network(x)
    with torch.no_grad():
        next(encoder.stages[0].parameters()).mul_(-1)
    assert not torch.equal(network(x), before)
    assert torch.equal(network(x), encoder.taps(x, ["stage2.1"])["stage2.1"])


def test_truncate_leaves_the_whole_encoder_whole(encoder: StagedEncoder, x: torch.Tensor) -> None:
    before = encoder.taps(x)
    encoder.truncate("stem")
    encoder.segment("stem", "stage2.1")
    assert [e.name for e in encoder.exits] == EXITS
    assert len(encoder.stages) == len(EXITS)
    assert all(torch.equal(tap, before[name]) for name, tap in encoder.taps(x).items())


def test_truncated_networks_can_be_cut_again(encoder: StagedEncoder, x: torch.Tensor) -> None:
    prefix = encoder.truncate("stage3.0").prefix
    assert torch.equal(prefix.truncate("stage2.0")(x), encoder.taps(x, ["stage2.0"])["stage2.0"])
    with pytest.raises(EncoderError, match=r"unknown exit 'conv5'.*stage3\.0"):
        prefix.truncate("conv5")


@pytest.mark.parametrize(("after", "to"), [("stage3.0", "stem"), ("stem", "stem")])
def test_an_empty_segment_is_an_error(encoder: StagedEncoder, after: str, to: str) -> None:
    with pytest.raises(EncoderError, match=f"from '{after}' to '{to}' is empty"):
        encoder.segment(after, to)


@pytest.mark.parametrize("shape", [(2, 2, 64), (2, 3, 2, 64), (2, 2, 0, 64), (2, 2, 2, 63), ()])
def test_a_wrong_shape_is_named_with_what_fits(encoder: StagedEncoder, shape: tuple[int, ...]) -> None:
    given = ", ".join(["N", *map(str, shape[1:])])
    with pytest.raises(EncoderError, match=rf"shape \({given}\).*\(N, 2, antennas >= 1, time >= 64\)"):
        encoder.taps(torch.zeros(shape))


def test_a_wrong_dtype_is_named_with_how_to_correct_it(encoder: StagedEncoder, x: torch.Tensor) -> None:
    with pytest.raises(EncoderError, match=r"float64.*torch\.float32.*x\.float\(\)"):
        encoder.taps(x.double())


def test_the_input_is_described_in_words() -> None:
    assert InputSpec(("batch", "channel", "rows"), (3, None), (3, 8)).describe() == "(N, 3, rows >= 8)"


IMAGES = InputSpec(
    ("batch", "channels", "height", "width"), (None, None, None), (1, 16, 8), (1, 16, 4), (None, 64, None)
)


@pytest.mark.parametrize("shape", [(1, 16, 8), (7, 64, 12), (1, 48, 4000)])
def test_sizes_within_limits_and_in_steps_are_accepted(shape: tuple[int, ...]) -> None:
    IMAGES.check(shape)


@pytest.mark.parametrize("shape", [(0, 16, 8), (1, 0, 8), (1, 80, 8), (1, 24, 8), (1, 16, 4), (1, 16, 10), (16, 8)])
def test_sizes_beyond_limits_and_between_steps_are_named_with_what_fits(shape: tuple[int, ...]) -> None:
    accepted = "(N, channels >= 1, height >= 16 and <= 64 in steps of 16, width >= 8 in steps of 4)"
    given = ", ".join(map(str, shape))
    with pytest.raises(EncoderError) as caught:
        IMAGES.check(shape)
    assert str(caught.value) == f"input of shape (N, {given}) does not fit: this encoder takes {accepted}"


TOKENS = InputSpec(("batch", "tokens"), (None,), (1,), maximum=(8,), dtype=torch.int64, values=5)


def test_token_numbers_are_described_and_drawn() -> None:
    assert TOKENS.describe() == "(N, tokens >= 1 and <= 8) torch.int64 below 5"
    drawn = TOKENS.draw(100, (3,), seed=1)
    assert drawn.dtype == torch.int64
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(drawn, TOKENS.draw(100, (3,), seed=1))
    assert not torch.equal(drawn, TOKENS.draw(100, (3,), seed=2))


@pytest.mark.parametrize("values", [[-1, 2], [0, 5], [2**40]])
def test_token_numbers_that_do_not_exist_are_named(values: list[int]) -> None:
    with pytest.raises(EncoderError, match=f"input holds {min(values)} to {max(values)}: this encoder takes 0 to 4"):
        TOKENS.check_values(torch.tensor([values]))
    TOKENS.check_values(torch.tensor([[0, 4]]))
    TOKENS.check_values(torch.zeros(0, 3, dtype=torch.int64))


def test_a_wrong_dtype_of_token_numbers_is_named_with_how_to_correct_it() -> None:
    with pytest.raises(
        EncoderError, match=r"input is torch\.float32: this encoder takes torch\.int64, convert with x\.to"
    ):
        TOKENS.check_values(torch.zeros(1, 3))


@given(
    size=st.none() | st.integers(1, 99),
    least=st.integers(1, 200),
    room=st.none() | st.integers(0, 50),
    step=st.integers(1, 40),
    axes=st.integers(1, 3),
)
def test_the_example_shape_is_accepted(size: int | None, least: int, room: int | None, step: int, axes: int) -> None:
    least = least * step if size is None else 1
    most = None if room is None or size is not None else least + room * step
    step = step if size is None else 1
    spec = InputSpec(
        ("batch", *"abc"[:axes]), (size,) * axes, (least,) * axes, multiple=(step,) * axes, maximum=(most,) * axes
    )
    spec.check(spec.example_shape())


def test_parameters_that_stages_share_count_once(x: torch.Tensor) -> None:
    class Shared(IQShuffleNet):
        def __init__(self) -> None:
            super().__init__(channels=[8, 8, 16, 16, 32], repeats=[2, 2, 2])
            self.stages[1] = self.stages[0]
            self.exits = self.measure_exits([exit.name for exit in self.exits], [exit.width for exit in self.exits])

    shared = Shared()
    assert shared.exits[0].params == shared.exits[1].params
    assert shared.exits[-1].params == sum(parameter.numel() for parameter in shared.parameters())


def test_draws_are_a_function_of_the_seed_and_leave_the_global_state_as_it_was() -> None:
    expected = torch.randn(4, generator=torch.Generator().manual_seed(3))
    before = torch.get_rng_state()
    with seeded(3):
        assert torch.equal(torch.randn(4), expected)
    assert torch.equal(torch.get_rng_state(), before)
    with suppress(EncoderError), seeded(3):
        IMAGES.check((int(torch.randint(1, (1,))),))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_reinitialised_encoder_has_the_configuration_and_random_weights_of_its_own(encoder: StagedEncoder) -> None:
    fingerprint, before = encoder.fingerprint(), torch.get_rng_state()
    twin = encoder.reinitialised(seed=5)
    assert type(twin) is type(encoder)
    assert twin.config == encoder.config
    assert twin.fingerprint() == tiny_encoder(seed=5).fingerprint() != fingerprint
    assert encoder.fingerprint() == fingerprint
    assert torch.equal(torch.get_rng_state(), before)


def test_an_architecture_reads_its_own_saved_names_unless_it_says_more() -> None:
    tensors = tiny_encoder().state_dict()
    assert IQShuffleNet.checkpoint_options == ()
    assert IQShuffleNet.for_checkpoint(tensors) is IQShuffleNet
    assert IQShuffleNet.convert_checkpoint(tensors, repeats=[1, 1, 1]) == ({"repeats": [1, 1, 1]}, tensors)


def test_the_fingerprint_follows_weights_buffers_and_configuration(encoder: StagedEncoder) -> None:
    first = encoder.fingerprint()
    assert tiny_encoder().fingerprint() == first
    assert tiny_encoder(seed=1).fingerprint() != first
    buffers = dict(encoder.named_buffers())
    mean = next(tensor for name, tensor in buffers.items() if name.endswith("running_mean"))
    mean[0] += 1e-3
    second = encoder.fingerprint()
    assert second != first
    encoder.config = encoder.config | {"more": 1}
    assert encoder.fingerprint() != second


def test_the_fingerprint_does_not_depend_on_the_memory_layout(encoder: StagedEncoder) -> None:
    first = encoder.fingerprint()
    assert encoder.to(memory_format=torch.contiguous_format).fingerprint() == first
