"""Windows as the encoder takes them: I/Q without an antenna axis gets one for encoders of I/Q, and for no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny import tiny_encoder, tones, write_hdf5
from torch import nn

from offramp.encoders import from_module
from offramp.encoders.base import StagedEncoder
from offramp.encoders.storage import save_encoder
from offramp.errors import DataError, EncoderError
from offramp.experiment.pipeline import run_suite
from offramp.experiment.prepare import Prepared, load, prepare
from offramp.runtime import load as load_predictor
from offramp.schema.suite import LoadedSuite, load_suite

COUNT = 120
WINDOWS, LABELS = tones(COUNT)


def lay_out(folder: Path, windows: np.ndarray, **task: Any) -> LoadedSuite:
    save_encoder(tiny_encoder(repeats=1), folder / "encoder")
    write_hdf5(folder / "data.h5", sample=windows, label=LABELS)
    listed = [{"name": "t", "data": {"path": "data.h5", "target": "label"}} | task]
    content = {"encoder": "encoder", "seeds": [0], "controls": ["constant"], "tasks": listed}
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return load_suite(folder / "suite.yaml")


def prepared(loaded: LoadedSuite, encoder: StagedEncoder | None = None) -> Prepared:
    return prepare(loaded.tasks[0], loaded, load(loaded, "cpu") if encoder is None else encoder)


@pytest.mark.parametrize("transform", ["none", "standardize"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1)])
def test_iq_without_antennas_is_the_same_task(tmp_path: Path, axes: tuple[int, ...], transform: str) -> None:
    found = prepared(lay_out(tmp_path, WINDOWS[:, :, 0].transpose(axes), transform=transform))
    assert found.dataset.windows.shape == found.input_shape == (2, 1, 64)
    np.testing.assert_array_equal(found.dataset.windows.read(np.array([7, 0])), WINDOWS[[7, 0]])
    (tmp_path / "other").mkdir()
    expected = prepared(lay_out(tmp_path / "other", WINDOWS, transform=transform))
    assert found.transform == expected.transform


def test_either_axis_may_hold_i_and_q(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data\.h5: windows \(N, 2, 2\) may be \(I/Q, time\) or \(time, I/Q\): store them as"
    ):
        prepared(lay_out(tmp_path, WINDOWS[:, :, 0, :2]))


def test_other_windows_of_two_axes_are_refused_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"input of shape \(N, 3, 64\) does not fit"):
        prepared(lay_out(tmp_path, np.zeros((COUNT, 3, 64), np.float32)))


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((2, 64), nn.Conv1d(2, 4, 5)),
        ((64, 2), nn.Conv1d(64, 4, 1)),
        ((1, 2, 64), nn.Conv2d(1, 4, 1)),
        ((2, 1, 64), nn.Conv2d(2, 4, 1)),
    ],
)
def test_an_encoder_gets_the_windows_that_it_takes(tmp_path: Path, shape: tuple[int, ...], layer: nn.Module) -> None:
    windows = np.random.default_rng(0).standard_normal((COUNT, *shape)).astype(np.float32)
    encoder = from_module(nn.Sequential(layer, nn.ReLU()), input=torch.randn(3, *shape), channels="first")
    found = prepared(lay_out(tmp_path, windows), encoder)
    assert found.dataset.windows.shape == shape
    np.testing.assert_array_equal(found.dataset.windows.read(np.arange(COUNT)), windows)


def test_spectrograms_of_iq_without_antennas(tmp_path: Path) -> None:
    windows = np.random.default_rng(0).standard_normal((COUNT, 128, 2)).astype(np.float32)
    encoder = from_module(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), input=torch.randn(3, 1, 64, 5))
    assert prepared(lay_out(tmp_path, windows, transform="spectrogram"), encoder).input_shape == (1, 64, 5)


def test_from_the_file_to_the_answer(tmp_path: Path) -> None:
    """The bundle takes what the file held, and what the encoder takes."""
    loaded = lay_out(tmp_path, WINDOWS[:, :, 0])
    run_suite(loaded, tmp_path / "out")
    predictor = load_predictor(tmp_path / "out" / "bundle")
    assert predictor.bundle.task("t").window_shape == (2, 1, 64)
    expected = predictor.predict(WINDOWS)["t"]
    np.testing.assert_array_equal(predictor.predict(WINDOWS[:, :, 0])["t"].outputs, expected.outputs)
    assert np.mean(expected.classes == LABELS) > 0.5


def test_a_window_that_overflows_is_named_before_anything_is_fitted(tmp_path: Path) -> None:
    large = WINDOWS.copy()
    large[11] = 3e38
    with pytest.raises(DataError, match=r"data\.h5: window 11 overflows float32"):
        run_suite(lay_out(tmp_path, large), tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
