"""What is wrong with a stored document, in a few words."""

from __future__ import annotations

import reprlib

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """The key and what is wrong with it; a long value or key is cut."""
    first = error.errors(include_url=False)[0]
    key = ".".join(reprlib.repr(part).strip("'") for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict | list) else f" (given: {reprlib.repr(first['input'])})"
    return f"{key + ': ' if key else ''}{message[0].lower()}{message[1:]}{given}"
