"""What it costs to choose an exit by a criterion, against the exit that was best on the test windows.

Scores are given per exit ``(E,)`` from shallow to deep, higher better: negate an error before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from analysis.inputs import Array, real_array
from offramp.errors import DataError


def regret(test_scores: NDArray[np.floating], choice: int) -> float:
    """Best test score minus that of the exit with index ``choice``: >= 0, in the unit of the scores.

    Raises:
        DataError: Scores are not one finite number per exit, or there is no such exit.
    """
    test = _scores(test_scores, "test scores")
    if not 0 <= choice < len(test):
        raise DataError(f"exit {choice} is chosen among {len(test)}: give an index from 0 to {len(test) - 1}")
    return float(test.max() - test[choice])


def criterion_regret(criterion: NDArray[np.floating], test_scores: NDArray[np.floating]) -> float:
    """Regret of the exit with the highest criterion ``(E,)``; among equals the shallowest, which is the cheapest.

    Raises:
        DataError: As :func:`regret`, or the two do not have one value per exit each.
    """
    values, test = _paired(criterion, test_scores)
    return regret(test, int(values.argmax()))


def kendall_tau(criterion: NDArray[np.floating], test_scores: NDArray[np.floating]) -> float:
    """Kendall's tau-b between a criterion and test scores ``(E,)``, E >= 2: 1 for the same order of exits, -1 for the reverse.

    0 where either is the same at every exit and so orders nothing.

    Source: Kendall, "The treatment of ties in ranking problems" (Biometrika 1945).

    Raises:
        DataError: Either is not one finite number per exit, or there are fewer than two exits.
    """
    values, test = _paired(criterion, test_scores)
    if len(test) < 2:
        raise DataError("there is one exit: an order needs at least two")
    if np.ptp(values) == 0 or np.ptp(test) == 0:
        return 0.0
    return float(kendalltau(values, test).statistic)


def _paired(criterion: NDArray[np.floating], test_scores: NDArray[np.floating]) -> tuple[Array, Array]:
    values, test = _scores(criterion, "criterion values"), _scores(test_scores, "test scores")
    if len(values) != len(test):
        raise DataError(f"{len(values)} criterion values for {len(test)} test scores: give one of each per exit")
    return values, test


def _scores(scores: NDArray[np.floating], name: str) -> Array:
    values = real_array(scores, name)
    if values.ndim != 1 or len(values) == 0:
        raise DataError(f"{name} have shape {values.shape}: give one per exit, (E,)")
    return values
