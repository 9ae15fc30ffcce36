"""Reading results.json back."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from offramp.errors import OfframpError
from offramp.opening import read_json
from offramp.schema.results import Results, TaskResult

BEYOND = 1e100
"""No score or cost comes near; a threshold that no window passes is the largest float."""


def results_file(path: Path) -> Path:
    """The ``results.json`` that ``path`` is, or that lies in it where it is a folder."""
    return path / "results.json" if os.path.isdir(path) else path  # which takes any text for a name


def load_results(path: Path) -> Results:
    """Read a run's ``results.json``; ``path`` is that file or the run's folder.

    Raises :class:`OfframpError` where there is no such file, or where it is not a results.json of this version.
    """
    file = results_file(path)
    content = _read(file)
    if not isinstance(content, dict) or content.get("schema") != 1:
        found = f"its schema is {content.get('schema')!r}" if isinstance(content, dict) else "it is not an object"
        raise OfframpError(f"{file} is not a results.json with schema 1 ({found}): make it again with `offramp run`")
    try:
        results = Results.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OfframpError(
            f"{file} has a bad field {place} ({first['msg']}): make it again with `offramp run`"
        ) from error
    for name, task in results.tasks.items():
        if field := _unfit(task):
            raise OfframpError(f"{file} has a bad field tasks.{name}.{field}: make it again with `offramp run`")
    return results


def _unfit(task: TaskResult) -> str | None:
    """A field whose parts do not fit each other, as the schema alone cannot say, with what is wrong."""
    snr, confusion = task.by_snr, task.confusion
    if not task.exits:
        return "exits (at least one is needed)"
    if snr is not None and not len(snr.edges_db) - 1 == len(snr.chosen) == len(snr.full) > 0:
        return "by_snr (one edge more than there are scores is needed)"
    if confusion is not None and not all(len(row) == len(confusion) and min(row) >= 0 for row in confusion):
        return "confusion (a square of counts is needed)"
    return None


def _read(file: Path) -> Any:
    if not os.path.lexists(file):
        raise OfframpError(f"{file} does not exist: give a results.json or the folder of a finished run")
    content = read_json(file, advice="make it again with `offramp run`")
    if _goes_beyond(content):
        raise OfframpError(f"{file} holds a number beyond {BEYOND:g}: make it again with `offramp run`")
    return content


def _goes_beyond(content: Any) -> bool:
    """Whether a number is one that JSON can say and no run writes."""
    if isinstance(content, dict | list):
        return any(map(_goes_beyond, content.values() if isinstance(content, dict) else content))
    return isinstance(content, int | float) and not (abs(content) < BEYOND or abs(content) == sys.float_info.max)
