"""API keys by scope, from a file; compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from offramp.errors import SuiteError
from offramp.schema.strict import StrictModel
from offramp.schema.yaml_files import read_yaml
from offramp.serving.protocol.faults import NotAllowed, NotAuthorised

Scope = Literal["infer", "admin"]
KEY_FILE_BYTES = 1 << 20
SHORTEST = 16


class KeyEntry(StrictModel):
    """A key in the file.

    Attributes:
        key: At least 16 letters; ``openssl rand -hex 32`` makes one.
        scopes: ``infer`` asks and looks; ``admin`` also changes slices, loads and unloads.
    """

    key: str = Field(min_length=SHORTEST, max_length=1024)
    scopes: list[Scope] = Field(min_length=1)


class KeyFile(StrictModel):
    """The file: keys by the name of who has them."""

    keys: dict[str, KeyEntry] = Field(min_length=1)


@dataclass(frozen=True)
class Keys:
    """Digests of keys; the keys themselves are not kept.

    Attributes:
        scopes: By name of who has it, SHA-256 of the key and what it is for. Empty: everybody may do everything.
    """

    scopes: Mapping[str, tuple[bytes, frozenset[str]]]

    def check(self, given: str | None, scope: Scope) -> str:
        """Name of whose key it is; an empty one where there are no keys.

        Args:
            given: The header ``Authorization``: ``Bearer KEY``.
            scope: What is wanted; ``admin`` may also do what ``infer`` may.

        Raises:
            NotAuthorised: There is no such key.
            NotAllowed: The key is not for this.
        """
        if not self.scopes:
            return ""
        key = given.removeprefix("Bearer ").strip() if given else ""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = ""
        for name, (known, _) in self.scopes.items():
            if hmac.compare_digest(known, digest):  # all are compared, so that the time says nothing
                found = name
        if not found:
            raise NotAuthorised("give a key in the header Authorization: Bearer KEY")
        allowed = self.scopes[found][1]
        if scope not in allowed and "admin" not in allowed:
            raise NotAllowed(f"this key is for {', '.join(sorted(allowed))}, not for {scope}")
        return found


NO_KEYS = Keys({})


def load_keys(path: Path) -> Keys:
    """Read a file of keys, YAML.

    Raises:
        SuiteError: It is missing or broken, or two keys are the same.
    """
    content = read_yaml(path, "keys are YAML", KEY_FILE_BYTES)
    try:
        entries = KeyFile.model_validate(content or {}).keys
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]  # what is given may be a key
        where = ".".join(map(str, first["loc"]))
        raise SuiteError(
            f"{path}: {where}: {first['msg']}; write keys: {{NAME: {{key: ..., scopes: [infer]}}}}"
        ) from None
    scopes = {
        name: (hashlib.sha256(entry.key.encode()).digest(), frozenset(entry.scopes)) for name, entry in entries.items()
    }
    if len({digest for digest, _ in scopes.values()}) < len(scopes):
        raise SuiteError(f"{path}: two of the keys are the same: give each its own")
    return Keys(scopes)
