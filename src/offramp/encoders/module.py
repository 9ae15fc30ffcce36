"""Any model of torch as an encoder, by the places where it is cut: :func:`from_module`.

Whatever the way, the cut is compared with the model before it is handed out: stages one after another must give what the model
gives. The model is left as it is: the stages are copies of its modules that share its parameters, so training flags, hooks and
structure are their own, while a change of a parameter is a change of both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from offramp.encoders.base import InputSpec, StagedEncoder, State, seeded
from offramp.encoders.exported import split_exported
from offramp.encoders.huggingface import HuggingFace
from offramp.encoders.sharing import check_float32, is_hugging_face, redrawn_copy, relative_difference, shared_copy
from offramp.encoders.storage import first_line
from offramp.encoders.timm import TimmVisionTransformer, is_timm_like, missing_parts
from offramp.errors import EncoderError

Pooling = Literal["mean", "cls"]
Channels = Literal["first", "last"]
TOLERANCE = 1e-6
"""Largest difference between the stages and the model, relative to the largest value."""


def from_module(
    model: nn.Module,
    stages: Sequence[str | nn.Module] | None = None,
    *,
    input: InputSpec | Tensor | None = None,
    pooling: Pooling | None = None,
    channels: Channels | Sequence[Channels] | None = None,
) -> StagedEncoder:
    """Cut a model into stages that share its parameters.

    Without ``stages``: a Hugging Face ViT, BERT or Wav2Vec2 at its layers, a vision transformer of timm at its blocks, an
    ``nn.Sequential`` behind every child. With ``stages``: see :class:`ModuleEncoder`.

    Args:
        model: Float32, takes one batch. It is left as it is.
        stages: Where to cut.
        input: What the model takes: an example batch ``(N, ...)``, or an :class:`InputSpec` with free axes; a Hugging Face model that
            is cut at its layers says it itself.
        pooling: How positions become one feature row: their ``"mean"``, or the first, ``"cls"``.
        channels: Which axis of a state holds the features, see :class:`ModuleEncoder`.

    Raises:
        EncoderError: The model cannot be cut there, or its stages one after another give something else; one line that says what.
    """
    if stages is not None or isinstance(model, nn.Sequential):
        return ModuleEncoder(model, stages, input=input, pooling=pooling or "mean", channels=channels)
    if is_hugging_face(model):
        if input is not None or channels is not None:
            raise EncoderError("a Hugging Face model says its input and layout itself: leave input and channels out")
        return HuggingFace.from_model(model, pooling)
    kind = type(model).__name__
    if is_timm_like(model):
        lacking = missing_parts(model)
        if lacking:
            raise EncoderError(f"{kind} is no vision transformer of timm, it lacks {lacking[0]}: name stages=[...]")
        if pooling is not None or channels is not None:
            raise EncoderError("a vision transformer of timm says its pooling and layout itself: leave them out")
        spec, windows = example_windows(input, model)
        return TimmVisionTransformer(model, spec, windows[-1])
    raise EncoderError(
        f"where to cut {kind} is not clear: name stages=[...] among {', '.join(dict(model.named_children()))}"
    )


class ModuleEncoder(StagedEncoder):
    """A model cut behind named places. Derive from it to give such an encoder a name, so that it can be saved and loaded.

    The stages are found in one of three ways, and compared with the model on batches of one, two and three windows:

    - an ``nn.Sequential`` is cut behind the children named, all of them if None;
    - modules that one after another are the model are its stages;
    - else the model is traced with ``torch.export`` and cut behind the places named: submodules that run once, or nodes of the
      graph. That fixes the input's shape, but for the batch.

    What comes behind the last place, e.g. a classifier, is left out. Default tap: a state ``(N, width)`` itself; of a larger one, the
    mean over positions or the first of them. Tokens: all positions, ``(N, positions, width)``.

    Args:
        model: Float32, takes one batch.
        stages: Places, in the order they run: modules of the model, or their names.
        input: An example batch, float32, or a spec.
        pooling: ``"mean"`` or ``"cls"``, the first position.
        channels: Where a state holds its features: ``"first"``, ``(N, width, ...)``, as convolutions do, or ``"last"``, ``(N, ..., width)``,
            as transformers do; one for all stages or one for each. By default states of four and more axes are taken as
            ``first``; those of three need it said.

    Raises:
        EncoderError: See :func:`from_module`.
    """

    architecture: ClassVar[str] = "module"

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[str | nn.Module] | None = None,
        *,
        input: InputSpec | Tensor | None,
        pooling: Pooling = "mean",
        channels: Channels | Sequence[Channels] | None = None,
    ) -> None:
        super().__init__()
        check_float32(model)
        if pooling not in ("mean", "cls"):
            raise EncoderError(f"pooling={pooling!r}: choose 'mean' or 'cls'")
        names = list(dict(model.named_children())) if stages is None else [_name_in(model, place) for place in stages]
        if not names or len(set(names)) < len(names):
            raise EncoderError(f"stages={names}: name at least one place, and each once")
        self.input, windows = example_windows(input, model)
        self.pool_by = pooling
        self.channels = _one_each(channels, len(names))
        pristine, own = shared_copy(model), shared_copy(model).eval()
        self._redrawn: Callable[[int], StagedEncoder] = lambda seed: ModuleEncoder(
            redrawn_copy(pristine, seed), names, input=input, pooling=pooling, channels=channels
        )
        training = [(module, other.training) for module, other in zip(own.modules(), model.modules(), strict=True)]
        with seeded(0):  # the model may draw
            self.stages = nn.ModuleList(_cut(own, names, windows, None not in self.input.shape))
            self.exits = self.measure_exits(names, self._widths(names, windows[0]))
        for module, flag in training:
            module.training = flag
        self.config = {"model": type(model).__name__, "stages": names, "pooling": pooling, "channels": self.channels}

    @property
    def rebuildable(self) -> bool:
        """Whether a class of its own says how to make the model."""
        return type(self) is not ModuleEncoder

    def reinitialised(self, seed: int) -> StagedEncoder:
        return super().reinitialised(seed) if self.rebuildable else self._redrawn(seed)

    def begin(self, x: Tensor) -> State:
        """The input as it is."""
        return (x,)

    def advance(self, stage: int, state: State) -> State:
        return _as_state(self.stages[stage](*state))

    def pool(self, exit: int, state: State, pooling: str = "default") -> Tensor:
        if pooling not in ("default", "tokens"):
            raise EncoderError(f"unknown pooling {pooling!r}: {self.architecture} has default, tokens")
        main = state[0]
        if main.dim() == 2:
            return main if pooling == "default" else main[:, None]
        tokens = main.flatten(1, -2) if self.channels[exit] == "last" else main.flatten(2).transpose(1, 2)
        if pooling == "tokens":
            return tokens
        return tokens[:, 0] if self.pool_by == "cls" else tokens.mean(1)

    def _widths(self, names: Sequence[str], windows: Tensor) -> list[int]:
        """Of the taps; refuses states that make none."""
        widths = []
        state: State = (windows,)
        with torch.no_grad():
            for index, name in enumerate(names):
                state = self.advance(index, state)
                main, channels = state[0], self.channels[index]
                if main.dtype != torch.float32 or main.dim() < 2:
                    raise EncoderError(
                        f"{name!r} gives {main.dtype} {_shape(main)}: a tap needs float32 (N, width, ...)"
                    )
                if main.dim() == 3 and channels is None:
                    raise EncoderError(
                        f"{name!r} gives {_shape(main)}: say channels='first' if it is (N, width, positions), 'last' if it "
                        f"is (N, positions, width)"
                    )
                if self.pool_by == "cls" and main.dim() > 2 and channels != "last":
                    raise EncoderError(f"pooling='cls' at {name!r} takes the first position: it needs channels='last'")
                widths.append(self.pool(index, state).shape[1])
        return widths


def _one_each(channels: Channels | Sequence[Channels] | None, count: int) -> list[Channels | None]:
    each: list[Channels | None]
    each = [channels] * count if channels is None or isinstance(channels, str) else [*channels]
    if len(each) != count or any(one not in (None, "first", "last") for one in each):
        raise EncoderError(f"channels={channels!r}: say 'first' or 'last', for all {count} stages or for each of them")
    return each


def _name_in(model: nn.Module, place: str | nn.Module) -> str:
    if isinstance(place, str):
        return place
    for name, module in model.named_modules():
        if name and module is place:
            return str(name)
    raise EncoderError(
        f"the stage {type(place).__name__} is no module of the model: make one nn.Sequential of your stages, and cut that"
    )


def example_windows(input: InputSpec | Tensor | None, model: nn.Module) -> tuple[InputSpec, list[Tensor]]:
    """The spec of an input, and batches of one, two and three windows of it where the model is.

    Where axes are free, one more batch is a step larger along all of them.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if input is None:
        raise EncoderError("what does the model take? give input=: an example batch (N, ...), or an InputSpec")
    if isinstance(input, Tensor):
        if input.dtype != torch.float32 or input.dim() < 2 or not input.numel():
            raise EncoderError(
                f"input {input.dtype} {_shape(input)}: give a float32 batch (N, ...), or for token numbers an InputSpec"
            )
        shape = tuple(input.shape[1:])
        spec = InputSpec(("batch", *(f"axis{axis}" for axis in range(1, input.dim()))), shape, shape)
        first, last = input[:1], input[-1:]
        varied = torch.cat([first, last.flip(-1), last.roll(1, -1)]).detach().to(device)
        if not varied.var() > 0:  # the same everywhere, or NaN
            raise EncoderError(
                "input holds one value, or NaN, which compares nothing: give windows as the model gets them"
            )
        return spec, [varied[:1], varied[1:], varied]
    shape = input.example_shape()
    windows = [input.draw(count, shape, seed=count) for count in (1, 2, 3)]
    steps = input.multiple or (1,) * len(shape)
    larger = tuple(size + step * (free is None) for size, step, free in zip(shape, steps, input.shape, strict=True))
    if larger != shape and all(most is None or size <= most for size, most in zip(larger, input.maximum, strict=False)):
        windows.append(input.draw(2, larger))
    return input, [x.to(device) for x in windows]


def _cut(model: nn.Module, names: list[str], windows: list[Tensor], fixed: bool) -> list[nn.Module]:
    """Stages that end at the places named; the model is in inference mode and the encoder's own."""
    for part in model.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]  # the state before a stage is not to be written into
    reasons = []
    for parts in (_children(model, names), _chain(model, names)):
        if parts is not None:
            difference = _difference(parts, names, model, windows)
            if difference is None:
                return parts[:-1]
            reasons.append(f"one after another they {difference}")
    try:
        if not fixed:
            raise EncoderError("torch.export fixes the input's shape: give an example batch")
        parts = split_exported(model, names, windows[2])
        difference = _difference(parts, names, model, windows)
        if difference is None:
            return parts[:-1]
        reasons.append(f"traced they {difference}")
    except EncoderError as error:
        reasons.append(str(error))
    raise EncoderError(
        f"{type(model).__name__} cannot be cut at {', '.join(names)}: {'; '.join(dict.fromkeys(reasons))}"
    )


def _children(model: nn.Module, names: list[str]) -> list[nn.Module] | None:
    """The children of a sequence in groups that end at those named, and the rest; None if that is not what is named."""
    children = dict(model.named_children())
    order = list(children)
    if not isinstance(model, nn.Sequential) or not set(names) <= set(order):
        return None
    ends = [order.index(name) + 1 for name in names]
    if ends != sorted(ends):
        return None
    groups = [order[start:end] for start, end in pairwise([0, *ends, len(order)])]
    return [
        children[group[0]] if len(group) == 1 else nn.Sequential(OrderedDict((name, children[name]) for name in group))
        for group in groups
    ]


def _chain(model: nn.Module, names: list[str]) -> list[nn.Module] | None:
    """The modules named, and nothing behind them; None if one does not exist."""
    modules = dict(model.named_modules())
    return [*(modules[name] for name in names), nn.Identity()] if set(names) <= set(modules) else None


def _difference(parts: list[nn.Module], names: list[str], model: nn.Module, windows: list[Tensor]) -> str | None:
    """How the parts one after another differ from the model; None if they do not."""
    for x in windows:
        with torch.no_grad():
            try:
                expected = _tensors(model(x.clone()))
            except Exception as error:  # whatever the model of others raises
                raise EncoderError(
                    f"{type(model).__name__} does not run on {_shape(x)} {x.dtype}: {first_line(error)}"
                ) from None
            state: Any = (x,)
            for name, part in zip([*names, "the rest"], parts, strict=True):
                before = tuple(tensor.clone() for tensor in state)
                try:
                    result = part(*state)
                except Exception as error:
                    return f"stop at {name!r} with {first_line(error)}"
                if not all(map(torch.equal, before, state)):
                    return f"are no stages, for {name!r} writes into what it is given"
                state = _as_state(result)
                if part is not parts[-1] and not all(
                    isinstance(t, Tensor) and t.shape[:1] == x.shape[:1] for t in state
                ):
                    return f"hand over something that is not a tensor with the batch first, behind {name!r}"
        given = _tensors(state)
        if len(given) != len(expected):
            return f"give {len(given)} tensors, the model {len(expected)}"
        for mine, theirs in zip(given, expected, strict=True):
            if mine.shape != theirs.shape:
                return f"give {_shape(mine)}, the model {_shape(theirs)}"
            difference = relative_difference(mine, theirs)
            if difference > TOLERANCE:
                return f"differ from the model by {difference:.2g} of the largest value"
    return None


def _as_state(result: Any) -> State:
    return result if isinstance(result, tuple) else (result,)


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _shape(x: Tensor) -> str:
    return f"({', '.join(['N', *map(str, x.shape[1:])])})"
