"""Frozen networks cut into stages; :func:`from_module` makes one of any model of torch. It is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offramp.encoders.module import ModuleEncoder, from_module

__all__ = ["ModuleEncoder", "from_module"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'offramp.encoders' has no attribute {name!r}")
    return getattr(import_module("offramp.encoders.module"), name)
