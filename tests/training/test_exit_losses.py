"""Losses of exits against their formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.training.exits.losses import Goal, class_weights, distillation_loss, distilled_losses, task_loss


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def drawn(seed: int, rows: int = 5, columns: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)), rng.normal(size=(rows, columns)), rng.integers(columns, size=rows)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8))
def test_distillation_is_the_divergence_of_softened_answers(seed: int, temperature: float) -> None:
    ours, theirs, _ = drawn(seed)
    student, teacher = log_softmax(ours / temperature), log_softmax(theirs / temperature)
    expected = (np.exp(teacher) * (teacher - student)).sum(1).mean() * temperature**2
    loss = distillation_loss(torch.tensor(ours), torch.tensor(theirs), temperature, classes=True)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_teacher_learns_nothing_from_its_pupils() -> None:
    ours, theirs, labels = drawn(0)
    student, teacher = (torch.tensor(values, requires_grad=True) for values in (ours, theirs))
    shallow, last = distilled_losses([student, teacher], Goal(torch.tensor(labels)), share=1.0, temperature=2.0)
    torch.autograd.backward(shallow)
    assert teacher.grad is None
    assert student.grad is not None
    assert last.item() == pytest.approx(-log_softmax(theirs)[np.arange(5), labels].mean())


def test_the_share_mixes_labels_and_teacher() -> None:
    ours, theirs, labels = drawn(1)
    goal, outputs = Goal(torch.tensor(labels)), [torch.tensor(ours), torch.tensor(theirs)]
    only_labels, only_teacher, mixed = (distilled_losses(outputs, goal, share, 3.0)[0].item() for share in (0, 1, 0.25))
    assert only_labels == pytest.approx(-log_softmax(ours)[np.arange(5), labels].mean())
    assert mixed == pytest.approx(0.75 * only_labels + 0.25 * only_teacher)


def test_values_are_distilled_by_their_square() -> None:
    ours, theirs, _ = drawn(2)
    goal = Goal(torch.tensor(theirs))
    assert distillation_loss(torch.tensor(ours), torch.tensor(theirs), 9.0, classes=False).item() == pytest.approx(
        np.square(ours - theirs).mean()
    )
    assert task_loss(torch.tensor(ours), goal).item() == pytest.approx(np.square(ours - theirs).mean())


def test_class_weights_give_every_class_the_same_total() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [3] * 1)
    weights = class_weights(labels, 5)
    totals = torch.bincount(labels, weights[labels], minlength=5)
    torch.testing.assert_close(totals, torch.tensor([10 / 3, 10 / 3, 0, 10 / 3, 0]))
    logits = torch.zeros(10, 5)
    assert task_loss(logits, Goal(labels, weights)).item() == pytest.approx(np.log(5))
