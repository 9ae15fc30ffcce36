"""Readouts of what the generator drew: which quantities, what counts, what is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
from tiny_architecture import Tiny
from torch import Tensor
from torch.nn import functional

from offramp.encoders.registry import load_encoder
from offramp.simulation.views import Drawn, view_pairs
from offramp.training.contrastive import ContrastiveModel
from offramp.training.labels import FINGERPRINT, ID_TASKS, LABELS, QUANTITIES
from offramp.training.supervised import MixedModel, Readouts, SupervisedModel, known, target


def tiny_encoder() -> Tiny:
    encoder = load_encoder("tiny-test", weights="random")
    assert isinstance(encoder, Tiny)
    return encoder


def drawn(count: int = 200, antennas: int = 4) -> Drawn:
    return view_pairs(count, antennas, 64, (-6, 20), 0, 0).drawn


def readouts(labels: Sequence[str], width: int = 5) -> Readouts:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Readouts(width, labels)


def taps(count: int, width: int = 5) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0))


def test_every_quantity_that_is_drawn_can_be_a_label() -> None:
    assert {quantity.field for quantity in QUANTITIES.values()} == {field.name for field in fields(Drawn)}
    assert LABELS["all"] == tuple(QUANTITIES)


def test_labels_leave_out_what_tasks_ask_for() -> None:
    assert set(LABELS["all"]) - set(LABELS["general"]) == set(FINGERPRINT)
    assert set(LABELS["general"]) - set(LABELS["non-task"]) == set(ID_TASKS)
    assert {"transmitter_gain_db", "transmitter_skew", "saturation_db"} == set(FINGERPRINT)


@pytest.mark.parametrize("name", [name for name, quantity in QUANTITIES.items() if not quantity.classes])
def test_numbers_are_about_standardised(name: str) -> None:
    parts = [view_pairs(400, antennas, 64, (-6, 20), 0, antennas).drawn for antennas in (1, 2, 3, 4, 8)]
    values = torch.cat([target(name, part)[known(name, part)] for part in parts])
    assert abs(values.mean()) < 0.25
    assert 0.7 < values.std() < 1.2
    assert values.abs().max() < 10


def test_sectors_are_equal_parts_of_the_angle() -> None:
    labels = drawn()
    rows = known("sector", labels)
    assert torch.equal(rows, labels.angle.isfinite())
    middle = target("sector", labels)[rows] * 5.0 - 57.5
    assert (middle - labels.angle[rows]).abs().max() <= 2.5 + 1e-4


def test_a_loss_is_a_mean_over_the_windows_that_have_the_quantity() -> None:
    labels = drawn()
    model = readouts(["family", "angle"])
    tap = taps(400)
    losses = model.losses(tap, labels)
    output = model.linear(tap)
    classes = functional.cross_entropy(output[:, :10], labels.family)
    rows = labels.angle.isfinite()
    assert 0 < rows.sum() < 400
    error = output[rows, 10] - labels.angle[rows] / (120 / math.sqrt(12))
    huber = torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5).mean()
    torch.testing.assert_close(losses["family"], classes)
    torch.testing.assert_close(losses["angle"], huber)
    # Equations 7 and 10 of arXiv 1705.07115, the variances being 1 at first and then 4 and 9.
    torch.testing.assert_close(model(tap, labels), classes + huber / 2)
    model.log_variances.data.copy_(torch.tensor([4.0, 9.0]).log())
    torch.testing.assert_close(model(tap, labels), classes / 4 + huber / 18 + math.log(2) + math.log(3))


def test_windows_without_a_quantity_move_nothing() -> None:
    """With one antenna there is no angle: neither its readout nor its weight learns, and no gradient is NaN."""
    labels = drawn(antennas=1)
    model, tap = readouts(["angle", "snr_db"]), taps(400).requires_grad_()
    model(tap, labels).backward()  # type: ignore[no-untyped-call]
    assert tap.grad is not None
    assert model.linear.weight.grad is not None
    assert model.log_variances.grad is not None
    assert tap.grad.isfinite().all()
    assert not model.linear.weight.grad[0].any()
    assert model.linear.weight.grad[1].any()
    assert model.log_variances.grad[0] == 0 != model.log_variances.grad[1]
    silent = labels.snr_db.isnan()
    assert silent.any()
    assert not tap.grad[silent].any()


def test_a_quantity_that_is_no_label_changes_nothing() -> None:
    labels, model, tap = drawn(), readouts(LABELS["non-task"]), taps(400)
    others = {QUANTITIES[name].field for name in (*FINGERPRINT, *ID_TASKS)}
    spoilt = replace(labels, **{name: torch.full_like(getattr(labels, name), 7) for name in others})
    assert torch.equal(model(tap, labels), model(tap, spoilt))


def test_exit_aware_every_exit_has_readouts() -> None:
    views = view_pairs(8, 1, 128, (-6, 20), 0, 0)
    model = SupervisedModel(tiny_encoder(), LABELS["general"], exit_aware=True)
    assert len(model.readouts) == len(model.encoder.exits)
    loss, matched = model(views.iq, torch.Generator(), views.drawn)
    each = [readout(tap, views.drawn) for readout, tap in zip(model.readouts, model.taps(views.iq), strict=True)]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert matched is None


def test_mixed_is_the_sum_of_both() -> None:
    views = view_pairs(8, 1, 128, (-6, 20), 0, 0)
    model = MixedModel(tiny_encoder(), LABELS["general"]).eval()
    loss, matched = model(views.iq, torch.Generator(), views.drawn)
    contrasted, share = ContrastiveModel.forward(model, views.iq, torch.Generator())
    supervised = model.readouts[0](model.taps(views.iq)[0], views.drawn)
    torch.testing.assert_close(loss, contrasted + supervised)
    assert matched == share


def test_a_short_run_beats_the_constant_prediction() -> None:
    """Which of two far apart SNRs, how many antennas, and the family, told better than by the best constant."""
    labels = ("snr_db", "family")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SupervisedModel(tiny_encoder(), labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(120):
        views = view_pairs(32, 1, 128, (-6, 20), 0, step)
        loss, _ = model(views.iq, torch.Generator(), views.drawn)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    views = view_pairs(300, 1, 128, (-6, 20), 1, 0)
    model.eval()
    with torch.no_grad():
        learned = model.readouts[0].losses(model.taps(views.iq)[0], views.drawn)
    share = views.drawn.family.bincount() / 600
    constant = {"family": -(share * share.log()).nansum(), "snr_db": constant_huber("snr_db", views.drawn)}
    assert learned["snr_db"] < 0.7 * constant["snr_db"]
    assert learned["family"] < 0.93 * constant["family"]


def constant_huber(name: str, labels: Drawn) -> Tensor:
    values = target(name, labels)[known(name, labels)]
    return functional.smooth_l1_loss(values.mean().expand_as(values), values)
