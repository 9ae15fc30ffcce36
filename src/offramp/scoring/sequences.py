"""A mean that is watched while it comes in: bounds that hold at every moment at once, so that one may look as often as one likes.

An interval of the usual kind holds for one look at a number of observations fixed beforehand; who looks after each of them, and stops when
it suits, is wrong far more often. A *confidence sequence* holds at all moments with one error probability.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2024, arXiv 2010.09686): hedged capital
with predictable plug-in bets.
"""

from __future__ import annotations

import math

import numpy as np

from offramp.errors import DataError
from offramp.scoring.metrics import Array

POINTS = 1000
"""Means that are bet against: bounds are multiples of one over this."""
MOST_CAPITAL = 0.75
"""Share of the capital that one bet may lose at most."""


class ConfidenceSequence:
    """Bounds of the mean of losses in [0, 1], after any number of them; O(1,000) operations each.

    For every mean of a grid two gamblers bet, one that losses lie above it and one that they lie below. Neither gains in the long run from
    the true mean, whatever the losses' distribution: the probability that either ever multiplies its capital by ``2 / alpha`` is at most
    ``alpha / 2`` (Ville). Means on which one of them did are left out. So the lower and the upper bound err with a probability of at most
    ``alpha / 2`` each, over all moments together. Between the points of the grid bounds give way outwards.

    What it assumes: given those before, every loss has the same mean. Independent draws of one population have that, and so has
    drawing windows or recordings at random. Windows of one recording do not: give one loss per recording, a single draw or the mean
    over some. Where the mean moves, the lower bound still errs with that probability if it is held against a level that *no* loss's
    mean is above, and the upper against one that none is below; bounds that have crossed say that it moved.

    Attributes:
        alpha: Probability that the mean ever lies outside the bounds, in (0, 1).
        count: Losses so far.
        lower: Bound of the mean.
        upper: Bound of the mean.
    """

    def __init__(self, alpha: float) -> None:
        """Start with nothing known. Raises :class:`DataError` for an alpha that is no probability between 0 and 1."""
        if not 0 < alpha < 1:
            raise DataError(f"alpha={alpha!r}: give a probability between 0 and 1")
        self.alpha = alpha
        self.count, self.lower, self.upper = 0, 0.0, 1.0
        self._rich = math.log(2 / alpha)
        self._means = np.linspace(0.0, 1.0, POINTS + 1)
        with np.errstate(divide="ignore"):
            self._most_above, self._most_below = MOST_CAPITAL / self._means, MOST_CAPITAL / (1 - self._means)
        self._above, self._below = np.zeros(POINTS + 1), np.zeros(POINTS + 1)
        self._sum, self._squares = 0.5, 0.25

    @property
    def mean(self) -> float:
        """Of the losses so far; NaN before the first."""
        return (self._sum - 0.5) / self.count if self.count else math.nan

    def add(self, loss: float) -> None:
        """Take the next loss into account. Raises :class:`DataError` unless it is in [0, 1]."""
        if not 0 <= loss <= 1:
            raise DataError(f"a loss of {loss!r}: give one in [0, 1]")
        self.count += 1
        variance = self._squares / self.count
        bet = math.sqrt(2 * self._rich / (variance * self.count * math.log1p(self.count)))
        apart = loss - self._means
        self._above += np.log1p(np.minimum(bet, self._most_above) * apart)
        self._below += np.log1p(-np.minimum(bet, self._most_below) * apart)
        self._sum += loss
        self._squares += (loss - self._sum / (self.count + 1)) ** 2
        self.lower = max(self.lower, float(self._means[self._left_out(self._above)]))
        self.upper = min(self.upper, float(self._means[POINTS - self._left_out(self._below[::-1])]))

    def _left_out(self, capital: Array) -> int:
        """How many steps from one end of the grid all means are left out."""
        rich = capital >= self._rich
        return POINTS if rich.all() else max(0, int(rich.argmin()) - 1)
