"""LWM 1.0: the published weights restore masked channels, and the network follows its formulas."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from offramp.encoders.check import check_encoder
from offramp.encoders.lwm import LWM
from offramp.encoders.registry import load_encoder
from offramp.errors import EncoderError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CHECKPOINT, CHANNELS = DATA / "lwm-v1.0.pth", DATA / "deepmimo-lwm.h5"
CITIES = ["city_12_fortworth", "city_18_denver", "city_19_oklahoma"]
UNUSED = (".enc_self_attn.norm.alpha", ".enc_self_attn.norm.bias", ".pos_ffn.norm.alpha", ".pos_ffn.norm.bias")

needs_checkpoint = pytest.mark.skipif(not CHECKPOINT.is_file(), reason="needs ../shared/data/lwm-v1.0.pth")
needs_channels = pytest.mark.skipif(not CHANNELS.is_file(), reason="needs ../shared/data/deepmimo-lwm.h5")


@cache
def channels(city: str, count: int = 200) -> Tensor:
    with h5py.File(CHANNELS) as file:
        rows = np.flatnonzero(file["scenario"][:] == city.encode())
        rows = np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
        return torch.from_numpy(file["sample"][rows].astype(np.float32))


@cache
def encoder(weights: str) -> LWM:
    loaded = (
        load_encoder("lwm", weights="random") if weights == "random" else load_encoder("lwm", checkpoint=CHECKPOINT)
    )
    assert isinstance(loaded, LWM)
    return loaded.eval()


def masked_nmse(network: LWM, x: Tensor) -> float:
    """Energy of the error over energy of the signal, on masked patches alone: 9 of 64 pairs, drawn anew per channel."""
    masked = torch.rand(len(x), 64, generator=torch.Generator().manual_seed(0)).argsort(1) < 9
    hidden = torch.cat([masked, masked], dim=1)
    assert (hidden.sum(1) == 18).all()
    with torch.no_grad():
        restored = network.reconstruct(x, masked).reshape(len(x), 128, 16)[hidden]
    true = x.reshape(len(x), 128, 16)[hidden]
    return float((restored - true).square().sum() / true.square().sum())


@needs_checkpoint
@needs_channels
@pytest.mark.parametrize("city", CITIES)
def test_published_weights_restore_masked_patches(city: str) -> None:
    assert masked_nmse(encoder("published"), channels(city)) < 0.2


@needs_channels
@pytest.mark.parametrize("city", CITIES)
def test_random_weights_restore_nothing(city: str) -> None:
    assert masked_nmse(encoder("random"), channels(city)[:60]) == pytest.approx(1, abs=0.2)


@needs_checkpoint
@needs_channels
def test_masked_patches_are_hidden_from_the_network() -> None:
    x = channels(CITIES[0], 4)
    masked = torch.zeros(4, 64, dtype=torch.bool)
    masked[:, 5] = True
    changed = x.reshape(4, 128, 16).clone()
    changed[:, [5, 5 + 64]] += 3
    with torch.no_grad():
        same = encoder("published").reconstruct(changed.reshape(x.shape), masked)
        assert torch.equal(same, encoder("published").reconstruct(x, masked))
        assert not torch.equal(same, encoder("published").reconstruct(x, ~masked))


@needs_checkpoint
def test_the_checkpoint_is_read_to_the_last_parameter() -> None:
    stored = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
    assert sum(t.numel() for t in stored.values()) == 603_712
    unused = sum(t.numel() for name, t in stored.items() if name.endswith(UNUSED))
    assert unused == 12 * 2 * 2 * 64
    assert sum(p.numel() for p in encoder("published").parameters()) == 603_712 - unused
    values = torch.cat([t.flatten() for name, t in stored.items() if not name.endswith(UNUSED)]).sort().values
    assert torch.equal(
        values, torch.cat([p.detach().flatten() for p in encoder("published").parameters()]).sort().values
    )


def test_exits_widths_and_tokens() -> None:
    network = encoder("random")
    assert [e.name for e in network.exits] == ["embedding", *(f"layer{i}" for i in range(1, 13))]
    assert {e.width for e in network.exits} == {128}
    # By hand: projection, positions, norm; then attention, its norm and the feed-forward part, per layer.
    embedding = 16 * 64 + 64 + 129 * 64 + 2 * 64
    layer = 3 * (64 * 60 + 60) + 60 * 64 + 64 + 2 * 64 + 64 * 256 + 256 + 256 * 64 + 64
    assert [e.params for e in network.exits] == [embedding + i * layer for i in range(13)]
    x = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert network.taps(x, ["layer1"], pooling="tokens")["layer1"].shape == (2, 129, 64)
    with pytest.raises(EncoderError, match="unknown pooling 'cls'"):
        network.taps(x, ["embedding"], pooling="cls")


def test_a_truncated_network_leaves_the_pretraining_head_behind() -> None:
    network = encoder("random").truncate("layer2")
    assert sum(p.numel() for p in network.parameters()) == encoder("random").exits[2].params
    assert hasattr(encoder("random"), "masked_patch_head")


# An independent straight implementation, from the formulas in ../shared/data/README.md and the published names.

SMALL = {"layers": 2, "width": 24, "inner": 24, "heads": 12, "hidden": 10}


def published_names(seed: int) -> dict[str, np.ndarray]:
    """A small state dict under the names of the published one, all values random, unused norms included."""
    rng = np.random.default_rng(seed)
    width, inner, hidden = SMALL["width"], SMALL["inner"], SMALL["hidden"]
    shapes = {"embedding.proj.weight": (width, 16), "embedding.proj.bias": (width,)}
    shapes |= {"embedding.pos_embed.weight": (129, width)}
    norms = ["embedding.norm", "norm"]
    for i in range(SMALL["layers"]):
        layer = f"layers.{i}."
        for name in ("W_Q", "W_K", "W_V"):
            shapes |= {
                f"{layer}enc_self_attn.{name}.weight": (inner, width),
                f"{layer}enc_self_attn.{name}.bias": (inner,),
            }
        shapes |= {f"{layer}enc_self_attn.linear.weight": (width, inner), f"{layer}enc_self_attn.linear.bias": (width,)}
        shapes |= {f"{layer}pos_ffn.fc1.weight": (hidden, width), f"{layer}pos_ffn.fc1.bias": (hidden,)}
        shapes |= {f"{layer}pos_ffn.fc2.weight": (width, hidden), f"{layer}pos_ffn.fc2.bias": (width,)}
        norms += [f"{layer}norm", f"{layer}enc_self_attn.norm", f"{layer}pos_ffn.norm"]
    shapes |= {"linear.weight": (width, width), "linear.bias": (width,)}
    shapes |= {"decoder.weight": (16, width), "decoder_bias": (16,)}
    for norm in norms:
        shapes |= {f"{norm}.alpha": (width,), f"{norm}.bias": (width,)}
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


class Reference:
    """LWM in numpy, float64, one channel at a time, one head at a time."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
        return self.w[f"{name}.alpha"] * (x - mean) / (std + 1e-6) + self.w[f"{name}.bias"]

    def attention(self, name: str, x: np.ndarray) -> np.ndarray:
        query, key, value = (self.linear(f"{name}.{part}", x) for part in ("W_Q", "W_K", "W_V"))
        width = SMALL["inner"] // SMALL["heads"]
        mixed = []
        for head in range(SMALL["heads"]):
            part = slice(head * width, (head + 1) * width)
            scores = np.exp(query[:, part] @ key[:, part].T / np.sqrt(width))
            mixed.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
        return self.linear(f"{name}.linear", np.concatenate(mixed, axis=1))

    def tokens(self, channel: np.ndarray, masked: tuple[int, ...] = ()) -> list[np.ndarray]:
        """Tokens after the embedding and after each layer of one channel ``(2, 32, 32)``."""
        real, imaginary = (channel[part].flatten().reshape(64, 16).astype(np.float64) for part in (0, 1))
        for pair in masked:
            real[pair], imaginary[pair] = 0.1, 0.1
        patches = np.concatenate([np.full((1, 16), 0.2), real, imaginary])
        x = self.linear("embedding.proj", patches) + self.w["embedding.pos_embed.weight"]
        out = [self.norm("embedding.norm", x)]
        for i in range(SMALL["layers"]):
            a = self.norm(f"layers.{i}.norm", out[-1] + self.attention(f"layers.{i}.enc_self_attn", out[-1]))
            hidden = np.maximum(self.linear(f"layers.{i}.pos_ffn.fc1", a), 0)
            out.append(a + self.linear(f"layers.{i}.pos_ffn.fc2", hidden))
        return out

    def restored(self, channel: np.ndarray, masked: tuple[int, ...]) -> np.ndarray:
        last = self.norm("norm", np.maximum(self.linear("linear", self.tokens(channel, masked)[-1]), 0))
        patches = last[1:] @ self.w["decoder.weight"].T + self.w["decoder_bias"]
        return np.stack([patches[:64].reshape(32, 32), patches[64:].reshape(32, 32)])


@pytest.fixture
def small(tmp_path: Path) -> tuple[Reference, LWM]:
    weights = published_names(seed=3)
    path = tmp_path / "small.pth"
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, path)
    network = load_encoder("lwm", checkpoint=path)
    assert isinstance(network, LWM)
    return Reference(weights), network.eval()


def test_the_encoder_follows_its_formulas(small: tuple[Reference, LWM]) -> None:
    reference, network = small
    x = np.random.default_rng(0).normal(size=(3, 2, 32, 32)).astype(np.float32)
    with torch.no_grad():
        tokens = network.taps(torch.from_numpy(x), pooling="tokens")
        taps = network.taps(torch.from_numpy(x))
    for index, channel in enumerate(x):
        for (name, ours), expected in zip(tokens.items(), reference.tokens(channel), strict=True):
            np.testing.assert_allclose(ours[index], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)
            parts = (expected[0], expected[1:].mean(0))
            pooled = np.concatenate([(part - part.mean()) / np.sqrt(part.var() + 1e-5) for part in parts])
            np.testing.assert_allclose(taps[name][index], pooled, rtol=0, atol=5e-5, err_msg=name)


def test_reconstruction_follows_its_formulas(small: tuple[Reference, LWM]) -> None:
    reference, network = small
    x = np.random.default_rng(1).normal(size=(1, 2, 32, 32)).astype(np.float32)
    masked = torch.zeros(1, 64, dtype=torch.bool)
    masked[0, [0, 7, 63]] = True
    with torch.no_grad():
        ours = network.reconstruct(torch.from_numpy(x), masked)[0]
    expected = reference.restored(x[0], (0, 7, 63))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_checkpoint_saved_from_data_parallel_is_read(tmp_path: Path) -> None:
    weights = published_names(seed=3)
    path = tmp_path / "parallel.pth"
    torch.save({f"module.{name}": torch.from_numpy(value) for name, value in weights.items()}, path)
    assert load_encoder("lwm", checkpoint=path).config["layers"] == SMALL["layers"]


@pytest.mark.parametrize("lost", ["embedding.proj.weight", "layers.0.enc_self_attn.W_Q.weight"])
def test_a_checkpoint_without_the_marks_of_lwm_is_refused(lost: str) -> None:
    tensors = {name: torch.from_numpy(value) for name, value in published_names(0).items() if name != lost}
    with pytest.raises(EncoderError, match=f"not an LWM 1.0 checkpoint: it lacks {lost}; it has"):
        LWM.convert_checkpoint(tensors)


@pytest.mark.parametrize("extra", ["layers.norm.weight", "layers.1", "adapter.weight"])
def test_left_over_names_are_one_line(tmp_path: Path, extra: str) -> None:
    weights = published_names(0) | {extra: np.zeros(2, dtype=np.float32)}
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, tmp_path / "more.pth")
    with pytest.raises(EncoderError, match=rf"more\.pth does not fit lwm: \S*{extra} is unknown"):
        load_encoder("lwm", checkpoint=tmp_path / "more.pth")


def test_the_contract_holds() -> None:
    check_encoder(LWM(layers=2, width=24, hidden=10))


def test_no_channels_give_no_taps() -> None:
    with torch.no_grad():
        assert LWM(layers=1).taps(torch.zeros(0, 2, 32, 32))["layer1"].shape == (0, 128)


def test_another_channel_size_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"\(N, 2, 16, 32\) does not fit.*\(N, 2, 32, 32\)"):
        encoder("random").taps(torch.zeros(1, 2, 16, 32))
