"""Backbones of the Transformers library that are an embedding and a list of layers: ViT, BERT and Wav2Vec2.

Sources: the configurations and module names of ``transformers`` (github.com/huggingface/transformers), and the papers of the
models: Dosovitskiy et al. (arXiv 2010.11929), Devlin et al. (arXiv 1810.04805), Baevski et al. (arXiv 2006.11477).

Exit ``embedding`` lies behind the embedding, ``layerK`` behind K layers. A tap there is the hidden state, through the norm that
the model applies to its last one if it has such a norm, then pooled. At ``layerN`` it is the model's own ``last_hidden_state``;
pooling layers and task heads are no part of the encoder. Inputs are what the model itself takes, without attention mask: a
batch has one length and every token counts.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from offramp.encoders.base import InputSpec, StagedEncoder, State, seeded
from offramp.encoders.building import sketching
from offramp.encoders.sharing import check_float32, relative_difference, shared_copy
from offramp.encoders.storage import CONFIG, WEIGHTS, Shapes, check_fit, first_line, read_shapes
from offramp.errors import EncoderError, OfframpError

Pooling = Literal["cls", "mean"]
UNUSED = ("embeddings.mask_token", "embeddings.position_ids", "embeddings.token_type_ids")
"""What stands in checkpoints and is of pretraining alone, or counts from 0."""
MOST_LAYERS = 1024
MOST_VALUES = 2**26
"""In the smallest window that a model takes."""
SPARE_VALUES = 2**24
"""That may be allocated in vain."""
TOLERANCE = 1e-6
"""Largest difference between our hidden states and the model's own, relative to the largest value."""


class WaveformEmbedding(nn.Module):
    """Waveforms ``(N, time)`` to hidden states ``(N, frames, width)``: convolutions, projection and convolved positions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.feature_extractor = model.feature_extractor
        self.feature_projection = model.feature_projection
        self.pos_conv_embed = model.encoder.pos_conv_embed
        self.layer_norm = nn.Identity() if _norm_is_last(model) else model.encoder.layer_norm
        self.dropout = model.encoder.dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.feature_projection(self.feature_extractor(x).transpose(1, 2))
        embedded: Tensor = self.dropout(self.layer_norm(hidden + self.pos_conv_embed(hidden)))
        return embedded


def _norm_is_last(model: Any) -> bool:
    """Wav2Vec2 has one norm, before the layers or behind them."""
    return bool(model.config.do_stable_layer_norm)


def _image_embedding(model: Any) -> nn.Module:
    model.embeddings.mask_token = None  # of pretraining alone
    embeddings: nn.Module = model.embeddings
    return embeddings


def _image_input(config: Any) -> InputSpec:
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (config.num_channels, height, width)
    return InputSpec(("batch", "channels", "height", "width"), shape, shape)


def _token_input(config: Any) -> InputSpec:
    most = (config.max_position_embeddings,)
    return InputSpec(("batch", "tokens"), (None,), (1,), maximum=most, dtype=torch.int64, values=config.vocab_size)


def _waveform_input(config: Any) -> InputSpec:
    least = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        least = (least - 1) * stride + kernel
    return InputSpec(("batch", "time"), (None,), (least,))


@dataclass(frozen=True)
class Anatomy:
    """Where a kind of model keeps its parts.

    Attributes:
        input: The input that a configuration asks for.
        embedding: Of a model: the module from the input to the hidden state before the first layer.
        layers: Of a model: its layers.
        norm: Of a model: the norm behind the last layer, None if there is none.
        cls: Whether the first token stands for the whole input.
    """

    input: Callable[[Any], InputSpec]
    embedding: Callable[[Any], nn.Module]
    layers: Callable[[Any], nn.ModuleList]
    norm: Callable[[Any], nn.Module | None]
    cls: bool


ANATOMIES: dict[str, Anatomy] = {
    "vit": Anatomy(_image_input, _image_embedding, lambda model: model.layers, lambda model: model.layernorm, True),
    "bert": Anatomy(
        _token_input, lambda model: model.embeddings, lambda model: model.encoder.layer, lambda model: None, True
    ),
    "wav2vec2": Anatomy(
        _waveform_input,
        WaveformEmbedding,
        lambda model: model.encoder.layers,
        lambda model: model.encoder.layer_norm if _norm_is_last(model) else None,
        False,
    ),
}


class HuggingFace(StagedEncoder):
    """A backbone of the Transformers library. Exits ``embedding``, ``layer1`` .. ``layerN``.

    Default tap: the CLS token (ViT, BERT) or the mean over positions, ``(N, width)``. At ``embedding``, where no token has seen
    another, it is the mean for all. Tokens: all positions behind the final norm, ``(N, positions, width)``, CLS first.

    Args:
        model_type: ``"vit"`` (images ``(N, channels, height, width)``, float32), ``"bert"`` (token numbers ``(N, tokens)``, int64) or
            ``"wav2vec2"`` (waveforms ``(N, time)``, float32).
        config: Arguments of the model type's configuration, JSON types.
        pooling: ``"cls"`` or ``"mean"``; the model type's own if None.

    Raises:
        EncoderError: Unknown model type or pooling, a configuration that gives no such backbone, or ``transformers`` is missing.
    """

    architecture: ClassVar[str] = "huggingface"

    def __init__(
        self, model_type: str = "", config: Mapping[str, Any] | None = None, pooling: Pooling | None = None
    ) -> None:
        super().__init__()
        if not model_type or config is None:
            raise EncoderError(
                "huggingface is many models: name a folder with the configuration of one, hf-hub:org/name, or for random "
                "weights model_type= and config="
            )
        library, configuration = require_transformers(), _configuration(model_type, config)
        with _one_line(model_type):
            model = library.AutoModel.from_config(configuration, dtype=torch.float32, attn_implementation="sdpa")
        self._assemble(model, pooling)

    @classmethod
    def from_model(cls, model: nn.Module, pooling: Pooling | None = None) -> Self:
        """Cut a model, or the backbone below its head, into stages that share its parameters; the model is left as it is.

        Raises:
            EncoderError: The model is of another type, not float32, or computes something else than its layers one after another.
        """
        backbone: Any = model.base_model  # of a model without a head: itself
        _anatomy(backbone.config.model_type)
        check_float32(backbone)
        cls._assembled(shared_copy(backbone).eval(), pooling)._compare(shared_copy(backbone).eval())
        return cls._assembled(shared_copy(backbone), pooling)

    @classmethod
    def from_folder(cls, folder: Path, described: Mapping[str, Any]) -> Self:
        """Read the ``model.safetensors`` of a folder that the library wrote, under the library's names.

        Heads and pooling layers are left out, and nothing in the folder can name code to run.

        Args:
            folder: The folder.
            described: The content of its ``config.json``.

        Raises:
            EncoderError: The weights are missing, broken, or do not fit the configuration; or the model type is unknown.
        """
        try:
            library, config = require_transformers(), _configuration(**cls.read_config(described))
            if (folder / WEIGHTS).is_file():
                _check_size(library, config, read_shapes(folder / WEIGHTS))
        except EncoderError as error:
            raise EncoderError(f"{folder}: {error}") from None
        if not (folder / WEIGHTS).is_file():
            raise EncoderError(
                f"{folder} has no {WEIGHTS}, and weights that are pickled or in several files are not read: save the model "
                f"again with save_pretrained(..., max_shard_size='1TB')"
            )
        with _one_line(str(folder)), _quiet(), seeded(0):
            model, found = library.AutoModel.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation="sdpa",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        _check_fit(model, cls._assembled(shared_copy(model)), found, folder)
        return cls.from_model(model)

    @classmethod
    def read_config(cls, described: Mapping[str, Any]) -> dict[str, Any]:
        """This class's arguments in the library's ``config.json``: what shapes the network, and nothing else that stands there."""
        known = _arguments_of(described["model_type"])
        return {
            "model_type": described["model_type"],
            "config": {key: value for key, value in described.items() if key in known},
        }

    @classmethod
    def convert_checkpoint(cls, tensors: dict[str, Tensor], **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Refused: what the weights belong to stands in the configuration beside them."""
        raise EncoderError(
            f"weights alone do not say their configuration: give the folder that holds {CONFIG} and {WEIGHTS} as the encoder"
        )

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
            raise EncoderError(f"unknown pooling {pooling!r}: huggingface has default, tokens")
        return tokens[:, 0] if self.config["pooling"] == "cls" and exit > 0 else tokens.mean(1)

    @classmethod
    def _assembled(cls, model: Any, pooling: Pooling | None = None) -> Self:
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder._assemble(model, pooling)
        return encoder

    def _assemble(self, model: Any, pooling: Pooling | None) -> None:
        """Take the parts of a model that nobody else uses."""
        config = model.config
        anatomy = _anatomy(config.model_type)
        choices = ("cls", "mean") if anatomy.cls else ("mean",)
        if pooling not in (None, *choices):
            raise EncoderError(f"pooling={pooling!r}: {config.model_type} has {', '.join(choices)}")
        known = _arguments_of(config.model_type)
        arguments = {key: value for key, value in config.to_diff_dict().items() if key in known}
        self.config = {
            "model_type": config.model_type,
            "config": json.loads(json.dumps(arguments)),  # as a folder gives it back
            "pooling": pooling or choices[0],
        }
        self.input = anatomy.input(config)
        if math.prod(self.input.minimum) > MOST_VALUES:
            raise EncoderError(
                f"this {config.model_type} takes {self.input.describe()}: more than {MOST_VALUES:,} values"
            )
        layers = list(anatomy.layers(model))
        if not layers:
            raise EncoderError(f"this {config.model_type} has no layers")
        self.stages = nn.ModuleList([anatomy.embedding(model), *layers])
        self.norm = anatomy.norm(model) or nn.Identity()
        names = ["embedding", *(f"layer{number}" for number in range(1, len(layers) + 1))]
        self.exits = self.measure_exits(names, [config.hidden_size] * len(names))

    def _compare(self, model: nn.Module) -> None:
        """Refuse a model whose hidden states are others than this encoder's. Both are in inference mode, and not kept."""
        x = self.input.draw(2, self.input.example_shape()).to(next(model.parameters()).device)
        with torch.no_grad(), seeded(0), _one_line(self.config["model_type"]):  # some draw without using it
            result: Any = model(x, output_hidden_states=True)
            ours = [state for _, (state,) in self.visit(x)]
            ours[-1] = self.norm(ours[-1])
        theirs = [*result.hidden_states[: len(ours) - 1], result.last_hidden_state]
        for exit, state, expected in zip(self.exits, ours, theirs, strict=True):
            difference = relative_difference(state, expected)
            if difference > TOLERANCE:
                raise EncoderError(
                    f"this {self.config['model_type']} is more than its layers one after another: at {exit.name} they differ "
                    f"from it by {difference:.2g} of the largest value; name stages=[...] to cut it elsewhere"
                )


ARCHITECTURES = (HuggingFace,)


def require_transformers() -> Any:
    """The module ``transformers``; an :class:`EncoderError` where it is not installed."""
    try:
        return import_module("transformers")
    except ImportError:
        raise EncoderError("Hugging Face models need the package transformers: pip install offramp[hub]") from None


def _anatomy(model_type: str) -> Anatomy:
    if model_type not in ANATOMIES:
        raise EncoderError(
            f"a Hugging Face model of type {model_type!r} is not cut as a whole, only {', '.join(ANATOMIES)} are: build it "
            f"yourself and give from_module the places, stages=[...]"
        )
    return ANATOMIES[model_type]


def _arguments_of(model_type: str) -> set[str]:
    """Names of the arguments that a model type adds to those of all: what shapes the network, but no code, file or output."""
    library = require_transformers()
    _anatomy(model_type)
    own, common = library.CONFIG_MAPPING[model_type], library.PreTrainedConfig
    return set(inspect.signature(own).parameters) - set(inspect.signature(common).parameters)


def _configuration(model_type: str, config: Mapping[str, Any]) -> Any:
    known = _arguments_of(model_type)
    unknown = [key for key in config if key not in known]
    if unknown:
        raise EncoderError(f"{unknown[0]!r} is no argument of {model_type}: known are {', '.join(sorted(known))}")
    for key, value in config.items():
        if "layers" in key and isinstance(value, int) and value > MOST_LAYERS:
            raise EncoderError(f"{model_type} cannot be built: {key}={value} is more than {MOST_LAYERS}")
    with _one_line(model_type):
        return require_transformers().CONFIG_MAPPING[model_type](**config)


def _check_size(library: Any, config: Any, shapes: Shapes) -> None:
    """Refuse a configuration that asks for far more values than weights of these shapes hold, without allocating them.

    What is missing in detail is found, and named, once the model is there.
    """
    with _one_line(config.model_type), _quiet(), seeded(0), sketching(shapes, config.model_type):
        sketch = library.AutoModel.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        asked = sum(parameter.numel() for parameter in HuggingFace._assembled(sketch).parameters())
    held = sum(math.prod(shape) for shape in shapes.values())
    if asked > 2 * held + SPARE_VALUES:
        raise EncoderError(
            f"this {config.model_type} does not fit its {CONFIG}: that asks for {asked:,} values, and there are {held:,}"
        )


def _check_fit(model: Any, encoder: HuggingFace, found: Mapping[str, Any], folder: Path) -> None:
    """Refuse weights that are missing, too many or of another shape in what the encoder keeps of the model."""
    kept = set(encoder.parameters())
    own = [name for name, parameter in model.named_parameters() if parameter in kept]
    rooms = {name for name, _ in model.named_children()} - {"pooler"}
    shapes = {name: (stored, expected) for name, stored, expected in found["mismatched_keys"]}
    left_over = [name.removeprefix(f"{model.base_model_prefix}.") for name in sorted(found["unexpected_keys"])]
    wrong = [f"{name} is missing" for name in own if name in found["missing_keys"]]
    wrong += [f"{name} is unknown" for name in left_over if name.split(".")[0] in rooms and name not in UNUSED]
    wrong += [
        f"{name} is {tuple(shapes[name][0])} instead of {tuple(shapes[name][1])}" for name in own if name in shapes
    ]
    check_fit(wrong, str(folder), f"{model.config.model_type} of its {CONFIG}")


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Whatever the library raises on a configuration or on weights is one line about ``what``."""
    try:
        yield
    except OfframpError:
        raise
    except Exception as error:
        raise EncoderError(f"{what} cannot be built: {first_line(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """The library reports what it leaves out and draws bars; we say what matters ourselves."""
    logging = import_module("transformers.utils.logging")
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
