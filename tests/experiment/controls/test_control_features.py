"""Controls: what they see, what they are blind to, and that they leave the encoder alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from tiny import noise, source, tiny_encoder

from offramp.encoders.taps import freeze
from offramp.errors import DataError
from offramp.experiment.controls.features import (
    FEATURE_CONTROLS,
    control_features,
    dft_power,
    handmade,
    log_level,
    power_only,
    random_twin,
    reduced_taps,
)
from offramp.experiment.features import TapMatrix
from offramp.schema.suite import CONTROLS
from offramp.transforms import Transform


def iq(signal: np.ndarray) -> np.ndarray:
    """Complex ``(n, antennas, time)`` as windows."""
    return np.stack([signal.real, signal.imag], axis=1).astype(np.float32)


def complex_noise(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


class TestByHand:
    @pytest.mark.parametrize("name", sorted(FEATURE_CONTROLS))
    @pytest.mark.parametrize("shape", [(1, 64), (4, 256), (3, 100), (40, 65)])
    def test_finite_rows_for_any_window(self, name: str, shape: tuple[int, int]) -> None:
        compute = FEATURE_CONTROLS[name].compute
        windows = iq(complex_noise(5, *shape))
        windows[1] = 0
        windows[2] *= 1e-4
        windows[3] *= 1e4
        rows = compute(windows)
        assert rows.dtype == np.float32
        assert rows.shape[0] == 5
        assert np.isfinite(rows).all()
        assert rows.shape[1] == compute(windows[:1]).shape[1]
        np.testing.assert_allclose(compute(windows[4:]), rows[4:], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", sorted(FEATURE_CONTROLS))
    @pytest.mark.parametrize("shape", [(4, 3, 32, 64), (4, 2, 64), (4, 1, 2, 64)])
    def test_anything_but_iq_is_refused_in_one_line(self, name: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"I/Q windows.*leave it out") as caught:
            FEATURE_CONTROLS[name].compute(np.zeros(shape, np.float32))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", sorted(FEATURE_CONTROLS))
    def test_slots_of_channels_over_time_stand_one_after_another(self, name: str) -> None:
        over_time = noise(3, (2, 5, 4, 16))
        joined = np.concatenate([over_time[:, :, slot] for slot in range(5)], axis=-1)
        compute = FEATURE_CONTROLS[name].compute
        np.testing.assert_allclose(compute(over_time), compute(joined), rtol=1e-5)

    def test_level(self) -> None:
        windows = iq(complex_noise(3, 2, 64))
        expected = np.log((windows[:, 0] ** 2 + windows[:, 1] ** 2).mean((1, 2)))
        np.testing.assert_allclose(log_level(windows)[:, 0], expected, rtol=1e-5)

    @pytest.mark.parametrize("scale", [1e-3, 0.1, 30, 1e3])
    def test_the_shape_of_a_signal_has_no_level(self, scale: float) -> None:
        windows = iq(complex_noise(6, 4, 256))
        plain, scaled = handmade(windows), handmade(windows * np.float32(scale))
        np.testing.assert_allclose(scaled[:, 1:], plain[:, 1:], atol=2e-3)
        np.testing.assert_allclose(scaled[:, 0] - plain[:, 0], 2 * np.log(scale), rtol=1e-3)

    def test_cumulants_tell_constellations_apart(self) -> None:
        """Theory (Swami and Sadler, table I): |C40| is 2 for BPSK, 1 for QPSK, 0 for 8-PSK; |C20| is 1, 0, 0."""
        rng = np.random.default_rng(0)
        for order, c20, c40 in ((2, 1.0, 2.0), (4, 0.0, 1.0), (8, 0.0, 0.0)):
            symbols = np.exp(2j * np.pi * rng.integers(0, order, (4, 1, 4096)) / order)
            rows = handmade(iq(symbols))
            found = rows[:, 1 + 64 : 1 + 64 + 2].mean(0)
            np.testing.assert_allclose(found, [c20, c40], atol=0.06)

    def test_the_spectrum_peaks_at_the_tone(self) -> None:
        tone = np.exp(2j * np.pi * 10 / 64 * np.arange(256))[None, None]
        assert handmade(iq(tone))[0, 1:65].argmax() == 10

    def test_power_is_blind_to_phase(self) -> None:
        signal = complex_noise(4, 3, 128)
        phases = np.exp(2j * np.pi * np.random.default_rng(1).uniform(size=signal.shape))
        np.testing.assert_allclose(power_only(iq(signal * phases)), power_only(iq(signal)), atol=1e-4)
        assert np.abs(handmade(iq(signal * phases)) - handmade(iq(signal))).max() > 0.1, "the other one sees it"

    def test_power_sees_time_and_antennas(self) -> None:
        signal = complex_noise(2, 4, 160)
        signal[1, :, :10] *= 10
        signal[1, 2] *= 10
        rows = power_only(iq(signal))
        assert rows.shape == (2, 1 + 16 + 4)
        gain = rows[1] - rows[0]
        assert gain[1:17].argmax() == 0
        assert gain[17:].argmax() == 2

    @pytest.mark.parametrize("antennas", [2, 4, 8])
    def test_beams_point_at_a_plane_wave(self, antennas: int) -> None:
        assert dft_power(iq(complex_noise(3, antennas, 64))).shape == (3, antennas)
        for beam in range(antennas):
            steering = np.exp(2j * np.pi * beam * np.arange(antennas) / antennas)
            rows = dft_power(iq(steering[None, :, None] * complex_noise(3, 1, 64)))
            assert (rows.argmax(1) == beam).all()


class TestOnDisk:
    def test_equal_to_the_function(self, tmp_path: Path) -> None:
        windows = source(noise(300, (2, 2, 64)))
        taps = control_features("power_only", windows, Transform(), np.arange(200), tmp_path, lambda *_: None)
        np.testing.assert_allclose(taps[np.arange(300)], power_only(windows.read(np.arange(300))), atol=1e-6)

    @pytest.mark.parametrize("name", sorted(FEATURE_CONTROLS))
    def test_what_is_degraded_for_the_encoder_is_degraded_for_them(self, name: str, tmp_path: Path) -> None:
        windows = noise(6, (2, 4, 64))
        degraded = Transform("degrade", snr_db=0.0, antennas=2)
        rows = control_features(name, source(windows), degraded, np.arange(6), tmp_path, lambda *_: None)
        np.testing.assert_allclose(rows[np.arange(6)], FEATURE_CONTROLS[name].compute(degraded(windows)), rtol=1e-5)

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
        for name in FEATURE_CONTROLS:
            control_features(name, windows, Transform(), np.arange(50), tmp_path, lambda *_: None)
        assert len(list(tmp_path.iterdir())) == len(FEATURE_CONTROLS)


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


class TestRandomTwin:
    def twin(self, draw: int = 0, windows: np.ndarray | None = None):  # type: ignore[no-untyped-def]
        windows = noise(300) if windows is None else windows
        return random_twin(freeze(tiny_encoder()), source(windows), Transform(), draw, "cpu")

    def test_leaves_the_encoder_and_the_random_state_alone(self) -> None:
        encoder = freeze(tiny_encoder())
        before, state = encoder.fingerprint(), torch.get_rng_state()
        random_twin(encoder, source(noise(50)), Transform(), 0, "cpu")
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
        "handmade",
        "power_only",
        "dft_power",
    }
