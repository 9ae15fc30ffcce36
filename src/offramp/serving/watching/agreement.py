"""How often live answers are those of full depth, known without labels and at any time, and what that says of a stored certificate.

A certificate is about the expected loss of a new recording. So is this: what one source sends within some time is a *block*, and a block
counts once, by the mean loss of its windows that were looked at; windows of a recording are not independent. A
:class:`~offramp.scoring.sequences.ConfidenceSequence` of the blocks' losses may be looked at as often as one likes.

Traffic changes, and a sequence that has seen ten thousand good blocks would take as many bad ones to notice. So a new one begins after some
number of blocks, the k-th with the share ``1 / (k (k + 1))`` of the error probability: all of them together err with no more than the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from offramp.policies.purpose import StoredGuarantee
from offramp.scoring.sequences import ConfidenceSequence

CertificateState = Literal["holds", "renewed", "withdrawn", "none"]
ALPHA = 0.05
"""Error probability where no certificate states one."""
EPOCH_LOSSES = 50
"""A sequence ends after as many blocks as lose so much at the certificate's level: several times what a decision takes."""
EPOCH_BLOCKS = 1000
"""And without a certificate after this many."""
MOST_BLOCKS = 1024
"""Open at a time; beyond, the oldest ends early."""


@dataclass(frozen=True)
class LiveAgreement:
    """What is known of one task's answers under one policy, or at one fixed exit.

    Attributes:
        task: Name of the task.
        policy: Name of the policy; ``fixed`` for one exit.
        exit: The deepest exit that it consults.
        windows: Compared with full depth, those that went there by themselves included.
        blocks: That they make: each counts once.
        agreement: Mean share of answers that are full depth's, over the blocks of late; None before the first.
        lower: Bound of the share to be expected of a new block.
        upper: Bound.
        alpha: Probability that the share ever leaves the bounds.
        promised: The share that the stored certificate promises, if it is about that; None otherwise.
        certificate: What becomes of the stored one: it ``holds`` as it was certified, is ``renewed`` or ``withdrawn`` by what is seen
            now, or there is ``none``.
        sentence: The same in words.
    """

    task: str
    policy: str
    exit: str
    windows: int
    blocks: int
    agreement: float | None
    lower: float
    upper: float
    alpha: float
    promised: float | None
    certificate: CertificateState
    sentence: str


class RecordingBlocks:
    """Gathers losses by source, and gives one per block."""

    def __init__(self, seconds: float) -> None:
        """Blocks last so many seconds from their first loss on."""
        self._seconds = seconds
        self._open: dict[str, tuple[float, float, int]] = {}
        """By source: since when, sum of losses, their number; the oldest first."""

    def add(self, source: str, losses: float, windows: int, now: float) -> None:
        """Take the summed losses of some windows into account."""
        since, total, count = self._open.get(source, (now, 0.0, 0))
        self._open[source] = since, total + losses, count + windows

    def ended(self, now: float) -> Iterator[float]:
        """Mean losses of the blocks whose time is over, and of the oldest where there are too many; each is given once."""
        while self._open:
            source, (since, total, count) = next(iter(self._open.items()))
            if now - since < self._seconds and len(self._open) <= MOST_BLOCKS:
                return
            del self._open[source]
            yield total / count


class AgreementWatch:
    """Follows the answers of one task under one policy or at one fixed exit. Not for several threads at a time."""

    def __init__(
        self,
        task: str,
        policy: str,
        exit: str,
        kind: str,
        guarantee: StoredGuarantee | None = None,
        block_seconds: float = 60.0,
    ) -> None:
        """Start with nothing known.

        Args:
            task: Name of the task.
            policy: Name of the policy.
            exit: The deepest exit that it consults.
            kind: ``classification`` or ``regression``.
            guarantee: What is certified for the policy.
            block_seconds: What one source sends within this time counts once.
        """
        self._names, self._kind, self._guarantee = (task, policy, exit), kind, guarantee
        self._level = None if guarantee is None else guarantee.level
        self._alpha = ALPHA if guarantee is None or guarantee.delta is None else guarantee.delta
        self._length = EPOCH_BLOCKS if self._level is None else math.ceil(EPOCH_LOSSES / self._level)
        self._blocks, self._windows, self._counted = RecordingBlocks(block_seconds), 0, 0
        self._epoch, self._above = 1, False
        self._now, self._before = self._sequence(), self._sequence()

    def add(self, source: str, losses: float, windows: int, now: float) -> None:
        """Take some windows into account.

        Args:
            source: Name of the recording or radio that they come from.
            losses: How many of them have another answer than full depth's.
            windows: How many they are.
            now: When they were answered, in seconds; never before those that were added before.
        """
        self.advance(now)
        self._blocks.add(source, losses, windows, now)
        self._windows += windows

    def advance(self, now: float) -> None:
        """End the blocks whose time is over."""
        for loss in self._blocks.ended(now):
            if self._now.count == self._length:
                self._epoch += 1
                self._before, self._now = self._now, self._sequence()
            self._now.add(loss)
            self._counted += 1
            self._above |= self._level is not None and self._now.lower > self._level

    @property
    def status(self) -> LiveAgreement:
        """What is known now."""
        shown = self._now
        if self._before.upper - self._before.lower < shown.upper - shown.lower:
            shown = self._before
        state = self._state()
        task, policy, exit = self._names
        return LiveAgreement(
            task=task,
            policy=policy,
            exit=exit,
            windows=self._windows,
            blocks=self._counted,
            agreement=1 - shown.mean if shown.count else None,
            lower=1 - shown.upper,
            upper=1 - shown.lower,
            alpha=self._alpha,
            promised=1 - self._level if self._level is not None and self._bounded() else None,
            certificate=state,
            sentence=self._sentence(state, shown),
        )

    def _sequence(self) -> ConfidenceSequence:
        return ConfidenceSequence(self._alpha / (self._epoch * (self._epoch + 1)))

    def _bounded(self) -> bool:
        """Whether the risk that is certified is at most the disagreement."""
        risk = None if self._guarantee is None else self._guarantee.risk
        return risk == "disagreement" or (risk == "error_above_full" and self._kind == "classification")

    def _state(self) -> CertificateState:
        if self._guarantee is None or self._level is None:
            return "none"
        if self._guarantee.risk == "disagreement" and self._above:
            return "withdrawn"
        below = min(self._now.upper, self._before.upper) < self._level
        return "renewed" if below and self._bounded() and not self._above else "holds"

    def _sentence(self, state: CertificateState, shown: ConfidenceSequence) -> str:
        if not shown.count:
            seen = "nothing is known of live answers yet"
        else:
            between = f"between {shown.lower:.1%} and {shown.upper:.1%}"
            seen = f"live answers differ from full depth's in {shown.mean:.1%}, {between} at {1 - self._alpha:.0%}"
        if self._guarantee is None:
            return f"{seen}; nothing is certified"
        level, risk = f"{self._guarantee.level:.1%}", self._guarantee.risk
        if state == "withdrawn":
            return f"{seen}: more than the certified {level}; the certificate is withdrawn, recalibrate with labels"
        if state == "renewed":
            why = (
                ""
                if risk == "disagreement"
                else ", and an answer that is full depth's is not wrong where that is right"
            )
            return f"{seen}: at most the certified {level}{why}; the certificate is renewed"
        if risk == "disagreement":
            return f"{seen}; the certificate of at most {level} is neither renewed nor withdrawn yet"
        if self._bounded():
            return (
                f"{seen}; below {level} that would renew the certificate on error above full depth's, and above it says nothing: an answer "
                "other than full depth's need not be wrong, which labels alone can tell"
            )
        return f"{seen}; that says nothing of the certificate on {risk.replace('_', ' ')}, which takes labels"
