import builtins
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bundles import CSI_SHAPE, IQ_SHAPE, small_lwm, small_shufflenet, task, token_task, write

from offramp import export
from offramp.bundle import HEADS, load_examples
from offramp.errors import BundleError, DataError, OfframpError
from offramp.export import DeployedTask, ExportReport, export_onnx, fold_batchnorm, graph, onnx_bytes
from offramp.runtime import load
from offramp.transforms import Transform, spectrogram


@pytest.fixture(scope="module")
def shufflenet_graph(iq_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_onnx(iq_folder, "modulation", tmp_path_factory.mktemp("onnx") / "t.onnx")


@pytest.fixture(scope="module")
def csi_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = small_lwm()
    place = task(encoder, "place", "layer1", CSI_SHAPE, transform=Transform("standardize", (0.1, 0.2), (2.0, 3.0)))
    return write(tmp_path_factory.mktemp("csi") / "bundle", encoder, place)


def test_graph_is_one_quiet_file_with_names_and_metadata(shufflenet_graph: ExportReport, iq_folder: Path):
    path = Path(shufflenet_graph.path)
    assert [p.name for p in path.parent.iterdir()] == ["t.onnx"]
    assert shufflenet_graph.bytes == path.stat().st_size
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(path)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("windows", "tensor(float)", ["batch", *IQ_SHAPE])
    assert (answer.name, answer.type, answer.shape) == ("probabilities", "tensor(float)", ["batch", 3])
    stored = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(stored["offramp.labels"]) == ["bpsk", "qpsk", "noise"]
    assert (stored["offramp.task"], stored["offramp.exit"]) == ("modulation", "stage2.1")
    assert stored["offramp.encoder_sha256"] == small_shufflenet().fingerprint()
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def test_shufflenet_graph_answers_as_the_bundle(shufflenet_graph: ExportReport, iq_folder: Path):
    windows = np.random.default_rng(9).standard_normal((33, *IQ_SHAPE)).astype(np.float32)
    session = onnxruntime.InferenceSession(shufflenet_graph.path)
    for batch in (windows, windows[:1]):
        expected = load(iq_folder).predict(batch, ["modulation"])["modulation"].outputs
        np.testing.assert_allclose(session.run(None, {"windows": batch})[0], expected, atol=1e-5)
    assert shufflenet_graph.max_difference < 1e-4
    assert shufflenet_graph.windows == 5


def test_lwm_graph_of_a_regression_at_another_exit(csi_folder: Path, tmp_path: Path):
    report = export_onnx(csi_folder, "place", tmp_path / "p.onnx", exit="layer2")
    assert (report.exit, report.output) == ("layer2", "values")
    examples = load_examples(csi_folder)["place"]
    full = DeployedTask(small_lwm().truncate("layer2"), load(csi_folder).bundle.task("place"), "layer2")
    expected = full(torch.from_numpy(examples)).detach().numpy()
    found = onnxruntime.InferenceSession(report.path).run(["values"], {"windows": examples})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_head_on_tokens(tmp_path: Path):
    encoder = small_shufflenet()
    folder = write(tmp_path / "bundle", encoder, token_task(encoder, "channel", "stage2.1", IQ_SHAPE, (2, 3, 48)))
    report = export_onnx(folder, "channel", tmp_path / "c.onnx")
    assert (report.exit, report.output) == ("stage2.1", "values")
    session = onnxruntime.InferenceSession(report.path)
    assert session.get_outputs()[0].shape == ["batch", 288]
    windows = np.random.default_rng(9).standard_normal((6, *IQ_SHAPE)).astype(np.float32)
    for batch in (windows, windows[:1]):
        expected = load(folder).predict(batch)["channel"].outputs
        np.testing.assert_allclose(session.run(None, {"windows": batch})[0], expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_fixes_the_batch_size():
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(len(x), -1)

    with pytest.raises(OfframpError, match="fixes the batch size") as caught:
        onnx_bytes(Fixed(), (2, 3), ["y"])
    assert "\n" not in str(caught.value)


def test_a_graph_that_differs_is_not_put_in_place(iq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "t.onnx"
    out.write_text("old, of offramp.version 0")
    monkeypatch.setattr(graph, "onnx_bytes", lambda *_, **__: b"graph")
    monkeypatch.setattr(graph, "open_session", lambda _: WrongSession())
    with pytest.raises(OfframpError, match=r"differs from the bundle by .*nothing was written"):
        export_onnx(iq_folder, "modulation", out)
    assert out.read_text() == "old, of offramp.version 0"
    assert [path.name for path in tmp_path.iterdir()] == ["t.onnx"]


class WrongSession:
    """Answers NaN."""

    def run(self, _: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.full((len(feeds["windows"]), 3), np.nan, np.float32)]


def test_folding_keeps_outputs_and_leaves_the_original():
    encoder = small_shufflenet()
    before = encoder.fingerprint()
    folded = fold_batchnorm(encoder)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert encoder.fingerprint() == before
    x = torch.randn(3, *IQ_SHAPE)
    for (_, tap), (_, expected) in zip(folded.taps(x).items(), encoder.taps(x).items(), strict=True):
        torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "transform",
    [
        Transform(),
        Transform("standardize", (0.5, 1), (2, 3)),
        Transform("spectrogram"),
        Transform("spectrogram", frames=7),
        Transform("degrade", antennas=1),
    ],
)
def test_transforms_as_modules(transform: Transform):
    channels = 3 if transform.name == "spectrogram" else 2
    windows = np.random.default_rng(0).standard_normal((4, 2, channels, 200)).astype(np.float32)
    encoder = small_shufflenet()
    deployed = DeployedTask(torch.nn.Flatten(), task(encoder, "t", "stem", (2, 2, 96), transform=transform), "stem")
    found = deployed.transform(torch.from_numpy(windows)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, transform(windows), rtol=1e-4, atol=2e-3)


def test_spectrogram_finds_a_tone_where_it_is():
    time = np.arange(256)
    tone = np.exp(2j * np.pi * 10 / 64 * time)
    windows = np.stack([tone.real, tone.imag])[None, :, None].astype(np.float32)
    level = export.modules.Spectrogram(Transform("spectrogram"))(torch.from_numpy(windows)).numpy()
    assert level.shape == spectrogram(windows).shape
    assert (level[0, 0].argmax(0) == 32 + 10).all()


def test_transforms_of_channels_over_time():
    windows = np.random.default_rng(0).standard_normal((3, 2, 4, 8, 16)).astype(np.float32)
    for transform in (Transform("standardize", (0.5, 1), (2, 3)), Transform("degrade", antennas=2)):
        found = export.modules.TRANSFORMS[transform.name](transform)(torch.from_numpy(windows)).numpy()
        np.testing.assert_allclose(found, transform(windows), rtol=1e-5)


def test_noise_is_not_exported(tmp_path: Path):
    encoder = small_shufflenet()
    noisy = task(encoder, "noisy", "stem", IQ_SHAPE, ("a", "b"), Transform("degrade", snr_db=5.0))
    folder = write(tmp_path / "bundle", encoder, noisy)
    with pytest.raises(OfframpError, match="cannot draw the noise") as caught:
        export_onnx(folder, "noisy", tmp_path / "n.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "n.onnx").exists()


def test_silence_is_exported_as_silence():
    windows = np.zeros((1, 2, 1, 64), np.float32)
    level = export.modules.Spectrogram(Transform("spectrogram"))(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(level, spectrogram(windows), rtol=1e-5)


def test_bad_input(iq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BundleError, match="unknown task 'x'"):
        export_onnx(iq_folder, "x", tmp_path / "t.onnx")
    with pytest.raises(OfframpError, match="unknown exit 'stage9'"):
        export_onnx(iq_folder, "angle", tmp_path / "t.onnx", exit="stage9")
    with pytest.raises(DataError, match="no example windows"):
        export_onnx(iq_folder, "angle", tmp_path / "t.onnx", windows=np.empty((0, *IQ_SHAPE), np.float32))
    with pytest.raises(DataError, match="takes windows of shape"):
        export_onnx(iq_folder, "angle", tmp_path / "t.onnx", windows=np.zeros((1, 2, 1, 64), np.float32))
    assert (iq_folder / HEADS).exists()
    real = builtins.__import__

    def without_onnx(name: str, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("no", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(OfframpError, match=r"onnxruntime: pip install offramp\[onnx\]"):
        export_onnx(iq_folder, "angle", tmp_path / "t.onnx")
    assert not list(tmp_path.iterdir())
