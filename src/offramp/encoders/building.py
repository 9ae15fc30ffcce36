"""Encoders from a configuration: arguments are checked, and sizes compared with the weights, before anything is allocated."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Annotated, Any, get_type_hints

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from torch.nn.modules.module import register_module_parameter_registration_hook

from offramp.encoders.base import StagedEncoder, seeded
from offramp.encoders.storage import CONFIG, Shapes, check_shapes, first_line
from offramp.errors import EncoderError, OfframpError
from offramp.schema.problems import first_problem

Width = Annotated[int, Field(ge=1, le=2**14)]
"""Of tokens: tables of positions are as wide."""
Size = Annotated[int, Field(ge=1, le=2**16)]
"""Channels, hidden units, positions, samples."""
Count = Annotated[int, Field(ge=1, le=2**10)]
"""Layers, heads and whatever else is made one by one."""
SPARE_TENSORS = 512
"""What a constructor may make and drop again."""


def random_encoder(
    architecture: type[StagedEncoder], config: dict[str, Any], seed: int, source: str | None = None
) -> StagedEncoder:
    """An encoder with its architecture's own random initialisation; the global random state is left as it was.

    Args:
        architecture: Its class.
        config: Arguments of the constructor.
        seed: Of the weights.
        source: Where the arguments are from, for messages.

    Raises:
        EncoderError: An argument is unknown, missing, of another type than the constructor's annotation, or too large; or the
            constructor refuses them.
    """
    what = f"{'' if source is None else f'{source}: '}{architecture.architecture} cannot be built"
    check_arguments(architecture, config, what)
    with seeded(seed):
        try:
            return architecture(**config)
        except OfframpError as error:
            raise (error if source is None else EncoderError(f"{source}: {error}")) from error.__cause__
        except Exception as error:  # whatever the constructors of others raise
            raise EncoderError(f"{what}: {first_line(error)}") from error


def check_sizes(architecture: type[StagedEncoder], config: dict[str, Any], shapes: Shapes, source: str) -> None:
    """Refuse a configuration whose tensors are not those given, without allocating them.

    Args:
        architecture: One of ours: what others do in a constructor may need values.
        config: Its arguments.
        shapes: Of the weights, by name.
        source: Where both are from, for messages.

    Raises:
        EncoderError: As :func:`random_encoder`, or names or shapes differ.
    """
    with sketching(shapes, source):
        sketch = random_encoder(architecture, config, 0, source)
    check_shapes(sketch, shapes, source)


@contextmanager
def sketching(shapes: Shapes, source: str) -> Iterator[None]:
    """What is built within has shapes and no values; it stops where it becomes far more tensors than there are shapes.

    Raises:
        EncoderError: Too many tensors.
    """
    most, made, here = 2 * len(shapes) + SPARE_TENSORS, 0, get_ident()

    def count(*_: Any) -> None:
        nonlocal made
        made += get_ident() == here
        if made > most:
            raise _TooManyTensors

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            yield
    except _TooManyTensors:
        raise EncoderError(
            f"{source} does not fit its {CONFIG}: that asks for more than {made:,} tensors, and there are {len(shapes):,}"
        ) from None
    finally:
        hook.remove()


class _TooManyTensors(BaseException):
    """No Exception, so that nobody on the way takes it for a fault of the configuration."""


def check_arguments(architecture: type[StagedEncoder], config: Mapping[str, Any], what: str) -> None:
    """Refuse constructor arguments that do not fit the constructor's annotations, read strictly: no text for a number.

    Raises:
        EncoderError: It begins with ``what``.
    """
    try:
        inspect.signature(architecture).bind(**config)
    except TypeError as error:
        raise EncoderError(f"{what}: {error}") from None
    for name, hint in _annotations(architecture).items():
        if name not in config:
            continue
        try:
            TypeAdapter(hint).validate_json(json.dumps(config[name]), strict=True)
        except ValidationError as error:
            raise EncoderError(f"{what}: {name}: {first_problem(error)}") from None
        except (TypeError, PydanticUserError):  # no JSON, so not from a file; or an annotation that is no schema
            continue


def _annotations(architecture: type[StagedEncoder]) -> dict[str, Any]:
    try:
        return get_type_hints(architecture.__init__, include_extras=True)
    except (NameError, TypeError):  # a name that is known to type checkers alone
        return {}
