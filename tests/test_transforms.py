"""Transforms against scipy and numpy."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import signal
from tiny import noise, source

from offramp.errors import DataError
from offramp.experiment.features import fit_transform
from offramp.schema.tasks import DegradeSpec
from offramp.transforms import Transform, check_range, degrade, iq_of_complex, spectrogram, with_antenna


def test_none_is_the_identity() -> None:
    windows = noise(3)
    assert Transform()(windows) is windows


def test_standardize_by_hand() -> None:
    windows = noise(4, (2, 3, 5))
    got = Transform("standardize", (1.0, -2.0), (0.5, 4.0))(windows)
    np.testing.assert_allclose(got[:, 0], (windows[:, 0] - 1) * 0.5, rtol=1e-6)
    np.testing.assert_allclose(got[:, 1], (windows[:, 1] + 2) * 4, rtol=1e-6)
    assert got.dtype == np.float32


def test_standardize_is_fitted_on_the_given_windows_alone() -> None:
    windows = (noise(400, (2, 3, 64)) * np.array([3, 0.1])[:, None, None] + np.array([100, -1])[:, None, None]).astype(
        "f4"
    )
    windows[300:] = 1e6
    fitted = fit_transform("standardize", source(windows), np.arange(300))
    through = fitted(windows[:300]).astype(np.float64)
    np.testing.assert_allclose(through.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(through.std((0, 2, 3)), 1, atol=1e-4)


def test_standardize_leaves_a_constant_channel_at_zero() -> None:
    windows = noise(20)
    windows[:, 1] = 5
    fitted = fit_transform("standardize", source(windows), np.arange(20))
    assert (fitted(windows)[:, 1] == 0).all()
    assert np.isfinite(fitted(windows)).all()


def test_spectrogram_is_that_of_scipy() -> None:
    windows = noise(3, (2, 2, 200))
    complex_windows = windows[:, 0] + 1j * windows[:, 1]
    complex_windows /= np.sqrt((np.abs(complex_windows) ** 2).mean((1, 2), keepdims=True))
    _, _, expected = signal.stft(
        complex_windows, window="hann", nperseg=64, noverlap=48, boundary=None, padded=False, return_onesided=False
    )
    taper = signal.get_window("hann", 64)
    power = np.abs(np.fft.fftshift(expected, axes=2)) ** 2 * taper.sum() ** 2 / (taper**2).sum()
    got = spectrogram(windows)
    assert got.shape == (3, 2, 64, 1 + (200 - 64) // 16)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.log(power + 1e-6), atol=2e-3)


def test_spectrogram_of_a_tone_and_of_nothing() -> None:
    tone = np.exp(2j * np.pi * 0.25 * np.arange(128))
    windows = np.stack([tone.real, tone.imag])[None, :, None].astype(np.float32)
    assert (spectrogram(windows)[0, 0].argmax(0) == 32 + 16).all(), "a quarter of the rate, 16 bins above the middle"
    np.testing.assert_allclose(spectrogram(windows * 1000), spectrogram(windows), atol=1e-3)
    np.testing.assert_allclose(spectrogram(np.zeros_like(windows)), np.log(1e-6), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 1, 64), (1, 2, 1, 63), (1, 2, 64)])
def test_spectrogram_needs_iq(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"I/Q windows") as caught:
        spectrogram(np.zeros(shape, np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none", "standardize", "spectrogram"])
def test_shape_and_storage(name: str) -> None:
    windows = noise(6, (2, 3, 100))
    fitted = fit_transform(name, source(windows), np.arange(6))
    assert fitted(windows).shape[1:] == fitted.output_shape((2, 3, 100))
    again = Transform.from_dict(fitted.to_dict())
    assert again == fitted
    np.testing.assert_array_equal(again(windows), fitted(windows))


def test_degrade_adds_noise_at_the_snr_and_nothing_else() -> None:
    windows = noise(200, (2, 4, 8, 16)) * np.linspace(0.01, 100, 200, dtype=np.float32)[:, None, None, None, None]
    added = degrade(windows, snr_db=5.0) - windows
    power, noise_power = (np.square(x).sum((1, 2, 3, 4), dtype=np.float64) for x in (windows, added))
    ratio = 10 * np.log10(power / noise_power)
    assert np.abs(ratio - 5).max() < 1, "every window at its own scale"
    assert abs(10 * np.log10(np.mean(noise_power / power)) + 5) < 0.05
    unit = added / np.sqrt(noise_power / 1024)[:, None, None, None, None]
    cross = (unit[:, 0] * unit[:, 1]).mean()
    neighbours = (unit[..., 1:] * unit[..., :-1]).mean()
    assert abs(cross) < 0.01
    assert abs(neighbours) < 0.01


def test_noise_of_a_window_depends_on_the_window_alone() -> None:
    windows = noise(6, (2, 4, 8))
    together = degrade(windows, snr_db=0.0)
    np.testing.assert_array_equal(degrade(windows[[4, 1]], snr_db=0.0), together[[4, 1]])
    np.testing.assert_array_equal(degrade(np.asfortranarray(windows), snr_db=0.0), together)
    added = together - windows
    assert np.abs(np.corrcoef(added.reshape(6, -1)) - np.eye(6)).max() < 0.6
    assert (windows == noise(6, (2, 4, 8))).all(), "the windows themselves are left alone"


@pytest.mark.parametrize("shape", [(2, 8, 5), (2, 3, 8, 5)])
def test_degrade_keeps_every_fourth_antenna(shape: tuple[int, ...]) -> None:
    windows = noise(3, shape)
    got = degrade(windows, antennas=2)
    np.testing.assert_array_equal(got[..., [0, 4], :], windows[..., [0, 4], :])
    assert (np.delete(got, [0, 4], axis=-2) == 0).all()
    both, noisy = degrade(windows, 3.0, 2), degrade(windows, 3.0)
    np.testing.assert_array_equal(both[..., [0, 4], :], noisy[..., [0, 4], :])


@pytest.mark.parametrize(
    ("shape", "antennas", "message"),
    [
        ((1, 2, 8, 5), 3, "choose a divisor of 8"),
        ((1, 3, 8, 5), 2, "not \\(1, 3, 8, 5\\)"),
        ((1, 2, 8), 2, "\\(1, 2, 8\\)"),
    ],
)
def test_degrade_refuses(shape: tuple[int, ...], antennas: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        degrade(np.zeros(shape, np.float32), None, antennas)


def test_degrade_is_what_a_suite_asks_for() -> None:
    windows = noise(6, (2, 8, 5))
    fitted = fit_transform(DegradeSpec(name="degrade", snr_db=3, antennas=4), source(windows), np.arange(6))
    np.testing.assert_array_equal(fitted(windows), degrade(windows, 3.0, 4))
    assert fitted.output_shape((2, 8, 5)) == (2, 8, 5)
    assert Transform.from_dict(fitted.to_dict()) == fitted
    assert Transform.from_dict({"name": "none", "mean": [], "scale": []}) == Transform(), "a bundle from before"


def test_transforms_do_not_import_torch() -> None:
    code = "import sys, offramp.transforms; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("time", "frames"), [(127, 64), (256, 64), (1024, 64), (200, 2)])
def test_spectrograms_of_a_given_number_of_frames(time: int, frames: int) -> None:
    windows = np.random.default_rng(0).standard_normal((2, 2, 3, time)).astype(np.float32)
    made = Transform("spectrogram", frames=frames)(windows)
    assert made.shape == (2, 3, 64, frames)
    hop = (time - 64) // (frames - 1)
    last = windows[..., hop * (frames - 1) : hop * (frames - 1) + 64]
    scaled = last / np.sqrt(np.square(windows).sum(1, keepdims=True).mean((2, 3), keepdims=True))
    taper = np.hanning(65)[:-1]
    power = np.abs(np.fft.fftshift(np.fft.fft((scaled[:, 0] + 1j * scaled[:, 1]) * taper), axes=-1)) ** 2
    np.testing.assert_allclose(made[..., -1], np.log(power / np.square(taper).sum() + 1e-6), atol=1e-3)
    stored = Transform.from_dict(Transform("spectrogram", frames=frames).to_dict())
    assert stored.output_shape((2, 3, time)) == (3, 64, frames)


def test_too_many_frames_are_refused() -> None:
    with pytest.raises(DataError, match="64 frames of 64 samples do not fit in windows of 126 samples"):
        Transform("spectrogram", frames=64)(np.zeros((1, 2, 1, 126), np.float32))


def test_standardize_takes_channels_over_time() -> None:
    windows = np.random.default_rng(0).standard_normal((3, 2, 4, 5, 6)).astype(np.float32)
    made = Transform("standardize", (1.0, 2.0), (3.0, 4.0))(windows)
    np.testing.assert_allclose(made[:, 1], (windows[:, 1] - 2) * 4, rtol=1e-6)


def complex_windows(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("shape", [(5, 3, 16), (5, 16), (0, 3, 16), (0, 16)])
def test_complex_windows_become_iq(shape: tuple[int, ...]) -> None:
    windows = complex_windows(*shape)
    found = iq_of_complex(windows)
    assert found.dtype == np.float32
    assert iq_of_complex(windows.astype(np.complex128)).dtype == np.float64
    assert found.shape == (shape[0], 2, *(shape[1:] if len(shape) == 3 else (1, 16)))
    np.testing.assert_array_equal((found[:, 0] + 1j * found[:, 1]).reshape(shape), windows)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 3, 16)])
def test_complex_windows_of_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"complex windows are \(N, antennas, time\) or \(N, time\)"):
        iq_of_complex(complex_windows(*shape))


def test_iq_without_an_antenna_axis_gets_one() -> None:
    windows = np.random.default_rng(0).standard_normal((5, 2, 16))
    expected = windows.reshape(5, 2, 1, 16)
    np.testing.assert_array_equal(with_antenna(windows), expected)
    np.testing.assert_array_equal(with_antenna(windows.transpose(0, 2, 1)), expected)
    for others in (np.zeros((5, 2, 1, 16)), np.zeros((5, 3, 16)), np.zeros((5, 2)), np.zeros((5, 1, 2, 3))):
        assert with_antenna(others) is others
    with pytest.raises(DataError, match=r"store them as \(N, 2, 1, time\)"):
        with_antenna(np.zeros((5, 2, 2)))


@pytest.mark.parametrize(
    "transform",
    [
        Transform(),
        Transform("standardize", (0.0, 0.0), (10.0, 10.0)),
        Transform("spectrogram"),
        Transform("degrade", snr_db=10.0),
        Transform("degrade", antennas=1),
    ],
)
@pytest.mark.parametrize("value", [3e38, -3e38, 1e30])
def test_windows_that_float32_cannot_compute_with_are_named(transform: Transform, value: float) -> None:
    """By an encoder that scales to unit power, the last ones would pass for silence."""
    windows = np.random.default_rng(0).standard_normal((4, 2, 1, 64)).astype(np.float32)
    check_range(transform(windows), np.arange(4))
    windows[2, 0, 0, :5] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs = transform(windows)
        with pytest.raises(DataError, match=r"a\.h5: window 12 overflows float32") as caught:
            check_range(inputs, np.arange(10, 14), "a.h5")
    assert "\n" not in str(caught.value)
    check_range(inputs[:0], np.arange(0))
