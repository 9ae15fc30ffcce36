"""Multinomial logistic regression for a path of regularisation strengths, one training set after the other.

The method is L-BFGS in its compact form (Nocedal and Wright, "Numerical Optimization", 2nd ed., section 7.2, equation 7.24). Three
things keep its passes over the rows few where the regularisation is weak and the problem badly conditioned:

* **A start for the inverse Hessian** that knows the features. The Hessian is ``mean_i (diag p_i - p_i p_i') (x) x_i x_i' + strength``.
  Its first factor is replaced by the diagonal of its mean, ``p (1 - p)`` per class, and its second by the covariance; in the
  covariance's eigenbasis the product is diagonal and its inverse costs two rotations. (Boehning, "Multinomial logistic regression
  algorithm", 1992, bounds the first factor by ``(I - 11' / K) / 2`` for all points; at the point itself it is much smaller.)
* **A path from strong to weak**: every strength starts from the solution of the one before.
* **A memory that is kept along the path.** Another strength adds a multiple of the identity to the Hessian, so that a remembered
  pair (step s, change of gradient y) becomes the pair of the new problem exactly: ``y + (new - old) s``.
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
MAX_PASSES = 200
"""For one strength."""
SUFFICIENT_DECREASE = 1e-4
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

    ``W`` is in the units of features that are standardised over each training set by itself. Each training set is solved as if it
    were alone, to the same bits.

    Args:
        rows: The rows that any of the training sets uses.
        labels: int64 ``(rows.count,)`` in ``range(classes)``.
        classes: Number of classes; one that does not occur gets a very low intercept.
        strengths: The grid, solved in this order; strongest first takes the fewest passes. scikit-learn's ``C`` is
            ``1 / (strength * rows of the training set)``.
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
        values, self.basis = torch.linalg.eigh(rows.covariance(self.weights))
        self.variances = torch.cat([values.clamp_min(0), torch.ones(1)])
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
        change = (strength - before) * objective.penalised.expand_as(point).flatten()
        memory.restart(objective.curvature(point, strength).flatten(), change)
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
            slope = float(torch.dot(stride, rotated))
            if trial_loss > loss + SUFFICIENT_DECREASE * slope + LOSS_NOISE * abs(loss):
                step /= 2
                continue
            trial_rotated = objective.to_basis(trial_gradient).flatten()
            memory.append(stride, trial_rotated - rotated)
            point, loss, gradient, rotated = trial, trial_loss, trial_gradient, trial_rotated
            direction, step = memory.direction(rotated), 1.0
        yield point


class _Memory:
    """The last steps and changes of gradient, in the eigenbasis, and the inverse Hessian that they tell.

    With steps S and changes Y as rows, oldest first, D the inverse of the first approximation, R the upper triangle of ``S Y'``
    and E its diagonal, the inverse Hessian is ``D + S' R^-T (E + Y D Y') R^-1 S - D Y' R^-1 S - S' R^-T Y D``.
    """

    def __init__(self, size: int) -> None:
        self.steps, self.changes = torch.zeros(2, HISTORY, size, dtype=torch.float64)
        self.step_change, self.change_change = torch.zeros(2, HISTORY, HISTORY, dtype=torch.float64)
        self.order: list[int] = []
        """Rows in use, oldest first."""
        self.inverse = torch.ones(size)

    def restart(self, curvature: Tensor, added: Tensor) -> None:
        """Another first approximation, and a diagonal that has been added to the Hessian."""
        self.inverse = 1 / curvature
        self.changes += added * self.steps
        self.step_change = (self.steps @ self.changes.T).double()
        self.change_change = (self.changes * self.inverse @ self.changes.T).double()

    def append(self, step: Tensor, change: Tensor) -> None:
        """Remember a step and the change of gradient along it."""
        if torch.dot(step, change) <= 1e-10 * torch.dot(step / self.inverse, step):
            return
        row = self.order.pop(0) if len(self.order) == HISTORY else len(self.order)
        self.order.append(row)
        self.steps[row], self.changes[row] = step, change
        self.step_change[:, row] = self.steps @ change.double()
        self.change_change[:, row] = self.change_change[row] = self.changes @ (self.inverse * change).double()

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian times the gradient."""
        scaled = self.inverse * gradient
        if not self.order:
            return -scaled
        order = torch.tensor(self.order)
        last = self.order[-1]
        size = self.step_change[last, last] / self.change_change[last, last]
        products = self.step_change[order][:, order].triu()
        along_steps, along_changes = (self.steps @ gradient.double())[order], (self.changes @ scaled.double())[order]
        first = torch.linalg.solve_triangular(products, along_steps[:, None], upper=True)
        inner = products.diagonal()[:, None] * first + size * (self.change_change[order][:, order] @ first - along_changes[:, None])
        second = torch.linalg.solve_triangular(products.T, inner, upper=False)
        of_steps, of_changes = torch.zeros(2, HISTORY, dtype=torch.float64)
        of_steps[order], of_changes[order] = second[:, 0], first[:, 0]
        size = float(size)
        return -(size * scaled + of_steps @ self.steps - size * self.inverse * (of_changes @ self.changes)).float()
