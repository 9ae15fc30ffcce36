"""Heads on tokens against scikit-learn on stacked rows, and against the map that made the targets."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from tiny import dataset, draw, problem, tiny_encoder

from offramp.encoders.base import StagedEncoder
from offramp.errors import EncoderError
from offramp.heads import fit
from offramp.heads import rows as rows_module
from offramp.heads.fit import fit_exit
from offramp.heads.tokens import PositionRows, fit_tokens, target_positions

COUNT, POSITIONS, WIDTH, VALUES = 40, 6, 5, 4
STRENGTHS = (10.0, 1e-1, 1e-4)
RNG = np.random.default_rng(0)
TOKENS = (RNG.standard_normal((COUNT, POSITIONS, WIDTH)) * [1, 10, 0.1, 3, 1] + [0, 100, -5, 1, 0]).astype(np.float32)
LAYOUT = RNG.permutation(POSITIONS * VALUES).reshape(POSITIONS, VALUES)
"""Entry ``LAYOUT[p, v]`` of the target belongs to position p."""


def planted(noise: float = 0.0) -> np.ndarray:
    """Targets ``(COUNT, 24)`` that one linear map makes of every position's features, put into place one by one."""
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((WIDTH, VALUES)), rng.standard_normal(VALUES) * 10
    targets = np.zeros((COUNT, POSITIONS * VALUES))
    for window in range(COUNT):
        for position in range(POSITIONS):
            for value in range(VALUES):
                entry = LAYOUT[position, value]
                targets[window, entry] = TOKENS[window, position] @ weight[:, value] + bias[value]
    return (targets + noise * rng.standard_normal(targets.shape)).astype(np.float32)


def stacked(targets: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A row of features and one of values per window and position, in double precision."""
    features = [TOKENS[window, position] for window in windows for position in range(POSITIONS)]
    values = [
        [targets[window, entry] for entry in LAYOUT[position]] for window in windows for position in range(POSITIONS)
    ]
    return np.array(features, np.float64), np.array(values, np.float64)


def reference(targets: np.ndarray, windows: np.ndarray, strength: float) -> np.ndarray:
    """What scikit-learn's ridge on standardised stacked rows predicts for all windows, ``(COUNT, 24)``."""
    features, values = stacked(targets, windows)
    mean, spread = features.mean(0), features.std(0)
    centre, scale = values.mean(0), values.std(0)
    model = Ridge(alpha=strength * len(features)).fit((features - mean) / spread, (values - centre) / scale)
    predicted = np.zeros((COUNT, POSITIONS * VALUES))
    for window in range(COUNT):
        answers = model.predict((TOKENS[window] - mean) / spread) * scale + centre
        for position in range(POSITIONS):
            predicted[window, LAYOUT[position]] = answers[position]
    return predicted


def test_rows_are_windows_at_positions() -> None:
    rows = PositionRows(TOKENS)
    assert rows.shape == (COUNT * POSITIONS, WIDTH)
    flat = TOKENS.reshape(-1, WIDTH)
    for indices in (np.arange(COUNT * POSITIONS), np.array([7, 200, 7, 0, 199]), np.array([], np.int64)):
        np.testing.assert_array_equal(rows[indices], flat[indices])


@pytest.mark.parametrize("windows", [np.arange(COUNT), np.array([3, 5, 8, 13, 21, 34])])
def test_agrees_with_scikit_learn(windows: np.ndarray) -> None:
    targets = planted(noise=3.0)
    heads = fit_tokens(TOKENS, windows, targets, LAYOUT, STRENGTHS)
    for strength, head in zip(STRENGTHS, heads, strict=True):
        assert (head.inputs, head.outputs) == (WIDTH, POSITIONS * VALUES)
        error = (head(TOKENS) - reference(targets, windows, strength)) / targets.std()
        assert np.abs(error).max() < 1e-3, strength


def test_recovers_the_map_that_made_the_targets() -> None:
    (head,) = fit_tokens(TOKENS, np.arange(30), planted(), LAYOUT, (1e-9,))
    np.testing.assert_allclose(head(TOKENS)[30:], planted()[30:], atol=1e-2)
    features, values = stacked(planted(), np.arange(30))
    solution, *_ = np.linalg.lstsq(np.c_[features, np.ones(len(features))], values, rcond=None)
    np.testing.assert_allclose(head.layers[0][0], solution[:-1].T, atol=1e-3)
    np.testing.assert_allclose(head.layers[0][1], solution[-1], atol=2e-2)


def test_another_layout_is_another_problem() -> None:
    """Entries that are given to the wrong position cannot be predicted: the permutation is used, and used once."""
    targets = planted()
    right, wrong = (
        np.square(fit_tokens(TOKENS, np.arange(30), targets, layout, (1e-6,))[0](TOKENS)[30:] - targets[30:]).mean()
        for layout in (LAYOUT, np.roll(LAYOUT, 1, axis=0))
    )
    assert right < 1e-3 * wrong


class Recorded:
    """Tokens that remember how many windows were asked for at a time."""

    def __init__(self) -> None:
        self.shape = TOKENS.shape
        self.asked: list[int] = []

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        self.asked.append(len(indices))
        return TOKENS[indices]


def test_few_windows_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fit_tokens(TOKENS, np.arange(COUNT), planted(1.0), LAYOUT, STRENGTHS)
    monkeypatch.setattr(rows_module, "BLOCK_VALUES", 64 * (WIDTH + 1))
    monkeypatch.setattr(rows_module, "CACHED_VALUES", 10)
    tokens = Recorded()
    heads = fit_tokens(tokens, np.arange(COUNT), planted(1.0), LAYOUT, STRENGTHS)
    assert max(tokens.asked) <= 64 // POSITIONS + 2
    for head, other in zip(heads, expected, strict=True):
        np.testing.assert_allclose(head(TOKENS), other(TOKENS), rtol=1e-3, atol=1e-3)


def test_an_exit_is_fitted_chosen_and_scored_on_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = planted(noise=3.0)
    train, validation, test = np.arange(20), np.arange(20, 30), np.arange(30, 40)
    task = problem(
        dataset(targets), test, [draw(train, validation)], kind="regression", metric="rmse", head={"pooling": "tokens"}
    )
    monkeypatch.setattr(fit, "SCORING_VALUES", 3 * POSITIONS * WIDTH)  # three windows at a time
    tokens = Recorded()
    fitted = fit_exit(task, "a", tokens, positions=LAYOUT)
    (head,), (strength,) = fitted.heads, fitted.strengths
    assert max(tokens.asked[-4:]) == 3
    of_strength = {
        each: np.sqrt(np.square(reference(targets, train, each)[validation] - targets[validation]).sum(1).mean())
        for each in fit.STRENGTHS["ridge"]
    }
    assert strength == min(of_strength, key=of_strength.__getitem__)
    expected = reference(targets, train, strength)
    for sums, part in ((fitted.val_sums, validation), (fitted.test_sums, test)):
        score = task.metric.score(sums.sum(1))[0]
        assert score == pytest.approx(np.sqrt(np.square(expected[part] - targets[part]).sum(1).mean()), rel=1e-3)
    np.testing.assert_allclose(head(TOKENS), expected, atol=2e-2)


class TestTargetPositions:
    def test_a_tap_without_positions_has_none(self) -> None:
        assert target_positions(tiny_encoder(), (7,), (32,)) is None

    @pytest.mark.parametrize(("shape", "positions"), [((2, 3, 4), 6), ((12,), 4), ((5,), 5), ((2, 2), 1)])
    def test_equal_runs_in_order(self, shape: tuple[int, ...], positions: int) -> None:
        found = target_positions(tiny_encoder(), shape, (positions, 8))
        assert found is not None
        assert found.dtype == np.int64
        per_position = int(np.prod(shape)) // positions
        expected = [[position * per_position + value for value in range(per_position)] for position in range(positions)]
        assert found.tolist() == expected

    def test_a_target_that_cannot_be_shared(self) -> None:
        with pytest.raises(EncoderError, match=r"\(3, 5\) has 15 values, which 4 positions cannot share") as caught:
            target_positions(tiny_encoder(), (3, 5), (4, 8))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "wrong",
        [np.zeros((4, 3), np.int64), np.arange(12).reshape(3, 4), np.arange(12), np.arange(1, 13).reshape(4, 3)],
    )
    def test_an_encoder_that_does_not_divide_it(self, wrong: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(StagedEncoder, "target_positions", lambda *_: wrong)
        with pytest.raises(EncoderError, match=r"iq-shufflenet does not divide a target of shape \(12,\)"):
            target_positions(tiny_encoder(), (12,), (4, 8))
