"""Reading results.json back."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from offramp.errors import OfframpError
from offramp.schema.results import Results


def load_results(path: Path) -> Results:
    """Read a run's ``results.json``; ``path`` is that file or the run's folder.

    Raises :class:`OfframpError` where there is no such file, or where it is not a results.json of this version.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OfframpError(f"{file} does not exist: give a results.json or the folder of a finished run") from None
    except OSError as error:
        raise OfframpError(f"cannot read {file}: {error.strerror}; give a results.json that can be read") from error
    except ValueError as error:
        raise OfframpError(f"{file} is not JSON ({error}): make it again with `offramp run`") from error
    if not isinstance(content, dict) or content.get("schema") != 1:
        found = f"its schema is {content.get('schema')!r}" if isinstance(content, dict) else "it is not an object"
        raise OfframpError(f"{file} is not a results.json with schema 1 ({found}): make it again with `offramp run`")
    try:
        return Results.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OfframpError(
            f"{file} has a bad field {place} ({first['msg']}): make it again with `offramp run`"
        ) from error
