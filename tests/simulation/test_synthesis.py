"""Tables of simulated windows, and views: labels, independence, and what two views share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.schema.tasks import ONE_ANTENNA, DataSpec, SyntheticSpec
from offramp.simulation.scenarios import SCENARIOS
from offramp.simulation.signal_types import SIGNAL_TYPES
from offramp.simulation.views import view_pairs
from offramp.simulation.windows import synthetic_windows


def table_of(**settings: object):  # type: ignore[no-untyped-def]
    return open_table(DataSpec(synthetic=SyntheticSpec.model_validate(settings)))


def test_classes_and_angles_are_balanced() -> None:
    table = table_of(windows=6000, antennas=1, samples=64)
    modulation = np.bincount(table.columns["modulation"], minlength=len(SIGNAL_TYPES))
    assert (np.abs(modulation - 240) < 5 * np.sqrt(240)).all()
    assert table.columns["snr_db"].min() >= -6
    assert table.columns["snr_db"].max() <= 18
    directions = table_of(scenario="directions", windows=6000, antennas=1, samples=64)
    sector = np.bincount(directions.columns["sector"], minlength=8)
    assert (np.abs(sector - 750) < 5 * np.sqrt(750)).all()
    angle = directions.columns["angle"]
    np.testing.assert_array_equal(
        directions.columns["sector"], np.floor((angle.astype(np.float64) + 60) / 15).clip(0, 7)
    )


def test_noise_has_no_direction_and_is_not_asked_for_one() -> None:
    directions = table_of(scenario="directions", windows=3000, antennas=1, samples=64)
    assert directions.columns["modulation"].max() == len(SIGNAL_TYPES) - 2
    assert "noise" not in directions.label_names["modulation"]
    assert table_of(windows=3000, antennas=1, samples=64).columns["modulation"].max() == len(SIGNAL_TYPES) - 1


def test_the_line_of_sight_is_where_the_antennas_say() -> None:
    """Scattered paths are at least 6 dB weaker: the phase between neighbouring antennas points at the direction, on the whole."""
    table = table_of(scenario="directions", windows=400, antennas=8, samples=256, snr_db=(40, 40))
    iq = table.windows.read(np.arange(400))
    received = iq[:, 0] + 1j * iq[:, 1]
    phase = np.angle((received[:, 1:] * received[:, :-1].conj()).sum((1, 2)))
    error = np.rad2deg(np.arcsin(phase / np.pi)) - table.columns["angle"]
    assert np.median(np.abs(error)) < 4
    assert abs(np.median(error)) < 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_windows_are_the_same_in_any_order_and_number(scenario: str) -> None:
    antennas = 1 if scenario in ONE_ANTENNA else 2
    settings = {"scenario": scenario, "windows": 2100, "antennas": antennas, "samples": 64, "seed": 3}
    table = table_of(**settings)
    everything = table.windows.read(np.arange(2100))
    assert everything.shape == (2100, 2, antennas, 64)
    some = np.array([2099, 5, 1024, 1023, 5])
    np.testing.assert_array_equal(table.windows.read(some), everything[some])
    fewer = table_of(**settings | {"windows": 1500})
    np.testing.assert_array_equal(fewer.windows.read(np.arange(1500)), everything[:1500])
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, table.columns[name][:1500])
    assert fewer.windows.fingerprint != table.windows.fingerprint
    other = table_of(**settings | {"seed": 4})
    assert not np.array_equal(other.windows.read(some), everything[some])
    assert (np.square(everything).sum(1).mean((1, 2)) > 1e-3).all()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_a_data_set_with_named_classes(scenario: str) -> None:
    antennas = 1 if scenario in ONE_ANTENNA else 2
    spec = SyntheticSpec(scenario=scenario, windows=2048, antennas=antennas, samples=64)  # type: ignore[arg-type]
    dataset = load_dataset(DataSpec(synthetic=spec, snr="snr_db"), "classification")
    assert dataset.simulated
    assert dataset.label_names == SCENARIOS[scenario].label_names[SCENARIOS[scenario].target]
    assert dataset.grouped == (scenario == "fingerprint")
    share = np.bincount(dataset.targets) / 2048
    assert share.min() > 0.2 / len(share)


def test_blocks_are_independent() -> None:
    first, second = (synthetic_windows(256, 1, 128, (10, 10), 0, block).iq.flatten(1) for block in (0, 1))
    correlation = torch.nn.functional.cosine_similarity(first, second, dim=1)
    assert float(correlation.abs().mean()) < 0.2
    assert not torch.equal(first, second)


def test_views_share_the_direction_alone_with_the_payload_apart() -> None:
    one, two = view_pairs(300, 4, 128, (40, 40), 0, 0).iq.chunk(2)
    assert one.shape == two.shape == (300, 2, 4, 128)
    phases = []
    for view in (one, two):
        received = torch.complex(view[:, 0], view[:, 1])
        phases.append(torch.angle((received[:, 1:] * received[:, :-1].conj()).sum((1, 2))))
    difference = torch.remainder(phases[0] - phases[1] + torch.pi, 2 * torch.pi) - torch.pi
    assert difference.abs().median() < 0.2
    assert phases[0].std() > 0.5
    assert not torch.allclose(one, two)


def test_noise_comes_from_nowhere():
    windows = synthetic_windows(400, 2, 64, (0, 10), seed=1)
    np.testing.assert_array_equal(windows.sector == -1, windows.modulation == SIGNAL_TYPES.index("noise"))
