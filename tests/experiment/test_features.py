"""The FeatureBank: equal to the encoder, resumable, keyed by what determines it, bounded in memory."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import EXITS, noise, source, tiny_encoder

from offramp.data.table import WindowSource
from offramp.encoders.base import Exit, StagedEncoder, State
from offramp.encoders.taps import freeze, tap_shapes
from offramp.errors import DataError, EncoderError, OfframpError
from offramp.experiment import features
from offramp.experiment.features import FeatureBank, batch_size, fill_bank, fill_rows
from offramp.transforms import Transform

COUNT, BATCH = 200, 8


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BATCH_VALUES", 2 * 64 * BATCH)
    monkeypatch.setattr(features, "SAVE_EVERY", 3)


@pytest.fixture
def encoder() -> StagedEncoder:
    return freeze(tiny_encoder())


@pytest.fixture
def windows() -> WindowSource:
    return source(noise(COUNT))


def contents(bank: FeatureBank) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(bank.folder.iterdir())}


def count_batches(encoder: StagedEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the encoder runs on, from now on."""
    sizes: list[int] = []
    original = encoder.visit

    def counting(x: torch.Tensor, *args: object, **options: object) -> Iterator[tuple[Exit, State]]:
        sizes.append(len(x))
        return original(x, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder, "visit", counting)
    return sizes


def stop_after(calls: int) -> Callable[[int, int], None]:
    left = iter(range(calls))

    def progress(done: int, total: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return progress


def test_taps_are_those_of_the_encoder(encoder: StagedEncoder, windows: WindowSource, tmp_path: Path) -> None:
    bank = fill_bank(encoder, windows, Transform(), tmp_path)
    assert bank.names == tuple(EXITS)
    everything = np.arange(COUNT)
    with torch.inference_mode():
        expected = encoder.taps(torch.from_numpy(windows.read(everything)))
    for exit in encoder.exits:
        taps = bank.taps(exit.name)
        assert taps.shape == (COUNT, exit.width)
        np.testing.assert_allclose(taps[everything], expected[exit.name], atol=1e-5)
        some = np.array([7, 199, 7, 0])
        assert taps[some].dtype == np.float32
        np.testing.assert_array_equal(taps[some], taps[everything][some])
        assert np.load(bank.folder / f"{exit.name}.npy").shape == (COUNT, exit.width), "readable by numpy alone"


def test_the_transform_comes_first(encoder: StagedEncoder, windows: WindowSource, tmp_path: Path) -> None:
    transform = Transform("standardize", (3.0, 0.0), (1.0, 5.0))
    bank = fill_bank(encoder, windows, transform, tmp_path)
    with torch.inference_mode():
        expected = encoder.taps(torch.from_numpy(transform(windows.read(np.arange(COUNT)))), ["conv5"])
    np.testing.assert_allclose(bank.taps("conv5")[np.arange(COUNT)], expected["conv5"], atol=1e-5)


@pytest.mark.parametrize("calls", [0, 1, 2, 4, 11, 24, 25])
def test_a_killed_pass_goes_on_to_the_same_bytes(
    calls: int, encoder: StagedEncoder, windows: WindowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(fill_bank(encoder, windows, Transform(), tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fill_bank(encoder, windows, Transform(), tmp_path / "cut", stop_after(calls))
    (progress,) = list((tmp_path / "cut").glob("*/progress.json")) or [None]
    done = json.loads(progress.read_text())["done"] if progress else 0
    assert done == (COUNT if calls == 25 else calls // 3 * 3 * BATCH)
    sizes = count_batches(encoder, monkeypatch)
    bank = fill_bank(encoder, windows, Transform(), tmp_path / "cut")
    assert contents(bank) == expected
    assert sum(sizes) == COUNT - done, "what was recorded as done is not computed again"


def test_killed_again_and_again(encoder: StagedEncoder, windows: WindowSource, tmp_path: Path) -> None:
    expected = contents(fill_bank(encoder, windows, Transform(), tmp_path / "whole"))
    for calls in (5, 2, 9, 4):
        with pytest.raises(KeyboardInterrupt):
            fill_bank(encoder, windows, Transform(), tmp_path / "cut", stop_after(calls))
    assert contents(fill_bank(encoder, windows, Transform(), tmp_path / "cut")) == expected


def test_damage_is_computed_again(encoder: StagedEncoder, windows: WindowSource, tmp_path: Path) -> None:
    bank = fill_bank(encoder, windows, Transform(), tmp_path)
    expected = contents(bank)
    for spoil in (
        lambda: (bank.folder / "conv5.npy").unlink(),
        lambda: (bank.folder / "stem.npy").write_bytes(b"not numpy"),
        lambda: os.truncate(bank.folder / "stage3.0.npy", 500),
        lambda: (bank.folder / "progress.json").write_text("{"),
    ):
        spoil()
        assert contents(fill_bank(encoder, windows, Transform(), tmp_path)) == expected


def test_a_second_pass_runs_nothing(
    encoder: StagedEncoder, windows: WindowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fill_bank(encoder, windows, Transform(), tmp_path)
    sizes = count_batches(encoder, monkeypatch)
    blind = replace(windows, fetch=lambda indices: pytest.fail("no window need be read"))
    assert fill_bank(encoder, blind, Transform(), tmp_path) == first
    assert sizes == []


def test_folders_are_keyed_by_windows_transform_and_encoder(
    encoder: StagedEncoder, windows: WindowSource, tmp_path: Path
) -> None:
    def folder(encoder: StagedEncoder, windows: WindowSource, transform: Transform) -> Path:
        return fill_bank(encoder, windows, transform, tmp_path).folder

    changed = freeze(tiny_encoder())
    next(module for module in changed.modules() if isinstance(module, torch.nn.BatchNorm2d)).running_mean.add_(1e-3)
    folders = [
        folder(encoder, windows, Transform()),
        folder(encoder, windows, Transform("standardize", (0.0, 0.0), (1.0, 1.0))),
        folder(encoder, windows, Transform("standardize", (0.0, 0.0), (1.0, 2.0))),
        folder(freeze(tiny_encoder(1)), windows, Transform()),
        folder(changed, windows, Transform()),
        folder(encoder, source(noise(COUNT, seed=1)), Transform()),
    ]
    assert len(set(folders)) == len(folders)
    renamed = replace(windows, name="moved.h5")
    assert folder(freeze(tiny_encoder()), renamed, Transform()) == folders[0]


class TestTokens:
    def test_taps_are_those_of_the_encoder(self, encoder: StagedEncoder, windows: WindowSource, tmp_path: Path) -> None:
        bank = fill_bank(encoder, windows, Transform(), tmp_path, poolings=("tokens",))
        assert bank.names == tuple(EXITS)
        with torch.inference_mode():
            expected = encoder.taps(torch.from_numpy(windows.read(np.arange(COUNT))), pooling="tokens")
        for name in EXITS:
            taps = bank.taps(name)
            assert taps.shape == tuple(expected[name].shape)
            some = np.array([7, 199, 7, 0])
            assert taps[some].dtype == np.float32
            np.testing.assert_allclose(taps[some], expected[name][some], atol=1e-5)

    def test_shapes_are_found_by_one_run(self, encoder: StagedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = encoder.taps(torch.zeros(1, 2, 1, 64), pooling="tokens")
        found = {name: tuple(tap.shape[1:]) for name, tap in expected.items()}
        assert tap_shapes(encoder, (2, 1, 64), "tokens") == found
        sizes = count_batches(encoder, monkeypatch)
        assert tap_shapes(encoder, (2, 1, 64)) == {exit.name: (exit.width,) for exit in encoder.exits}
        assert sizes == [], "exits say how wide their default taps are"

    @pytest.mark.parametrize("calls", [0, 4, 25])
    def test_a_killed_pass_goes_on_to_the_same_bytes(
        self, calls: int, encoder: StagedEncoder, windows: WindowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = contents(fill_bank(encoder, windows, Transform(), tmp_path / "whole", poolings=("tokens",)))
        with pytest.raises(KeyboardInterrupt):
            fill_bank(encoder, windows, Transform(), tmp_path / "cut", stop_after(calls), poolings=("tokens",))
        sizes = count_batches(encoder, monkeypatch)
        assert contents(fill_bank(encoder, windows, Transform(), tmp_path / "cut", poolings=("tokens",))) == expected
        shapes, batches = sizes[:1], sizes[1:]
        assert shapes == [1]
        assert sum(batches) == COUNT - (COUNT if calls == 25 else calls // 3 * 3 * BATCH)

    def test_they_are_kept_apart_from_default_taps(
        self, encoder: StagedEncoder, windows: WindowSource, tmp_path: Path
    ) -> None:
        plain, tokens = (
            fill_bank(encoder, windows, Transform(), tmp_path, poolings=(p,)) for p in ("default", "tokens")
        )
        assert plain.folder != tokens.folder
        assert plain.taps("stem").shape == (COUNT, 8)

    def test_the_disk_that_they_need(
        self, encoder: StagedEncoder, windows: WindowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        needed = 4 * COUNT * sum(p * width for p, width in tap_shapes(encoder, (2, 1, 64), "tokens").values())
        monkeypatch.setattr(features, "free_bytes", lambda path: needed - 1)
        with pytest.raises(OfframpError, match=rf"need {needed / 1e6:,.1f} MB .*free some space"):
            fill_bank(encoder, windows, Transform(), tmp_path, poolings=("tokens",))
        monkeypatch.setattr(features, "free_bytes", lambda path: needed)
        fill_bank(encoder, windows, Transform(), tmp_path, poolings=("tokens",))

    def test_large_taps_make_small_batches(
        self, encoder: StagedEncoder, windows: WindowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = sum(p * width for p, width in tap_shapes(encoder, (2, 1, 64), "tokens").values())
        monkeypatch.setattr(features, "BATCH_TAP_VALUES", 3 * values)
        sizes = count_batches(encoder, monkeypatch)
        fill_bank(encoder, windows, Transform(), tmp_path, poolings=("tokens",))
        assert set(sizes[1:]) == {2}, "the largest power of two that fits"

    def test_an_encoder_without_them(self, encoder: StagedEncoder, windows: WindowSource, tmp_path: Path) -> None:
        with pytest.raises(EncoderError, match="unknown pooling 'cls'"):
            fill_bank(encoder, windows, Transform(), tmp_path, poolings=("cls",))
        assert list(tmp_path.iterdir()) == []


def test_a_bad_window_is_named(encoder: StagedEncoder, tmp_path: Path) -> None:
    for value in (np.nan, np.inf, -np.inf):
        spoilt = noise(COUNT)
        spoilt[137, 1, 0, 5] = value
        with pytest.raises(DataError, match=r"made: window 137 holds NaN or infinity") as caught:
            fill_bank(encoder, source(spoilt), Transform(), tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transform", [Transform(), Transform("standardize", (0.0, 0.0), (9.0, 9.0))])
def test_a_window_that_overflows_is_named(encoder: StagedEncoder, tmp_path: Path, transform: Transform) -> None:
    large = noise(COUNT)
    large[137, 1, 0, 5] = 3e38
    with pytest.raises(DataError, match=r"made: window 137 overflows float32") as caught:
        fill_bank(encoder, source(large), transform, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_overflows(windows: WindowSource, tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.stages[-1][0].weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match=r"features at conv5 of window 0 are not finite"):
        fill_bank(freeze(encoder), windows, Transform(), tmp_path)


def test_a_wrong_shape_is_refused_before_anything_runs(encoder: StagedEncoder, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"made: .*time >= 64") as caught:
        fill_bank(encoder, source(noise(4, (2, 1, 63))), Transform(), tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_said_before_anything_runs(
    encoder: StagedEncoder, windows: WindowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * COUNT * sum(exit.width for exit in encoder.exits)
    monkeypatch.setattr(features, "free_bytes", lambda path: needed - 1)
    sizes = count_batches(encoder, monkeypatch)
    with pytest.raises(OfframpError, match=r"free some space") as caught:
        fill_bank(encoder, windows, Transform(), tmp_path)
    assert "\n" not in str(caught.value)
    assert sizes == []
    monkeypatch.setattr(features, "free_bytes", lambda path: needed)
    fill_bank(encoder, windows, Transform(), tmp_path)


def test_a_disk_that_fills_up_meanwhile(
    encoder: StagedEncoder, windows: WindowSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(fill_bank(encoder, windows, Transform(), tmp_path / "whole"))
    calls = iter(range(20))
    fsync = os.fsync

    def full(handle: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OfframpError, match=r"No space left.*free some space") as caught:
        fill_bank(encoder, windows, Transform(), tmp_path / "cut")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, "fsync", fsync)
    assert contents(fill_bank(encoder, windows, Transform(), tmp_path / "cut")) == expected


def test_features_that_cannot_be_made_a_folder(encoder: StagedEncoder, windows: WindowSource, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(OfframpError) as caught:
        fill_bank(encoder, windows, Transform(), tmp_path / "features")
    assert "\n" not in str(caught.value)


def test_a_failing_read_is_not_called_a_full_disk(
    encoder: StagedEncoder, windows: WindowSource, tmp_path: Path
) -> None:
    def broken(indices: np.ndarray) -> np.ndarray:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(DataError, match=r"made.*cannot be read.*Input/output error") as caught:
        fill_bank(encoder, replace(windows, fetch=broken), Transform(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_frozen_encoder_does_not_change(windows: WindowSource, tmp_path: Path) -> None:
    encoder = tiny_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    fingerprint = encoder.fingerprint()
    fill_bank(freeze(encoder), windows, Transform(), tmp_path)
    assert encoder.fingerprint() == fingerprint
    assert any("running_mean" in name for name in before)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training


def test_rows_of_any_function(windows: WindowSource, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    compute = lambda batch: {"mean": batch.mean((2, 3)), "peak": np.abs(batch).max((1, 2, 3))[:, None]}  # noqa: E731
    folder = fill_rows(
        windows, Transform(), compute, {"mean": (2,), "peak": (1,)}, tmp_path / "x", lambda *at: seen.append(at)
    )
    whole = windows.read(np.arange(COUNT))
    np.testing.assert_array_equal(np.load(folder / "mean.npy"), whole.mean((2, 3)))
    np.testing.assert_array_equal(np.load(folder / "peak.npy")[:, 0], np.abs(whole).max((1, 2, 3)))
    assert seen == [(done, COUNT) for done in range(0, COUNT + 1, BATCH)]


def test_batches_are_powers_of_two_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "BATCH_VALUES", 1 << 19)
    assert batch_size((2, 4, 256)) == 256
    assert batch_size((2, 1, 64)) == 256
    assert batch_size((2, 8, 1024)) == 32
    assert batch_size((2, 64, 100_000)) == 8


MEMORY = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from pathlib import Path
from offramp.experiment import features
from offramp.data.table import WindowSource
from offramp.encoders.iq_shufflenet import IQShuffleNet
from offramp.encoders.taps import freeze
from offramp.experiment.features import fill_bank
from offramp.transforms import Transform

features.RELEASE_BYTES = 1 << 22
encoder = freeze(IQShuffleNet((4, 4, 8, 8, 768), (1, 1, 1)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for count in (2000, 60_000):
    fetch = lambda i: np.zeros((len(i), 2, 1, 64), np.float32) + i[:, None, None, None]
    bank = fill_bank(encoder, WindowSource("w", count, (2, 1, 64), str(count), fetch), Transform(), Path(sys.argv[1]))
    taps = bank.taps("conv5")
    for start in range(0, count, 1000):
        taps[np.arange(start, start + 1000)].sum()
    print(peak())
"""


def test_memory_does_not_grow_with_the_number_of_windows(tmp_path: Path) -> None:
    """60,000 windows leave 190 MB of taps on disk; filling and reading them must not take that much memory."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    few, many = map(int, done.stdout.split())
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.npy")) > 180e6
    assert many - few < 100
