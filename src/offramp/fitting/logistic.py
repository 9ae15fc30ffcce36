"""Multinomial logistic regression for a whole grid of regularisation strengths in one solve.

All strengths share every pass over the rows: their weights stand side by side in one matrix product. Each is a preconditioned
L-BFGS (Nocedal and Wright, "Numerical Optimization", 2nd ed., algorithm 7.5). The preconditioner is the exact Hessian at zero
weights and class-prior intercepts, ``diag(prior) x covariance + strength``: in its coordinates the first unit step is
Newton's, so that about ten passes suffice where the plain method takes a hundred.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offramp.bundle import Head
from offramp.fitting.rows import Rows

HISTORY = 8
SUFFICIENT_DECREASE = 1e-4


def fit_logistic(
    rows: Rows,
    labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float],
    sample_weights: NDArray[np.float32] | None = None,
    tolerance: float = 1e-4,
    max_passes: int = 300,
) -> tuple[Head, ...]:
    """Minimise ``mean(weight * cross-entropy) + strength / 2 * |W|^2`` over weights and free intercepts, per strength.

    Args:
        rows: Training rows.
        labels: int64 ``(rows.count,)`` in ``range(classes)``.
        classes: Number of classes; one that does not occur gets a very low intercept.
        strengths: The grid. scikit-learn's ``C`` is ``1 / (strength * rows.count)``.
        sample_weights: float32 ``(rows.count,)`` of mean 1; None for equal weights.
        tolerance: Largest absolute entry of the gradient, in standardised features, at which a problem is solved.
        max_passes: Passes over the rows after which the best point so far is returned.

    Returns:
        One linear :class:`Head` per strength, with the standardisation folded in.
    """
    problem = _Problem(rows, labels, classes, strengths, sample_weights)
    weights = _minimise(problem, tolerance, max_passes)
    return tuple(fold_standardisation(rows, weight) for weight in weights)


def fold_standardisation(rows: Rows, weight: Tensor) -> Head:
    """Weights ``(width + 1, outputs)`` on standardised rows, the last row being intercepts, as a head on raw taps."""
    standard = rows.standardisation
    matrix = weight.numpy().astype(np.float64)
    folded = matrix[:-1] * standard.scale[:, None]
    bias = matrix[-1] - standard.mean @ folded
    return Head(((np.ascontiguousarray(folded.T, dtype=np.float32), bias.astype(np.float32)),))


class _Problem:
    """Loss and gradient of all strengths at once, in preconditioned coordinates ``(problems, width + 1, classes)``."""

    def __init__(
        self,
        rows: Rows,
        labels: NDArray[np.int64],
        classes: int,
        strengths: Sequence[float],
        sample_weights: NDArray[np.float32] | None,
    ) -> None:
        self.rows = rows
        self.labels = torch.from_numpy(labels)
        self.sample_weights = torch.from_numpy(sample_weights) if sample_weights is not None else None
        self.strengths = torch.tensor(strengths, dtype=torch.float32)
        counts = np.bincount(labels, weights=sample_weights, minlength=classes)
        prior = torch.from_numpy(np.maximum(counts / rows.count, 1e-6)).float()
        values, self.basis = torch.linalg.eigh(rows.covariance())
        curvature = torch.cat([values.clamp_min(0), torch.ones(1)])[None, :, None] * prior
        penalty = self.strengths[:, None, None].expand(-1, rows.width + 1, 1).clone()
        penalty[:, -1] = 0
        self.penalty = penalty
        self.scale = torch.rsqrt(curvature + penalty)
        start = torch.zeros_like(self.scale)
        start[:, -1] = prior.log()
        self.start = start / self.scale

    def weights(self, point: Tensor, active: Tensor) -> Tensor:
        """From preconditioned coordinates to weights on standardised rows."""
        rotated = point * self.scale[active]
        features = torch.matmul(self.basis, rotated[:, :-1])
        return torch.cat([features, rotated[:, -1:]], dim=1)

    def evaluate(self, point: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses float64 ``(P,)``, gradients ``(P, width + 1, classes)`` in both coordinates: preconditioned, original."""
        weights = self.weights(point, active)
        problems, width, classes = weights.shape
        columns = weights.permute(1, 0, 2).reshape(width, problems * classes)
        gradient = torch.zeros(width, problems * classes)
        losses = torch.zeros(problems, dtype=torch.float64)
        for where, block in self.rows:
            logits = torch.mm(block, columns).view(-1, problems, classes)
            index = self.labels[where].view(-1, 1, 1).expand(-1, problems, 1)
            log_total = torch.logsumexp(logits, dim=2, keepdim=True)
            losses_here = (log_total - logits.gather(2, index)).squeeze(2)
            residual = logits.sub_(log_total).exp_()
            residual.scatter_add_(2, index, torch.full_like(index, -1, dtype=residual.dtype))
            if self.sample_weights is not None:
                factor = self.sample_weights[where]
                losses_here *= factor[:, None]
                residual *= factor[:, None, None]
            losses += losses_here.sum(0, dtype=torch.float64)
            gradient.addmm_(block.T, residual.view(-1, problems * classes))
        penalty = self.penalty[active]
        original = gradient.view(width, problems, classes).permute(1, 0, 2) / self.rows.count + penalty * weights
        losses = losses / self.rows.count + 0.5 * (penalty * weights.square()).sum((1, 2), dtype=torch.float64)
        rotated = torch.cat([torch.matmul(self.basis.T, original[:, :-1]), original[:, -1:]], dim=1)
        return losses, rotated * self.scale[active], original


def _minimise(problem: _Problem, tolerance: float, max_passes: int) -> Tensor:
    """L-BFGS with backtracking on every problem; solved ones leave the batch. Returns weights on standardised rows."""
    active = torch.arange(len(problem.strengths))
    point = problem.start
    solution = problem.weights(point, active)
    loss, gradient, original = problem.evaluate(point, active)
    memory = _Memory(point.shape)
    direction, step = -gradient, torch.ones(len(active))
    for _ in range(max_passes):
        unsolved = original.abs().amax((1, 2)) > tolerance
        solution[active] = problem.weights(point, active)
        if not unsolved.any():
            break
        if not unsolved.all():
            active, point, loss, gradient = active[unsolved], point[unsolved], loss[unsolved], gradient[unsolved]
            original, direction, step = original[unsolved], direction[unsolved], step[unsolved]
            memory = memory.keep(unsolved)
        trial = point + step[:, None, None] * direction
        trial_loss, trial_gradient, trial_original = problem.evaluate(trial, active)
        slope = (gradient * direction).sum((1, 2), dtype=torch.float64)
        # float32 products leave about 1e-6 of noise in a loss: below that a decrease cannot be asked for.
        bound = loss + SUFFICIENT_DECREASE * step * slope + 1e-6 * loss.abs()
        accepted = (trial_loss <= bound) & torch.isfinite(trial_loss)
        memory.append(trial - point, trial_gradient - gradient, accepted)
        moved = accepted[:, None, None]
        point, loss = torch.where(moved, trial, point), torch.where(accepted, trial_loss, loss)
        gradient, original = torch.where(moved, trial_gradient, gradient), torch.where(moved, trial_original, original)
        direction = torch.where(moved, memory.direction(gradient), direction)
        step = torch.where(accepted, torch.ones_like(step), step / 2)
    return solution


class _Memory:
    """The last steps and gradient changes of every problem; a rejected trial leaves a pair of zero weight."""

    def __init__(self, shape: torch.Size) -> None:
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []
        self.inverse_curvatures: list[Tensor] = []
        self.scale = torch.ones(shape[0], 1, 1)

    def keep(self, which: Tensor) -> _Memory:
        kept = _Memory(torch.Size([int(which.sum()), 1, 1]))
        kept.steps = [t[which] for t in self.steps]
        kept.changes = [t[which] for t in self.changes]
        kept.inverse_curvatures = [t[which] for t in self.inverse_curvatures]
        kept.scale = self.scale[which]
        return kept

    def append(self, step: Tensor, change: Tensor, accepted: Tensor) -> None:
        curvature = (step * change).sum((1, 2), keepdim=True)
        useful = accepted[:, None, None] & (curvature > 1e-10 * (step * step).sum((1, 2), keepdim=True))
        self.inverse_curvatures.append(torch.where(useful, 1 / curvature, torch.zeros_like(curvature)))
        self.steps.append(step)
        self.changes.append(change)
        self.scale = torch.where(useful, curvature / (change * change).sum((1, 2), keepdim=True), self.scale)
        if len(self.steps) > HISTORY:
            del self.steps[0], self.changes[0], self.inverse_curvatures[0]

    def direction(self, gradient: Tensor) -> Tensor:
        """Two-loop recursion: minus the approximate inverse Hessian times the gradient."""
        vector = gradient
        factors = []
        for step, change, inverse in zip(
            reversed(self.steps), reversed(self.changes), reversed(self.inverse_curvatures), strict=True
        ):
            factor = inverse * (step * vector).sum((1, 2), keepdim=True)
            vector = vector - factor * change
            factors.append(factor)
        vector = vector * self.scale
        for step, change, inverse, factor in zip(
            self.steps, self.changes, self.inverse_curvatures, reversed(factors), strict=True
        ):
            vector = vector + step * (factor - inverse * (change * vector).sum((1, 2), keepdim=True))
        return -vector
