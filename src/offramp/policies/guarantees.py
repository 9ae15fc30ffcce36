"""Thresholds with a guarantee: of a sequence from safe to risky, the last one whose risk is certified on groups used for nothing else.

The *risk* of a threshold is the expected loss of a new group. Losses lie in [0, 1], and a group (a recording, a session) counts once,
however many windows it has: its windows are not independent, so that counting them would promise more than holds. The guarantees are
free of assumptions on the distribution of losses; what they need is that calibration groups, and the groups they must hold for, are
independent draws from one population. A shift voids them. The sequence of thresholds must not have been chosen on the calibration
groups; its first one should let nobody leave early.

* ``learn_then_test``: with a probability of at least 1 - delta the risk is at most the level. Hypotheses "the risk is above the level"
  are tested in fixed sequence with Hoeffding-Bentkus p-values, each at delta (Angelopoulos et al., "Learn then test", arXiv
  2110.01052; p-values from Bates et al., "Distribution-free, risk-controlling prediction sets", arXiv 2101.02703).
* ``upper_confidence_bound``: the same promise, by an upper bound of each risk that stays below the level up to the threshold (Bates et
  al.). With bounds by inverting Hoeffding-Bentkus this is ``learn_then_test`` to the letter; so the bound is that of Waudby-Smith and
  Ramdas (arXiv 2010.09686), by betting. It adapts to the variance, and losses of groups, which are means over windows, vary little.
* ``conformal_risk_control``: the *expected* risk, over draws of the calibration groups too, is at most the level (Angelopoulos et al.,
  arXiv 2208.02814). There is no delta: for a given calibration set the risk may well be above the level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, rel_entr

from offramp.errors import PolicyError
from offramp.schema.policies import Guarantee, Risk

GUARANTEES: tuple[Guarantee, ...] = get_args(Guarantee)
RISKS: tuple[Risk, ...] = get_args(Risk)

SMALLEST = 1e-4
"""Levels and deltas below it are refused: such levels would take tens of thousands of groups."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """What was certified.

    Attributes:
        index: Of the last certified threshold in the sequence; None if not even the first, safest one is.
        mean_loss: Mean loss of the calibration groups at that threshold, or at the first where none is certified.
        p_value: There, of the hypothesis that the risk is above the level; None for ``conformal_risk_control``.
        bound: There, what is held against the level: the upper confidence bound of the risk at 1 - delta, or the bound of the
            expected risk.
        groups: Number of calibration groups.
        thresholds: Number of thresholds in the sequence.
        level: The largest risk that was asked for.
        delta: Probability that the guarantee fails; None for ``conformal_risk_control``.
        method: One of :data:`GUARANTEES`.
    """

    index: int | None
    mean_loss: float
    p_value: float | None
    bound: float
    groups: int
    thresholds: int
    level: float
    delta: float | None
    method: Guarantee


def certify(
    losses: Array, level: float, delta: float | None = None, method: Guarantee = "learn_then_test"
) -> Certificate:
    """The last threshold whose risk is certified to be at most ``level``.

    Args:
        losses: ``(T, G)`` in [0, 1], of T thresholds from the safest to the riskiest and G calibration groups.
        level: In (0, 1).
        delta: In (0, 1): probability that the guarantee fails. ``conformal_risk_control`` does not look at it.
        method: One of :data:`GUARANTEES`.

    Raises:
        PolicyError: Too few groups for any certificate (it says how many are needed, and what is possible with these), an
            impossible level or delta, or losses that are not finite numbers in [0, 1].
    """
    losses = _checked(losses, level, delta, method)
    count = losses.shape[1]
    index: int | None
    p_value: float | None
    if method == "conformal_risk_control":
        index = conformal_risk_control(losses, level)
        at = index or 0
        p_value, bound = None, float(_expected(losses)[at])
        delta = None
    else:
        assert delta is not None
        if method == "learn_then_test":
            index = learn_then_test(losses, level, delta)
        else:
            index = upper_confidence_bound(losses, level, delta)
        at, test = index or 0, _TESTS[method]
        p_value = float(test(losses[[at]], level, delta)[0])
        bound = _smallest(lambda risk: bool(test(losses[[at]], risk, delta)[0] <= delta))
    mean = float(losses[at].mean())
    return Certificate(index, mean, p_value, bound, count, len(losses), level, delta, method)


def learn_then_test(losses: Array, level: float, delta: float) -> int | None:
    """Fixed-sequence testing: index of the last threshold before the first whose p-value is above ``delta``, or None.

    The risk at it is above ``level`` with a probability of at most ``delta``. See :func:`certify` for arguments and errors.
    """
    losses = _checked(losses, level, delta, "learn_then_test")
    return _last(_hoeffding_bentkus_test(losses, level, delta) <= delta)


def upper_confidence_bound(losses: Array, level: float, delta: float) -> int | None:
    """Index of the last threshold at which, and before which, the upper bound of the risk is below ``level``, or None.

    The risk at it is above ``level`` with a probability of at most ``delta``. See :func:`certify` for arguments and errors.
    """
    losses = _checked(losses, level, delta, "upper_confidence_bound")
    # the bound falls below the level where the hypothesis that the risk is the level is rejected: no bound need be solved for
    return _last(_betting_test(losses, level, delta) < delta)


def conformal_risk_control(losses: Array, level: float) -> int | None:
    """Index of the last threshold whose bound of the expected risk, ``(sum of losses + 1) / (G + 1)``, is at most ``level``, or None.

    Each group's losses are first made monotone along the sequence by their running maximum. The loss of a new group at the returned
    threshold is at most ``level`` in the mean over draws of calibration and new groups, where None counts as no loss. Delta does
    not apply. See :func:`certify` for arguments and errors.
    """
    losses = _checked(losses, level, None, "conformal_risk_control")
    return _last(_expected(losses) <= level)


def hoeffding_bentkus(mean_loss: ArrayLike, count: int, level: ArrayLike) -> Array:
    """P-value of the hypothesis that the expected loss is above ``level``: the smaller of Hoeffding's and Bentkus' (Bates et al., 2021).

    Args:
        mean_loss: Of ``count`` independent losses in [0, 1], any shape.
        count: At least 1.
        level: In [0, 1], of a shape that broadcasts.

    Raises:
        PolicyError: A mean loss or a level outside [0, 1], or no losses.
    """
    mean, level = np.asarray(mean_loss, dtype=np.float64), np.asarray(level, dtype=np.float64)
    if count < 1 or not all(((part >= 0) & (part <= 1)).all() for part in (mean, level)):
        raise PolicyError(f"a p-value takes mean losses and levels in [0, 1] of one loss or more, not of {count}")
    below = np.minimum(mean, level)
    hoeffding = np.exp(-count * (rel_entr(below, level) + rel_entr(1 - below, 1 - level)))
    # a sum that is a whole number but for its rounding must not be rounded up to the next
    bentkus = math.e * bdtr(np.ceil(np.round(count * mean, 9)), count, level)
    smaller: Array = np.minimum(np.minimum(hoeffding, bentkus), 1.0)
    return smaller


def group_losses(losses: ArrayLike, groups: ArrayLike) -> Array:
    """Mean loss of each group, ``(T, G)`` in the order of ``np.unique(groups)``, from the windows' losses ``(T, N)``.

    Raises:
        PolicyError: Other shapes.
    """
    of_window, groups = np.asarray(losses, dtype=np.float64), np.asarray(groups)
    if of_window.ndim != 2 or groups.shape != of_window.shape[1:]:
        raise PolicyError(
            f"losses (thresholds, N) take one group per window (N,), not shapes {of_window.shape} and {groups.shape}"
        )
    present, unit = np.unique(groups, return_inverse=True)
    sizes = np.bincount(unit, minlength=len(present))
    sums = [np.bincount(unit, weights=row, minlength=len(present)) for row in of_window]
    return np.reshape(sums, (len(of_window), len(present))) / sizes


def window_losses(
    risk: Risk,
    kind: Literal["classification", "regression"],
    answers: NDArray[np.floating],
    full: NDArray[np.floating],
    targets: NDArray[Any],
    limit: float | None = None,
) -> Array:
    """Loss of each window, 0 or 1.

    * ``error_above_full``: 1 where the answer is wrong and full depth's is right. Its mean is an upper bound of what the policy
      loses against full depth, since windows that only the policy gets right do not make up for it (Jazbec et al., "Fast yet safe:
      early-exiting with risk control", arXiv 2405.20915).
    * ``disagreement``: 1 where the answer is another than full depth's. Needs no labels.
    * ``error``: 1 where the answer is wrong.

    For classification the answer is the largest score. For regression an answer is wrong, or another, if its distance to the target,
    or to full depth's answer, exceeds ``limit``. An answer that is not finite is wrong, and another than full depth's.

    Args:
        risk: One of :data:`RISKS`.
        kind: Of the task.
        answers: ``(..., N, outputs)``: the policy's, for instance ``(exits, N, outputs)`` for the losses of leaving at each exit,
            from which ``numpy.take_along_axis`` picks those of any threshold.
        full: Full depth's, ``(N, outputs)``.
        targets: Classes ``(N,)``, or values ``(N, outputs)``.
        limit: For regression, in the target's unit; not for classification.

    Returns:
        ``(..., N)`` float64.

    Raises:
        PolicyError: Shapes that do not fit, an unknown risk, a limit that is missing or out of place, full depth's answers or targets
            that are not finite.
    """
    if risk not in RISKS:
        raise PolicyError(f"unknown risk {risk!r}: choose one of {', '.join(RISKS)}")
    if (kind == "regression") != (limit is not None):
        advice = "give limit, in the target's unit" if limit is None else "leave limit out"
        raise PolicyError(f"risk {risk!r} of {kind}: {advice}")
    if limit is not None and not 0 < limit < math.inf:
        raise PolicyError(f"limit {limit}: give a distance above 0, in the target's unit")
    expected = full.shape[:1] if kind == "classification" else full.shape
    if full.ndim != 2 or answers.shape[-2:] != full.shape or targets.shape != expected:
        raise PolicyError(
            f"risk {risk!r}: answers {answers.shape}, full depth's {full.shape} and targets {targets.shape} do not belong together"
        )
    if not (np.isfinite(full).all() and np.isfinite(targets).all()):
        raise PolicyError(f"risk {risk!r}: full depth's answers or the targets are not finite; check the heads")
    if risk == "disagreement":
        loss = _differs(answers, full, limit)
    elif risk == "error":
        loss = _differs(answers, targets, limit)
    else:
        loss = _differs(answers, targets, limit) & ~_differs(full, targets, limit)
    return loss.astype(np.float64)


def _differs(answers: NDArray[Any], reference: NDArray[Any], limit: float | None) -> NDArray[np.bool_]:
    """Whether answers ``(..., N, outputs)`` are others than a reference, ``(N, outputs)`` or classes ``(N,)``."""
    missing = ~np.isfinite(answers).all(axis=-1)
    if limit is None:
        classes = reference if reference.ndim == 1 else reference.argmax(-1)
        different: NDArray[np.bool_] = missing | (answers.argmax(-1) != classes)
        return different
    distance = np.linalg.norm(np.where(missing[..., None], 0, answers).astype(np.float64) - reference, axis=-1)
    beyond: NDArray[np.bool_] = missing | (distance > limit)
    return beyond


def fewest_groups(level: float, delta: float | None = None, method: Guarantee = "learn_then_test") -> int:
    """How many calibration groups it takes to certify a threshold that has no loss at all. Raises as :func:`certify`."""
    _check_request(level, delta, method)
    enough = 1
    while not _possible(enough, level, delta, method):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if _possible(middle, level, delta, method):
            enough = middle
        else:
            too_few = middle
    return enough


def _possible(count: int, level: float, delta: float | None, method: Guarantee) -> bool:
    """Whether ``count`` groups without loss certify a threshold."""
    if count == 0:
        return False
    if delta is None or method == "conformal_risk_control":
        return 1 / (count + 1) <= level
    if method == "learn_then_test":
        return bool(hoeffding_bentkus(0.0, count, level) <= delta)
    return bool(_betting_test(np.zeros((1, count)), level, delta)[0] < delta)


def _last(certified: NDArray[np.bool_]) -> int | None:
    """Index before the first threshold that is not certified; the last one if all are."""
    length = len(certified) if certified.all() else int(np.argmin(certified))
    return length - 1 if length else None


def _expected(losses: Array) -> Array:
    """Conformal risk control's bound of the expected risk, ``(T,)``, with losses made monotone."""
    bound: Array = (np.maximum.accumulate(losses, axis=0).sum(axis=1) + 1) / (losses.shape[1] + 1)
    return bound


def _hoeffding_bentkus_test(losses: Array, level: float, delta: float) -> Array:
    return hoeffding_bentkus(losses.mean(axis=1), losses.shape[1], level)


def _betting_test(losses: Array, level: float, delta: float) -> Array:
    """P-values ``(T,)`` of the hypotheses that the risk is above ``level``: one over the most capital that betting on less ever had.

    Bets as Bates et al. (2021) place them. If the hypothesis holds the capital is a supermartingale, and exceeds ``1 / p`` at any
    time with a probability of at most p (Ville). That takes groups in an order that says nothing of their losses, and names
    often do: they are shuffled.
    """
    count = losses.shape[1]
    losses = losses[:, np.random.default_rng(0).permutation(count)]
    steps = np.arange(1, count + 1)
    mean = (0.5 + losses.cumsum(axis=1)) / (1 + steps)
    variance = (0.25 + ((losses - mean) ** 2).cumsum(axis=1)) / (1 + steps)
    known = np.concatenate([np.full((len(losses), 1), 0.25), variance[:, :-1]], axis=1)
    bets = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (count * known)))
    with np.errstate(divide="ignore"):
        capital = np.log1p(bets * (level - losses)).cumsum(axis=1).max(axis=1)
    p_values: Array = np.exp(-np.maximum(capital, 0.0))
    return p_values


_TESTS: dict[str, Callable[[Array, float, float], Array]] = {
    "learn_then_test": _hoeffding_bentkus_test,
    "upper_confidence_bound": _betting_test,
}


def _smallest(passes: Callable[[float], bool]) -> float:
    """The smallest value in [0, 1] that passes, where all above it do; 1 if none is found."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _checked(losses: Array, level: float, delta: float | None, method: Guarantee) -> Array:
    """The losses as float64, if there are enough of them and all is as :func:`certify` asks."""
    _check_request(level, delta, method)
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 2 or not len(losses):
        raise PolicyError(f"a guarantee takes losses (thresholds, groups), not shape {losses.shape}")
    if not ((losses >= 0) & (losses <= 1)).all():
        raise PolicyError("a guarantee takes losses in [0, 1]: one is NaN or outside; scale them")
    count = losses.shape[1]
    if not _possible(count, level, delta, method):
        asked = f"{method} at level {level:g}" + ("" if _without_delta(method) else f" and delta {delta:g}")
        raise PolicyError(
            f"{asked}: {_counted(count)}, and at least {fewest_groups(level, delta, method)} are needed, so that a "
            f"threshold without any loss can be certified; {_nearest(count, level, delta, method)}"
        )
    return losses


def _check_request(level: float, delta: float | None, method: Guarantee) -> None:
    if method not in GUARANTEES:
        raise PolicyError(f"unknown guarantee {method!r}: choose one of {', '.join(GUARANTEES)}")
    asked = {"level": level} if _without_delta(method) else {"level": level, "delta": delta}
    for name, value in asked.items():
        if value is None or not SMALLEST <= value < 1:
            given = "is missing" if value is None else f"{value:g} is impossible"
            raise PolicyError(
                f"{method}: {name} {given}: give a number of at least {SMALLEST:g} and below 1, such as 0.1"
            )


def _without_delta(method: Guarantee) -> bool:
    return method == "conformal_risk_control"


def _nearest(count: int, level: float, delta: float | None, method: Guarantee) -> str:
    """What so many groups could certify instead."""
    options = []
    lowest = _rounded_up(_smallest(lambda value: _possible(count, max(value, SMALLEST), delta, method)))
    if lowest < 1 and _possible(count, lowest, delta, method):
        options.append(f"level {lowest:g}" + ("" if _without_delta(method) else " at this delta"))
    if not _without_delta(method):
        least = _rounded_up(_smallest(lambda value: _possible(count, level, max(value, SMALLEST), method)))
        if least < 1 and _possible(count, level, least, method):
            options.append(f"delta {least:g} at this level")
    if not options:
        return "set aside more groups"
    return f"with {_counted(count)} the nearest possible is {' or '.join(options)}"


def _counted(groups: int) -> str:
    return f"{groups} calibration group" + "s" * (groups != 1)


def _rounded_up(value: float) -> float:
    """To three significant digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit) * unit:.3g}")
