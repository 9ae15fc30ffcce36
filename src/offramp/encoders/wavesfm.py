"""WavesFM, a vision transformer for I/Q streams and for images of the radio channel, that may end after any of its blocks.

Source: Aboulfotouh, Abou-Zeid, "Multimodal Wireless Foundation Models" (arXiv 2511.15162), and the names, shapes and order of
operations of the published code (github.com/AhmedTarek62/wavesfm), which builds its blocks with timm 1.0.11.

I/Q ``(N, 2, antennas, time)``: each antenna's stream is cut into segments of 16 samples (the tail padded with zeros), one linear
map turns a segment into a token, and the token learns its time (sine-cosine table) and its antenna (learned). Tokens run
segment by segment, antennas within a segment; segments behind the token cap are left out. Images ``(N, channels, height,
width)``: patches of 16 x 16, row by row, with a 2-D sine-cosine table; several channels become one by a stored 1 x 1
convolution or, where none is stored, by their mean, with which that convolution begins. A CLS token without a position stands in
front, a stored scale and shift per modality acts on all tokens, and then come the blocks.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.base import InputSpec, StagedEncoder, State
from offramp.encoders.building import Count, Size, Width
from offramp.encoders.transformer import Block, initialise_linear, sine_cosine_table
from offramp.errors import EncoderError

HEADS = {128: 4, 256: 8, 512: 8, 768: 12}
"""Attention heads by width (micro, small, base, large), which no checkpoint says."""
TOKEN_CAP = {768: 256}
"""Most I/Q tokens by width; 1,024 at all others."""
BLOCK_EPS, FINAL_EPS = 1e-5, 1e-6
"""Of the layer norms: timm's blocks keep torch's default, the final norm does not."""
MOST_PATCHES = 64
"""Patches along a side of an image that there are positions for."""
LORA_ALPHA = 1.0
"""Published default: a low-rank pair A, B of rank r adds ``alpha / sqrt(r) * x A B``."""

TOKENISERS = {
    "iq": ("iq_segment_embed.", "iq_ant_embed."),
    "vision": ("vis_patch_embed.", "channel_adapter."),
}
LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
"""Of a block, each with a weight and a bias."""
AXES = {
    "cls_token": 3,
    "blocks.0.mlp.fc1.weight": 2,
    "iq_segment_embed.weight": 3,
    "iq_ant_embed.weight": 2,
    "vis_patch_embed.proj.weight": 4,
    "channel_adapter.weight": 4,
}
"""Of the tensors that sizes are read from."""
DROPPED = (
    "head.",
    "decoder",
    "mask_token",
    "vis_decoder",
    "iq_decoder",
    "vis_head.",
    "iq_head.",
    "vis_pos_embed",
    "iq_time_pos_embed",
)
"""What belongs to a task or to pretraining, or is computed anew."""


class WavesFM(StagedEncoder):
    """WavesFM with one modality. Exits ``block1`` .. ``blockN``.

    Default tap: the model trimmed to its first blocks, final norm, then the CLS token (``pool="cls"``) or the mean of the other
    tokens (``pool="mean"``), ``(N, width)``. Tokens: CLS first, behind the final norm, ``(N, 1 + tokens, width)``.

    Args:
        modality: ``"iq"`` or ``"vision"``.
        width: Of a token.
        depth: Number of blocks.
        heads: Attention heads; those published for this width if None.
        pool: ``"cls"`` or ``"mean"``.
        hidden: Width inside the feed-forward part; 4 times the width if None.
        patch: Samples of a segment, or side of an image patch.
        antennas: Most antennas, for I/Q.
        channels: Image channels that a stored channel adapter takes; None without one.
        patch_channels: Image channels that a patch is embedded from.
        film: Whether a scale and shift of this modality acts on the tokens.
    """

    architecture = "wavesfm"
    checkpoint_options = ("modality", "pool")
    times: Tensor
    places: Tensor

    def __init__(
        self,
        modality: Literal["iq", "vision"] = "iq",
        width: Width = 128,
        depth: Count = 4,
        heads: Count | None = None,
        pool: Literal["cls", "mean"] = "mean",
        hidden: Size | None = None,
        patch: Size = 16,
        antennas: Size = 8,
        channels: Size | None = None,
        patch_channels: Size = 1,
        film: bool = False,
    ) -> None:
        super().__init__()
        _check_choices(modality, pool)
        heads, hidden = heads or _heads_of(width), hidden or 4 * width
        if width % 4 or width % heads:
            raise EncoderError(f"width={width}, heads={heads}: the width must be a multiple of 4 and of the heads")
        self.modality, self.pool_by, self.patch = modality, pool, patch
        self.config = {
            "modality": modality,
            "width": width,
            "depth": depth,
            "heads": heads,
            "pool": pool,
            "hidden": hidden,
            "patch": patch,
            "antennas": antennas,
            "channels": channels,
            "patch_channels": patch_channels,
            "film": film,
        }
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.stages = nn.ModuleList(Block(width, heads, hidden, BLOCK_EPS) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=FINAL_EPS)
        if film:
            self.film_scale, self.film_shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        if modality == "iq":
            self.token_cap = TOKEN_CAP.get(width, 1024)
            self.iq_segment_embed = nn.Conv1d(2, width, patch, stride=patch)
            self.iq_ant_embed = nn.Embedding(antennas, width)
            self.register_buffer("times", sine_cosine_table(self.token_cap, width), persistent=False)
            self.input = InputSpec(
                ("batch", "iq", "antennas", "time"), (2, None, None), (2, 1, patch), maximum=(2, antennas, None)
            )
        else:
            self.vis_patch_embed = nn.Conv2d(patch_channels, width, patch, stride=patch)
            if channels is not None:
                self.channel_adapter = nn.Conv2d(channels, patch_channels, 1, bias=False)
            self.register_buffer("places", sine_cosine_table(MOST_PATCHES, width // 2), persistent=False)
            most = MOST_PATCHES * patch
            taken = channels if channels is not None else (None if patch_channels == 1 else patch_channels)
            self.input = InputSpec(
                ("batch", "channels", "height", "width"),
                (taken, None, None),
                (1, patch, patch),
                multiple=(1, patch, patch),
                maximum=(None, most, most),
            )
        nn.init.normal_(self.cls_token, std=0.02)
        if modality == "iq":
            nn.init.normal_(self.iq_ant_embed.weight, std=0.02)
        initialise_linear(self)
        self.exits = self.measure_exits([f"block{i + 1}" for i in range(depth)], [width] * depth)

    def begin(self, x: Tensor, time_mask: Tensor | None = None) -> State:
        """Tokens with CLS in front ``(N, 1 + tokens, width)``, and which of them hold signal, bool ``(N, tokens)``.

        Args:
            x: The input, float32; see :attr:`input`.
            time_mask: I/Q: which samples are signal, bool ``(N, time)``; a segment counts as soon as one of its samples does. All
                tokens count if None.
        """
        tokens, mask = self._iq_tokens(x, time_mask) if self.modality == "iq" else self._image_tokens(x)
        whole = torch.cat([self.cls_token.expand(x.shape[0], 1, -1), tokens], dim=1)
        if self.config["film"]:
            whole = whole * self.film_scale + self.film_shift
        return whole, mask

    def advance(self, stage: int, state: State) -> State:
        return self.stages[stage](state[0]), state[1]

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        tokens: Tensor = self.norm(state[0])
        if pooling == "tokens":
            return tokens
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: wavesfm has default, tokens")
        if self.pool_by == "cls":
            return tokens[:, 0]
        counted = state[1].to(tokens.dtype).unsqueeze(-1)
        return (tokens[:, 1:] * counted).sum(1) / counted.sum(1).clamp_min(1e-6)

    def _iq_tokens(self, x: Tensor, time_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        n, _, antennas, time = x.shape
        segments = min(math.ceil(time / self.patch), max(1, self.token_cap // antennas))
        wanted = segments * self.patch
        streams = functional.pad(x.transpose(1, 2)[..., :wanted], (0, max(0, wanted - time)))
        embedded = self.iq_segment_embed(streams.reshape(n * antennas, 2, wanted))
        tokens = embedded.view(n, antennas, self.config["width"], segments).permute(0, 3, 1, 2)
        places = self.times[:segments, None] + self.iq_ant_embed.weight[:antennas]
        if time_mask is None:
            mask = torch.ones(n, segments, dtype=torch.bool, device=x.device)
        else:
            padded = functional.pad(time_mask[:, :wanted], (0, max(0, wanted - time)))
            mask = padded.view(n, segments, self.patch).any(2)
        return (tokens + places).flatten(1, 2), mask.repeat_interleave(antennas, dim=1)

    def _image_tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.config["channels"] is not None:
            x = self.channel_adapter(x)
        elif self.config["patch_channels"] == 1:
            x = x.mean(1, keepdim=True)
        embedded = self.vis_patch_embed(x)
        rows, columns = embedded.shape[2:]
        across = self.places[:columns].expand(rows, -1, -1)
        down = self.places[:rows, None].expand(-1, columns, -1)
        tokens = embedded.flatten(2).transpose(1, 2) + torch.cat([across, down], dim=-1).flatten(0, 1)
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device)

    @classmethod
    def convert_checkpoint(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Read a published state dict: sizes from its shapes, low-rank factors merged, task head dropped.

        Args:
            tensors: Under the published names.
            **options: ``modality`` where the checkpoint holds both; ``pool``, ``"cls"`` if it is not given.

        Raises:
            EncoderError: It is no WavesFM checkpoint, or lacks the modality.
        """
        tensors = _merged({name.removeprefix("module."): tensor for name, tensor in tensors.items()})
        modality = _modality_of(tensors, options.get("modality"))
        pool = options.get("pool", "cls")
        _check_choices(modality, pool)
        _check_names(tensors, modality)
        config = _read_config(tensors, modality) | {"pool": pool}
        other = TOKENISERS["vision" if modality == "iq" else "iq"]
        renamed = {}
        for name, tensor in tensors.items():
            if name.startswith((*DROPPED, *other)):
                continue
            if name.startswith(("mod_ln_scale.", "mod_ln_bias.")):
                kind, _, of = name.partition(".")
                if of == modality:
                    renamed["film_scale" if kind == "mod_ln_scale" else "film_shift"] = tensor
            else:
                renamed[name.replace("blocks.", "stages.", 1).replace("vis_patch_embed.proj.", "vis_patch_embed.")] = (
                    tensor
                )
        return config, renamed

    def _prefix(self, last: int) -> Self:
        prefix = super()._prefix(last)
        prefix.config = self.config | {"depth": last + 1}
        return prefix


ARCHITECTURES = (WavesFM,)


def _check_choices(modality: str, pool: str) -> None:
    if modality not in TOKENISERS:
        raise EncoderError(f"modality={modality!r}: wavesfm has 'iq' and 'vision'")
    if pool not in ("cls", "mean"):
        raise EncoderError(f"pool={pool!r}: wavesfm has 'cls' and 'mean'")


def _heads_of(width: int) -> int:
    if width not in HEADS:
        raise EncoderError(
            f"wavesfm of width {width} is not published: say heads=, known are widths {', '.join(map(str, HEADS))}"
        )
    return HEADS[width]


def _modality_of(tensors: dict[str, Tensor], wanted: str | None) -> str:
    held = [m for m, prefixes in TOKENISERS.items() if any(name.startswith(prefixes[0]) for name in tensors)]
    if wanted is not None:
        _check_choices(wanted, "cls")
        if held and wanted not in held:
            raise EncoderError(
                f"the checkpoint has no {wanted} input, only {held[0]}: load it with modality={held[0]!r}"
            )
        return wanted
    if len(held) == 2:
        raise EncoderError("the checkpoint takes I/Q and images: say modality='iq' or modality='vision'")
    return held[0] if held else "iq"


def _check_names(tensors: dict[str, Tensor], modality: str) -> None:
    """Raise unless the checkpoint holds what an encoder of this modality and of its depth takes, and can be read from."""
    layers = [f"blocks.{number}.{layer}" for number in range(_depth(tensors)) for layer in LAYERS]
    layers += ["norm", "iq_segment_embed" if modality == "iq" else "vis_patch_embed.proj"]
    needed = ["cls_token", *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))]
    needed += ["iq_ant_embed.weight"] if modality == "iq" else []
    needed += [f"mod_ln_scale.{modality}", f"mod_ln_bias.{modality}"] if _has_film(tensors, modality) else []
    other = "vision" if modality == "iq" else "iq"
    ignored = (*DROPPED, *TOKENISERS[other], f"mod_ln_scale.{other}", f"mod_ln_bias.{other}")
    optional = {"channel_adapter.weight"} if modality == "vision" else set()
    known = optional.union(needed)
    missing = [name for name in needed if name not in tensors]
    left_over = [name for name in tensors if name not in known and not name.startswith(ignored)]
    wrong = [
        f"{name} of shape {tuple(tensors[name].shape)}"
        for name, axes in AXES.items()
        if name in tensors and name in known and (tensors[name].dim() != axes or not tensors[name].numel())
    ]
    faults = (("it lacks ", missing), ("left over: ", left_over), ("it has ", wrong))
    found = "; ".join(f"{what}{_first_three(names)}" for what, names in faults if names)
    if found:
        raise EncoderError(f"not a WavesFM checkpoint with {modality} input: {found}")


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _depth(tensors: dict[str, Tensor]) -> int:
    """Number of blocks; at least 1, so that what lacks them all is named by the first."""
    return max(1, len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}))


def _has_film(tensors: dict[str, Tensor], modality: str) -> bool:
    return f"mod_ln_scale.{modality}" in tensors or f"mod_ln_bias.{modality}" in tensors


def _read_config(tensors: dict[str, Tensor], modality: str) -> dict[str, Any]:
    width = tensors["cls_token"].shape[-1]
    config: dict[str, Any] = {
        "modality": modality,
        "width": width,
        "heads": _heads_of(width),
        "depth": _depth(tensors),
        "hidden": tensors["blocks.0.mlp.fc1.weight"].shape[0],
        "film": _has_film(tensors, modality),
    }
    if modality == "iq":
        return config | {
            "patch": tensors["iq_segment_embed.weight"].shape[-1],
            "antennas": tensors["iq_ant_embed.weight"].shape[0],
        }
    adapter = tensors.get("channel_adapter.weight")
    return config | {
        "patch": tensors["vis_patch_embed.proj.weight"].shape[-1],
        "patch_channels": tensors["vis_patch_embed.proj.weight"].shape[1],
        "channels": None if adapter is None else adapter.shape[1],
    }


def _merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Low-rank factors of query and value added to the projection that they stand beside.

    ``attn.qkv.qkv.weight`` with ``attn.qkv.lora_{q,v}.{A,B}``, A ``(width, rank)``, B ``(rank, width)``, becomes
    ``attn.qkv.weight``; query is its first third, value its last.
    """
    merged = dict(tensors)
    for name in [name for name in tensors if name.endswith(".attn.qkv.qkv.weight")]:
        stem, weight = name.removesuffix("qkv.weight"), merged.pop(name).clone()
        for part, rows in (("lora_q", slice(None, weight.shape[-1])), ("lora_v", slice(-weight.shape[-1], None))):
            down, up = merged.pop(f"{stem}{part}.A", None), merged.pop(f"{stem}{part}.B", None)
            if down is None or up is None or not _fit(weight, down, up):
                raise EncoderError(f"not a WavesFM checkpoint: it lacks {stem}{part}.A and B that fit {name}")
            weight[rows] += (LORA_ALPHA / math.sqrt(down.shape[1]) * (down @ up)).T
        merged[f"{stem}weight"] = weight
        if f"{stem}qkv.bias" in merged:
            merged[f"{stem}bias"] = merged.pop(f"{stem}qkv.bias")
    return merged


def _fit(weight: Tensor, down: Tensor, up: Tensor) -> bool:
    """Whether a projection ``(3 * width, width)`` has factors ``(width, rank)`` and ``(rank, width)``."""
    return (
        weight.dim() == down.dim() == 2
        and weight.shape[0] == 3 * weight.shape[1]
        and weight.shape[1] == down.shape[0]
        and down.shape[1] > 0
        and up.shape == down.shape[::-1]
    )
