"""Requests that schemathesis makes of the server's own OpenAPI document: such as fit it, and such as do not."""

from __future__ import annotations

import random
from typing import Any

import requests
import schemathesis
from schemathesis import GenerationMode

from .places import restore
from .target import HOST, PATIENCE_S, Target
from .trials import Trials, each

KNOWN = 0.7
"""Share of requests whose model is one that there is, whatever was drawn: else nearly all would end there."""


def attack(target: Target, count: int, number: int, trials: Trials) -> None:
    """Send so many requests, as many for each operation and mode as it has different ones."""
    schema = schemathesis.openapi.from_url(f"http://{HOST}:{target.http}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations()]
    modes = [
        (operation, mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if mode is GenerationMode.POSITIVE or operation.body or operation.path_parameters
    ]
    # those that take a body first, for they have the most; what the others leave goes to them in a second round
    modes.sort(key=lambda pair: not pair[0].body)
    rng, before = random.Random(number), trials.count
    with requests.Session() as session:
        for turn in range(2):
            for place, (operation, mode) in enumerate(modes):
                left = count - (trials.count - before)
                share = left // (len(modes) - place) if turn == 0 else left
                if share > 0 and (turn == 0 or operation.body):

                    def send(case: Any) -> None:
                        _send(case, session, target, rng, trials)

                    each(operation.as_strategy(generation_mode=mode), share, number + turn, send)


def _send(case: Any, session: requests.Session, target: Target, rng: random.Random, trials: Trials) -> None:
    if "model" in (case.path_parameters or {}) and rng.random() < KNOWN:
        case.path_parameters["model"] = rng.choice(target.models)
    kind = f"openapi {case.method}"
    try:
        answer = case.call(session=session, timeout=PATIENCE_S)
    except requests.Timeout:
        trials.note(kind, "silent", PATIENCE_S, case)
    except requests.ConnectionError:
        trials.note(kind, "closed", 0.0, case)
    else:
        trials.note(kind, answer.status_code, answer.elapsed, case.as_curl_command())
        if answer.status_code == 200 and case.path.endswith("/unload"):  # the others want it again
            restore(target)
