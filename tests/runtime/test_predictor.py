import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import IQ_SHAPE, STANDARDIZE, predictor_of, small_lwm, small_shufflenet, task, token_task, write
from safetensors.numpy import load_file, save_file

from offramp.bundle import load_bundle
from offramp.encoders.base import StagedEncoder
from offramp.encoders.storage import save_encoder
from offramp.errors import BundleError, DataError, OfframpError
from offramp.runtime import Predictor, load

WINDOWS = np.random.default_rng(0).standard_normal((7, *IQ_SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def predictor(iq_folder: Path) -> Predictor:
    return load(iq_folder)


def advanced_stages(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills up with the stages that run."""
    stages: list[int] = []
    advance = type(predictor.backend.encoder).advance

    def record(self: StagedEncoder, stage: int, state):
        stages.append(stage)
        return advance(self, stage, state)

    monkeypatch.setattr(type(predictor.backend.encoder), "advance", record)
    return stages


def by_hand(folder: Path, name: str, windows: np.ndarray) -> np.ndarray:
    """Encoder and head put together here, with numpy for the head."""
    task = load_bundle(folder).task(name)
    with torch.no_grad():
        tap = small_shufflenet().taps(torch.from_numpy(windows), [task.exit])[task.exit].numpy()
    return task.heads[task.exit](tap)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def test_predictions_are_encoder_and_head(predictor: Predictor, iq_folder: Path):
    answers = predictor.predict(WINDOWS)
    assert list(answers) == ["modulation", "angle", "device"]
    modulation = answers["modulation"]
    expected = softmax(by_hand(iq_folder, "modulation", WINDOWS))
    np.testing.assert_allclose(modulation.outputs, expected, atol=1e-5)
    assert modulation.outputs.dtype == np.float32
    assert modulation.labels == [("bpsk", "qpsk", "noise")[i] for i in expected.argmax(1)]
    np.testing.assert_allclose(modulation.confidence, expected.max(1), atol=1e-5)
    assert (modulation.task, modulation.kind, modulation.exit) == ("modulation", "classification", "stage2.1")
    np.testing.assert_allclose(answers["angle"].outputs, by_hand(iq_folder, "angle", WINDOWS), rtol=1e-4, atol=1e-4)
    scaled = (WINDOWS - np.float32([0.1, -0.2])[:, None, None]) * np.float32([1.5, 0.5])[:, None, None]
    assert STANDARDIZE.mean == (0.1, -0.2)
    np.testing.assert_allclose(answers["device"].outputs, softmax(by_hand(iq_folder, "device", scaled)), atol=1e-5)


def test_one_pass_ends_at_the_deepest_exit(predictor: Predictor, monkeypatch: pytest.MonkeyPatch):
    stages = advanced_stages(predictor, monkeypatch)
    predictor.predict(WINDOWS, ["modulation"])
    assert stages == [0, 1, 2]
    stages.clear()
    predictor.predict(WINDOWS, ["angle", "modulation"])
    assert stages == [0, 1, 2, 3]
    stages.clear()
    predictor.predict(WINDOWS, ["modulation", "device"])  # another transform needs a pass of its own
    assert sorted(stages) == [0, 0, 1, 2]


def test_batch_size_does_not_matter(predictor: Predictor):
    whole = predictor.predict(WINDOWS)
    for size in (1, 3):
        for name, answer in predictor.predict(WINDOWS, batch_size=size).items():
            np.testing.assert_allclose(answer.outputs, whole[name].outputs, atol=1e-5)
    for name, answer in predictor.predict(WINDOWS).items():
        np.testing.assert_array_equal(answer.outputs, whole[name].outputs)


def test_any_real_dtype_and_tensors_are_taken(predictor: Predictor):
    counts = np.round(WINDOWS * 50).astype(np.int16)
    expected = predictor.predict(counts.astype(np.float32), ["angle"])["angle"].outputs
    frozen = counts.astype(">f8")
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for windows in (counts, frozen, torch.from_numpy(counts), counts.tolist()):
            np.testing.assert_array_equal(predictor.predict(windows, ["angle"])["angle"].outputs, expected)


def test_empty_batch(predictor: Predictor):
    answers = predictor.predict(np.empty((0, *IQ_SHAPE)))
    assert answers["modulation"].outputs.shape == (0, 3)
    assert answers["modulation"].labels == []
    assert answers["angle"].outputs.shape == (0, 2)


def test_encoder_is_frozen_and_unchanged(predictor: Predictor):
    predictor.predict(WINDOWS)
    assert not predictor.backend.encoder.training
    assert not any(parameter.requires_grad for parameter in predictor.backend.encoder.parameters())
    assert predictor.backend.encoder.fingerprint() == predictor.bundle.encoder["sha256"]


def test_regression_has_no_labels(predictor: Predictor):
    with pytest.raises(OfframpError, match="is a regression"):
        _ = predictor.predict(WINDOWS, ["angle"])["angle"].labels


@pytest.mark.parametrize(
    ("windows", "tasks", "message"),
    [
        (
            WINDOWS[:, :, :, :90],
            None,
            r"no task takes windows of shape \(N, 2, 2, 90\): the bundle has modulation \(N, 2",
        ),
        (WINDOWS[:, :, :, :90], ["angle"], r"task 'angle' takes windows of shape \(N, 2, 2, 96\), not \(N, 2, 2, 90\)"),
        (WINDOWS + 1j * WINDOWS, None, "complex windows are"),
        (np.full((2, *IQ_SHAPE), "a"), None, "must be numbers"),
        (3.0, None, "single number"),
        (WINDOWS[:, :, 0, :2], None, r"\(I/Q, time\) or \(time, I/Q\)"),
        (np.where(np.arange(7)[:, None, None, None] == 5, 3e38, WINDOWS), None, "window 5 overflows float32"),
        (np.where(np.arange(7)[:, None, None, None] == 5, 3e38, WINDOWS), ["device"], "window 5 overflows float32"),
        (np.where(np.arange(7)[:, None, None, None] == 3, 1e25, WINDOWS), ["angle"], "window 3 overflows float32"),
        (np.where(np.arange(7)[:, None, None, None] == 5, np.nan, WINDOWS), None, "window 5 holds NaN or infinity"),
        (
            np.where(np.arange(7)[:, None, None, None] == 4, 1e60, WINDOWS.astype(np.float64)),
            None,
            "window 4 holds NaN or infinity",
        ),
    ],
)
def test_bad_windows(predictor: Predictor, windows, tasks, message: str):
    with pytest.raises(DataError, match=message):
        predictor.predict(windows, tasks, batch_size=2)


def test_complex_windows_are_iq(predictor: Predictor):
    expected = {name: answer.outputs for name, answer in predictor.predict(WINDOWS).items()}
    waves = WINDOWS[:, 0] + 1j * WINDOWS[:, 1]
    for windows in (waves, waves.astype(np.complex128), torch.from_numpy(waves), waves.tolist(), waves.astype(">c8")):
        found = predictor.predict(windows, batch_size=3)
        assert list(found) == list(expected)
        for name, answer in found.items():
            np.testing.assert_allclose(answer.outputs, expected[name], atol=1e-5)
    assert predictor.predict(waves[:0])["angle"].outputs.shape == (0, 2)
    with pytest.raises(DataError, match="window 3 holds NaN or infinity"):
        predictor.predict(np.where(np.arange(7)[:, None, None] == 3, complex(0, np.nan), waves), batch_size=2)


def test_iq_without_an_antenna_axis(predictor: Predictor):
    windows = np.random.default_rng(4).standard_normal((5, 2, 1, 128)).astype(np.float32)
    expected = predictor.predict(windows, ["shape"])["shape"].outputs
    raw = windows[:, :, 0]
    for given in (raw, raw.transpose(0, 2, 1), raw[:, 0] + 1j * raw[:, 1], torch.from_numpy(raw)):
        np.testing.assert_array_equal(predictor.predict(given)["shape"].outputs, expected)
        np.testing.assert_array_equal(predictor.predict(given, ["shape"])["shape"].outputs, expected)


def test_an_answer_that_is_not_finite_names_its_window(iq_folder: Path):
    """The head looks at one feature, with weights that overflow for the window where it is largest."""
    bundle = load_bundle(iq_folder)
    stored = bundle.task("device")
    with torch.no_grad():
        inputs = torch.from_numpy(STANDARDIZE(WINDOWS))
        taps = small_shufflenet().taps(inputs, [stored.exit])[stored.exit].numpy()
    second, first = np.sort(taps, axis=0)[-2:]
    feature = int(np.argmax(first - second))
    window = int(np.argmax(taps[:, feature]))
    hidden = np.zeros((1, taps.shape[1]), np.float32)
    hidden[0, feature] = 1e6
    largest = np.float32(np.finfo(np.float32).max / (5e5 * (first[feature] + second[feature])))
    layers = ((hidden, np.zeros(1, np.float32)), (np.array([[0], [largest]], np.float32), np.zeros(2, np.float32)))
    task = replace(stored, heads=stored.heads | {stored.exit: replace(stored.heads[stored.exit], layers=layers)})
    predictor = predictor_of(replace(bundle, tasks={"device": task}), small_shufflenet())
    assert np.isfinite(predictor.predict(np.delete(WINDOWS, window, axis=0))["device"].outputs).all()
    with pytest.raises(DataError, match=f"window {window}: the outputs are not finite"):
        predictor.predict(WINDOWS, batch_size=3)


def test_bad_options(predictor: Predictor):
    with pytest.raises(BundleError, match="unknown task 'x'"):
        predictor.predict(WINDOWS, ["x"])
    with pytest.raises(BundleError, match="give a list"):
        predictor.predict(WINDOWS, "angle")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least 1"):
        predictor.predict(WINDOWS, batch_size=0)


def test_another_encoder_is_refused(iq_folder: Path, tmp_path: Path):
    folder = tmp_path / "bundle"
    shutil.copytree(iq_folder, folder)
    other = small_shufflenet()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_encoder(other, folder / "encoder")
    with pytest.raises(BundleError) as caught:
        load(folder)
    assert other.fingerprint() in str(caught.value)
    assert small_shufflenet().fingerprint() in str(caught.value)
    save_encoder(small_lwm(), folder / "encoder")
    with pytest.raises(BundleError, match="another encoder"):
        load(folder)
    shutil.rmtree(folder / "encoder")
    with pytest.raises(BundleError, match="encoder is missing"):
        load(folder)


@pytest.mark.parametrize("relative", [True, False])
def test_encoder_by_reference(iq_folder: Path, tmp_path: Path, relative: bool):
    folder, place = tmp_path / "bundle", tmp_path / "elsewhere"
    shutil.copytree(iq_folder, folder)
    shutil.move(folder / "encoder", place)
    config = json.loads((folder / "config.json").read_text())
    config["encoder_path"] = "../elsewhere" if relative else str(place)
    (folder / "config.json").write_text(json.dumps(config))
    expected = load(iq_folder).predict(WINDOWS)["angle"].outputs
    np.testing.assert_array_equal(load(folder).predict(WINDOWS)["angle"].outputs, expected)


class TestTokens:
    TARGET = (2, 3, 48)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A task on tokens at the same exit as one on default taps, and one on tokens deeper down."""
        encoder = small_shufflenet()
        tasks = [
            task(encoder, "angle", "stage2.1", IQ_SHAPE),
            token_task(encoder, "channel", "stage2.1", IQ_SHAPE, self.TARGET),
            token_task(encoder, "next", "stage3.0", IQ_SHAPE, self.TARGET),
        ]
        return write(tmp_path / "bundle", encoder, *tasks)

    def test_predictions_are_encoder_and_head(self, folder: Path):
        predictor = load(folder)
        answers = predictor.predict(WINDOWS)
        for name in ("channel", "next"):
            stored = predictor.bundle.task(name)
            head = stored.heads[stored.exit]
            with torch.no_grad():
                tokens = (
                    small_shufflenet().taps(torch.from_numpy(WINDOWS), [stored.exit], "tokens")[stored.exit].numpy()
                )
            ((weight, bias),) = head.layers
            expected = np.zeros((len(WINDOWS), 288), np.float32)
            for position, entries in enumerate(head.positions):
                expected[:, entries] = tokens[:, position] @ weight.T + bias
            np.testing.assert_allclose(answers[name].outputs, expected, rtol=1e-4, atol=1e-4)
            assert stored.target_shape == self.TARGET
        np.testing.assert_allclose(answers["angle"].outputs, by_hand(folder, "angle", WINDOWS), rtol=1e-4, atol=1e-4)
        assert predictor.predict(np.empty((0, *IQ_SHAPE)))["channel"].outputs.shape == (0, 288)

    def test_one_pass_serves_both_poolings(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        predictor = load(folder)
        alone = {name: predictor.predict(WINDOWS, [name])[name].outputs for name in predictor.bundle.tasks}
        stages = advanced_stages(predictor, monkeypatch)
        together = predictor.predict(WINDOWS)
        assert stages == [0, 1, 2, 3]
        for name, answer in together.items():
            np.testing.assert_array_equal(answer.outputs, alone[name])

    def test_a_head_for_other_tokens_is_refused(self, folder: Path):
        tensors = load_file(folder / "heads.safetensors")
        key = "channel/stage2.1/0/weight"
        save_file(tensors | {key: tensors[key][:, 1:].copy()}, folder / "heads.safetensors")
        with pytest.raises(
            BundleError, match=r"takes taps of shape \(48, 7\) where the encoder gives \(48, 8\)"
        ) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_exits_that_the_encoder_does_not_have(iq_folder: Path, tmp_path: Path):
    folder = shutil.copytree(iq_folder, tmp_path / "bundle")
    heads = load_file(folder / "heads.safetensors")
    save_file({name.replace("/stem/", "/root/"): array for name, array in heads.items()}, folder / "heads.safetensors")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"stem"', '"root"'))
    load_bundle(folder)  # it fits together as far as it goes
    with pytest.raises(BundleError, match=r"describes other exits than .*encoder has"):
        load(folder)
