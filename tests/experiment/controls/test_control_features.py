"""Controls: what they see, what they are blind to, and that they leave the encoder alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny import noise, source, tiny_encoder

from offramp.encoders.side import SIDES
from offramp.encoders.taps import freeze
from offramp.experiment.controls.features import control_features, random_twin, reduced_taps
from offramp.experiment.features import TapMatrix
from offramp.schema.suite import CONTROLS
from offramp.transforms import Transform


class TestOnDisk:
    def test_equal_to_the_function(self, tmp_path: Path) -> None:
        windows = source(noise(300, (2, 2, 64)))
        taps = control_features("power_only", windows, Transform(), np.arange(200), tmp_path, lambda *_: None)
        expected = SIDES["power_only"].compute(torch.from_numpy(windows.read(np.arange(300))))
        np.testing.assert_allclose(taps[np.arange(300)], expected, atol=1e-6)

    @pytest.mark.parametrize("name", sorted(SIDES))
    def test_what_is_degraded_for_the_encoder_is_degraded_for_them(self, name: str, tmp_path: Path) -> None:
        windows = noise(6, (2, 4, 64))
        degraded = Transform("degrade", snr_db=0.0, antennas=2)
        rows = control_features(name, source(windows), degraded, np.arange(6), tmp_path, lambda *_: None)
        expected = SIDES[name].compute(torch.from_numpy(degraded(windows)))
        np.testing.assert_allclose(rows[np.arange(6)], expected, rtol=1e-5)

    def test_raw_input_is_the_flattened_transformed_window(self, tmp_path: Path) -> None:
        windows = source(noise(50, (2, 2, 64)))
        transform = Transform("standardize", (1.0, 2.0), (3.0, 4.0))
        taps = control_features("raw_input", windows, transform, np.arange(30), tmp_path, lambda *_: None)
        expected = transform(windows.read(np.arange(50))).reshape(50, -1)
        np.testing.assert_array_equal(taps[np.arange(50)], expected)

    def test_wide_raw_input_is_reduced_without_the_test_windows(self, tmp_path: Path) -> None:
        wide = noise(120, (2, 3, 256))
        wide[:100, :, 1] *= 5
        wide[100:, :, 2] *= 1000  # only in the test set
        windows = source(wide)
        taps = control_features("raw_input", windows, Transform(), np.arange(100), tmp_path, lambda *_: None)
        assert taps.shape == (120, 100), "at most 1,024, and no more than there are windows to fit on"
        flat = wide.reshape(120, -1).astype(np.float64)
        expected = PCA(100, svd_solver="full").fit(flat[:100]).transform(flat)
        leading = slice(0, 20)
        np.testing.assert_allclose(
            np.abs(taps[np.arange(100)][:, leading]), np.abs(expected[:100, leading]), rtol=1e-2, atol=0.5
        )

    def test_killed_and_resumed(self, tmp_path: Path) -> None:
        windows = source(noise(2000))
        calls: list[int] = []

        def stop(done: int, total: int) -> None:
            calls.append(done)
            if len(calls) == 4:
                raise KeyboardInterrupt

        def run(root: Path, progress: object) -> TapMatrix:
            return control_features("handmade", windows, Transform(), np.arange(9), root, progress)  # type: ignore[arg-type]

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", stop)
        resumed, whole = (run(tmp_path / name, lambda *_: None) for name in ("cut", "whole"))
        np.testing.assert_array_equal(resumed[np.arange(2000)], whole[np.arange(2000)])

    def test_controls_do_not_share_rows(self, tmp_path: Path) -> None:
        windows = source(noise(100, (2, 2, 64)))
        for name in SIDES:
            control_features(name, windows, Transform(), np.arange(50), tmp_path, lambda *_: None)
        assert len(list(tmp_path.iterdir())) == len(SIDES)


def test_reduced_taps_are_principal_components(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((500, 6)) * [9, 7, 5, 3, 1, 0.1] + 4).astype(np.float32)
    np.save(tmp_path / "t.npy", rows)
    got = reduced_taps(TapMatrix(tmp_path / "t.npy"), 3, np.arange(400))
    expected = PCA(3).fit(rows[:400]).transform(rows)
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-2)
    assert got.dtype == np.float32
    assert reduced_taps(TapMatrix(tmp_path / "t.npy"), 99, np.arange(400)).shape == (500, 6)


def test_tokens_are_reduced_to_the_components_of_all_positions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = (rng.standard_normal((200, 3, 6)) * [9, 7, 5, 3, 1, 0.1] + 4).astype(np.float32)
    np.save(tmp_path / "t.npy", tokens)
    got = reduced_taps(TapMatrix(tmp_path / "t.npy"), 3, np.arange(150))
    expected = PCA(3).fit(tokens[:150].reshape(450, 6)).transform(tokens.reshape(600, 6)).reshape(200, 3, 3)
    assert got.shape == (200, 3, 3)
    some = np.array([199, 0, 0, 17])
    np.testing.assert_allclose(np.abs(got[some]), np.abs(expected[some]), atol=1e-2)
    assert got[some].dtype == np.float32


def batches(windows: np.ndarray) -> list[torch.Tensor]:
    """At most 256 windows each."""
    return list(torch.from_numpy(windows).split(256))


class TestRandomTwin:
    def twin(self, draw: int = 0, windows: np.ndarray | None = None):  # type: ignore[no-untyped-def]
        windows = noise(300) if windows is None else windows
        return random_twin(freeze(tiny_encoder()), batches(windows), draw)

    def test_leaves_the_encoder_and_the_random_state_alone(self) -> None:
        encoder = freeze(tiny_encoder())
        before, state = encoder.fingerprint(), torch.get_rng_state()
        random_twin(encoder, batches(noise(50)), 0)
        assert encoder.fingerprint() == before
        assert torch.equal(torch.get_rng_state(), state)

    def test_is_the_same_architecture_with_other_weights(self) -> None:
        encoder, twin = tiny_encoder(), self.twin()
        assert type(twin) is type(encoder)
        assert [exit.name for exit in twin.exits] == [exit.name for exit in encoder.exits]
        for (name, ours), theirs in zip(encoder.named_parameters(), twin.parameters(), strict=True):
            if name.endswith("weight") and ours.ndim == 4:
                assert not torch.equal(ours, theirs)

    def test_is_frozen(self) -> None:
        twin = self.twin()
        assert not twin.training
        assert not any(parameter.requires_grad for parameter in twin.parameters())

    def test_its_batch_statistics_are_those_of_the_data(self) -> None:
        windows = noise(256)
        twin = self.twin(windows=windows)
        convolution, norm = twin.stages[0][0], twin.stages[0][1]
        with torch.no_grad():
            before = convolution(twin.begin(torch.from_numpy(windows))[0])
        torch.testing.assert_close(norm.running_mean, before.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(norm.running_var, before.var((0, 2, 3)), atol=1e-4, rtol=1e-2)

    def test_its_activations_keep_their_scale(self) -> None:
        windows = noise(256)
        with torch.no_grad():
            taps = self.twin(windows=windows).taps(torch.from_numpy(windows))
        for name, tap in taps.items():
            assert 0.05 < tap.mean() < 5, name

    def test_draws_differ_and_repeat(self) -> None:
        prints = [self.twin(draw).fingerprint() for draw in (0, 1, 2, 0)]
        assert len(set(prints)) == 3
        assert prints[0] == prints[3]

    @pytest.mark.parametrize("count", [1, 2, 257])
    def test_any_number_of_windows(self, count: int) -> None:
        twin = self.twin(windows=noise(count))
        assert all(torch.isfinite(buffer).all() for buffer in twin.buffers())


def test_the_names() -> None:
    assert set(CONTROLS) == {
        "constant",
        "random_encoder",
        "raw_input",
        "equal_width",
        "tap_alone",
        "handmade",
        "handmade_level_free",
        "power_only",
        "dft_power",
    }
