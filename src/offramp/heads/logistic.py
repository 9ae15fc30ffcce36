"""Multinomial logistic regression along a path of regularisation strengths, one training set after the other.

The method is L-BFGS in its compact form (Nocedal and Wright, "Numerical Optimization", 2nd ed., section 7.2, equation 7.24). Three
things keep the passes over the rows few where the regularisation is weak and the problem badly conditioned:

* **A first approximation that knows the features.** The Hessian of the loss is the mean of ``(diag p_i - p_i p_i') (x) x_i x_i'``
  over the rows. Its first factor is replaced by the mean of its diagonal, its second by the covariance of the rows. In the
  eigenbasis of the covariance the product is diagonal, so that an inverse costs two rotations. (The bound of Boehning,
  "Multinomial logistic regression algorithm", 1992, is the same with ``(I - 11' / K) / 2`` for the first factor, whatever the
  point; where most rows are told apart well, the Hessian is far below it.)
* **A path.** Every strength starts from the solution of the next stronger one.
* **A memory that is kept along the path.** Another strength adds a multiple of the identity to the Hessian, so that a remembered
  step s and change of gradient y tell the new Hessian as well as the old one: ``y`` becomes ``y + (new - old) s``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.bundle import Head
from offramp.heads.rows import Rows

WAYPOINTS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Stronger ones than asked for are solved on the way, so that a head does not depend on which other strengths were asked for."""
HISTORY = 40
ROOM = 10
"""Rows behind the memory's last, so that it is moved to the front only now and then."""
MAX_PASSES = 200
"""For one strength."""
SUFFICIENT_DECREASE = 1e-4
LEAST_STEP = 1e-3
LEAST_CURVATURE = 1e-10
"""As a share of the first approximation's."""
LEAST_VARIANCE = 1e-4
"""A feature whose variance within a training set is below this share of that over all rows counts as constant: the set's heads do
not use it. Such features come from channels that fire for a handful of windows."""
LOSS_NOISE = 1e-6
"""float32 products leave about this relative noise in a loss: below it a decrease cannot be asked for."""


def fit_logistic(
    rows: Rows,
    labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float],
    weights: NDArray[np.float32],
    tolerance: float = 1e-4,
) -> tuple[tuple[Head, ...], ...]:
    """Minimise ``sum_i weight_i cross-entropy_i + strength / 2 |W|^2`` over weights and free intercepts.

    ``W`` is in the units of features that are standardised over each training set by itself. Each training set is solved by itself,
    so that its heads depend on no other's rows or labels.

    Args:
        rows: The rows that any of the training sets uses.
        labels: int64 ``(rows.count,)`` in ``range(classes)``.
        classes: Number of classes; one that does not occur gets a very low intercept.
        strengths: The grid. scikit-learn's ``C`` is ``1 / (strength * rows of the training set)``.
        weights: float32 ``(rows.count, P)``, one column per training set, 0 for rows that it lacks; scaled to sum to 1.
        tolerance: Largest absolute entry of the gradient at which a problem counts as solved.

    Returns:
        For each of the P training sets one linear :class:`Head` per strength, with the standardisation folded in.
    """
    return tuple(_fit_set(rows, labels, classes, strengths, column, tolerance) for column in weights.T)


def fold_standardisation(rows: Rows, weight: Tensor) -> Head:
    """Weights ``(width + 1, outputs)`` on standardised rows, the last row being intercepts, as a head on raw taps."""
    standard = rows.standardisation
    matrix = weight.numpy().astype(np.float64)
    folded = matrix[:-1] * standard.scale[:, None]
    bias = matrix[-1] - standard.mean @ folded
    return Head(((np.ascontiguousarray(folded.T, dtype=np.float32), bias.astype(np.float32)),))


def _fit_set(
    rows: Rows,
    labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float],
    weights: NDArray[np.float32],
    tolerance: float,
) -> tuple[Head, ...]:
    member = np.flatnonzero(weights)
    own = rows.only(member)
    nearly_constant = own.standardisation.scale > rows.standardisation.scale / np.sqrt(LEAST_VARIANCE)
    if nearly_constant.any():
        own = own.without(nearly_constant)
    objective = _Objective(own, labels[member], classes, weights[member])
    path = sorted({*strengths, *(on_the_way for on_the_way in WAYPOINTS if on_the_way > min(strengths))}, reverse=True)
    solutions = dict(zip(path, _path(objective, path, tolerance), strict=True))
    return tuple(fold_standardisation(own, solutions[strength].T) for strength in strengths)


class _Objective:
    """Loss and gradient of one training set. Points are float32 ``(classes, width + 1)``, the last column being intercepts."""

    def __init__(self, rows: Rows, labels: NDArray[np.int64], classes: int, weights: NDArray[np.float32]) -> None:
        self.rows = rows
        self.weights = torch.from_numpy(weights / weights.sum())
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float() * self.weights[:, None]
        self.label_moments = torch.zeros(classes, rows.width + 1)
        """Weighted sums of each class's own rows: the part of the gradient that does not change."""
        for where, block in rows:
            self.label_moments.addmm_(one_hot[where].T, block)
        self.prior = one_hot.sum(0).clamp_min(1e-6)
        # in double precision: with many constant features the solver may fail in single
        values, basis = torch.linalg.eigh(rows.covariance(self.weights).double())
        self.basis = basis.float()
        self.variances = torch.cat([values.clamp_min(0).float(), torch.ones(1)])
        """Of the rows along the eigenbasis of their covariance; 1 for the intercept."""
        self.penalised = torch.cat([torch.ones(rows.width), torch.zeros(1)])

    def start(self) -> Tensor:
        """No weights; intercepts that give the classes' shares."""
        point = torch.zeros_like(self.label_moments)
        point[:, -1] = self.prior.log()
        return point

    def evaluate(self, point: Tensor, strength: float) -> tuple[float, Tensor]:
        """Loss and gradient at a point."""
        gradient = -self.label_moments
        loss = (gradient.double() * point).sum()
        for where, block in self.rows:
            logits = torch.mm(point, block.T)
            largest = logits.amax(0)
            exponentials = logits.sub_(largest).exp_()
            total = exponentials.sum(0)
            loss += torch.dot((total.log() + largest).double(), self.weights[where].double())
            gradient.addmm_(exponentials.mul_(self.weights[where] / total), block)
        penalty = strength * self.penalised * point
        return float(loss + 0.5 * (penalty.double() * point).sum()), gradient + penalty

    def curvature(self, point: Tensor, strength: float) -> Tensor:
        """Diagonal of the approximate Hessian at a point in the eigenbasis, ``(classes, width + 1)``."""
        spread = torch.zeros_like(self.prior)
        for where, block in self.rows:
            probability = torch.softmax(torch.mm(point, block.T), 0)
            spread += (probability * (1 - probability)) @ self.weights[where]
        return torch.outer(spread.clamp_min(1e-6), self.variances) + strength * self.penalised

    def to_basis(self, point: Tensor) -> Tensor:
        """Rotate the features of a point or gradient into the eigenbasis."""
        return torch.cat([point[:, :-1] @ self.basis, point[:, -1:]], dim=1)

    def from_basis(self, point: Tensor) -> Tensor:
        """The inverse of :meth:`to_basis`."""
        return torch.cat([point[:, :-1] @ self.basis.T, point[:, -1:]], dim=1)


def _path(objective: _Objective, strengths: Sequence[float], tolerance: float) -> Iterator[Tensor]:
    """Solutions for one strength after the other, each begun at the one before: L-BFGS with backtracking."""
    point, memory, before = objective.start(), _Memory(objective.label_moments.numel()), 0.0
    for strength in strengths:
        added = (strength - before) * objective.penalised.expand_as(point).flatten()
        memory.restart(objective.curvature(point, strength).flatten(), added)
        before = strength
        loss, gradient = objective.evaluate(point, strength)
        rotated = objective.to_basis(gradient).flatten()
        direction, step = memory.direction(rotated), 1.0
        for _ in range(MAX_PASSES):
            if gradient.abs().max() <= tolerance:
                break
            stride = step * direction
            trial = point + objective.from_basis(stride.view_as(point))
            trial_loss, trial_gradient = objective.evaluate(trial, strength)
            allowed = loss + SUFFICIENT_DECREASE * float(torch.dot(stride, rotated)) + LOSS_NOISE * abs(loss)
            if trial_loss <= allowed:
                trial_rotated = objective.to_basis(trial_gradient).flatten()
                memory.append(stride, trial_rotated - rotated)
                point, loss, gradient, rotated = trial, trial_loss, trial_gradient, trial_rotated
                direction, step = memory.direction(rotated), 1.0
            elif step > LEAST_STEP:
                step /= 2
            else:
                memory.forget()
                direction, step = memory.direction(rotated), 1.0
        yield point


class _Memory:
    """The last steps and changes of gradient, in the eigenbasis, and the inverse Hessian that they tell.

    Steps are the rows of S, changes those of Y, oldest first; D is the inverse of the first approximation, scaled to the last pair;
    R is the upper triangle of ``S Y'`` and E its diagonal. The inverse Hessian is
    ``D + S' R^-T (E + Y D Y') R^-1 S - D Y' R^-1 S - S' R^-T Y D``.

    Steps resemble each other, which makes R badly conditioned: hence double precision.
    """

    def __init__(self, size: int) -> None:
        self.steps, self.changes = torch.zeros(2, HISTORY + ROOM, size, dtype=torch.float64)
        self.step_change, self.change_change = torch.zeros(2, HISTORY + ROOM, HISTORY + ROOM, dtype=torch.float64)
        self.inverse = torch.ones(size, dtype=torch.float64)
        self.used = slice(0, 0)

    def restart(self, curvature: Tensor, added: Tensor) -> None:
        """Another first approximation, and a diagonal that has been added to the Hessian."""
        self.inverse = 1 / curvature.double()
        self.changes += added * self.steps
        convex = [self._convex(self.steps[row], self.changes[row]) for row in range(self.used.start, self.used.stop)]
        self._keep(torch.tensor(convex, dtype=torch.bool))

    def append(self, step: Tensor, change: Tensor) -> None:
        """Remember a step and the change of gradient along it."""
        step, change = step.double(), change.double()
        if not self._convex(step, change):
            return
        if self.used.stop == len(self.steps):
            self._keep(torch.arange(self.used.stop - self.used.start) > 0)
        new = self.used.stop
        self.used = slice(max(self.used.start, new + 1 - HISTORY), new + 1)
        self.steps[new], self.changes[new] = step, change
        self.step_change[self.used, new] = self.steps[self.used] @ change
        products = self.changes[self.used] @ (self.inverse * change)
        self.change_change[self.used, new] = self.change_change[new, self.used] = products

    def forget(self) -> None:
        """Leave the first approximation alone."""
        self.used = slice(0, 0)

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian times the gradient."""
        gradient = gradient.double()
        scaled = self.inverse * gradient
        if self.used.stop == self.used.start:
            return -scaled.float()
        steps, changes = self.steps[self.used], self.changes[self.used]
        step_change, change_change = (m[self.used, self.used] for m in (self.step_change, self.change_change))
        scale = step_change[-1, -1] / change_change[-1, -1]
        triangle = step_change.triu()
        first = torch.linalg.solve_triangular(triangle, (steps @ gradient)[:, None], upper=True)[:, 0]
        inner = triangle.diagonal() * first + scale * (change_change @ first - changes @ scaled)
        second = torch.linalg.solve_triangular(triangle.T, inner[:, None], upper=False)[:, 0]
        ascent: Tensor = scale * (scaled - self.inverse * (first @ changes)) + second @ steps
        return -ascent.float()

    def _keep(self, which: Tensor) -> None:
        """Move some of the pairs to the front."""
        steps, changes = self.steps[self.used][which], self.changes[self.used][which]
        self.used = slice(0, len(steps))
        self.steps[self.used], self.changes[self.used] = steps, changes
        self.step_change[self.used, self.used] = steps @ changes.T
        self.change_change[self.used, self.used] = changes * self.inverse @ changes.T

    def _convex(self, step: Tensor, change: Tensor) -> bool:
        """Whether the curvature along a step is above what rounding leaves of none."""
        return bool(torch.dot(step, change) > LEAST_CURVATURE * torch.dot(step / self.inverse, step))
