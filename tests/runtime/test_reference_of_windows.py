"""What a reference is made of: which windows it keeps, how they are projected, and that it says what the predictor says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import (
    CSI_SHAPE,
    IQ_SHAPE,
    bundle_of,
    predictor_of,
    seeing_task,
    small_lwm,
    small_shufflenet,
    task,
    token_task,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from offramp.bundle import load_bundle
from offramp.errors import BundleError, DataError, EncoderError
from offramp.policies import Policy
from offramp.runtime import Predictor, load
from offramp.runtime.reference import (
    FEWEST_OF_GROUP,
    MOST_WINDOWS,
    answers_of,
    first_exit,
    fit_projection,
    kept_windows,
    remeasured,
    task_reference,
)

WINDOWS = np.random.default_rng(1).standard_normal((20, *IQ_SHAPE)).astype(np.float32)
ONES = (1.0, 1.0)


@pytest.fixture(scope="module")
def predictor(iq_folder: Path) -> Predictor:
    return load(iq_folder)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 900), min_size=1, max_size=300), seed=st.integers(0, 99))
def test_kept_windows_are_stretches_of_as_many_recordings_as_possible(sizes: list[int], seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    shuffled = np.random.default_rng(seed).permutation(len(groups))  # recordings need not lie together in a data set
    order = np.argsort(shuffled, kind="stable")
    groups = groups[order]
    held = np.random.default_rng(seed).permutation(len(groups))
    kept = kept_windows(held, groups, grouped=True)
    assert len(np.unique(kept)) == len(kept) <= MOST_WINDOWS or len(kept) == 1
    for number in np.unique(groups[kept]):
        own = np.flatnonzero(groups == number)
        places = np.searchsorted(own, kept[groups[kept] == number])
        assert (np.diff(places) == 1).all()  # one stretch, in order
        assert abs((len(own) - 1 - places[-1]) - places[0]) <= 1 or len(places) == len(own)  # of its middle
    assert np.count_nonzero(np.diff(groups[kept])) + 1 == len(np.unique(groups[kept]))
    counts = np.unique(groups[kept], return_counts=True)[1]
    if len(counts) < len(sizes):  # recordings are left out only when none can be cut any more
        assert counts.max() <= FEWEST_OF_GROUP
        assert len(kept) > MOST_WINDOWS - 2 * FEWEST_OF_GROUP
    elif len(kept) == len(groups):
        assert len(groups) <= MOST_WINDOWS or max(sizes) <= FEWEST_OF_GROUP


def test_windows_without_recordings_are_kept_evenly() -> None:
    held = np.arange(0, 30_000, 3)
    kept = kept_windows(held, np.arange(30_000), grouped=False)
    assert len(kept) == MOST_WINDOWS
    assert np.isin(kept, held).all()
    assert set(np.diff(kept)) <= {6, 9}
    np.testing.assert_array_equal(kept_windows(held[:50], np.arange(30_000), grouped=False), held[:50])


@pytest.mark.parametrize("shape", [(200, 12), (20, 90)])
def test_a_projection_is_that_of_principal_components(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal(shape) @ rng.standard_normal((shape[1], shape[1])) * 7 + 3).astype(np.float32)
    found = fit_projection(rows, 5)
    scaled = (rows - rows.mean(0, dtype=np.float64)) / rows.std(0, dtype=np.float64)
    expected = PCA(5, svd_solver="full").fit_transform(scaled)
    ours = found(rows)
    signs = np.sign((ours * expected).sum(0))
    np.testing.assert_allclose(ours * signs, expected, atol=2e-4 * np.abs(expected).max())
    assert (found.components[np.arange(5), np.abs(found.components * rows.std(0)).argmax(1)] > 0).all()


def test_a_constant_column_counts_for_nothing() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    rows[:, 1] = 1e4
    found = fit_projection(rows, 16)
    assert found.components.shape == (3, 3)
    assert (found.components[:, 1] == 0).all()
    moved = rows.copy()
    moved[:, 1] = 5e4
    np.testing.assert_array_equal(found(moved), found(rows))
    assert np.isfinite(fit_projection(np.ones((1, 4), np.float32), 16)(rows[:, [0, 0, 0, 0]])).all()


def test_features_are_the_taps_of_the_task(predictor: Predictor, iq_folder: Path) -> None:
    encoder = small_shufflenet()
    with torch.no_grad():
        expected = encoder.taps(torch.from_numpy(WINDOWS))["stage2.1"].numpy()
    for size in (3, 256):
        features = predictor.features(WINDOWS, "modulation", "stage2.1", batch_size=size)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=1e-5)
    transformed = load_bundle(iq_folder).task("device").transform(WINDOWS)
    with torch.no_grad():
        expected = encoder.taps(torch.from_numpy(transformed))["stem"].numpy()
    np.testing.assert_allclose(predictor.features(WINDOWS, "device", "stem"), expected, atol=1e-5)
    assert predictor.features(WINDOWS[:0], "device", "stem").shape == (0, expected.shape[1])


def test_features_of_tokens_are_averaged() -> None:
    encoder = small_lwm()
    stored = token_task(encoder, "map", "layer2", CSI_SHAPE, (2, 8, 129))
    windows = np.random.default_rng(0).standard_normal((4, *CSI_SHAPE)).astype(np.float32)
    found = predictor_of(bundle_of(encoder, stored), encoder).features(windows, "map", "layer1")
    with torch.no_grad():
        tokens = encoder.taps(torch.from_numpy(windows), pooling="tokens")["layer1"].numpy()
    assert tokens.ndim == 3
    np.testing.assert_allclose(found, tokens.mean(1), atol=1e-5)


def test_features_that_cannot_be_had(predictor: Predictor) -> None:
    with pytest.raises(BundleError, match="unknown task 'x'"):
        predictor.features(WINDOWS, "x", "stem")
    with pytest.raises(EncoderError, match="stage9"):
        predictor.features(WINDOWS, "device", "stage9")
    with pytest.raises(DataError, match="task 'shape' takes windows of shape"):
        predictor.features(WINDOWS, "shape", "stem")
    with pytest.raises(DataError, match="window 3 holds NaN"):
        predictor.features(np.where(np.arange(20)[:, None, None, None] == 3, np.nan, WINDOWS), "device", "stem")
    with pytest.raises(DataError, match="batch_size=0"):
        predictor.features(WINDOWS, "device", "stem", batch_size=0)


@pytest.mark.parametrize("labels", [("a", "b", "c"), ()])
def test_a_reference_says_what_the_predictor_says(labels: tuple[str, ...]) -> None:
    encoder = small_shufflenet()
    with torch.no_grad():
        taps = {name: tap.numpy() for name, tap in encoder.taps(torch.from_numpy(WINDOWS)).items()}
    if labels:
        stored = seeing_task(encoder, "t", "stage2.1", IQ_SHAPE, labels=labels)
        policy = Policy("classification", "confidence", ("stage2.0", "conv5"), (0.5,), ONES, (2.0, 0.5))
    else:
        stored = task(encoder, "t", "stage2.1", IQ_SHAPE)
        moved = stored.heads["stage2.1"](taps["stage2.1"]) - stored.heads["stage2.0"](taps["stage2.0"])
        middle = -float(np.median(np.linalg.norm(moved, axis=1)))
        exits, ones = ("stage2.0", "stage2.1", "conv5"), (1.0, 1.0, 1.0)
        policy = Policy("regression", "agreement", exits, (middle, middle), ones, ones)
    stored = replace(stored, policies={"routed": policy.to_dict()}, temperatures={"stage2.1": 3.0} if labels else {})
    assert first_exit(stored) == "stage2.0"
    assert first_exit(replace(stored, policies={})) == "stage2.1"
    predictor = predictor_of(bundle_of(encoder, stored), encoder)
    outputs = {exit: stored.heads[exit](taps[exit]) for exit in ("stage2.0", "stage2.1", "conv5")}
    values = None if labels else fit_projection(outputs["conv5"], 4)
    projection = fit_projection(taps["stage2.0"], 16)
    groups = np.repeat([9, 2, 5], [8, 8, 4])
    made = task_reference(stored, "stage2.0", outputs, taps["stage2.0"], projection, values, groups, True, "validation")
    assert made.groups.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    assert (made.kind, made.classes, made.exit) == (stored.kind, len(labels), "stage2.0")
    features = predictor.features(WINDOWS, "t", made.exit)
    np.testing.assert_allclose(made.projection(features), made.features, atol=1e-3)
    for name in ("fixed", "routed"):
        prediction = predictor.predict(WINDOWS, ["t"], policy=None if name == "fixed" else name)["t"]
        live, kept = answers_of(prediction, made.value_projection), made.policies[name]
        assert kept.exits == live.exits == prediction.consulted
        np.testing.assert_array_equal(kept.left, live.left)
        if labels:
            assert kept.confidence is not None
            np.testing.assert_array_equal(kept.predicted, prediction.classes)
            np.testing.assert_allclose(kept.confidence, prediction.confidence, atol=1e-5)
            assert kept.values is None
        else:
            assert kept.values is not None
            assert live.values is not None
            np.testing.assert_allclose(kept.values, live.values, atol=1e-3)
            assert kept.confidence is None
    assert len(np.unique(made.policies["routed"].left)) > 1  # else it would show nothing
    colder = replace(stored, temperatures={}, policies={})
    anew = remeasured(made, colder, outputs, taps["stage2.0"], np.arange(20), False)
    assert (anew.held_out, anew.grouped, list(anew.policies), anew.exit) == ("traffic", False, ["fixed"], "stage2.0")
    np.testing.assert_array_equal(anew.features, made.features)
