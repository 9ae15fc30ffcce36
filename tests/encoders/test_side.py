"""Side features against complex NumPy written down anew, what they are blind to, what they cost, and what a user's own may be."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from offramp.encoders.side import SIDES, dft_power, handmade, handmade_level_free, power_only, side_features
from offramp.errors import EncoderError

Complex = np.ndarray
NAMES = sorted(SIDES)


def iq(signal: Complex) -> Tensor:
    """Complex ``(n, antennas, time)`` as windows."""
    return torch.from_numpy(np.stack([signal.real, signal.imag], axis=1).astype(np.float32))


def complex_noise(*shape: int, seed: int = 0) -> Complex:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def signal_like(*shape: int, seed: int = 0) -> Complex:
    """Noise with a tone and a level of its own in each window, so that no feature is zero by symmetry."""
    rng = np.random.default_rng(seed)
    tone = np.exp(
        2j * np.pi * (rng.uniform(0, 0.5, (shape[0], 1, 1)) * np.arange(shape[-1]) + rng.uniform(size=(*shape[:2], 1)))
    )
    return (complex_noise(*shape, seed=seed) + 2 * tone) * rng.uniform(0.1, 10, (shape[0], 1, 1))


class ByHand:
    """The same features in complex numbers of double precision, as the formulas say them."""

    @staticmethod
    def level(signal: Complex) -> np.ndarray:
        return np.log((np.abs(signal) ** 2).mean((1, 2)))[:, None]

    @staticmethod
    def cumulants(signal: Complex) -> np.ndarray:
        """Swami and Sadler, per antenna, normalised by powers of C21; the mean over antennas."""
        conjugate, mean = signal.conj(), lambda values: values.mean(-1)
        c20, c21 = mean(signal**2), mean(signal * conjugate).real
        m40, m41, m42 = mean(signal**4), mean(signal**3 * conjugate), mean(signal**2 * conjugate**2).real
        m60, m63 = mean(signal**6), mean(signal**3 * conjugate**3).real
        c42 = m42 - np.abs(c20) ** 2 - 2 * c21**2
        found = [
            np.abs(c20) / c21,
            np.abs(m40 - 3 * c20**2) / c21**2,
            np.abs(m41 - 3 * c20 * c21) / c21**2,
            c42 / c21**2,
            np.abs(m60 - 15 * c20 * m40 + 30 * c20**3) / c21**3,
            (m63 - 9 * c42 * c21 - 6 * c21**3) / c21**3,
        ]
        return np.stack(found, -1).mean(1)

    @classmethod
    def level_free(cls, signal: Complex) -> np.ndarray:
        s = signal / np.sqrt((np.abs(signal) ** 2).mean((1, 2), keepdims=True))
        antennas, time = s.shape[1:]
        bins = min(64, time)
        blocks = [s[..., start : start + bins] for start in range(0, time - bins + 1, bins)]
        spectrum = np.mean([np.abs(np.fft.fft(block)) ** 2 for block in blocks], axis=0).mean(1)
        features = [np.log(spectrum / bins + 1e-4), cls.cumulants(s)]
        for power in (2, 4):
            line = np.abs(np.fft.fft(s**power)) / time
            highest = line.max(-1)
            ratio = np.log(highest / (line.mean(-1) + 1e-9) + 1e-9)
            features.append(np.stack([highest.mean(1), ratio.mean(1)], 1))
        steps = np.angle(s[..., 1:] * s[..., :-1].conj())
        features.append(np.stack([np.abs(s).std(-1).mean(1), np.abs(steps).mean((1, 2))], 1))
        for lag in range(1, min(antennas, 9)):
            product = (s[:, lag:] * s[:, :-lag].conj()).mean((1, 2))
            phase = np.angle(product)
            features.append(np.stack([product.real, product.imag, np.cos(phase), np.sin(phase)], 1))
        for lag in (1, 2, 4, 8):
            product = (s[..., lag:] * s[..., :-lag].conj()).mean((1, 2))
            features.append(np.stack([product.real, product.imag, np.abs(product)], 1))
        return np.concatenate(features, 1)

    @classmethod
    def handmade(cls, signal: Complex) -> np.ndarray:
        return np.concatenate([cls.level(signal), cls.level_free(signal)], 1)

    @classmethod
    def power_only(cls, signal: Complex) -> np.ndarray:
        power = np.abs(signal) ** 2
        parts = [cls.level(signal)]
        for values, most in ((power.mean(1), 16), (power.mean(2), 32)):
            blocks = np.array_split(values, min(most, values.shape[1]), axis=1)
            parts.append(np.log(np.stack([block.mean(1) for block in blocks], 1) + 1e-12))
        return np.concatenate(parts, 1)

    @staticmethod
    def dft_power(signal: Complex) -> np.ndarray:
        antennas = signal.shape[1]
        matrix = np.exp(-2j * np.pi * np.outer(np.arange(antennas), np.arange(antennas)) / antennas)
        return np.log((np.abs(matrix @ signal) ** 2).mean(2) + 1e-12)


BY_HAND = {
    "handmade": ByHand.handmade,
    "handmade_level_free": ByHand.level_free,
    "power_only": ByHand.power_only,
    "dft_power": ByHand.dft_power,
}


class TestByHand:
    @settings(max_examples=40, deadline=None)
    @given(st.sampled_from(NAMES), st.integers(1, 12), st.integers(16, 300), st.integers(0, 2**16))
    def test_equal_to_complex_numbers_of_double_precision(self, name: str, antennas: int, time: int, seed: int) -> None:
        signal = signal_like(3, antennas, time, seed=seed)
        windows = iq(signal)
        stored = windows[:, 0].double().numpy() + 1j * windows[:, 1].double().numpy()
        rows = SIDES[name].compute(windows)
        assert rows.dtype == torch.float32
        np.testing.assert_allclose(rows, BY_HAND[name](stored), rtol=2e-3, atol=2e-3)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("shape", [(1, 64), (4, 256), (3, 100), (40, 65)])
    def test_finite_rows_for_any_window(self, name: str, shape: tuple[int, int]) -> None:
        compute = SIDES[name].compute
        windows = iq(complex_noise(5, *shape))
        windows[1] = 0
        windows[2] *= 1e-4
        windows[3] *= 1e4
        rows = compute(windows)
        assert rows.dtype == torch.float32
        assert rows.shape[0] == 5
        assert torch.isfinite(rows).all()
        assert rows.shape[1] == compute(windows[:1]).shape[1]
        torch.testing.assert_close(compute(windows[4:]), rows[4:], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("shape", [(4, 3, 32, 64), (4, 2, 64), (4, 1, 2, 64)])
    def test_anything_but_iq_is_refused_in_one_line(self, name: str, shape: tuple[int, ...]) -> None:
        with pytest.raises(EncoderError, match=r"I/Q windows.*leave them out") as caught:
            SIDES[name].compute(torch.zeros(shape))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", NAMES)
    def test_slots_of_channels_over_time_stand_one_after_another(self, name: str) -> None:
        over_time = torch.randn(3, 2, 5, 4, 16, generator=torch.Generator().manual_seed(0))
        joined = torch.cat([over_time[:, :, slot] for slot in range(5)], dim=-1)
        compute = SIDES[name].compute
        torch.testing.assert_close(compute(over_time), compute(joined), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", ["handmade", "power_only"])
    def test_level(self, name: str) -> None:
        windows = iq(complex_noise(3, 2, 64))
        expected = np.log((windows[:, 0].numpy() ** 2 + windows[:, 1].numpy() ** 2).mean((1, 2)))
        np.testing.assert_allclose(SIDES[name].compute(windows)[:, 0], expected, rtol=1e-5)

    @pytest.mark.parametrize("scale", [1e-3, 0.1, 30, 1e3])
    def test_the_shape_of_a_signal_has_no_level(self, scale: float) -> None:
        windows = iq(complex_noise(6, 4, 256))
        plain, scaled = handmade(windows), handmade(windows * scale)
        np.testing.assert_allclose(scaled[:, 1:], plain[:, 1:], atol=2e-3)
        np.testing.assert_allclose(scaled[:, 0] - plain[:, 0], 2 * np.log(scale), rtol=1e-3)
        np.testing.assert_allclose(handmade_level_free(windows * scale), handmade_level_free(windows), atol=2e-3)
        assert handmade_level_free(windows).shape[1] == plain.shape[1] - 1

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
        assert (handmade(iq(signal * phases)) - handmade(iq(signal))).abs().max() > 0.1, "the other one sees it"

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


class Alone(nn.Module):
    """Side features as a network, as the exporter takes it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.compute = SIDES[name].compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x)


@pytest.mark.parametrize("name", ["handmade", "dft_power"])
@pytest.mark.parametrize("shape", [(1, 64), (4, 256), (3, 101), (7, 96), (16, 128)])
def test_a_graph_computes_the_fourier_transform_in_two_steps(name: str, shape: tuple[int, int]) -> None:
    """Of lengths that are squares, primes and neither; in a batch of another size than the one that was traced."""
    program = torch.export.export(
        Alone(name), (torch.randn(2, 2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert not any("fft" in str(node.target) or "complex" in str(node.target) for node in program.graph.nodes)
    windows = iq(signal_like(5, *shape))
    stored = windows[:, 0].double().numpy() + 1j * windows[:, 1].double().numpy()
    np.testing.assert_allclose(program.module()(windows), BY_HAND[name](stored), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(SIDES[name].compute(windows), program.module()(windows), rtol=1e-3, atol=1e-4)


class Products(TorchDispatchMode):
    """Counts the products of real numbers that torch computes, but for those inside a Fourier transform."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("mul", "pow", "square"):
            self.count += result.numel()
        return result


class TestCosts:
    def test_the_formula_by_hand(self) -> None:
        """Four antennas, 256 samples: 48 products a sample, 4 for each of 3 + 2 + 1 pairs of antennas; 64-point transforms of four blocks
        and two 256-point ones an antenna, 2 n log2 n each; two products a sample more for the level."""
        fourier = 4 * (4 * 2 * 64 * 6 + 2 * 2 * 256 * 8)
        level_free = 256 * (4 * 48 + 4 * 6) + fourier
        assert SIDES["handmade_level_free"].macs((2, 4, 256)) == level_free == 100_352
        assert SIDES["handmade"].macs((2, 4, 256)) == level_free + 2 * 4 * 256
        assert SIDES["power_only"].macs((2, 4, 256)) == 4 * 4 * 256
        assert SIDES["dft_power"].macs((2, 4, 256)) == 256 * (2 * 4 * 2 + 2 * 4)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("shape", [(1, 1024), (4, 256), (16, 64), (12, 100)])
    def test_the_formula_counts_what_is_computed(self, name: str, shape: tuple[int, int]) -> None:
        antennas, time = shape

        def transform(length: int) -> int:
            return round(2 * length * math.log2(length)) if length > 1 else 0

        bins = min(64, time)
        fourier = antennas * (time // bins * transform(bins) + 2 * transform(time))
        fourier = {"power_only": 0, "dft_power": time * transform(antennas)}.get(name, fourier)
        with Products() as products:
            SIDES[name].compute(torch.randn(1, 2, *shape))
        assert SIDES[name].macs((2, *shape)) == pytest.approx(products.count + fourier, rel=0.01)

    @pytest.mark.parametrize("name", NAMES)
    def test_slots_count_as_samples(self, name: str) -> None:
        assert SIDES[name].macs((2, 5, 4, 16)) == SIDES[name].macs((2, 4, 80))


def mean_and_peak(x: Tensor) -> Tensor:
    power = x.square().sum(1).flatten(1)
    return torch.stack([power.mean(1), power.amax(1)], 1)


def stops(x: Tensor) -> Tensor:
    raise ValueError("two\nlines")


def in_numpy(x: Tensor) -> np.ndarray:
    return x.numpy().mean((1, 2))


def in_double(x: Tensor) -> Tensor:
    return mean_and_peak(x).double()


def one_number(x: Tensor) -> Tensor:
    return x.mean()


def of_one_window(x: Tensor) -> Tensor:
    return mean_and_peak(x)[:1]


NOT_A_FUNCTION = nn.Identity()


class TestOfTheUsersOwn:
    def test_by_module_and_name(self) -> None:
        side = side_features(f"{__name__}:mean_and_peak")
        windows = torch.randn(4, 2, 1, 64)
        assert torch.equal(side.compute(windows), mean_and_peak(windows))
        assert side.macs((2, 1, 64)) == 0
        assert "mean_and_peak" in side.description

    def test_no_module_is_imported(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
        (tmp_path / "never_imported.py").write_text("raise SystemExit('it was')\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(EncoderError, match=r"import the module first, e\.g\. with --import never_imported"):
            side_features("never_imported:features")
        assert "never_imported" not in sys.modules

    @pytest.mark.parametrize(
        "name",
        [
            "os:system",
            "os:_exit",
            "sys:exit",
            "builtins:exec",
            "code:interact",
            "os.path:join",
            "torch:abs",
            f"{__name__}:missing",
            f"{__name__}:NOT_A_FUNCTION",
            f"{__name__}:TestOfTheUsersOwn",
            f"{__name__}:side_features",
            f"{__name__}:",
        ],
    )
    def test_nothing_but_a_function_that_the_module_defines(self, name: str) -> None:
        if name.startswith("code:"):
            import code  # noqa: F401  # an interactive prompt is a function of one optional argument
        with pytest.raises(EncoderError) as caught:
            side_features(name)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["", "spectrum", "Handmade"])
    def test_unknown_names_list_those_there_are(self, name: str) -> None:
        with pytest.raises(
            EncoderError, match=r"choose handmade, handmade_level_free, power_only, dft_power or my_module"
        ):
            side_features(name)

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (stops, r"stop at \(3, 2, 1, 64\): ValueError two; they are made of operations of torch alone"),
            (in_numpy, r"give ndarray for windows"),
            (in_double, r"give torch\.float64 \(3, 2\) .*return a float32 tensor"),
            (one_number, r"give torch\.float32 \(\)"),
            (of_one_window, r"give torch\.float32 \(1, 2\)"),
        ],
    )
    def test_what_they_do_wrong_is_one_line(self, function: object, message: str) -> None:
        side = side_features(f"{__name__}:{function.__name__}")  # type: ignore[attr-defined]
        with pytest.raises(EncoderError, match=message) as caught:
            side.compute(torch.zeros(3, 2, 1, 64))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500

    def test_another_definition_has_another_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        versions = []
        for body in ("x.flatten(1)", "2 * x.flatten(1)", "3 * x.flatten(1)"):
            module = ModuleType("made_up")
            exec(f"def features(x):\n    return {body}\n", module.__dict__)
            monkeypatch.setitem(sys.modules, "made_up", module)
            versions += [side_features("made_up:features").version for _ in range(2)]
        assert versions[0::2] == versions[1::2]
        assert len(set(versions)) == 3
