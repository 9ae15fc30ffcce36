"""A task in int8: what it is calibrated on, when it is refused, and what is said of it. float32: test_onnx_export.py."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import IQ_SHAPE, small_shufflenet, task, write

from offramp.bundle import load_examples
from offramp.errors import BundleError, OfframpError
from offramp.export import ExportReport, export_onnx
from offramp.export import task as export_task
from offramp.runtime import load


@pytest.fixture(scope="module")
def reports(iq_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    out = tmp_path_factory.mktemp("int8")
    return {
        "int8": export_onnx(iq_folder, "modulation", out / "8.onnx", int8=True),
        "float32": export_onnx(iq_folder, "modulation", out / "32.onnx"),
        "values": export_onnx(iq_folder, "angle", out / "v.onnx", int8=True),
    }


def test_it_is_the_same_graph_in_eight_bits(reports: dict[str, ExportReport]) -> None:
    models = {name: onnx.load(report.path) for name, report in reports.items()}
    stored = {name: {e.key: e.value for e in model.metadata_props} for name, model in models.items()}
    for key in ("task", "kind", "exit", "labels", "encoder", "encoder_sha256"):
        assert stored["int8"][f"offramp.{key}"] == stored["float32"][f"offramp.{key}"]
    assert "QuantizeLinear" in {node.op_type for node in models["int8"].graph.node}
    assert "QuantizeLinear" not in {node.op_type for node in models["float32"].graph.node}
    session = onnxruntime.InferenceSession(reports["int8"].path)
    assert session.get_inputs()[0].shape == ["batch", *IQ_SHAPE]
    assert [answer.name for answer in session.get_outputs()] == ["probabilities"]


@pytest.mark.parametrize(("name", "key"), [("modulation", "int8"), ("angle", "values")])
def test_what_it_reports_is_what_the_file_answers(
    reports: dict[str, ExportReport], iq_folder: Path, name: str, key: str
) -> None:
    report = reports[key]
    windows = load_examples(iq_folder)[name]
    expected = load(iq_folder).predict(windows, [name])[name].outputs
    (found,) = onnxruntime.InferenceSession(report.path).run(None, {"windows": windows})
    scale = 1 if name == "modulation" else np.abs(expected).max()
    assert report.max_difference == pytest.approx(np.abs(found - expected).max() / scale, rel=1e-3)
    assert 1e-5 < report.max_difference < 0.2
    assert report.int8 is not None
    assert report.int8.agreement == 1
    same = None if name == "angle" else np.mean(found.argmax(1) == expected.argmax(1))
    assert report.int8.same_class == same
    assert report.bytes == Path(report.path).stat().st_size
    assert report.int8.latency_ms > 0


def test_one_line_says_it_beside_float32(reports: dict[str, ExportReport]) -> None:
    integer, plain, values = (reports[name] for name in ("int8", "float32", "values"))
    assert integer.int8 is not None
    assert integer.int8.float32_bytes == plain.bytes
    assert plain.int8 is None
    assert asdict(plain)["int8"] is None
    same = round(5 * (integer.int8.same_class or 0))
    sentence = integer.sentence
    assert sentence.startswith(
        f"{integer.path}: task modulation up to exit stage2.1 in int8, {integer.bytes / 1e6:.2f} MB (float32: "
    )
    assert f"ms); agrees with the bundle on 5 of 5 windows, in the very class on {same}" in sentence
    assert values.sentence.endswith("agrees with the bundle on 5 of 5 windows")
    assert "of the bundle on 5 windows" in plain.sentence
    assert "\n" not in sentence


def test_one_that_answers_otherwise_is_not_put_in_place(
    iq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = export_task.quantise
    silent = np.zeros((4, *IQ_SHAPE), np.float32)
    monkeypatch.setattr(export_task, "quantise", lambda content, windows: real(content, silent))
    with pytest.raises(
        OfframpError, match=r"in int8 task 'modulation' agrees with the bundle on \d+% of 5 windows, less than 90%: "
    ) as caught:
        export_onnx(iq_folder, "modulation", tmp_path / "t.onnx", int8=True)
    assert "nothing was written" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_answers_that_are_not_finite_agree_with_nothing(
    iq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_task, "NEARLY", {"classification": 1e9, "regression": 1e9})
    export_onnx(iq_folder, "angle", tmp_path / "t.onnx", int8=True)
    real = export_task.graph.open_session
    monkeypatch.setattr(export_task, "quantise", lambda content, windows: b"int8")
    monkeypatch.setattr(
        export_task.graph, "open_session", lambda content: Spoilt() if content == b"int8" else real(content)
    )
    with pytest.raises(OfframpError, match="agrees with the bundle on 0%"):
        export_onnx(iq_folder, "angle", tmp_path / "u.onnx", int8=True)


class Spoilt:
    def run(self, _: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.full((len(feeds["windows"]), 2), np.nan, np.float32)]


def test_the_only_task_needs_no_name(iq_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="several tasks: choose one with --task"):
        export_onnx(iq_folder, None, tmp_path / "t.onnx")
    encoder = small_shufflenet()
    folder = write(tmp_path / "bundle", encoder, task(encoder, "only", "stem", IQ_SHAPE, ("a", "b")))
    assert export_onnx(folder, None, tmp_path / "t.onnx").task == "only"
