"""What a check is, what comes of it, and what comes of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How much a check weighs."""

    REQUIRED = "required"
    """The protocol's text demands it."""
    EXTENSION = "extension"
    """The text of an extension demands it: it counts where the server announces the extension."""
    STRICT = "strict"
    """The text is silent or lets the server choose. A server that fails hides a client's mistake, or falls for a hostile form."""


class CheckOutcome(StrEnum):
    """What comes of a check."""

    PASSED = "pass"
    FAILED = "fail"
    UNSUPPORTED = "not supported"
    """An optional extension that the server neither announces nor has."""
    NOT_RUN = "not run"
    """It cannot be checked here: the model has no such tensor, or what it builds on has failed."""


class Fault(Exception):
    """A check has failed; the message is its evidence.

    Args:
        evidence: What was seen.
        level: How much it weighs, where that is less than the check does.
    """

    def __init__(self, evidence: str, level: Level | None = None) -> None:
        super().__init__(evidence)
        self.level = level


class NotSupported(Exception):
    """The server has no such extension."""


class NotRun(Exception):
    """What is to be checked does not occur here."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check of a server, or of one of its models.

    Attributes:
        check: Name of the check.
        model: Model that was asked; empty for checks of the whole server.
        level: How much the check weighs.
        counts: Whether a failure makes the server one that does not conform.
        outcome: What came of it.
        clause: What the check tests, and where that is written.
        evidence: What was seen, in one line.
    """

    check: str
    model: str
    level: Level
    counts: bool
    outcome: CheckOutcome
    clause: str
    evidence: str


@dataclass(frozen=True)
class Conformance:
    """What a server was asked and how it did.

    Attributes:
        url: Where HTTP was spoken.
        grpc: Where gRPC was spoken; empty if nowhere.
        server: Name and version that the server gives.
        extensions: What it announces.
        models: Models that were asked.
        results: One for each check, and each model where it is one of a model.
    """

    url: str
    grpc: str
    server: str
    extensions: tuple[str, ...]
    models: tuple[str, ...]
    results: tuple[CheckResult, ...]

    @property
    def conforms(self) -> bool:
        """Whether nothing failed that the protocol, or an extension that the server announces, demands."""
        return not any(result.outcome is CheckOutcome.FAILED and result.counts for result in self.results)

    @property
    def counts(self) -> dict[str, int]:
        """How often each outcome came up, and how many failures count."""
        found = Counter(result.outcome for result in self.results)
        counted = sum(result.outcome is CheckOutcome.FAILED and result.counts for result in self.results)
        return {str(outcome): found[outcome] for outcome in CheckOutcome} | {"required": counted}

    @property
    def sentence(self) -> str:
        """How it did, in one line."""
        found = self.counts
        parts = ", ".join(f"{found[outcome]} {outcome}" for outcome in CheckOutcome)
        verdict = "conforms" if self.conforms else f"does not conform: {found['required']} of the failures count"
        return f"{self.server or self.url} {verdict} ({parts})"

    def to_dict(self) -> dict[str, Any]:
        """A document for ``--json``."""
        return {"conforms": self.conforms, "counts": self.counts} | asdict(self)
