"""LWM 1.1: its tokens and layers against a plain reference, channels of any size, and how its checkpoints are told apart."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offramp.encoders.check import check_encoder
from offramp.encoders.lwm import LWM, LWM11, square_patches
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import save_encoder
from offramp.errors import EncoderError

WIDTH, HEADS, HIDDEN, LAYERS = 24, 8, 10, 2


def published_names(seed: int = 0, positions: int = 513) -> dict[str, np.ndarray]:
    """A small state dict under the published names, all values random."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.proj.weight": (WIDTH, 32),
        "embedding.proj.bias": (WIDTH,),
        "embedding.pos_embed.weight": (positions, WIDTH),
    }
    norms = ["embedding.norm", "norm"]
    for i in range(LAYERS):
        for part in ("W_Q", "W_K", "W_V", "linear"):
            shapes |= {f"layers.{i}.enc_self_attn.{part}.weight": (WIDTH, WIDTH)}
            shapes |= {f"layers.{i}.enc_self_attn.{part}.bias": (WIDTH,)}
        shapes |= {f"layers.{i}.pos_ffn.fc1.weight": (HIDDEN, WIDTH), f"layers.{i}.pos_ffn.fc1.bias": (HIDDEN,)}
        shapes |= {f"layers.{i}.pos_ffn.fc2.weight": (WIDTH, HIDDEN), f"layers.{i}.pos_ffn.fc2.bias": (WIDTH,)}
        norms += [f"layers.{i}.norm1", f"layers.{i}.norm2"]
    shapes |= {"linear.weight": (WIDTH, WIDTH), "linear.bias": (WIDTH,)}
    shapes |= {"decoder.weight": (32, WIDTH), "decoder_bias": (32,)}
    for norm in norms:
        shapes |= {f"{norm}.alpha": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def patches_of(channel: np.ndarray) -> np.ndarray:
    """Patches ``(patches, 32)`` of one channel ``(2, antennas, subcarriers)``, value by value.

    Real and imaginary parts alternate along a row; what lies outside the channel is zero.
    """
    _, antennas, subcarriers = channel.shape
    patches = []
    for top in range(0, antennas, 4):
        for left in range(0, subcarriers, 4):
            values = []
            for antenna in range(top, top + 4):
                for subcarrier in range(left, left + 4):
                    inside = antenna < antennas and subcarrier < subcarriers
                    values += [channel[part, antenna, subcarrier] if inside else 0.0 for part in (0, 1)]
            patches.append(values)
    return np.array(patches, dtype=np.float64)


class Reference:
    """LWM 1.1 in numpy, float64, one channel at a time, one head at a time."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
        return self.w[f"{name}.alpha"] * (x - mean) / (std + 1e-6) + self.w[f"{name}.bias"]

    def attention(self, name: str, x: np.ndarray) -> np.ndarray:
        query, key, value = (self.linear(f"{name}.{part}", x) for part in ("W_Q", "W_K", "W_V"))
        width, mixed = WIDTH // HEADS, []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            scores = np.exp(query[:, part] @ key[:, part].T / np.sqrt(width))
            mixed.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
        return self.linear(f"{name}.linear", np.concatenate(mixed, axis=1))

    def tokens(self, channel: np.ndarray, masked: tuple[int, ...] = ()) -> list[np.ndarray]:
        """Tokens after the embedding and after each layer, CLS first."""
        patches = patches_of(channel)
        patches[list(masked)] = 0.1
        sequence = np.concatenate([np.full((1, 32), 0.2), patches])
        x = self.linear("embedding.proj", sequence) + self.w["embedding.pos_embed.weight"][: len(sequence)]
        out = [self.norm("embedding.norm", x)]
        for i in range(LAYERS):
            attended = out[-1] + self.attention(f"layers.{i}.enc_self_attn", out[-1])
            a = self.norm(f"layers.{i}.norm1", out[-1] + attended)  # the input is added twice
            hidden = np.maximum(self.linear(f"layers.{i}.pos_ffn.fc1", a), 0)
            out.append(self.norm(f"layers.{i}.norm2", a + self.linear(f"layers.{i}.pos_ffn.fc2", hidden)))
        return out

    def restored(self, channel: np.ndarray, masked: tuple[int, ...]) -> np.ndarray:
        last = self.norm("norm", np.maximum(self.linear("linear", self.tokens(channel, masked)[-1]), 0))
        return last[1:] @ self.w["decoder.weight"].T + self.w["decoder_bias"]


def checkpoint(folder: Path, weights: dict[str, np.ndarray], prefix: str = "") -> Path:
    path = folder / "lwm-1.1.pth"
    torch.save({prefix + name: torch.from_numpy(value) for name, value in weights.items()}, path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> tuple[Reference, LWM11]:
    """The reference and the encoder that the name ``lwm`` gives for a checkpoint of 1.1."""
    weights = published_names(seed=3)
    network = load_encoder("lwm", checkpoint=checkpoint(tmp_path, weights))
    assert isinstance(network, LWM11)
    return Reference(weights), network.eval()


def channel(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(antennas=st.integers(1, 13), subcarriers=st.integers(1, 13))
def test_patches_are_squares_of_a_padded_channel_with_alternating_parts(antennas: int, subcarriers: int) -> None:
    x = channel(antennas, subcarriers)
    ours = square_patches(torch.from_numpy(x)[None])[0]
    assert ours.shape == (math.ceil(antennas / 4) * math.ceil(subcarriers / 4), 32)
    assert np.array_equal(ours.numpy(), patches_of(x).astype(np.float32))


@pytest.mark.parametrize("shape", [(8, 12), (32, 32), (5, 3), (1, 1), (9, 130)])
def test_every_exit_follows_the_formulas(small: tuple[Reference, LWM11], shape: tuple[int, int]) -> None:
    reference, network = small
    x = channel(*shape)
    with torch.no_grad():
        tokens = network.taps(torch.from_numpy(x)[None], pooling="tokens")
        taps = network.taps(torch.from_numpy(x)[None])
    for (name, ours), expected in zip(tokens.items(), reference.tokens(x), strict=True):
        np.testing.assert_allclose(ours[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)
        parts = (expected[0], expected[1:].mean(0))
        pooled = np.concatenate([(part - part.mean()) / np.sqrt(part.var() + 1e-5) for part in parts])
        np.testing.assert_allclose(taps[name][0], pooled, rtol=0, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("masked", [(0,), (1, 4, 5), tuple(range(6))])
def test_masked_patches_are_restored_by_the_formulas(small: tuple[Reference, LWM11], masked: tuple[int, ...]) -> None:
    reference, network = small
    x, hidden = channel(7, 12), torch.zeros(1, 6, dtype=torch.bool)
    hidden[0, list(masked)] = True
    with torch.no_grad():
        ours = network.reconstruct(torch.from_numpy(x)[None], hidden)
    expected = reference.restored(x, masked)
    assert ours.shape == (1, 6, 32)
    np.testing.assert_allclose(ours[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_masked_patches_are_hidden_from_the_network(small: tuple[Reference, LWM11]) -> None:
    network, x = small[1], torch.from_numpy(channel(8, 12))[None]
    masked = torch.zeros(1, 6, dtype=torch.bool)
    masked[0, 4] = True  # the second row's second patch
    changed = x.clone()
    changed[:, :, 4:, 4:8] += 3
    with torch.no_grad():
        assert torch.equal(network.reconstruct(changed, masked), network.reconstruct(x, masked))
        assert not torch.equal(network.reconstruct(changed, ~masked), network.reconstruct(x, ~masked))


@pytest.mark.parametrize("shape", [(1, 1), (6, 7), (4, 96)])
def test_the_contract_holds_for_channels_of_any_size(shape: tuple[int, int]) -> None:
    check_encoder(LWM11(layers=2, width=WIDTH, hidden=HIDDEN), (2, *shape))


def test_published_size_exits_and_parameters() -> None:
    network = load_encoder("lwm-1.1", weights="random")
    assert [e.name for e in network.exits] == ["embedding", *(f"layer{i}" for i in range(1, 13))]
    assert {e.width for e in network.exits} == {256}
    # By hand: projection, positions, norm; then attention, feed-forward part and two norms, per layer.
    embedding = 32 * 128 + 128 + 513 * 128 + 2 * 128
    layer = 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 2 * 2 * 128
    assert [e.params for e in network.exits] == [embedding + i * layer for i in range(13)]
    head = (128 * 128 + 128) + 2 * 128 + (128 * 32 + 32)
    assert sum(p.numel() for p in network.parameters()) == embedding + 12 * layer + head == 2_470_304


@pytest.mark.parametrize("shape", [(32, 256), (128, 64), (1, 2048), (2047, 3), (61, 125)])
def test_channels_of_up_to_512_patches_are_taken(shape: tuple[int, int]) -> None:
    network = LWM11(layers=1, width=8, hidden=8).eval()
    with torch.no_grad():
        assert network.taps(torch.zeros(1, 2, *shape), pooling="tokens")["layer1"].shape == (1, 513, 8)


@pytest.mark.parametrize("shape", [(33, 256), (128, 65), (1, 2049), (0, 4)])
def test_larger_and_empty_channels_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(EncoderError) as caught:
        LWM11(layers=1, width=8, hidden=8).taps(torch.zeros(1, 2, *shape))
    given_shape = ", ".join(map(str, shape))
    assert str(caught.value) == (
        f"input of shape (N, 2, {given_shape}) does not fit: this encoder takes "
        "(N, 2, antennas >= 1, subcarriers >= 1) with at most 512 patches of 4 x 4"
    )


def test_a_checkpoint_with_fewer_positions_takes_fewer_patches(tmp_path: Path) -> None:
    network = load_encoder("lwm", checkpoint=checkpoint(tmp_path, published_names(positions=7)))
    assert network.taps(torch.zeros(1, 2, 8, 12))["embedding"].shape == (1, 2 * WIDTH)
    with pytest.raises(EncoderError, match="with at most 6 patches of 4 x 4"):
        network.taps(torch.zeros(1, 2, 8, 13))


def test_no_channels_give_no_taps() -> None:
    with torch.no_grad():
        assert LWM11(layers=1, width=8, hidden=8).taps(torch.zeros(0, 2, 8, 8))["layer1"].shape == (0, 16)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_names_read_the_checkpoint(tmp_path: Path, prefix: str) -> None:
    path = checkpoint(tmp_path, published_names(), prefix)
    by_version, by_family = load_encoder("lwm-1.1", checkpoint=path), load_encoder("lwm", checkpoint=path)
    assert type(by_version) is type(by_family) is LWM11
    assert by_version.fingerprint() == by_family.fingerprint()
    assert by_version.config == {"layers": 2, "width": WIDTH, "heads": HEADS, "hidden": HIDDEN, "positions": 513}
    save_encoder(by_version, tmp_path / "saved")
    assert load_encoder(tmp_path / "saved").fingerprint() == by_version.fingerprint()


def tensors(weights: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in weights.items()}


def test_the_second_norm_tells_the_versions_apart() -> None:
    newer = tensors(published_names())
    older = {name: tensor for name, tensor in newer.items() if ".norm2." not in name}
    assert LWM.for_checkpoint(newer) is LWM.for_checkpoint({f"module.{n}": t for n, t in newer.items()}) is LWM11
    assert LWM.for_checkpoint(older) is LWM
    assert LWM.for_checkpoint({}) is LWM


@pytest.mark.parametrize("lost", ["embedding.proj.weight", "embedding.pos_embed.weight"])
def test_a_checkpoint_without_the_marks_of_lwm_is_refused(lost: str) -> None:
    weights = {name: tensor for name, tensor in tensors(published_names()).items() if name != lost}
    with pytest.raises(EncoderError, match=f"not an LWM 1.1 checkpoint: it lacks {lost}; it has"):
        LWM11.convert_checkpoint(weights)


def test_heads_that_do_not_divide_the_attention_are_refused() -> None:
    weights = tensors(published_names()) | {"layers.0.enc_self_attn.W_Q.weight": torch.zeros(20, WIDTH)}
    with pytest.raises(EncoderError, match="attention of inner width 20 does not split into 8 heads"):
        LWM11.convert_checkpoint(weights)


@pytest.mark.parametrize(
    "extra", ["layers.norm.weight", "layers.1", "layers.x.fc1.bias", "embedding", "adapter.weight"]
)
def test_left_over_names_are_one_line(tmp_path: Path, extra: str) -> None:
    path = checkpoint(tmp_path, published_names() | {extra: np.zeros(2, dtype=np.float32)})
    with pytest.raises(EncoderError) as caught:
        load_encoder("lwm", checkpoint=path)
    assert extra in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["embedding.proj.weight", "embedding.pos_embed.weight", "layers.0.pos_ffn.fc1.weight"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 0), (2, 3, 4)])
def test_tensors_whose_sizes_cannot_be_read_are_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    path = checkpoint(tmp_path, published_names() | {name: np.zeros(shape, dtype=np.float32)})
    message = re.escape(f"not an LWM 1.1 checkpoint: it has {name} of shape {shape}")
    with pytest.raises(EncoderError, match=message):
        load_encoder("lwm", checkpoint=path)
