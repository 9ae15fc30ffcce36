"""What choosing temperatures and policies anew changed, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["refitted", "kept", "renewed", "withdrawn"]
RISK_WORDS = {
    "error_above_full": "answers that are wrong where full depth is right",
    "disagreement": "answers other than full depth's",
    "error": "wrong answers",
}


@dataclass(frozen=True)
class TemperatureChange:
    """One exit.

    Attributes:
        exit: Its name.
        before: The stored temperature.
        after: The new one.
        kept: Whether the new one was no better, so that the stored one stays.
        nll_before: Mean negative log-likelihood of the labels, nats, at the stored temperature.
        nll_after: At temperatures fitted to the other folds.
        ece_before: Expected calibration error, likewise.
        ece_after: Likewise.
    """

    exit: str
    before: float
    after: float
    kept: bool
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float

    @property
    def sentence(self) -> str:
        """In words."""
        if self.kept:
            return f"exit {self.exit}: temperature {self.before:.3g} kept; one fitted anew was worse on recordings left out"
        return (
            f"exit {self.exit}: temperature {self.before:.3g} -> {self.after:.3g}; on recordings left out, negative log-likelihood "
            f"{self.nll_before:.3g} -> {self.nll_after:.3g} and calibration error {self.ece_before:.3f} -> {self.ece_after:.3f}"
        )


@dataclass(frozen=True)
class PolicyChange:
    """One policy.

    Attributes:
        name: In the bundle.
        criterion: By which windows leave.
        exits: That it consults.
        outcome: ``refitted``; ``kept``, since what was fitted anew was no better; or for a guarantee ``renewed`` or ``withdrawn``.
        reason: Why it is withdrawn.
        thresholds_before: Stored.
        thresholds_after: New; None where it is withdrawn.
        shares_before: Of these windows that leave at each exit under the stored policy.
        shares_after: Under the new one.
        score_before: The task's metric on these windows under the stored policy, if it answered all of them.
        score_after: Under policies fitted to the other folds; of a guarantee, under the new one.
        rejected_before: Share of windows that it rejects; None where it rejects none.
        rejected_after: Share that the new one does.
        cost_before: Mean cost of a window under the stored policy; None where it has no budget.
        cost_after: Under the new one.
        budget: Most of that cost.
        unit: Of the costs.
        risk: That is guaranteed, with its ``level``; None without a guarantee.
        level: Most risk.
        delta: Probability that the guarantee fails; None for one on the mean risk.
        mean_loss: Of these recordings, at the new threshold or, where it is withdrawn, at the stored one.
        bound: Of the risk; None where there are too few recordings to tell.
    """

    name: str
    criterion: str
    exits: tuple[str, ...]
    outcome: Outcome
    reason: str | None
    thresholds_before: tuple[float, ...]
    thresholds_after: tuple[float, ...] | None
    shares_before: tuple[float, ...]
    shares_after: tuple[float, ...] | None
    score_before: float
    score_after: float | None
    rejected_before: float | None = None
    rejected_after: float | None = None
    cost_before: float | None = None
    cost_after: float | None = None
    budget: float | None = None
    unit: str | None = None
    risk: str | None = None
    level: float | None = None
    delta: float | None = None
    mean_loss: float | None = None
    bound: float | None = None

    @property
    def promise(self) -> str:
        """What is guaranteed, in words; empty without a guarantee."""
        if self.risk is None or self.level is None:
            return ""
        sure = "on average over such sets" if self.delta is None else f"with probability {1 - self.delta:g}"
        return f"at most {self.level:.1%} {RISK_WORDS[self.risk]}, {sure}"

    @property
    def sentence(self) -> str:
        """In words."""
        seen = "" if self.mean_loss is None else f"; {self.mean_loss:.1%} on these recordings"
        if self.outcome == "withdrawn":
            promise = f" ({self.promise}{seen})" if self.promise else ""
            return f"policy {self.name}: the guarantee is withdrawn{promise}, and the policy left out: {self.reason}"
        moved = f"thresholds {_listed(self.thresholds_before)} -> {_listed(self.thresholds_after or ())}"
        if self.outcome == "renewed":
            return f"policy {self.name}: the guarantee is renewed ({self.promise}{seen}): {moved}; leaving at {self._shares}"
        if not self.thresholds_before and self.rejected_after is None:
            return f"policy {self.name}: leaves at {self.exits[0]} whatever the window; there is nothing to choose"
        if self.outcome == "kept":
            kept = f"thresholds {_listed(self.thresholds_before)} kept; others were worse on recordings left out"
            return f"policy {self.name}: {kept}; leaving at {self._shares}"
        return f"policy {self.name}: {moved}; score {self.score_before:.4g} -> {self.score_after:.4g} on recordings left out; leaving at {self._shares}"

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table: name, outcome, thresholds, shares, score and cost, before and after."""
        after = (
            ""
            if self.thresholds_after in (None, self.thresholds_before)
            else f" -> {_listed(self.thresholds_after or ())}"
        )
        score = "" if self.score_after is None else f" -> {self.score_after:.4g}"
        cost = ""
        if self.cost_before is not None and self.cost_after is not None and self.budget is not None:
            cost = f"{_number(self.cost_before)} -> {_number(self.cost_after)} of {_number(self.budget)} {self.unit}"
        return (
            self.name,
            self.outcome,
            f"{_listed(self.thresholds_before)}{after}",
            self._shares,
            f"{self.score_before:.4g}{score}",
            cost,
        )

    @property
    def _shares(self) -> str:
        now = (
            [""] * len(self.exits) if self.shares_after is None else [f" -> {share:.0%}" for share in self.shares_after]
        )
        left = [
            f"{exit} {share:.0%}{after}" for exit, share, after in zip(self.exits, self.shares_before, now, strict=True)
        ]
        if self.rejected_before is not None and self.rejected_after is not None:
            left.append(f"rejected {self.rejected_before:.0%} -> {self.rejected_after:.0%}")
        return ", ".join(left)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _listed(thresholds: Sequence[float]) -> str:
    shown = thresholds[:1] if len(set(thresholds)) == 1 else thresholds
    return ", ".join(f"{value:.4g}" for value in shown) or "none"
