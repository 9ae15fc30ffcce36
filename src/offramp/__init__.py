"""Offramp: early exits on frozen wireless foundation models.

The public names are imported when they are first used, so that ``import offramp`` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any

    from offramp.costs import exit_costs
    from offramp.encoders.base import StagedEncoder
    from offramp.encoders.registry import list_encoders, load_encoder, register_encoder
    from offramp.errors import OfframpError
    from offramp.experiment.pipeline import run_suite
    from offramp.export import export_onnx
    from offramp.runtime import Predictor, load
    from offramp.schema.suite import load_suite

_HOMES = {
    "exit_costs": "offramp.costs",
    "StagedEncoder": "offramp.encoders.base",
    "list_encoders": "offramp.encoders.registry",
    "load_encoder": "offramp.encoders.registry",
    "register_encoder": "offramp.encoders.registry",
    "OfframpError": "offramp.errors",
    "export_onnx": "offramp.export",
    "run_suite": "offramp.experiment.pipeline",
    "Predictor": "offramp.runtime",
    "load": "offramp.runtime",
    "load_suite": "offramp.schema.suite",
}

__all__ = [
    "OfframpError",
    "Predictor",
    "StagedEncoder",
    "exit_costs",
    "export_onnx",
    "list_encoders",
    "load",
    "load_encoder",
    "load_suite",
    "register_encoder",
    "run_suite",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        return import_module("importlib.metadata").version("offramp")
    if name not in _HOMES:
        raise AttributeError(f"module 'offramp' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
