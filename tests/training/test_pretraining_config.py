"""What follows from a configuration: window sizes, batch sizes, learning rates, snapshots."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.errors import TrainingError
from offramp.training.config import (
    INPUT_SHAPES,
    PretrainingConfig,
    input_shape,
    pairs_of,
    rate_share,
    snapshot_steps,
)


def test_window_sizes_are_drawn_by_their_share() -> None:
    drawn = [input_shape(0, step) for step in range(2000)]
    for antennas, samples, share in INPUT_SHAPES:
        assert drawn.count((antennas, samples)) / 2000 == pytest.approx(share, abs=0.03)


def test_the_mix_spans_the_sizes_and_costs_about_as_much_as_4_x_256() -> None:
    assert sum(share for *_, share in INPUT_SHAPES) == pytest.approx(1)
    assert {antennas for antennas, *_ in INPUT_SHAPES} == {1, 2, 3, 4, 8}
    assert {samples for _, samples, _ in INPUT_SHAPES} >= {128, 256, 512, 1024}
    mean = sum(antennas * samples * share for antennas, samples, share in INPUT_SHAPES)
    assert 0.75 < mean / (4 * 256) < 1.1
    probed = sum(share for antennas, samples, share in INPUT_SHAPES if (antennas, samples) in ((4, 256), (1, 128)))
    assert probed > 1 / 3


@given(st.integers(2, 4096), st.sampled_from(INPUT_SHAPES))
def test_batches_of_large_windows_hold_as_many_values_as_those_of_4_x_256(
    batch: int, shape: tuple[int, int, float]
) -> None:
    antennas, samples, _ = shape
    pairs = pairs_of(batch, antennas, samples)
    assert min(batch, 64) <= pairs <= batch
    if antennas * samples <= 1024:
        assert pairs == batch
    elif pairs > 64:
        assert batch * 1024 - antennas * samples < pairs * antennas * samples <= batch * 1024


def test_the_learning_rate_warms_up_and_falls_to_nearly_nil() -> None:
    rates = [rate_share(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50)
    assert max(rates) == rates[49] == 1
    assert rates[-1] < 1e-4
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_snapshots_of_a_long_run_double() -> None:
    assert snapshot_steps(10240) == (0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240)


@given(st.integers(1, 10**6))
def test_snapshots_begin_and_end_with_the_run(steps: int) -> None:
    taken = snapshot_steps(steps)
    assert taken[0] == 0
    assert taken[-1] == steps
    assert list(taken) == sorted(set(taken))
    assert len(taken) <= 12
    assert all(after <= 2 * before for before, after in pairwise(taken[1:]))


def test_what_there_is_not_is_one_line() -> None:
    with pytest.raises(TrainingError, match="objective 'hidden': choose 'contrastive' or 'masked'"):
        PretrainingConfig(objective="hidden")
    with pytest.raises(TrainingError, match="labels 'some': choose all, general, non-task"):
        PretrainingConfig(objective="mixed", labels="some")
    with pytest.raises(TrainingError, match="views 'two': choose same, crop, redrawn"):
        PretrainingConfig(views="two")
    with pytest.raises(TrainingError, match="projection depth 4: choose 0, 1, 2 or 3"):
        PretrainingConfig(projection_depth=4)
    with pytest.raises(TrainingError, match="modality 'csi': choose 'iq' or 'vision'"):
        PretrainingConfig(modality="csi")


def test_options_that_would_change_nothing_are_refused() -> None:
    with pytest.raises(TrainingError, match="--labels is for an objective that has some: add --objective supervised"):
        PretrainingConfig(labels="all")
    with pytest.raises(TrainingError, match="--views is for simulated signals: leave it out with --data"):
        PretrainingConfig(objective="masked", data="channels.h5", views="crop")
    with pytest.raises(TrainingError, match="the mixed objective is for I/Q"):
        PretrainingConfig(encoder="wavesfm", modality="vision", objective="mixed")


def test_an_objective_without_labels_has_none() -> None:
    assert PretrainingConfig().label_names == ()
    assert "snr_db" in PretrainingConfig(objective="supervised").label_names


def test_images_are_contrasted_not_masked() -> None:
    assert PretrainingConfig().modality == "iq"
    assert PretrainingConfig(encoder="wavesfm", modality="vision").objective == "contrastive"
    assert PretrainingConfig(encoder="wavesfm", objective="masked").modality == "iq"
    with pytest.raises(TrainingError, match="for I/Q: use --objective contrastive with --modality vision"):
        PretrainingConfig(encoder="wavesfm", modality="vision", objective="masked")
