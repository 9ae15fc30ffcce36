"""Reads the YAML files that users write: plain YAML with bounds, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from offramp.errors import SuiteError
from offramp.opening import read_text

MAX_MERGED = 10_000
"""Most keys that a file takes over from others by ``<<``."""


def read_yaml(path: Path, advice: str, limit: int) -> Any:
    """What a YAML file holds.

    Args:
        path: The file.
        advice: What is expected of it, for messages.
        limit: Its largest size in bytes.

    Raises:
        SuiteError: It is missing, too large, no text, or no YAML.
    """
    try:
        return yaml.load(read_text(path, SuiteError, advice, limit), _Loader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML lets errors of its constructors through: !!int "" is an IndexError
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise SuiteError(f"{path} is not valid YAML{line}: {problem}") from None


class _Loader(yaml.SafeLoader):
    """Plain YAML, in which a key that is given twice is an error instead of the last one winning, and merging has bounds."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        before = len(node.value)
        super().flatten_mapping(node)
        self.merged += max(0, len(node.value) - before)
        if self.merged > MAX_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "too many keys are merged by <<", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)
