"""WavesFM in numpy, float64: one window, one token, one head at a time, from the published names, shapes and order of operations."""

from __future__ import annotations

import math

import numpy as np

WIDTH, HEADS, HIDDEN, SEGMENT = 128, 4, 40, 16
Weights = dict[str, np.ndarray]


def published_state(
    modality: str,
    depth: int = 2,
    width: int = WIDTH,
    film: bool = False,
    lora: bool = False,
    channels: int | None = None,
    antennas: int = 8,
    seed: int = 0,
) -> Weights:
    """A state dict as it is published, with its task head, and random values that let every part show in the output."""
    rng = np.random.default_rng(seed)
    state: Weights = {}

    def put(name: str, *shape: int, about: float = 0.0, spread: float | None = None) -> None:
        spread = 1 / math.sqrt(math.prod(shape[1:]) or 1) if spread is None else spread
        state[name] = (about + spread * rng.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> None:
        put(f"{name}.weight", width, about=1, spread=0.2)
        put(f"{name}.bias", width, spread=0.2)

    def linear(name: str, outputs: int, *inputs: int) -> None:
        put(f"{name}.weight", outputs, *inputs)
        put(f"{name}.bias", outputs, spread=0.2)

    put("cls_token", 1, 1, width, spread=0.02)
    for number in range(depth):
        block = f"blocks.{number}"
        norm(f"{block}.norm1")
        linear(f"{block}.attn.qkv.qkv" if lora else f"{block}.attn.qkv", 3 * width, width)
        if lora:
            for part in ("lora_q", "lora_v"):
                put(f"{block}.attn.qkv.{part}.A", width, 8)
                put(f"{block}.attn.qkv.{part}.B", 8, width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp.fc1", HIDDEN, width)
        linear(f"{block}.mlp.fc2", width, HIDDEN)
    norm("norm")
    if film:
        for kind in ("vision", "iq"):
            put(f"mod_ln_scale.{kind}", width, about=1, spread=0.3)
            put(f"mod_ln_bias.{kind}", width, spread=0.3)
    linear("head", 5, width)
    if modality == "iq":
        linear("iq_segment_embed", width, 2, SEGMENT)
        put("iq_ant_embed.weight", antennas, width, spread=0.5)
    else:
        linear("vis_patch_embed.proj", width, 1, 16, 16)
        if channels is not None:
            put("channel_adapter.weight", 1, channels, 1, 1)
    return state


class Reference:
    """The model of a state dict, for one window at a time."""

    def __init__(self, state: Weights, modality: str, heads: int = HEADS, cap: int = 1024) -> None:
        self.w = {name: value.astype(np.float64) for name, value in state.items()}
        self.modality, self.heads, self.cap = modality, heads, cap
        self.width = state["cls_token"].shape[-1]
        self.depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})

    def states(self, x: np.ndarray) -> list[np.ndarray]:
        """Tokens with CLS in front behind each block, before the final norm, each ``(1 + tokens, width)``."""
        tokens = self.iq_tokens(x) if self.modality == "iq" else self.image_tokens(x)
        z = np.vstack([self.w["cls_token"][0], tokens])
        if f"mod_ln_scale.{self.modality}" in self.w:
            z = z * self.w[f"mod_ln_scale.{self.modality}"] + self.w[f"mod_ln_bias.{self.modality}"]
        states = []
        for number in range(self.depth):
            z = z + self.attention(f"blocks.{number}.attn", self.norm(f"blocks.{number}.norm1", z, 1e-5))
            z = z + self.feed_forward(f"blocks.{number}.mlp", self.norm(f"blocks.{number}.norm2", z, 1e-5))
            states.append(z)
        return states

    def pooled(self, state: np.ndarray, pool: str, signal: np.ndarray | None = None) -> np.ndarray:
        """Behind the final norm: the CLS token, or the mean of the tokens whose segment ``signal`` marks (all if None)."""
        z = self.norm("norm", state, 1e-6)
        if pool == "cls":
            return z[0]
        counted = np.ones(len(z) - 1, dtype=bool) if signal is None else signal[: len(z) - 1]
        return z[1:][counted].mean(0)

    def iq_tokens(self, x: np.ndarray) -> np.ndarray:
        """One token per segment and antenna, antennas within a segment; ``x`` is ``(2, antennas, time)``."""
        antennas, time = x.shape[1:]
        segments = math.ceil(time / SEGMENT)
        if segments * antennas > self.cap:
            segments = self.cap // antennas
        padded = np.concatenate([x, np.zeros((2, antennas, SEGMENT))], axis=2)
        tokens = []
        for segment in range(segments):
            for antenna in range(antennas):
                piece = padded[:, antenna, segment * SEGMENT : (segment + 1) * SEGMENT]
                token = self.w["iq_segment_embed.weight"].reshape(self.width, -1) @ piece.flatten()
                place = sines_and_cosines(segment, self.width) + self.w["iq_ant_embed.weight"][antenna]
                tokens.append(token + self.w["iq_segment_embed.bias"] + place)
        return np.array(tokens)

    def image_tokens(self, x: np.ndarray) -> np.ndarray:
        """One token per patch, row by row: the first half of its position says the column. ``x`` is ``(channels, height, width)``."""
        if "channel_adapter.weight" in self.w:
            x = np.tensordot(self.w["channel_adapter.weight"][:, :, 0, 0], x, axes=1)
        else:
            x = x.mean(0, keepdims=True)
        tokens = []
        for row in range(x.shape[1] // 16):
            for column in range(x.shape[2] // 16):
                piece = x[:, row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16]
                token = self.w["vis_patch_embed.proj.weight"].reshape(self.width, -1) @ piece.flatten()
                place = [sines_and_cosines(at, self.width // 2) for at in (column, row)]
                tokens.append(token + self.w["vis_patch_embed.proj.bias"] + np.concatenate(place))
        return np.array(tokens)

    def attention(self, name: str, z: np.ndarray) -> np.ndarray:
        if f"{name}.qkv.qkv.weight" in self.w:
            projected = self.linear(f"{name}.qkv.qkv", z)
            for part, columns in (("lora_q", slice(0, self.width)), ("lora_v", slice(2 * self.width, 3 * self.width))):
                down, up = self.w[f"{name}.qkv.{part}.A"], self.w[f"{name}.qkv.{part}.B"]
                projected[:, columns] += z @ down @ up / math.sqrt(down.shape[1])
        else:
            projected = self.linear(f"{name}.qkv", z)
        query, key, value = np.split(projected, 3, axis=1)
        mixed, width = [], self.width // self.heads
        for head in range(self.heads):
            part = slice(head * width, (head + 1) * width)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            mixed.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
        return self.linear(f"{name}.proj", np.concatenate(mixed, axis=1))

    def feed_forward(self, name: str, z: np.ndarray) -> np.ndarray:
        hidden = self.linear(f"{name}.fc1", z)
        gaussian = np.vectorize(math.erf)(hidden / math.sqrt(2))
        return self.linear(f"{name}.fc2", hidden * (1 + gaussian) / 2)

    def linear(self, name: str, z: np.ndarray) -> np.ndarray:
        return z @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, z: np.ndarray, eps: float) -> np.ndarray:
        scaled = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + eps)
        return self.w[f"{name}.weight"] * scaled + self.w[f"{name}.bias"]


def sines_and_cosines(position: int, width: int) -> np.ndarray:
    """All sines, then all cosines, of the position times frequencies that are kept in float32."""
    half = width // 2
    frequencies = [float(np.float32(1) / np.float32(10000) ** np.float32(i / half)) for i in range(half)]
    return np.array([math.sin(position * f) for f in frequencies] + [math.cos(position * f) for f in frequencies])


def signal_tokens(time_mask: np.ndarray, antennas: int) -> np.ndarray:
    """Which tokens stand for a segment with any signal: bool ``(time,)`` to bool ``(segments * antennas,)``."""
    segments = [bool(time_mask[start : start + SEGMENT].any()) for start in range(0, len(time_mask), SEGMENT)]
    return np.repeat(segments, antennas)
