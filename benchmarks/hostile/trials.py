"""What became of hostile requests, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from .target import Reply

FAULTS = frozenset({"silent", "junk", "INTERNAL", "UNKNOWN", "DATA_LOSS"})
Example = TypeVar("Example")


@dataclass
class Trials:
    """All of them.

    Attributes:
        statuses: How often, by kind and status.
        faults: Kind, status and request of those that show a fault of the server: a hang, half an answer, or a 5xx other than 503 and 504.
        slowest: Seconds.
    """

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.statuses.values())

    def note(self, kind: str, status: int | str, seconds: float, shown: object, closing: bool = False) -> None:
        """Take one; ``closing`` says that it may be answered by a closed connection alone."""
        self.statuses[kind, str(status)] += 1
        self.slowest = max(self.slowest, seconds)
        broken = status >= 500 and status not in (503, 504) if isinstance(status, int) else status in FAULTS
        if broken or (status == "closed" and not closing):
            self.faults.append((kind, str(status), repr(shown)[:1000]))

    def note_reply(self, kind: str, reply: Reply, shown: object, closing: bool = False) -> None:
        """Take one over HTTP."""
        self.note(kind, reply.status, reply.seconds, shown, closing)

    def summary(self) -> dict[str, Any]:
        """By kind, how often each status was given."""
        found: dict[str, dict[str, int]] = {}
        for (kind, status), count in sorted(self.statuses.items()):
            found.setdefault(kind, {})[status] = count
        return found


def each(strategy: SearchStrategy[Example], count: int, number: int, attempt: Callable[[Example], None]) -> None:
    """Do something with so many examples, or as many as there are; the same ones for the same number."""

    @seed(number)
    @settings(
        max_examples=max(1, count),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(example: Example) -> None:
        attempt(example)

    try:
        one()
    except Unsatisfiable:
        return
