"""A vision transformer of the Hugging Face library, saved to a folder, through suite, bundle, prediction, export and inspection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from tiny import tones, write_hdf5

import offramp
from offramp import costs
from offramp.bundle import load_bundle
from offramp.cli.inspection import EncoderInspection, inspect_target
from offramp.encoders import from_module
from offramp.errors import EncoderError, OfframpError
from offramp.experiment import pipeline
from offramp.experiment.pipeline import run_suite
from offramp.schema.suite import load_suite

transformers = pytest.importorskip("transformers")

COUNT, GROUPS = 240, 24
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": [1, 64],
    "patch_size": [1, 8],
    "num_channels": 2,
}
EXITS = ["embedding", "layer1", "layer2"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stopwatch and no pictures: they have tests of their own."""
    latency = {name: costs.Latency(p50=0.1 * n, p95=0.2 * n, p99=0.3 * n) for n, name in enumerate(EXITS, start=1)}
    monkeypatch.setattr(costs, "exit_latencies", lambda *_, **__: latency)
    monkeypatch.setattr(pipeline, "write_report", lambda runs, path: path.write_text("report"))


def vit() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, initializer_range=0.2))


def lay_out(folder: Path, encoder: Any, **changes: Any) -> Path:
    windows, labels = tones(COUNT)
    city = np.array([f"city_{number:02}" for number in np.arange(COUNT) % GROUPS])
    write_hdf5(folder / "data.h5", sample=windows, band=labels, city=city)
    task = {
        "name": "band",
        "data": {"path": "data.h5", "target": "band", "group": "city"},
        "split": {"test": [f"city_{number:02}" for number in range(8)]},
    }
    content = {"encoder": encoder, "tasks": [task], "seeds": [0, 1], "controls": ["constant", "random_encoder"]}
    (folder / "suite.yaml").write_text(yaml.safe_dump(content | changes))
    return folder / "suite.yaml"


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of a suite beside the library's own folder."""
    folder = tmp_path_factory.mktemp("vit")
    vit().save_pretrained(folder / "vit")
    with pytest.MonkeyPatch.context() as patch:
        quick.__wrapped__(patch)  # type: ignore[attr-defined]
        run_suite(load_suite(lay_out(folder, "vit")), folder / "out")
    return folder


def test_the_run_knows_the_encoder(laboratory: Path) -> None:
    results = json.loads((laboratory / "out" / "results.json").read_text())
    encoder = from_module(vit())
    assert results["encoder"]["name"] == "vit"
    assert results["encoder"]["sha256"] == encoder.fingerprint()
    task = results["tasks"]["band"]
    assert [row["exit"] for row in task["exits"]] == EXITS
    positions, width, hidden, classes = 8, 16, 24, 3
    layer = 4 * 9 * width**2 + 2 * 9**2 * width + 2 * 9 * width * hidden
    macs = [positions * width * 16 + k * layer + width * classes for k in range(3)]
    assert [row["macs"] for row in task["exits"]] == macs
    assert [row["exit"] for row in task["controls"]["random_encoder"]["exits"]] == EXITS


def test_the_bundle_brings_the_encoder_and_predicts(laboratory: Path) -> None:
    bundle = load_bundle(laboratory / "out" / "bundle")
    assert bundle.encoder["architecture"] == "huggingface"
    assert sorted(path.name for path in (laboratory / "out" / "bundle" / "encoder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    predictor = offramp.load(laboratory / "out" / "bundle")
    windows, _ = tones(20, seed=5)
    prediction = predictor.predict(windows, ["band"])["band"]
    model = vit().eval()
    with torch.no_grad():
        hidden = model.base_model(torch.from_numpy(windows), output_hidden_states=True).hidden_states
    depth = EXITS.index(prediction.exit)
    normed = model.base_model.layernorm(hidden[depth])
    tap = (normed[:, 0] if depth else normed.mean(1)).detach().numpy()
    head = bundle.tasks["band"].heads[prediction.exit]
    taps = predictor.backend.encoder.taps(torch.from_numpy(windows), [prediction.exit])[prediction.exit].numpy()
    np.testing.assert_allclose(taps, tap, atol=1e-5)
    assert prediction.outputs.shape == (20, head.outputs)


@pytest.mark.parametrize("exit", ["embedding", "layer2"])
def test_exits_are_exported(laboratory: Path, tmp_path: Path, exit: str) -> None:
    pytest.importorskip("onnxscript")
    report = offramp.export_onnx(laboratory / "out" / "bundle", "band", tmp_path / "band.onnx", exit=exit)
    assert report.exit == exit
    assert report.max_difference < 1e-4
    windows, _ = tones(5, seed=6)
    session = onnxruntime.InferenceSession(str(tmp_path / "band.onnx"), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {"windows": windows})
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("source", ["local-dir:vit", {"name": "local-dir:vit"}, "hf-hub:lab/vit", "saved"])
def test_a_suite_takes_named_sources(
    laboratory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any
) -> None:
    vit().save_pretrained(tmp_path / "vit")
    from_module(vit()).save(tmp_path / "saved")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "vit"))
    encoder = pipeline.load(load_suite(lay_out(tmp_path, source)), "cpu")
    assert encoder.fingerprint() == from_module(vit()).fingerprint()
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_bundle_may_refer_to_the_librarys_folder(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path / "vit")
    suite = lay_out(tmp_path, "local-dir:vit", controls=[], seeds=[0])
    run_suite(load_suite(suite), tmp_path / "out", by_reference=True)
    bundle = load_bundle(tmp_path / "out" / "bundle")
    assert bundle.encoder_path == str((tmp_path / "vit").resolve())
    windows, _ = tones(3)
    assert offramp.load(tmp_path / "out" / "bundle").predict(windows)["band"].outputs.shape == (3, 3)


def test_a_bundle_cannot_refer_to_the_hub(tmp_path: Path) -> None:
    suite = load_suite(lay_out(tmp_path, "hf-hub:lab/vit"))
    with pytest.raises(OfframpError, match="--by-reference: encoder 'hf-hub:lab/vit' has no files of its own"):
        run_suite(suite, tmp_path / "out", by_reference=True)


def test_token_numbers_are_no_windows_of_a_suite(tmp_path: Path) -> None:
    sizes = {key: value for key, value in SIZES.items() if key.startswith(("hidden", "num_h", "num_a", "inter"))}
    transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=9)).save_pretrained(tmp_path / "bert")
    with pytest.raises(EncoderError, match=r"takes \(N, tokens >= 1 and <= 512\) torch.int64 below 9, and a suite's"):
        run_suite(load_suite(lay_out(tmp_path, "bert")), tmp_path / "out")


def test_a_folder_that_is_not_there_is_named_beside_the_suite(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"unknown encoder '.*absent': give an encoder folder"):
        run_suite(load_suite(lay_out(tmp_path, "local-dir:absent")), tmp_path / "out")


def test_inspect_shows_the_librarys_folder(laboratory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = from_module(vit())
    for target in (str(laboratory / "vit"), f"local-dir:{laboratory / 'vit'}"):
        found = inspect_target(target)
        assert isinstance(found, EncoderInspection)
        assert found.sha256 == encoder.fingerprint()
        assert found.input_shape == (2, 1, 64)
        assert [exit["name"] for exit in found.exits] == EXITS
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(laboratory / "vit"))
    assert inspect_target("hf-hub:lab/vit").to_dict()["sha256"] == encoder.fingerprint()


def test_inspect_chooses_a_waveform_that_is_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {key: value for key, value in SIZES.items() if key.startswith(("hidden", "num_h", "num_a", "inter"))}
    config = transformers.Wav2Vec2Config(
        **sizes, conv_dim=(4,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=1
    )
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "waveforms")
    found = inspect_target(str(tmp_path / "waveforms"))
    assert isinstance(found, EncoderInspection)
    assert found.input_shape == (400,)  # the receptive field of one frame, 25 ms at 16 kHz
