"""Vision transformers in the form that timm gives them, told by their attributes: timm itself is not imported.

Source of the form: the attributes and the method ``forward_intermediates`` of timm's ``VisionTransformer``
(github.com/huggingface/pytorch-image-models): ``patch_embed``, ``_pos_embed`` (class and register tokens, positions),
``patch_drop``, ``norm_pre``, then ``blocks`` one after another, and ``norm``. ``forward_intermediates`` hands out features but no
state to go on from, so the model is cut at those attributes, and what it hands out is what the cut is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from offramp.encoders.base import InputSpec, StagedEncoder, State, seeded
from offramp.encoders.sharing import check_float32, redrawn_copy, relative_difference, shared_copy
from offramp.encoders.storage import first_line
from offramp.errors import EncoderError

PARTS = ("patch_embed", "_pos_embed", "blocks", "norm", "forward_intermediates")
EMBEDDING = ("patch_embed", "pos_drop", "patch_drop", "norm_pre")
"""Modules that run before the blocks; all others are left out of the embedding."""
TOLERANCE = 1e-6


class ImageEmbedding(nn.Module):
    """Images ``(N, channels, height, width)`` to tokens ``(N, positions, width)``, class and register tokens first."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        for name, _ in list(model.named_children()):
            if name not in EMBEDDING:
                setattr(model, name, None)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model: Any = self.model
        tokens = model._pos_embed(model.patch_embed(x))
        for name in ("patch_drop", "norm_pre"):
            part = getattr(model, name, None)
            tokens = tokens if part is None else part(tokens)
        embedded: Tensor = tokens
        return embedded


class TimmVisionTransformer(StagedEncoder):
    """Cut from a model at hand. Exits ``embedding``, ``block1`` .. ``blockN``.

    Default tap, behind the model's norm, ``(N, width)``: the class token where the model pools by it (``global_pool="token"``),
    else the mean of the patch tokens. At ``embedding``, where no token has seen another, it is the mean of all tokens. Tokens: all,
    ``(N, positions, width)``.
    """

    architecture: ClassVar[str] = "timm"

    def __init__(self, model: nn.Module, spec: InputSpec, windows: Tensor) -> None:
        """Cut a model.

        Args:
            model: With the attributes of ``PARTS``; it is left as it is, and its parameters are shared.
            spec: The input that it takes.
            windows: Such an input, to compare with the model.

        Raises:
            EncoderError: Its blocks one after another are not what it computes, or it is not float32.
        """
        super().__init__()
        check_float32(model)
        self._assemble(shared_copy(model).eval(), spec)
        self._compare(shared_copy(model).eval(), windows)
        self._assemble(shared_copy(model), spec)
        pristine = shared_copy(model)
        self._redrawn: Callable[[int], StagedEncoder] = lambda seed: TimmVisionTransformer(
            redrawn_copy(pristine, seed), spec, windows
        )

    def _assemble(self, model: Any, spec: InputSpec) -> None:
        self.input = spec
        self.pool_by = "cls" if getattr(model, "global_pool", None) == "token" else "mean"
        self.prefix_tokens = int(getattr(model, "num_prefix_tokens", 0))
        self.config = {"model": type(model).__name__, "pooling": self.pool_by, "prefix_tokens": self.prefix_tokens}
        blocks, self.norm = list(model.blocks), model.norm
        width = model.embed_dim
        self.stages = nn.ModuleList([ImageEmbedding(model), *blocks])
        names = ["embedding", *(f"block{number}" for number in range(1, len(blocks) + 1))]
        self.exits = self.measure_exits(names, [width] * len(names))

    def _compare(self, model: Any, windows: Tensor) -> None:
        """Refuse a model whose intermediate features are others than this encoder's."""
        try:
            with torch.no_grad(), seeded(0):
                theirs = model.forward_intermediates(
                    windows, indices=None, norm=True, stop_early=False, output_fmt="NLC", intermediates_only=True
                )
                ours = list(self.taps(windows, pooling="tokens").values())[1:]
        except EncoderError:
            raise
        except Exception as error:  # whatever the model of others raises
            raise EncoderError(f"{type(model).__name__} cannot be cut at its blocks: {first_line(error)}") from None
        for exit, tokens, expected in zip(self.exits[1:], ours, theirs, strict=True):
            difference = relative_difference(tokens[:, self.prefix_tokens :], expected)
            if difference > TOLERANCE:
                raise EncoderError(
                    f"{type(model).__name__} is more than its blocks one after another: at {exit.name} they differ from its "
                    f"forward_intermediates by {difference:.2g} of the largest value; name stages=[...] to cut it elsewhere"
                )

    @property
    def rebuildable(self) -> bool:
        """No: the model was made elsewhere."""
        return False

    def reinitialised(self, seed: int) -> StagedEncoder:
        return self._redrawn(seed)

    def begin(self, x: Tensor) -> State:
        """The input as it is: scale it as the model's pretraining did."""
        return (x,)

    def advance(self, stage: int, state: State) -> State:
        return (self.stages[stage](state[0]),)

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        tokens: Tensor = self.norm(state[0])
        if pooling == "tokens":
            return tokens
        if pooling != "default":
            raise EncoderError(f"unknown pooling {pooling!r}: timm has default, tokens")
        if exit == 0:
            return tokens.mean(1)
        return tokens[:, 0] if self.pool_by == "cls" else tokens[:, self.prefix_tokens :].mean(1)


def is_timm_like(model: nn.Module) -> bool:
    """Whether a model can be asked for intermediate features as timm's can."""
    return callable(getattr(model, "forward_intermediates", None))


def missing_parts(model: nn.Module) -> list[str]:
    """What a vision transformer of timm has and this model lacks."""
    return [part for part in PARTS if not hasattr(model, part)]
