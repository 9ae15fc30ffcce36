"""One task's scores, recomputed by hand from its heads."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix
from tiny import dataset, draw, problem

from offramp.errors import DataError
from offramp.experiment.evaluate import (
    Evaluation,
    Resampling,
    by_group,
    by_snr,
    constant_control,
    evaluate,
    exit_control,
    feature_control,
)
from offramp.experiment.evaluate import (
    test_answers as answers_of,
)
from offramp.heads import fit
from offramp.heads.fit import FittedExit, Problem, check_targets, fit_exit
from offramp.policies import selection
from offramp.policies.selection import Choice, non_inferior
from offramp.schema.metrics import METRIC_INFO
from offramp.schema.suite import SelectionSpec
from offramp.scoring.metrics import METRICS

COUNT = 240
MACS = [10, 100]
POOLINGS = {"strong": "statistics"}


def made(groups: int | None = 24, snr: object = None, **task: object) -> tuple[Problem, list[np.ndarray]]:
    """A problem of three unbalanced classes, with a weak and a strong feature matrix in place of two exits."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, COUNT, p=[0.6, 0.3, 0.1])
    targets = labels * 1.5 + 3 if task.get("kind") == "regression" else labels
    data = dataset(targets, None if groups is None else np.arange(COUNT) % groups, snr=snr)
    order = rng.permutation(groups or COUNT)
    part = order[(np.arange(COUNT) % groups) if groups else np.arange(COUNT)] / len(order)
    test = np.flatnonzero(part < 0.4)
    outside = np.flatnonzero(part >= 0.4)
    draws = []
    for seed in range(3):
        held = np.random.default_rng(seed).uniform(size=len(outside)) < 0.3
        draws.append(draw(outside[~held], outside[held], seed))
    features = [(np.eye(3)[labels] * level + rng.standard_normal((COUNT, 3))).astype("f4") for level in (1.0, 2.5)]
    return problem(data, test, draws, **task), features


def evaluated(task: Problem, exits: list[FittedExit], features: list[np.ndarray], chosen: int) -> Evaluation:
    rows = dict(zip([exit.name for exit in exits], features, strict=False))
    resampling, rule = Resampling.of(task, 0), SelectionSpec(tolerance="2%")
    sums = [exit.val_sums for exit in exits]
    choice = Choice(
        rule, chosen, selection.best(sums, task.metric), non_inferior(sums, task.metric, resampling.val, rule.tolerance)
    )
    return evaluate(task, exits, rows.__getitem__, MACS[: len(exits)], choice, resampling, POOLINGS)


@pytest.fixture(scope="module")
def fitted() -> tuple[Problem, list[np.ndarray], list[FittedExit]]:
    task, features = made()
    return task, features, [fit_exit(task, name, f) for name, f in zip(("weak", "strong"), features, strict=True)]


def test_rows_are_the_heads_own_scores(fitted: tuple[Problem, list[np.ndarray], list[FittedExit]]) -> None:
    task, features, exits = fitted
    result = evaluated(task, exits, features, 0)
    targets, test = task.dataset.targets, task.split.test
    for row, exit, feature in zip(result.exits, exits, features, strict=True):
        on_test = [accuracy_score(targets[test], head(feature[test]).argmax(1)) for head in exit.heads]
        on_val = [
            accuracy_score(targets[d.folds[0][1]], head(feature[d.folds[0][1]]).argmax(1))
            for head, d in zip(exit.heads, task.split.draws, strict=True)
        ]
        assert row.test.per_seed == pytest.approx(on_test)
        assert row.val.per_seed == pytest.approx(on_val)
        assert row.test.mean == pytest.approx(np.mean(on_test))
        assert row.test.std == pytest.approx(np.std(on_test, ddof=1))
        assert row.test.ci95[0] <= row.test.mean <= row.test.ci95[1]
    assert [(row.exit, row.macs) for row in result.exits] == [("weak", 10), ("strong", 100)]
    assert [row.pooling for row in result.exits] == ["default", "statistics"], "as it is said of each exit"
    assert [row.macs_saved_fraction for row in result.exits] == pytest.approx([0.9, 0])
    expected = result.exits[0].test.mean - result.exits[1].test.mean
    assert result.gain.mean == pytest.approx(expected)
    assert result.gain.ci95[1] < 0, "the weak exit is worse"
    assert result.gain.unit == "group"


def test_the_best_exit_on_validation_stands_beside_the_chosen_one(
    fitted: tuple[Problem, list[np.ndarray], list[FittedExit]],
) -> None:
    task, features, exits = fitted
    weak = evaluated(task, exits, features, 0)
    assert weak.best.exit == "strong"
    assert (weak.best.val, weak.best.test) == (weak.exits[1].val, weak.exits[1].test)
    assert (weak.best.gain_over_full.mean, weak.best.gain_over_full.ci95) == (0, (0, 0))
    assert weak.margin == pytest.approx(0.02 * weak.exits[1].test.mean)
    assert weak.saving_confirmed is False
    assert weak.selection.margin == pytest.approx(0.02 * weak.exits[1].val.mean)
    assert (weak.selection.non_inferior, weak.selection.bonferroni) == ("strong", "strong")
    assert set(weak.selection.gain_lower) == {"weak", "strong"}
    assert weak.selection.gain_lower["weak"] < weak.exits[0].val.mean - weak.exits[1].val.mean
    assert weak.selection.gain_lower["strong"] == 0
    assert evaluated(task, exits, features, 1).saving_confirmed is None, "nothing is saved at full depth"


def test_a_saving_is_confirmed_above_minus_the_margin() -> None:
    """Full depth is the weak matrix, so that the early exit is clearly better on test."""
    task, features = made()
    turned = [features[1], features[0]]
    exits = [fit_exit(task, name, f) for name, f in zip(("early", "full"), turned, strict=True)]
    result = evaluated(task, exits, turned, 0)
    assert result.gain.ci95[0] > 0
    assert result.saving_confirmed is True
    assert result.best.exit == "early"
    assert result.best.gain_over_full == result.gain


def test_full_depth_gains_nothing_over_itself(fitted: tuple[Problem, list[np.ndarray], list[FittedExit]]) -> None:
    task, features, exits = fitted
    gain = evaluated(task, exits, features, 1).gain
    assert (gain.mean, gain.ci95) == (0, (0, 0))


def test_confusion(fitted: tuple[Problem, list[np.ndarray], list[FittedExit]]) -> None:
    task, features, exits = fitted
    test = task.split.test
    predicted = exits[1].heads[0](features[1][test]).argmax(1)
    expected = confusion_matrix(task.dataset.targets[test], predicted, labels=range(3))
    assert evaluated(task, exits, features, 1).confusion == expected.tolist()


def test_confidence_is_calibrated_on_validation_and_judged_on_test(
    fitted: tuple[Problem, list[np.ndarray], list[FittedExit]],
) -> None:
    task, features, exits = fitted
    loud = replace(
        exits[1],
        heads=tuple(replace(h, layers=tuple((8 * w, 8 * b) for w, b in h.layers)) for h in exits[1].heads),
        val_heads=tuple(
            tuple(replace(h, layers=tuple((8 * w, 8 * b) for w, b in h.layers)) for h in of_seed)
            for of_seed in exits[1].val_heads
        ),
    )
    quiet, found = (evaluated(task, [exits[0], exit], features, 1).confidence for exit in (exits[1], loud))
    assert found.temperature == pytest.approx(8 * quiet.temperature, rel=1e-3), "logits eight times as large"
    assert found.ece_after == pytest.approx(quiet.ece_after, abs=1e-4)
    assert found.ece_before > found.ece_after
    held, logits = task.split.draws[0].folds[0][1], exits[1].heads[0](features[1][task.split.draws[0].folds[0][1]])

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(held)), task.dataset.targets[held]]).mean())

    around = [loss(quiet.temperature * factor) for factor in (0.9, 1.0, 1.1)]
    assert around[1] == min(around)


class TestControls:
    def test_a_constant_reaches_the_share_of_the_commonest_class(self) -> None:
        task, features = made()
        ours = fit_exit(task, "strong", features[1])
        row = constant_control(task, ours, Resampling.of(task, 0))
        assert row.gain.mean == pytest.approx(task.metric.score(ours.test_sums.sum(1)).mean() - row.test.mean)
        assert row.gain.ci95[0] > 0
        share = (task.dataset.targets[task.split.test] == 0).mean()
        assert row.test.per_seed == pytest.approx([share] * 3)

    def test_a_constant_is_balanced_at_one_over_the_classes(self) -> None:
        task, features = made(metric="balanced_accuracy")
        assert constant_control(
            task, fit_exit(task, "a", features[0]), Resampling.of(task, 0)
        ).test.mean == pytest.approx(1 / 3)

    def test_a_constant_in_the_top_three(self) -> None:
        task, features = made(metric="top3_accuracy")
        assert constant_control(task, fit_exit(task, "a", features[0]), Resampling.of(task, 0)).test.mean == 1

    @pytest.mark.parametrize("metric", ["mean_error", "rmse", "nmse_db"])
    def test_no_other_constant_is_better_on_what_it_learned_from(self, metric: str) -> None:
        task, features = made(kind="regression", metric=metric)
        task = replace(task, split=replace(task.split, test=task.split.draws[0].final, draws=task.split.draws[:1]))
        score = constant_control(task, fit_exit(task, "a", features[0]), Resampling.of(task, 0)).test.mean
        targets = task.dataset.targets[task.split.test]
        others = [task.metric(np.full_like(targets, value), targets) for value in np.linspace(0, 10, 201)]
        assert score <= min(others) + 1e-2

    def test_a_feature_row(self, fitted: tuple[Problem, list[np.ndarray], list[FittedExit]]) -> None:
        task, features, exits = fitted
        rows = evaluated(task, exits, features, 0).exits
        row = feature_control(task, exits[1], 3, exits[0], Resampling.of(task, 0), "text")
        assert (row.test, row.width, row.description) == (rows[1].test, 3, "text")

    def test_an_exit_control_takes_its_best_on_validation(
        self, fitted: tuple[Problem, list[np.ndarray], list[FittedExit]]
    ) -> None:
        task, _, exits = fitted
        control = exit_control(task, exits, MACS, exits[1], Resampling.of(task, 0), 2, "text")
        assert (control.chosen.exit, control.draws) == ("strong", 2)
        assert (control.gain.mean, control.gain.ci95) == (0, (0, 0))
        control = exit_control(task, exits[:1], MACS[:1], exits[1], Resampling.of(task, 0), 1, "")
        assert control.gain.ci95[0] > 0, "ours is the strong one"


class TestBreakdowns:
    def test_few_groups_are_shown_one_by_one(self) -> None:
        task, features = made(groups=10)
        exits = [fit_exit(task, str(i), f) for i, f in enumerate(features)]
        parts = by_group(task, answers_of(task, exits[1], features[1]), answers_of(task, exits[0], features[0]))
        groups, targets, test = task.dataset.groups, task.dataset.targets, task.split.test
        assert task.test_units.kind == "window"
        assert [part.group for part in parts] == [str(group) for group in np.unique(groups[test])]
        for part in parts:
            of_group = test[groups[test] == int(part.group)]
            assert part.n == len(of_group)
            scores = [accuracy_score(targets[of_group], h(features[1][of_group]).argmax(1)) for h in exits[1].heads]
            assert part.chosen == pytest.approx(np.mean(scores))

    def test_many_groups_are_not(self, fitted: tuple[Problem, list[np.ndarray], list[FittedExit]]) -> None:
        task, features, exits = fitted
        assert by_group(task, answers_of(task, exits[0], features[0]), answers_of(task, exits[1], features[1])) == []

    def test_independent_windows_are_not(self) -> None:
        task, features = made(groups=None)
        exit = fit_exit(task, "a", features[0])
        assert by_group(task, answers_of(task, exit, features[0]), answers_of(task, exit, features[0])) == []

    @pytest.mark.filterwarnings("ignore:y_pred contains classes")
    def test_scores_by_snr(self) -> None:
        snr = np.random.default_rng(5).uniform(-10, 20, COUNT)
        task, features = made(snr=snr, metric="balanced_accuracy")
        exits = [fit_exit(task, str(i), f) for i, f in enumerate(features)]
        found = by_snr(task, answers_of(task, exits[1], features[1]), answers_of(task, exits[0], features[0]))
        test, targets, snr = task.split.test, task.dataset.targets, task.dataset.snr_db
        assert len(found.edges_db) == 9
        assert (found.edges_db[0], found.edges_db[-1]) == pytest.approx((snr[test].min(), snr[test].max()), rel=1e-6)
        for number in range(8):
            low, high = found.edges_db[number : number + 2]
            inside = test[(snr[test] >= low) & ((snr[test] < high) | (number == 7))]
            assert len(inside) == pytest.approx(len(test) / 8, abs=2)
            scores = [
                balanced_accuracy_score(targets[inside], head(features[1][inside]).argmax(1)) for head in exits[1].heads
            ]
            assert found.chosen[number] == pytest.approx(np.mean(scores))

    def test_no_snr_or_a_single_one(self) -> None:
        for snr in (None, np.full(COUNT, 5.0)):
            task, features = made(snr=snr)
            exit = fit_exit(task, "a", features[0])
            assert by_snr(task, answers_of(task, exit, features[0]), answers_of(task, exit, features[0])) is None

    @pytest.mark.parametrize("levels", [[0, 0, 10, 10, 10, 10, 20, 21, 22, 23, 24, 25], [0, 10, 20], [0, 0, 0, 1]])
    def test_an_empty_bin_does_not_break_results_json(self, levels: list[float]) -> None:
        """SNRs in steps make quantiles fall between and upon the steps; NaN is not JSON."""
        task, features = made()
        snr = np.zeros(COUNT)
        test = task.split.test[: len(levels)]
        snr[test] = levels
        data = replace(task.dataset, snr_db=snr.astype(np.float32))
        task = replace(task, dataset=data)
        exit = fit_exit(task, "a", features[0])
        small = replace(task, split=replace(task.split, test=test))
        found = by_snr(small, answers_of(small, exit, features[0]), answers_of(small, exit, features[0]))
        assert np.isfinite(found.chosen).all()
        assert type(found).model_validate(json.loads(found.model_dump_json())) == found


def test_regression_has_no_confusion() -> None:
    task, features = made(kind="regression")
    exit = fit_exit(task, "a", features[0])
    found = evaluated(task, [exit], features, 0)
    assert (found.confusion, found.confidence) == (None, None)


class TestTargetsWithAxes:
    """Targets ``(2, 3, 4)`` of 24 values; outputs and targets stay flat outside the metric."""

    def shaped(self, **task: object) -> tuple[Problem, np.ndarray]:
        rng = np.random.default_rng(0)
        targets = rng.standard_normal((COUNT, 24)) * 3 + 1
        features = (targets[:, :9] + rng.standard_normal((COUNT, 9))).astype(np.float32)
        data = replace(dataset(targets, np.arange(COUNT) % 24), target_shape=(2, 3, 4))
        draws = [draw(np.arange(100), np.arange(100, 150), seed) for seed in range(2)]
        return problem(data, np.arange(150, COUNT), draws, kind="regression", **task), features

    @pytest.fixture
    def first_slot(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
        """A metric that looks at the second axis, and the shapes that it saw."""
        seen: list[tuple[int, ...]] = []

        def statistics(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
            seen.extend([outputs.shape, targets.shape])
            error = np.square(outputs[:, :, 0] - targets[:, :, 0]).sum((1, 2), dtype=np.float64)
            return np.stack([error, np.ones(len(error))], axis=1)

        made = replace(METRICS["rmse"], name="first_slot", statistics=statistics, shaped=True)
        monkeypatch.setitem(METRICS, "first_slot", made)
        monkeypatch.setitem(METRIC_INFO, "first_slot", replace(METRIC_INFO["rmse"], name="first_slot"))
        return seen

    def test_a_metric_sees_them_in_their_shape(self, first_slot: list[tuple[int, ...]]) -> None:
        task, features = self.shaped(metric="first_slot")
        fitted, test = fit_exit(task, "a", features), task.split.test
        found = evaluated(task, [fitted], [features], 0).exits[0].test.per_seed
        entries = [part * 12 + subcarrier for part in range(2) for subcarrier in range(4)]
        for head, score in zip(fitted.heads, found, strict=True):
            error = (head(features[test]) - task.dataset.targets[test])[:, entries]
            assert score == pytest.approx(np.sqrt(np.square(error).sum(1).mean()), rel=1e-5)
        constant_control(task, fitted, Resampling.of(task, 0))
        assert {shape[1:] for shape in first_slot} == {(2, 3, 4)}

    def test_scores_do_not_depend_on_the_blocks_that_they_are_computed_in(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task, features = self.shaped(metric="nmse_db")

        def scored() -> list[np.ndarray]:
            fitted = fit_exit(task, "a", features)
            constant = constant_control(task, fitted, Resampling.of(task, 0)).test.per_seed
            return [fitted.val_sums, fitted.test_sums, np.array(constant)]

        whole = scored()
        monkeypatch.setattr(fit, "SCORING_VALUES", 7 * 24)
        for parts, expected in zip(scored(), whole, strict=True):
            np.testing.assert_allclose(parts, expected, rtol=1e-5)

    def test_targets_that_the_metric_cannot_score(self) -> None:
        check_targets(self.shaped(metric="nmse_db")[0])
        with pytest.raises(DataError, match="beam gains") as caught:
            check_targets(self.shaped(metric="spectral_efficiency")[0])
        assert "\n" not in str(caught.value)
        channels, _ = self.shaped(metric="mrt_efficiency")
        check_targets(channels)
        with pytest.raises(DataError, match=r"mrt_efficiency needs channels"):
            check_targets(replace(channels, dataset=replace(channels.dataset, target_shape=(24,))))
        check_targets(made()[0])
