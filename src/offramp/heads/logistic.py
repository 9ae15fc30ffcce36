"""Multinomial logistic regression: several training sets and a grid of regularisation strengths in one solve.

The training sets (one per seed, or per fold) are weightings of the same rows, so that the weights of all sets and strengths
stand side by side in one matrix product, which is where processors are fast. The method is L-BFGS (Nocedal and Wright, "Numerical
Optimization", 2nd ed., algorithm 7.5) in coordinates in which the Hessian at zero weights, ``class prior x covariance +
strength``, is the identity: there the first unit step is Newton's. Problems leave the batch as they are solved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.bundle import Head
from offramp.heads.rows import Rows

HISTORY = 10
MAX_PASSES = 200
SUFFICIENT_DECREASE = 1e-4
LEAST_VARIANCE = 1e-4
"""A feature whose variance within a training set is below this share of that over all rows counts as constant: no head uses
it. Such features come from channels that fire for a handful of windows."""
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

    ``W`` is in the units of features that are standardised over each training set by itself.

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
    mean, variance = _moments(rows, weights > 0)
    constant = (variance < LEAST_VARIANCE).any(0)
    if constant.any():
        rows = rows.without(constant.numpy())
        mean, variance = torch.where(constant, 0.0, mean), torch.where(constant, 1.0, variance)
    problem = _Problem(rows, labels, classes, weights, strengths, mean, variance)
    solutions = _minimise(problem, tolerance)
    heads = [fold_standardisation(rows, solution) for solution in solutions]
    grid = len(strengths)
    return tuple(tuple(heads[first : first + grid]) for first in range(0, len(heads), grid))


def fold_standardisation(rows: Rows, weight: Tensor) -> Head:
    """Weights ``(width + 1, outputs)`` on standardised rows, the last row being intercepts, as a head on raw taps."""
    standard = rows.standardisation
    matrix = weight.numpy().astype(np.float64)
    folded = matrix[:-1] * standard.scale[:, None]
    bias = matrix[-1] - standard.mean @ folded
    return Head(((np.ascontiguousarray(folded.T, dtype=np.float32), bias.astype(np.float32)),))


class _Problem:
    """Loss and gradient of B problems at once: all strengths of the first training set, then those of the second, ...

    Points are ``(B, width + 1, classes)`` on standardised rows; the last row holds the intercepts.
    """

    def __init__(
        self,
        rows: Rows,
        labels: NDArray[np.int64],
        classes: int,
        weights: NDArray[np.float32],
        strengths: Sequence[float],
        mean: Tensor,
        variance: Tensor,
    ) -> None:
        self.rows = rows
        self.labels = torch.from_numpy(labels)
        self.weights = torch.from_numpy(weights / weights.sum(0))
        one_hot = torch.nn.functional.one_hot(self.labels, classes).float()
        sets = weights.shape[1]
        self.training_set = torch.arange(sets).repeat_interleave(len(strengths))
        self.strength = torch.tensor(strengths, dtype=torch.float32).repeat(sets)
        self.mean = mean[self.training_set]
        self.variance = torch.cat([variance, torch.zeros(sets, 1)], dim=1)[self.training_set]
        """Of each feature within its training set, in units of that over all rows; 0 for the intercept: no penalty."""
        prior = (self.weights.T @ one_hot).clamp_min(1e-6)[self.training_set].unsqueeze(1)
        decompositions = [torch.linalg.eigh(rows.covariance(weight)) for weight in self.weights.T]
        self.bases = [basis for _, basis in decompositions]
        values = torch.stack([values for values, _ in decompositions]).clamp_min(0)[self.training_set]
        hessian = values.unsqueeze(2) * prior + self.strength[:, None, None]
        self.scale = torch.cat([hessian, prior], dim=1).rsqrt()
        """Square root of the inverse Hessian at zero weights, in the eigenbasis, ``(B, width + 1, classes)``."""
        self.start = torch.zeros_like(self.scale)
        self.start[:, -1:] = prior.log()

    def to_basis(self, point: Tensor, active: Tensor) -> Tensor:
        """Rotate the features of ``(active, width + 1, classes)`` into the eigenbasis of each one's training set."""
        return self._rotate(point, active, [basis.T for basis in self.bases])

    def from_basis(self, point: Tensor, active: Tensor) -> Tensor:
        """The inverse of :meth:`to_basis`."""
        return self._rotate(point, active, self.bases)

    def _rotate(self, point: Tensor, active: Tensor, matrices: list[Tensor]) -> Tensor:
        rotated = point.clone()
        for number, matrix in enumerate(matrices):
            mine = (self.training_set[active] == number).nonzero().flatten()
            if len(mine):
                columns = point[mine, :-1].permute(1, 0, 2)
                product = torch.mm(matrix, columns.reshape(len(matrix), -1))
                rotated[mine, :-1] = product.view(columns.shape).permute(1, 0, 2)
        return rotated

    def evaluate(self, point: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Losses float64 ``(active,)`` and gradients like ``point``, of the problems ``active``."""
        problems, width, classes = point.shape
        columns = point.permute(1, 0, 2).reshape(width, problems * classes)
        gradient = torch.zeros_like(columns)
        losses = torch.zeros(problems, dtype=torch.float64)
        for where, block in self.rows:
            weight = self.weights[where][:, self.training_set[active]]
            logits = torch.mm(block, columns).view(-1, problems, classes)
            index = self.labels[where].view(-1, 1, 1).expand(-1, problems, 1)
            picked = logits.gather(2, index)
            # Logits beyond +-80 are saturated anyway, and their exponentials stay finite without a pass for the maximum.
            exponentials = logits.clamp_(-80, 80).exp_()
            total = exponentials.sum(2, keepdim=True)
            losses += ((total.log() - picked).squeeze(2) * weight).sum(0, dtype=torch.float64)
            residual = exponentials.mul_(weight.unsqueeze(2) / total)
            residual.scatter_add_(2, index, -weight.unsqueeze(2))
            gradient.addmm_(block.T, residual.view(-1, problems * classes))
        penalty = (self.strength[active, None] * self.variance[active]).unsqueeze(2) * point
        losses += 0.5 * (penalty * point).sum((1, 2), dtype=torch.float64)
        return losses, gradient.view(width, problems, classes).permute(1, 0, 2) + penalty

    def steepest(self, gradient: Tensor, active: Tensor) -> Tensor:
        """Largest absolute entry of each gradient, in features standardised over its own training set, ``(active,)``."""
        of_intercepts = gradient[:, -1:]
        spread = self.variance[active, :-1].sqrt().unsqueeze(2)
        of_features = (gradient[:, :-1] - self.mean[active].unsqueeze(2) * of_intercepts) / spread
        return torch.maximum(of_features.abs().amax((1, 2)), of_intercepts.abs().amax((1, 2)))


def _moments(rows: Rows, member: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each standardised feature within each training set, ``(P, width)``; membership is ``(rows, P)``."""
    belongs = torch.from_numpy(member).double()
    total = torch.zeros(rows.width, belongs.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for where, block in rows:
        features = block[:, :-1].double()
        total += features.T @ belongs[where]
        squares += features.square().T @ belongs[where]
    mean = total / belongs.sum(0)
    return mean.T.float(), (squares / belongs.sum(0) - mean.square()).T.float()


def _minimise(problem: _Problem, tolerance: float) -> Tensor:
    """L-BFGS with backtracking on every problem; solved ones leave the batch. Returns points on standardised rows."""
    point, scale = problem.start, problem.scale
    solution, active = point.clone(), torch.arange(len(point))
    loss, gradient = problem.evaluate(point, active)
    memory = _Memory(len(point))
    steepness = problem.to_basis(gradient, active) * scale
    direction, step = -steepness, torch.ones(len(point))
    for _ in range(MAX_PASSES):
        unsolved = problem.steepest(gradient, active) > tolerance
        solution[active] = point
        if not unsolved.any():
            break
        if not unsolved.all():
            active, point, loss, gradient = active[unsolved], point[unsolved], loss[unsolved], gradient[unsolved]
            steepness, direction, step = steepness[unsolved], direction[unsolved], step[unsolved]
            memory, scale = memory.keep(unsolved), scale[unsolved]
        stride = step[:, None, None] * direction
        trial = point + problem.from_basis(stride * scale, active)
        trial_loss, trial_gradient = problem.evaluate(trial, active)
        trial_steepness = problem.to_basis(trial_gradient, active) * scale
        slope = (steepness * direction).sum((1, 2), dtype=torch.float64)
        accepted = trial_loss <= loss + SUFFICIENT_DECREASE * step * slope + LOSS_NOISE * loss.abs()
        memory.append(stride, trial_steepness - steepness, accepted)
        moved = accepted[:, None, None]
        point, loss = torch.where(moved, trial, point), torch.where(accepted, trial_loss, loss)
        gradient = torch.where(moved, trial_gradient, gradient)
        steepness = torch.where(moved, trial_steepness, steepness)
        direction = torch.where(moved, memory.direction(steepness), direction)
        step = torch.where(accepted, torch.ones_like(step), step / 2)
    return solution


class _Memory:
    """The last steps and gradient changes of every problem; a rejected trial leaves a pair of zero weight."""

    def __init__(self, problems: int) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.scale = torch.ones(problems, 1, 1)

    def keep(self, which: Tensor) -> _Memory:
        """The memory of some of the problems."""
        kept = _Memory(0)
        kept.pairs = [(step[which], change[which], inverse[which]) for step, change, inverse in self.pairs]
        kept.scale = self.scale[which]
        return kept

    def append(self, step: Tensor, change: Tensor, accepted: Tensor) -> None:
        """Remember a step and the change of gradient along it."""
        curvature = _dot(step, change)
        useful = accepted[:, None, None] & (curvature > 1e-10 * _dot(step, step))
        self.pairs.append((step, change, torch.where(useful, 1 / curvature, torch.zeros_like(curvature))))
        self.scale = torch.where(useful, curvature / _dot(change, change), self.scale)
        del self.pairs[:-HISTORY]

    def direction(self, gradient: Tensor) -> Tensor:
        """Two-loop recursion: minus the approximate inverse Hessian times the gradient."""
        vector = gradient
        factors = []
        for step, change, inverse in reversed(self.pairs):
            factors.append(inverse * _dot(step, vector))
            vector = torch.addcmul(vector, factors[-1], change, value=-1)
        vector = vector * self.scale
        for (step, change, inverse), factor in zip(self.pairs, reversed(factors), strict=True):
            vector = torch.addcmul(vector, step, factor - inverse * _dot(change, vector))
        return -vector


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of each problem, ``(P, 1, 1)``."""
    products: Tensor = torch.linalg.vecdot(first.flatten(1), second.flatten(1))
    return products[:, None, None]
