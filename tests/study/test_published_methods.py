from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published import (
    PENALTY,
    PUBLISHED,
    HiddenHalting,
    exit_rows,
    fit_hidden_halting,
    published_method,
    rightness,
    train_published,
)
from scipy.special import expit
from torch import Tensor, nn

from offramp.encoders.base import seeded
from offramp.encoders.module import from_module
from offramp.errors import DataError, OfframpError, PolicyError, TrainingError
from offramp.policies.criteria import confidence, entropy
from offramp.policies.simulation import simulate

CLASSES, TOKENS = 3, 6


def bert() -> Any:
    """A BERT of three layers with random weights."""
    pytest.importorskip("transformers")
    from offramp.encoders.huggingface import HuggingFace

    config = {
        "vocab_size": 12,
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": TOKENS,
    }
    with seeded(0):
        return HuggingFace("bert", config, pooling="mean")


def sentences(count: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Token numbers whose class is how many of them are 1, 2 or 3, whichever is most frequent."""
    tokens = np.random.default_rng(seed).integers(1, 12, (count, TOKENS))
    counts = np.stack([(tokens == value).sum(1) for value in (1, 2, 3)], axis=1)
    return torch.from_numpy(tokens), counts.argmax(1)


def trained(name: str, **options: Any) -> Any:
    x, y = sentences(96, 0)
    settings = {"steps": 8, "batch": 16, "learning_rate": 5e-3, "exits": ("layer1", "layer2", "layer3")} | options
    return train_published(name, bert(), x, y, "classification", CLASSES, sentences(64, 1), **settings)


def test_each_name_stands_for_what_its_paper_consists_of():
    parts = {name: (method.method, method.halting) for name, method in PUBLISHED.items()}
    assert parts == {
        "deebert": ("two-stage", "entropy"),
        "berxit": ("alternating", "hidden"),
        "layerskip": ("layerskip", "confidence"),
    }


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_predict_leaves_at_the_first_exit_that_is_certain_enough(name: str):
    exits = trained(name)
    x, _ = sentences(50, 2)
    rows = exit_rows(exits.trained.encoder, exits.trained.heads, x)
    certain = np.stack([CERTAINTY[name](exits, rows, exit) for exit in exits.exits])
    threshold = float(np.quantile(certain[:-1], 0.7))
    certain[-1] = np.inf
    expected = (certain >= threshold).argmax(0)
    decided = exits.predict(x, threshold)
    clear = (np.abs(certain[:-1] - threshold) > 1e-5).all(0)
    assert clear.sum() > 40
    assert len(set(expected[clear])) > 1
    np.testing.assert_array_equal(decided.exit[clear], expected[clear])
    stacked = np.stack([rows.outputs[exit] for exit in exits.exits])
    np.testing.assert_allclose(decided.outputs[clear], stacked[expected, np.arange(50)][clear], atol=1e-5)


CERTAINTY = {
    "deebert": lambda exits, rows, exit: entropy(rows.outputs[exit]),
    "layerskip": lambda exits, rows, exit: confidence(rows.outputs[exit]),
    "berxit": lambda exits, rows, exit: expit(rows.taps[exit] @ exits.halting.weight + exits.halting.bias),
}


def test_layerskip_has_one_head_for_all_exits_and_the_others_one_each():
    shared = {name: len({id(head) for head in trained(name, steps=2).trained.heads.values()}) for name in PUBLISHED}
    assert shared == {"deebert": 3, "berxit": 3, "layerskip": 1}


def test_the_encoder_given_stays_as_it_is():
    encoder = bert()
    before = encoder.fingerprint()
    x, y = sentences(32, 0)
    train_published("berxit", encoder, x, y, "classification", CLASSES, (x, y), steps=2, batch=8)
    assert encoder.fingerprint() == before


def test_regression_runs_under_berxit_and_leaves_by_the_hidden_layer():
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    encoder = from_module(model, stages=["1", "3", "4"], input=x)
    y = x[:, :1].numpy() * 3 + 10
    exits = train_published("berxit", encoder, x, y, "regression", 1, (x, y), steps=6, batch=16)
    assert exits.halting is not None
    assert exits.predict(x, 2.0).exit.tolist() == [2] * 80
    assert exits.predict(x, 0.0).exit.tolist() == [0] * 80
    assert exits.predict(x, 0.5).outputs.shape == (80, 1)


def test_rightness_is_one_or_zero_for_classes_and_falls_with_the_error_of_values():
    logits = np.array([[0.1, 2.0], [3.0, 1.0], [0.0, 1.0]])
    assert rightness(logits, np.array([1, 1, 1]), "classification").tolist() == [1, 0, 1]
    targets = np.array([[0.0], [4.0]])  # spread 2
    np.testing.assert_allclose(
        rightness(np.array([[1.0], [4.0]]), targets, "regression"), [1 - np.tanh(0.5), 1], rtol=1e-12
    )


def halting_problem(seed: int = 0, count: int = 300) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Taps of two exits whose first feature says whether the exit is right, but for noise."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, count)
    taps, outputs = {}, {}
    for exit in ("a", "b"):
        taps[exit] = rng.normal(size=(count, 4)).astype(np.float32)
        right = taps[exit][:, 0] + 0.3 * rng.normal(size=count) > 0
        answer = np.where(right, targets, 1 - targets)
        outputs[exit] = np.eye(2, dtype=np.float32)[answer]
    return taps, outputs, targets


def test_the_hidden_layer_is_the_least_squared_error_that_another_optimiser_finds():
    taps, outputs, targets = halting_problem()
    found = fit_hidden_halting(taps, outputs, targets, "classification")
    rows = torch.from_numpy(np.concatenate(list(taps.values()))).double()
    wanted = torch.from_numpy(np.concatenate([outputs[exit].argmax(1) == targets for exit in taps])).double()
    spread = rows.std(0, unbiased=False)

    def error(weight: Tensor, bias: Tensor) -> Tensor:
        return ((torch.sigmoid(rows @ weight + bias) - wanted) ** 2).mean() + PENALTY * ((weight * spread) ** 2).sum()

    weight, bias = torch.zeros(4, dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64)
    bias.requires_grad_(True)
    optimiser = torch.optim.Adam([weight, bias], lr=0.05)
    for _ in range(600):
        optimiser.zero_grad()
        error(weight, bias).backward()
        optimiser.step()
    ours = error(torch.from_numpy(found.weight).double(), torch.tensor([found.bias], dtype=torch.float64))
    assert float(ours) == pytest.approx(float(error(weight.detach(), bias.detach())), abs=1e-5)
    assert float(ours) < 0.15 < float(((wanted.mean() - wanted) ** 2).mean())


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-20, 20), feature=st.integers(0, 3))
def test_certainty_does_not_depend_on_a_feature_s_unit(scale: float, shift: float, feature: int):
    taps, outputs, targets = halting_problem()
    moved = {exit: tap.copy() for exit, tap in taps.items()}
    for tap in moved.values():
        tap[:, feature] = tap[:, feature] * scale + shift
    one, other = (fit_hidden_halting(each, outputs, targets, "classification") for each in (taps, moved))
    np.testing.assert_allclose(one.certainty(taps["a"]), other.certainty(moved["a"]), atol=2e-3)


def test_a_tap_that_is_not_a_number_never_leaves_silently():
    halting = HiddenHalting(np.ones(8, dtype=np.float32), 0.0)
    assert np.isnan(halting.certainty(np.full((1, 8), np.nan, dtype=np.float32))).all()
    policy = trained("berxit", steps=2).policy(0.0)
    rows = np.array([[np.nan] * (CLASSES + 1)], dtype=np.float32)
    with pytest.raises(DataError, match="not finite"):
        simulate(policy, dict.fromkeys(policy.exits, rows))


def test_a_policy_on_hidden_states_is_not_stored():
    with pytest.raises(PolicyError, match="learned_halting"):
        trained("berxit", steps=2).policy().to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "branchynet"}, "choose one of deebert, berxit, layerskip"),
        ({"kind": "regression"}, "choose berxit"),
        ({"method": "joint"}, "leave the setting method out"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(change: dict[str, Any], message: str):
    x, y = sentences(8, 0)
    arguments: dict[str, Any] = {"name": "deebert", "kind": "classification"} | change
    with pytest.raises(TrainingError, match=message) as raised:
        train_published(arguments.pop("name"), nn.Identity(), x, y, arguments.pop("kind"), CLASSES, (x, y), **arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda taps, outputs: taps.clear(), "there is none"),
        (lambda taps, outputs: taps.update(b=taps["b"][:, :3]), "widths differ"),
        (lambda taps, outputs: taps.update(b=taps["b"][1:]), "exit 'b'"),
        (lambda taps, outputs: outputs.pop("a"), "exit 'a'"),
        (lambda taps, outputs: taps["a"].fill(np.inf), "exit 'a'.*finite"),
    ],
)
def test_what_the_hidden_layer_cannot_learn_from_is_named(change: Any, message: str):
    taps, outputs, targets = halting_problem(count=20)
    change(taps, outputs)
    with pytest.raises(OfframpError, match=message):
        fit_hidden_halting(taps, outputs, targets, "classification")


def test_a_name_is_looked_up():
    assert published_method("berxit").title == "BERxiT"
