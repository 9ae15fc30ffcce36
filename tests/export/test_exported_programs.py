"""A task as a program of torch.export against its bundle, after it is loaded again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import CSI_SHAPE, IQ_SHAPE, iq_bundle, small_lwm, small_shufflenet, task, token_task, write

from offramp import cli
from offramp.encoders.base import StagedEncoder
from offramp.errors import BundleError, DataError, OfframpError
from offramp.export import program as exporting
from offramp.export.program import export_program
from offramp.runtime import load


def test_it_answers_as_the_bundle_at_any_batch_size(iq_folder: Path, tmp_path: Path) -> None:
    windows = np.random.default_rng(2).standard_normal((7, *IQ_SHAPE)).astype(np.float32)
    for name, exit in (("modulation", "stage2.1"), ("angle", "stage3.0"), ("device", "stem")):
        report = export_program(iq_folder, name, tmp_path / f"{name}.pt2")
        assert (report.task, report.exit, report.windows) == (name, exit, 5)
        assert report.output == ("values" if name == "angle" else "probabilities")
        network = torch.export.load(report.path).module()
        expected = load(iq_folder).predict(windows, [name])[name].outputs
        for size in (1, 2, 7):
            answers = network(torch.from_numpy(windows[:size]))
            np.testing.assert_allclose(answers.numpy(), expected[:size], rtol=1e-4, atol=1e-4)


def test_another_exit_is_a_smaller_file(iq_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = export_program(iq_folder, "modulation", tmp_path / "deep.pt2")
    out = tmp_path / "stem.pt2"
    given = ["export", str(iq_folder), "--what", "torch", "--task", "modulation", "--exit", "stem", "--out", str(out)]
    assert cli.run(given) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: task modulation up to exit stem for torch.export.load, ")
    assert said.out.endswith(" of the bundle on 5 windows\n")
    assert said.err == ""
    assert out.stat().st_size < deep.bytes
    assert len(torch.export.load(out).state_dict) < len(torch.export.load(deep.path).state_dict)


def test_it_carries_metadata_and_no_path_of_this_machine(iq_folder: Path, tmp_path: Path) -> None:
    report = export_program(iq_folder, "modulation", tmp_path / "t.pt2")
    stored = dict.fromkeys(("offramp.task", "offramp.exit", "offramp.labels"), "")
    torch.export.load(report.path, extra_files=stored)
    assert stored["offramp.task"] == "modulation"
    assert stored["offramp.exit"] == "stage2.1"
    assert json.loads(stored["offramp.labels"]) == ["bpsk", "qpsk", "noise"]
    assert str(Path(exporting.__file__).parents[1]).encode() not in Path(report.path).read_bytes()
    assert json.loads(json.dumps(report.to_dict()))["bytes"] == Path(report.path).stat().st_size


def test_token_heads_and_transformers_run_without_offramp(tmp_path: Path) -> None:
    encoder = small_lwm()
    each = token_task(encoder, "future", encoder.exits[-1].name, CSI_SHAPE, (129, 2))
    bundle = write(tmp_path / "bundle", encoder, each)
    report = export_program(bundle, None, tmp_path / "t.pt2")
    windows = np.random.default_rng(0).standard_normal((3, *CSI_SHAPE)).astype(np.float32)
    np.save(tmp_path / "windows.npy", windows)
    program = """
import sys
sys.modules["offramp"] = None
import numpy as np, torch
network = torch.export.load(sys.argv[1]).module()
np.save(sys.argv[3], network(torch.from_numpy(np.load(sys.argv[2]))).numpy())
"""
    words = [sys.executable, "-c", program, report.path, tmp_path / "windows.npy", tmp_path / "answers.npy"]
    subprocess.run(list(map(str, words)), check=True)
    expected = load(bundle).predict(windows)["future"].outputs
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, rtol=1e-3, atol=1e-3)


def test_an_earlier_export_is_replaced_and_nothing_else(iq_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.pt2"
    assert export_program(iq_folder, "modulation", out).bytes != export_program(iq_folder, "device", out).bytes
    out.write_text("my notes")
    with pytest.raises(OfframpError, match="does not look like a graph that Offramp exported"):
        export_program(iq_folder, "device", out)
    assert out.read_text() == "my notes"


def test_one_that_differs_is_not_put_in_place(iq_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced here ends at another exit than the one that the bundle answers at."""
    real = exporting._traced
    out = tmp_path / "t.pt2"

    def other(source: exporting.ExportSource) -> torch.export.ExportedProgram:
        return real(exporting.read_source(iq_folder, "device", "conv5", None))

    monkeypatch.setattr(exporting, "_traced", other)
    for old in (None, "old, of offramp.version 0"):
        if old is not None:
            out.write_text(old)
        with pytest.raises(
            OfframpError, match=r"'device' differs from the bundle by .* nothing was written"
        ) as refusal:
            export_program(iq_folder, "device", out)
        assert "\n" not in str(refusal.value)
        assert (out.read_text() if out.exists() else None) == old
    assert list(tmp_path.iterdir()) == [out]


def test_a_network_that_fixes_the_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_shufflenet()
    bundle = write(tmp_path / "bundle", encoder, task(encoder, "only", "stem", IQ_SHAPE, ("a", "b")))
    real = type(encoder).pool

    def fixed(self: StagedEncoder, exit: int, state: tuple[torch.Tensor, ...], pooling: str = "default"):
        tap = real(self, exit, state, pooling)
        return tap.reshape(len(tap), -1)

    monkeypatch.setattr(type(encoder), "pool", fixed)
    with pytest.raises(OfframpError, match=r"fixes the batch size .* write x.shape\[0\] for len\(x\)") as refusal:
        export_program(bundle, None, tmp_path / "t.pt2")
    assert "\n" not in str(refusal.value)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    bundle, out = iq_bundle(tmp_path / "bundle"), tmp_path / "t.pt2"
    with pytest.raises(BundleError, match="several tasks: choose one with --task"):
        export_program(bundle, None, out)
    with pytest.raises(OfframpError, match="unknown exit 'stage9'"):
        export_program(bundle, "angle", out, "stage9")
    with pytest.raises(OfframpError, match=r"t\.onnx: torch loads programs from files whose name ends in \.pt2"):
        export_program(bundle, "angle", tmp_path / "t.onnx")
    with pytest.raises(OfframpError, match="lies in the input"):
        export_program(bundle, "angle", bundle / "t.pt2")
    (bundle / "examples.safetensors").unlink()
    with pytest.raises(DataError, match="holds no example windows of task 'angle'"):
        export_program(bundle, "angle", out)
    assert not out.exists()
