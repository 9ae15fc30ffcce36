"""Values that servers stumble over."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

INTEGERS = (
    0,
    1,
    -1,
    2,
    255,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    10**400,
)
NUMBERS = (*INTEGERS, 0.5, -0.0, 1e-320, 1e308, -1e308, 1.7976931348623157e308)
TEXTS = (
    "",
    " ",
    "\0",
    "a\r\nb: c",
    "../../../etc/passwd",
    "%2f%00",
    "'\"\\`;--",
    "{{7*7}}${7*7}",
    "\u202edorwssap",
    "\ufffd\ufffe",
    "\U0001f4e1" * 20,
    "default",
    "shadow",
    "nan",
    "-1",
    "1e999",
    "x" * 1000,
    "x y " * 20_000,
)
NAMES = (
    b"%2f",
    b"%00",
    b"..",
    b"%2e%2e%2f",
    b"x" * 10_000,
    b"%ff%fe",
    b"%ed%a0%80",
    b"%",
    b"a%0d%0ab",
    b"*",
    b"plain%20",
    b"//",
    b";a=b",
)
"""Of models and slices, as they stand in a path."""

integers = st.sampled_from(INTEGERS) | st.integers()
numbers = st.sampled_from(NUMBERS) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.sampled_from(TEXTS) | st.text(max_size=20)
scalars = st.none() | st.booleans() | numbers | texts
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
shapes = st.lists(
    st.sampled_from((0, 1, 2, 3, 96, -1, 2**16, 2**28, 2**31, 2**62, 2**63 - 1)) | st.integers(0, 300), max_size=18
)
paths = st.sampled_from(NAMES) | st.binary(max_size=12).map(lambda raw: b"".join(b"%%%02x" % each for each in raw))
said = st.fixed_dictionaries(
    {},
    optional={
        "slice": scalars,
        "exit": scalars,
        "policy": scalars,
        "deadline_ms": scalars,
        "timeout": scalars,
        "source": scalars,
        "priority": scalars,
        "sequence_id": scalars,
        "binary_data_output": scalars,
    },
)
"""Parameters of a request, of which most cannot be."""


def in_json(value: Any) -> bytes:
    """As JSON; lone surrogates as they are escaped there."""
    return json.dumps(value).encode()


def nested(depth: int, opens: bytes = b"[", closes: bytes = b"]") -> bytes:
    """Lists in lists, as JSON."""
    return opens * depth + closes * depth
