"""Windows of channels: scale, noise, targets, groups, independence of the number of windows."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from offramp.data import simulated as source
from offramp.data.dataset import load_dataset
from offramp.data.formats import open_table
from offramp.data.simulated import write_channels
from offramp.data.table import Table
from offramp.schema.tasks import ChannelSpec, DataSpec
from offramp.simulation.channels import BLOCK_WINDOWS, FUTURE, PAST, SPEED_KMH, WINDOWS_PER_DROP

pytestmark = pytest.mark.skipif(find_spec("sionna") is None, reason="sionna is not installed")
COUNT = 300


def spec_of(**settings: object) -> ChannelSpec:
    return ChannelSpec.model_validate({"scenario": "channels", "windows": COUNT, "antennas": 4, "seed": 5} | settings)


def table_of(**settings: object) -> Table:
    return open_table(DataSpec(synthetic=spec_of(**settings)))


def everything(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Past and future, complex ``(N, slots, antennas, subcarriers)``."""
    rows = np.arange(table.windows.count)
    past, future = table.windows.read(rows), table.large["future"].read(rows)
    return past[:, 0] + 1j * past[:, 1], future[:, 0] + 1j * future[:, 1]


def test_the_past_has_unit_power_and_the_stated_snr() -> None:
    """Noise is independent of the channel, so that powers add; drawn with and without, the difference is the noise."""
    clean, _ = everything(table_of(snr_db=(400, 400)))
    np.testing.assert_allclose(np.square(np.abs(clean)).mean((1, 2, 3)), 1, rtol=1e-5)
    noisy, _ = everything(table_of(snr_db=(7, 7)))
    noise = noisy - clean
    per_window = np.square(np.abs(noise)).mean((1, 2, 3))
    assert abs(-10 * np.log10(per_window.mean()) - 7) < 0.02
    assert np.abs(-10 * np.log10(per_window) - 7).max() < 0.5
    cross = (noise[:, 1:] * noise[:, :-1].conj()).mean() / per_window.mean()
    assert abs(cross) < 0.01


def test_each_window_has_its_own_snr_in_the_range() -> None:
    table = table_of(snr_db=(-5, 15))
    snr = table.columns["snr_db"]
    clean, _ = everything(table_of(snr_db=(400, 400)))
    noisy, _ = everything(table)
    measured = -10 * np.log10(np.square(np.abs(noisy - clean)).mean((1, 2, 3)))
    assert np.abs(measured - snr).max() < 0.5
    assert abs(np.mean(measured - snr)) < 0.02
    assert snr.min() < -4
    assert snr.max() > 14


def test_the_future_goes_on_where_the_past_ends() -> None:
    """At 3 to 6 km/h the step from past to future is no larger than the steps within the past; the scale is the same."""
    table = table_of(snr_db=(400, 400))
    past, future = everything(table)
    assert past.shape == (COUNT, PAST, 4, 32)
    assert future.shape == (COUNT, FUTURE, 4, 32)
    slow = table.columns["speed_kmh"] < 6
    within = np.square(np.abs(past[slow, -1] - past[slow, -2])).sum()
    across = np.square(np.abs(future[slow, 0] - past[slow, -1])).sum()
    assert 0.8 < across / within < 1.25
    assert within < 0.01 * np.square(np.abs(past[slow, -1])).sum()


def test_beam_gains_are_those_of_the_last_slot() -> None:
    table = table_of()
    _, future = everything(table)
    for beam in range(4):
        weights = np.exp(1j * np.pi * np.arange(4) * (2 * beam / 4 - 1)) / 2
        power = np.square(np.abs(np.einsum("a,nas->ns", weights.conj(), future[:, -1]))).mean(1)
        np.testing.assert_allclose(table.columns["beam_gains"][:, beam], 10 * power, rtol=1e-4)
    np.testing.assert_array_equal(table.columns["best_beam"], table.columns["beam_gains"].argmax(1))


def test_a_drop_is_one_user_and_windows_follow_each_other() -> None:
    table = table_of(snr_db=(400, 400), windows=BLOCK_WINDOWS)
    drop = table.columns["drop"]
    np.testing.assert_array_equal(drop, np.arange(BLOCK_WINDOWS) // WINDOWS_PER_DROP)
    for name in ("speed_kmh", "model", "los"):
        for number in np.unique(drop):
            assert len(np.unique(table.columns[name][drop == number])) == 1
    past, future = everything(table)
    same = (drop[1:] == drop[:-1]) & (table.columns["speed_kmh"][1:] < 6)
    following = np.abs((future[:-1, -1].conj() * past[1:, 0]).sum((1, 2))) / (
        np.linalg.norm(future[:-1, -1], axis=(1, 2)) * np.linalg.norm(past[1:, 0], axis=(1, 2))
    )
    assert following[same].min() > 0.9
    assert following[drop[1:] != drop[:-1]].mean() < 0.6


def test_models_take_turns_and_speeds_are_log_uniform() -> None:
    table = table_of(windows=4 * 7 * 40)
    assert (np.bincount(table.columns["model"]) == 4 * 40).all()
    names = np.array(table.label_names["model"])[table.columns["model"]]
    np.testing.assert_array_equal(table.columns["los"], np.isin(names, ["cdl-d", "cdl-e", "umi-los"]))
    speed = table.columns["speed_kmh"]
    assert speed.min() >= SPEED_KMH[0]
    assert speed.max() <= SPEED_KMH[1]
    assert abs((speed < np.sqrt(3 * 120)).mean() - 0.5) < 5 * 0.5 / np.sqrt(280)


def test_only_models_with_a_geometry_know_the_location() -> None:
    assert "location" not in table_of().columns
    location = table_of(models=["umi-los", "umi-nlos"]).columns["location"]
    assert location.shape == (COUNT, 2)
    assert (np.hypot(*location.T) > 9.9).all()


def test_windows_are_the_same_in_any_order_and_number() -> None:
    table = table_of()
    rows = np.array([COUNT - 1, 5, BLOCK_WINDOWS, BLOCK_WINDOWS - 1, 5])
    np.testing.assert_array_equal(table.windows.read(rows), table.windows.read(np.arange(COUNT))[rows])
    fewer = table_of(windows=250)
    np.testing.assert_array_equal(fewer.windows.read(np.arange(250)), table.windows.read(np.arange(250)))
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, table.columns[name][:250])
    assert fewer.windows.fingerprint != table.windows.fingerprint
    assert not np.array_equal(table_of(seed=6).windows.read(rows), table.windows.read(rows))


def test_a_set_too_large_for_memory_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = everything(table_of())
    monkeypatch.setattr(source, "MAX_CACHE_BYTES", 0)
    source.read_synthetic.cache_clear()
    for ours, theirs in zip(everything(table_of()), kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_file_is_the_suites_table(tmp_path: Path) -> None:
    spec, path, seen = spec_of(), tmp_path / "c.h5", []
    write_channels(spec, path, lambda done, total: seen.append((done, total)))
    assert seen == [(BLOCK_WINDOWS, COUNT), (COUNT, COUNT)]
    for target, kind in (("future", "regression"), ("beam_gains", "regression"), ("best_beam", "classification")):
        made, stored = (
            load_dataset(DataSpec.model_validate(origin | {"target": target, "snr": "snr_db"}), kind)  # type: ignore[arg-type]
            for origin in ({"synthetic": spec}, {"path": path})
        )
        np.testing.assert_array_equal(made.targets, stored.targets)
        np.testing.assert_array_equal(made.groups, stored.groups)
        assert made.grouped, "drops are kept together without being named"
        assert stored.grouped
        assert made.target_shape == stored.target_shape
        np.testing.assert_array_equal(made.windows.read(np.arange(9)), stored.windows.read(np.arange(9)))
    with h5py.File(path) as file:
        assert file["sample"].dtype == file["future"].dtype == np.float32
        assert file["future"].shape == (COUNT, 2, FUTURE, 4, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"antennas": 1}, "greater than or equal to 2"),
        ({"models": []}, "at least 1 item"),
        ({"models": ["cdl-f"]}, "'cdl-e', 'umi-nlos'"),
        ({"snr_db": (5, 0)}, "give the lower end first"),
        ({"samples": 64}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec_of(**settings)


def test_an_unknown_scenario_lists_them_all() -> None:
    with pytest.raises(ValidationError, match=r"scenario is one of signals, .*, channels"):
        DataSpec.model_validate({"synthetic": {"scenario": "channel"}})
