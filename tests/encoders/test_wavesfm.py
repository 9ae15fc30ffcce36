"""WavesFM: every exit against a plain reference, the tokens' limits, and what its checkpoints may and may not hold."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wavesfm_reference import Reference, Weights, published_state, signal_tokens

from offramp.encoders.check import check_encoder
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import save_encoder
from offramp.encoders.wavesfm import HEADS, TOKEN_CAP, WavesFM
from offramp.errors import EncoderError


def tensors(state: Weights) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in state.items()}


def load(folder: Path, state: Weights | dict[str, Tensor], **options: str) -> WavesFM:
    """The encoder of a checkpoint file."""
    path = folder / "wavesfm.pth"
    torch.save({"model": {name: torch.as_tensor(value) for name, value in state.items()}}, path)
    encoder = load_encoder("wavesfm", checkpoint=path, **options)
    assert isinstance(encoder, WavesFM)
    return encoder.eval()


def refused(folder: Path, state: Weights | dict[str, Tensor], **options: str) -> str:
    with pytest.raises(EncoderError) as caught:
        load(folder, state, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@cache
def random_iq() -> WavesFM:
    encoder = load_encoder("wavesfm", weights="random", depth=2, hidden=64)
    assert isinstance(encoder, WavesFM)
    return encoder.eval()


@cache
def random_vision() -> WavesFM:
    encoder = load_encoder("wavesfm", weights="random", modality="vision", depth=2, hidden=64)
    assert isinstance(encoder, WavesFM)
    return encoder.eval()


def assert_follows(encoder: WavesFM, reference: Reference, windows: np.ndarray, pool: str) -> None:
    """Taps, tokens and states of all exits, window by window."""
    x = torch.from_numpy(windows)
    with torch.no_grad():
        taps, tokens, states = encoder.taps(x), encoder.taps(x, pooling="tokens"), encoder.states(x)
    for index, window in enumerate(windows):
        for exit, expected in zip(encoder.exits, reference.states(window.astype(np.float64)), strict=True):
            where = f"{exit.name}, window {index}"
            close = {"rtol": 0, "atol": 1e-5, "err_msg": where}
            np.testing.assert_allclose(states[exit.name][index], expected, **close)
            np.testing.assert_allclose(tokens[exit.name][index], reference.norm("norm", expected, 1e-6), **close)
            np.testing.assert_allclose(taps[exit.name][index], reference.pooled(expected, pool), **close)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_every_exit_follows_the_formulas_on_signals(tmp_path: Path, pool: str, film: bool, lora: bool) -> None:
    state = published_state("iq", film=film, lora=lora)
    encoder, reference = load(tmp_path, state, pool=pool), Reference(state, "iq")
    assert encoder.config["film"] is film
    for antennas, time in ((1, 16), (1, 17), (3, 95), (8, 40)):
        assert_follows(encoder, reference, noise(2, 2, antennas, time), pool)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("channels", [None, 3])
def test_every_exit_follows_the_formulas_on_images(
    tmp_path: Path, pool: str, film: bool, lora: bool, channels: int | None
) -> None:
    state = published_state("vision", film=film, lora=lora, channels=channels)
    encoder, reference = load(tmp_path, state, pool=pool), Reference(state, "vision")
    for height, width in ((16, 16), (32, 48), (64, 16)):
        assert_follows(encoder, reference, noise(2, channels or 1, height, width), pool)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_tokens_of_little_variance_show_the_epsilon_of_every_norm(tmp_path: Path, pool: str) -> None:
    state = published_state("iq", film=True)
    for name, value in state.items():
        if name.startswith("mod_ln_") or ".attn.proj." in name or ".mlp.fc2." in name:
            value *= 2e-3
    encoder, reference = load(tmp_path, state, pool=pool), Reference(state, "iq")
    assert np.var(reference.states(noise(2, 1, 64))[-1], axis=1).mean() < 2e-5
    assert_follows(encoder, reference, noise(1, 2, 1, 64), pool)


def test_channels_without_an_adapter_are_averaged_as_a_new_adapter_would(tmp_path: Path) -> None:
    state = published_state("vision")
    adapter = {"channel_adapter.weight": np.full((1, 4, 1, 1), 0.25, dtype=np.float32)}
    x = torch.from_numpy(noise(2, 4, 32, 32))
    with torch.no_grad():
        without, stored = load(tmp_path, state).taps(x), load(tmp_path, state | adapter).taps(x)
    for name, tap in without.items():
        torch.testing.assert_close(tap, stored[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "heads", "cap", "antennas"), [(128, 4, 1024, 8), (128, 4, 1024, 3), (768, 12, 256, 7)]
)
def test_tokens_behind_the_cap_are_left_out(tmp_path: Path, width: int, heads: int, cap: int, antennas: int) -> None:
    state = published_state("iq", depth=1, width=width)
    encoder, segments = load(tmp_path, state, pool="mean"), cap // antennas
    x = noise(1, 2, antennas, 16 * segments + 5)
    with torch.no_grad():
        tap = encoder.taps(torch.from_numpy(x))["block1"]
        assert encoder.begin(torch.from_numpy(x))[0].shape == (1, 1 + segments * antennas, width)
        changed = x.copy()
        changed[..., 16 * segments :] += 1
        assert torch.equal(encoder.taps(torch.from_numpy(changed))["block1"], tap)
        changed[..., 16 * segments - 1] += 1
        assert not torch.equal(encoder.taps(torch.from_numpy(changed))["block1"], tap)
    reference = Reference(state, "iq", heads, cap)
    np.testing.assert_allclose(tap[0], reference.pooled(reference.states(x[0])[0], "mean"), rtol=0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(antennas=st.integers(1, 8), time=st.integers(16, 5000))
def test_as_many_tokens_as_whole_segments_fit(antennas: int, time: int) -> None:
    with torch.no_grad():
        tokens, counted = random_iq().begin(torch.zeros(1, 2, antennas, time))
    segments = min(math.ceil(time / 16), 1024 // antennas)
    assert tokens.shape == (1, 1 + segments * antennas, 128)
    assert counted.shape == (1, segments * antennas)
    assert counted.all()


@pytest.mark.parametrize("time", [48, 43, 5000])
def test_only_segments_with_signal_are_averaged(tmp_path: Path, time: int) -> None:
    state = published_state("iq", depth=1)
    encoder, reference = load(tmp_path, state, pool="mean"), Reference(state, "iq")
    x, mask = noise(3, 2, 4, time), np.ones((3, time), dtype=bool)
    mask[0, 16:] = False  # the first segment alone
    mask[1, :15], mask[1, 16:] = False, False  # one sample of it
    mask[2, 16:32] = False  # a hole
    with torch.no_grad():
        begun = encoder.begin(torch.from_numpy(x), torch.from_numpy(mask))
        taps = encoder.pool(0, encoder.advance(0, begun))
    for index in range(3):
        expected = reference.pooled(reference.states(x[index])[0], "mean", signal_tokens(mask[index], 4))
        np.testing.assert_allclose(taps[index], expected, rtol=0, atol=1e-5)


def test_a_block_is_the_model_trimmed_to_it(tmp_path: Path) -> None:
    state = published_state("iq", depth=3, film=True)
    x = torch.from_numpy(noise(2, 2, 2, 64))
    with torch.no_grad():
        taps = load(tmp_path, state).taps(x)
        for kept in (1, 2, 3):
            trimmed = {
                name: value
                for name, value in state.items()
                if not name.startswith("blocks.") or int(name.split(".")[1]) < kept
            }
            encoder = load(tmp_path, trimmed)
            assert [exit.name for exit in encoder.exits] == [f"block{i + 1}" for i in range(kept)]
            assert torch.equal(encoder.taps(x)[f"block{kept}"], taps[f"block{kept}"])


@pytest.mark.parametrize(("width", "depth", "antennas"), [(128, 4, 8), (256, 8, 16), (512, 12, 32), (768, 12, 32)])
def test_published_sizes(width: int, depth: int, antennas: int) -> None:
    with torch.device("meta"):
        encoder = WavesFM("iq", width, depth, antennas=antennas)
    assert encoder.config["heads"] == {128: 4, 256: 8, 512: 8, 768: 12}[width] == HEADS[width]
    assert encoder.token_cap == {128: 1024, 256: 1024, 512: 1024, 768: 256}[width] == TOKEN_CAP.get(width, 1024)
    # By hand: CLS, segments, antennas, final norm; then attention, feed-forward part and two norms, per block.
    common = width + (2 * 16 * width + width) + antennas * width + 2 * width
    block = 3 * (width * width + width) + (width * width + width) + (8 * width * width + 5 * width) + 4 * width
    assert [exit.params for exit in encoder.exits] == [common + (i + 1) * block for i in range(depth)]
    assert {exit.width for exit in encoder.exits} == {width}


@pytest.mark.parametrize("shape", [(2, 1, 16), (2, 3, 50), (2, 8, 128)])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_contract_holds_for_signals(shape: tuple[int, ...], pool: str) -> None:
    check_encoder(WavesFM(depth=2, hidden=64, pool=pool, film=True).eval(), shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "shape"), [(None, (1, 32, 32)), (None, (3, 16, 48)), (2, (2, 48, 16))])
def test_the_contract_holds_for_images(channels: int | None, shape: tuple[int, ...]) -> None:
    check_encoder(WavesFM("vision", depth=2, hidden=64, channels=channels), shape)


def test_no_windows_give_no_taps() -> None:
    with torch.no_grad():
        assert random_iq().taps(torch.zeros(0, 2, 2, 32))["block2"].shape == (0, 128)
        assert random_vision().taps(torch.zeros(0, 1, 16, 32))["block2"].shape == (0, 128)


def test_an_encoder_folder_gives_back_the_encoder(tmp_path: Path) -> None:
    encoder = load(tmp_path, published_state("vision", film=True, lora=True, channels=2), pool="mean")
    save_encoder(encoder, tmp_path / "saved")
    loaded = load_encoder(tmp_path / "saved")
    assert loaded.fingerprint() == encoder.fingerprint()
    assert loaded.input == encoder.input


def test_a_training_checkpoint_is_read_whole_or_bare_or_from_data_parallel(tmp_path: Path) -> None:
    state = tensors(published_state("iq"))
    fingerprint = load(tmp_path, state).fingerprint()
    path = tmp_path / "other.pth"
    whole = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 3,
        "args": {"lr": None},
    }
    for content in (state, whole, {f"module.{name}": tensor for name, tensor in state.items()}):
        torch.save(content, path)
        assert load_encoder("wavesfm", checkpoint=path).fingerprint() == fingerprint


def test_what_belongs_to_a_task_or_to_pretraining_is_dropped(tmp_path: Path) -> None:
    state = tensors(published_state("iq"))
    more = {
        "head.0.weight": torch.zeros(3, 128),
        "mask_token": torch.zeros(1, 1, 128),
        "decoder_blocks.0.norm1.weight": torch.zeros(64),
        "iq_time_pos_embed": torch.zeros(1, 1025, 128),
    }
    assert load(tmp_path, state | more).fingerprint() == load(tmp_path, state).fingerprint()


def test_of_two_modalities_one_is_chosen_with_its_own_scale_and_shift(tmp_path: Path) -> None:
    iq, vision = published_state("iq", film=True), published_state("vision", film=True)
    both = iq | vision
    assert refused(tmp_path, both) == "the checkpoint takes I/Q and images: say modality='iq' or modality='vision'"
    encoders = {modality: load(tmp_path, both, modality=modality) for modality in ("iq", "vision")}
    assert_follows(encoders["iq"], Reference(both, "iq"), noise(1, 2, 2, 40), "cls")
    assert_follows(encoders["vision"], Reference(both, "vision"), noise(1, 1, 32, 16), "cls")


def test_another_modality_or_pooling_than_there_is_is_refused(tmp_path: Path) -> None:
    iq = published_state("iq")
    assert "has no vision input, only iq: load it with modality='iq'" in refused(tmp_path, iq, modality="vision")
    assert "modality='csi': wavesfm has 'iq' and 'vision'" in refused(tmp_path, iq, modality="csi")
    assert "pool='max': wavesfm has 'cls' and 'mean'" in refused(tmp_path, iq, pool="max")
    with pytest.raises(EncoderError, match=r"depth: constructor arguments.*takes modality, pool"):
        load_encoder("wavesfm", checkpoint=tmp_path / "wavesfm.pth", depth=2)
    with pytest.raises(EncoderError, match="unknown pooling 'mean': wavesfm has default, tokens"):
        random_iq().taps(torch.zeros(1, 2, 1, 16), pooling="mean")


@pytest.mark.parametrize(
    "lost",
    [
        "cls_token",
        "norm.bias",
        "iq_ant_embed.weight",
        "iq_segment_embed.bias",
        "blocks.0.mlp.fc1.weight",
        "blocks.1.norm2.bias",
        "blocks.0.attn.qkv.weight",
    ],
)
def test_what_is_missing_is_named_as_the_checkpoint_would_name_it(tmp_path: Path, lost: str) -> None:
    state = {name: value for name, value in published_state("iq").items() if name != lost}
    assert f"it lacks {lost}" in refused(tmp_path, state)


def test_a_missing_block_is_named_and_not_closed_up(tmp_path: Path) -> None:
    state = published_state("iq", depth=3)
    holed = {name: value for name, value in state.items() if not name.startswith("blocks.1.")}
    message = refused(tmp_path, holed)
    assert "it lacks blocks.1.norm1.weight, blocks.1.norm1.bias, blocks.1.attn.qkv.weight and 9 more" in message


@pytest.mark.parametrize("extra", ["blocks.0.ls1.gamma", "iq_downsampler.0.weight", "adapter.weight", "blocks"])
def test_what_is_left_over_is_named_as_the_checkpoint_names_it(tmp_path: Path, extra: str) -> None:
    state = published_state("iq") | {extra: np.zeros(3, dtype=np.float32)}
    assert f"left over: {extra}" in refused(tmp_path, state)


@pytest.mark.parametrize("part", ["lora_q.A", "lora_v.B"])
def test_low_rank_factors_come_in_pairs_that_fit(tmp_path: Path, part: str) -> None:
    state, name = published_state("iq", lora=True), f"blocks.1.attn.qkv.{part}"
    message = rf"it lacks blocks.1.attn.qkv.{part[:6]}.A and B that fit blocks.1.attn.qkv.qkv.weight"
    assert message in refused(tmp_path, {key: value for key, value in state.items() if key != name})
    for shape in ((3, 5), (128,), (), (128, 0)):
        assert message in refused(tmp_path, state | {name: np.zeros(shape, dtype=np.float32)})
    stem, empty = name[:-1], np.zeros((128, 0), dtype=np.float32)
    assert message in refused(tmp_path, state | {f"{stem}A": empty, f"{stem}B": empty.T})


@pytest.mark.parametrize("shape", [(), (127,), (2, 1, 128), (1, 128, 0)])
@pytest.mark.parametrize("name", ["cls_token", "blocks.0.mlp.fc1.weight", "iq_segment_embed.weight", "norm.weight"])
def test_a_tensor_of_another_shape_is_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    message = refused(tmp_path, published_state("iq") | {name: np.zeros(shape, dtype=np.float32)})
    assert name in message
    assert str(shape) in message


def test_a_width_without_published_heads_is_refused(tmp_path: Path) -> None:
    message = "wavesfm of width 64 is not published: say heads=, known are widths 128, 256, 512, 768"
    assert message in refused(tmp_path, published_state("iq", width=64))
    with pytest.raises(EncoderError, match="wavesfm of width 64 is not published"):
        load_encoder("wavesfm", weights="random", width=64)
    assert load_encoder("wavesfm", weights="random", width=64, heads=2, depth=1).exits[0].width == 64


@pytest.mark.parametrize(("width", "heads"), [(128, 3), (126, 2), (6, 3)])
def test_a_width_that_does_not_divide_is_refused(width: int, heads: int) -> None:
    with pytest.raises(EncoderError, match=f"width={width}, heads={heads}: .*multiple of"):
        load_encoder("wavesfm", weights="random", width=width, heads=heads)


@pytest.mark.parametrize("shape", [(2, 9, 64), (2, 1, 15), (3, 1, 64), (2, 64)])
def test_signals_it_cannot_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match=r"does not fit.*\(N, 2, antennas >= 1 and <= 8, time >= 16\)"):
        random_iq().taps(torch.zeros(1, *shape))


@pytest.mark.parametrize("shape", [(1, 224, 220), (1, 8, 16), (1, 16, 1040), (0, 16, 16)])
def test_images_it_cannot_take(shape: tuple[int, ...]) -> None:
    sides = "height >= 16 and <= 1024 in steps of 16, width >= 16 and <= 1024 in steps of 16"
    with pytest.raises(EncoderError, match=rf"does not fit.*\(N, channels >= 1, {sides}\)"):
        random_vision().taps(torch.zeros(1, *shape))


def test_an_adapter_takes_its_own_number_of_channels(tmp_path: Path) -> None:
    encoder = load(tmp_path, published_state("vision", channels=3))
    with pytest.raises(EncoderError, match=r"\(N, 2, 16, 16\) does not fit.*\(N, 3, height"):
        encoder.taps(torch.zeros(1, 2, 16, 16))


class Hostile:
    """Makes a folder when it is unpickled freely."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    content = {"model": tensors(published_state("iq")), "args": Hostile(tmp_path / "mark")}
    torch.save(content, tmp_path / "hostile.pth")
    with pytest.raises(EncoderError, match="could run code, and was not loaded"):
        load_encoder("wavesfm", checkpoint=tmp_path / "hostile.pth")
    assert not (tmp_path / "mark").exists()


def test_a_checkpoint_of_another_architecture_names_the_first_three_keys(tmp_path: Path) -> None:
    lwm = ["embedding.proj.weight", "embedding.proj.bias", "embedding.pos_embed.weight", "layers.0.norm.alpha"]
    message = refused(tmp_path, {name: torch.zeros(3) for name in lwm})
    assert "not a WavesFM checkpoint" in message
    assert "it lacks cls_token, blocks.0.norm1.weight, blocks.0.norm1.bias and" in message
    assert f"left over: {', '.join(lwm[:3])} and 1 more" in message
    torch.save(tensors(published_state("iq")), tmp_path / "wavesfm.pth")
    with pytest.raises(EncoderError) as caught:
        load_encoder("lwm", checkpoint=tmp_path / "wavesfm.pth")
    first = ", ".join(list(published_state("iq"))[:3])
    assert str(caught.value).startswith("not an LWM 1.0 checkpoint: it lacks embedding.proj.weight, ")
    assert str(caught.value).endswith(f"it has {first}")
