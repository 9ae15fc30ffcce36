"""Segments against the bundle they are from: same answers in ONNX Runtime, and one clear line for files that do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import (
    CSI_SHAPE,
    IQ_SHAPE,
    STANDARDIZE,
    bundle_of,
    seeing_task,
    small_lwm,
    small_shufflenet,
    task,
    token_task,
    write,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.bundle import BundleTask
from offramp.errors import BundleError, DataError, OfframpError
from offramp.export import segments as exporting
from offramp.export.segments import export_segments
from offramp.policies import Policy
from offramp.runtime import Predictor, load
from offramp.runtime.segment_files import MANIFEST

ONES = (1.0, 1.0, 1.0)
EXITS = ("stem", "stage2.1", "conv5")
WINDOWS = np.random.default_rng(1).standard_normal((40, *IQ_SHAPE)).astype(np.float32)


def leaving(each: BundleTask, threshold: float) -> BundleTask:
    policy = Policy("classification", "confidence", EXITS, (threshold, threshold), ONES, ONES)
    return replace(each, policies={"p": policy.to_dict()})


def tasks_of(encoder) -> list[BundleTask]:
    return [
        leaving(seeing_task(encoder, "plain", "stage2.1", IQ_SHAPE), 0.6),
        leaving(seeing_task(encoder, "beside", "stage3.0", IQ_SHAPE, {"stem": "statistics"}, "handmade"), 0.7),
        leaving(seeing_task(encoder, "standard", "stem", IQ_SHAPE, {"stage2.1": "quantiles"}), 0.65),
        replace(task(encoder, "angle", "stage3.0", IQ_SHAPE, transform=STANDARDIZE, hidden=(7,))),
    ]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("segments")
    encoder = small_shufflenet()
    bundle = write(folder / "bundle", encoder, *tasks_of(encoder))
    export_segments(bundle, folder / "segments", ["stage2.0"])
    return bundle, folder / "segments"


@pytest.fixture(scope="module")
def predictors(both: tuple[Path, Path]) -> tuple[Predictor, Predictor]:
    return load(both[0]), load(both[1])


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.sampled_from(["plain", "beside", "standard"]), min_size=1, unique=True),
    policy=st.sampled_from([None, "p"]),
    count=st.integers(0, 12),
    batch=st.integers(1, 12),
    start=st.integers(0, 28),
)
def test_both_back_ends_give_the_same_answers(
    predictors: tuple[Predictor, Predictor], names: list[str], policy: str | None, count: int, batch: int, start: int
) -> None:
    """For any tasks together, any batch sizes, with and without policies that let windows leave."""
    windows = WINDOWS[start : start + count]
    in_torch, in_onnx = (each.predict(windows, names, batch, policy) for each in predictors)
    for name in names:
        assert in_torch[name].exits == in_onnx[name].exits
        np.testing.assert_allclose(in_onnx[name].outputs, in_torch[name].outputs, atol=1e-4)


def test_windows_leave_at_several_exits(predictors: tuple[Predictor, Predictor]) -> None:
    """Else the test above would say nothing about survivors."""
    left = predictors[1].predict(WINDOWS, ["plain"], policy="p")["plain"].exits
    assert len(set(left)) >= 2


def test_tasks_share_a_pass_and_others_have_their_own(both: tuple[Path, Path]) -> None:
    passes = json.loads((both[1] / MANIFEST).read_text())["passes"]
    assert [set(each["tasks"]) for each in passes] == [{"plain", "beside", "standard"}, {"angle"}]
    assert [segment["to"] for segment in passes[0]["segments"]] == ["stem", "stage2.0", "stage2.1", "stage3.0", "conv5"]
    assert passes[1]["segments"][-1]["to"] == "stage3.0"
    for segment in passes[0]["segments"]:
        graph = onnx.load(both[1] / segment["file"]).graph
        assert [each.name for each in graph.input] == segment["inputs"]
        assert set(segment["taps"]) == set(passes[0]["tasks"].values())


def test_a_deep_segment_holds_no_weights_of_shallow_ones(both: tuple[Path, Path]) -> None:
    """All segments together are as large as one graph to the last exit, not as one each."""
    passes = json.loads((both[1] / MANIFEST).read_text())["passes"]
    values = [
        sum(int(np.prod(each.dims)) for each in onnx.load(both[1] / segment["file"]).graph.initializer)
        for segment in passes[0]["segments"]
    ]
    params = sum(parameter.numel() for parameter in small_shufflenet().parameters())
    # filters and statistics by hand have constants of their own
    assert sum(values[1:]) < params


def test_weights_of_all_graphs_are_kept_once(both: tuple[Path, Path]) -> None:
    """Segments and whole graphs of two passes hold every filter several times; the file has no more than one of each and some constants."""
    params = sum(parameter.numel() for parameter in small_shufflenet().parameters())
    assert (both[1] / "graphs.weights").stat().st_size < 1.5 * 4 * params + 50_000
    for path in both[1].glob("*.onnx"):
        graph = onnx.load(path, load_external_data=False).graph
        assert all(len(each.raw_data) < 128 for each in graph.initializer)


def test_token_heads_and_transformers(tmp_path: Path) -> None:
    encoder = small_lwm()
    first, last = encoder.exits[0].name, encoder.exits[-1].name
    bundle = write(
        tmp_path / "bundle",
        encoder,
        token_task(encoder, "future", last, CSI_SHAPE, (129, 2)),
        task(encoder, "beam", first, CSI_SHAPE, ("a", "b")),
    )
    report = export_segments(bundle, tmp_path / "segments")
    assert report.max_difference < 1e-4
    windows = np.random.default_rng(0).standard_normal((3, *CSI_SHAPE)).astype(np.float32)
    for name, answer in load(bundle).predict(windows).items():
        found = load(tmp_path / "segments").predict(windows)[name].outputs
        np.testing.assert_allclose(found, answer.outputs, rtol=1e-3, atol=1e-3)


def test_they_run_where_torch_cannot_be_imported(both: tuple[Path, Path], tmp_path: Path) -> None:
    program = """
import sys
sys.modules["torch"] = None
import numpy as np, offramp
windows = np.load(sys.argv[2])
np.save(sys.argv[3], offramp.load(sys.argv[1]).predict(windows, ["plain"], policy="p")["plain"].outputs)
"""
    np.save(tmp_path / "windows.npy", WINDOWS)
    words = [sys.executable, "-c", program, both[1], tmp_path / "windows.npy", tmp_path / "answers.npy"]
    subprocess.run(list(map(str, words)), check=True)
    expected = load(both[0]).predict(WINDOWS, ["plain"], policy="p")["plain"].outputs
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, atol=1e-4)


# --- what is refused


def changed(manifest: dict, change: Callable[[dict], object]) -> dict:
    change(manifest)
    return manifest


def first(manifest: dict) -> dict:
    return manifest["passes"][0]["segments"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(schema=3), "another schema than 2"),
        (lambda m: m.pop("schema"), "another schema"),
        (lambda m: m.update(encoder="0" * 64), "another encoder than the heads"),
        (lambda m: m["passes"].pop(), "other tasks than the bundle"),
        (lambda m: m["passes"][1]["tasks"].update(more="view0"), "other tasks than the bundle"),
        (lambda m: m["passes"][0].update(segments=[]), "segments"),
        (lambda m: first(m).update(file="../bundle/config.json"), "file"),
        (lambda m: first(m).update(file="/etc/passwd"), "file"),
        (lambda m: first(m).update(sha256="0" * 64), "is not the file that segments.json names"),
        (lambda m: first(m).update(file="pass-7.onnx"), "is missing"),
        (lambda m: first(m).update(taps={}), "has no tap"),
        (lambda m: first(m)["state"].append({"kept": 5}), "keeps an input that it does not have"),
        (lambda m: first(m)["state"].append({"kept": 0}), "takes 2 tensors, and the segment before gives 3"),
        (lambda m: first(m)["state"].append({}), "an output or a kept input"),
        (lambda m: first(m).update(more=1), "more"),
        (lambda m: m["passes"][0]["whole"].pop(), "4 whole graphs for 5 segments"),
        (lambda m: m["passes"][0]["whole"][0].update(sha256="0" * 64), "is not the file that segments.json names"),
        (lambda m: m.pop("weights"), "weights"),
        (lambda m: m["weights"].update(file="other.weights"), "graphs.weights"),
        (lambda m: first(m)["state"][0].update(output=None, kept=-9), "kept"),
        (lambda m: m["passes"][0]["segments"].reverse(), "tensors"),
    ],
)
def test_a_manifest_that_does_not_fit(both: tuple[Path, Path], tmp_path: Path, change, words: str) -> None:
    folder = shutil.copytree(both[1], tmp_path / "segments")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(changed(manifest, change)))
    with pytest.raises(BundleError, match=words) as refusal:
        load(folder)
    assert "\n" not in str(refusal.value)


def test_files_of_other_kinds(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(both[1], tmp_path / "segments")
    (folder / MANIFEST).write_text('{"schema": 2')
    with pytest.raises(BundleError, match="is not JSON"):
        load(folder)
    with pytest.raises(BundleError, match="holds no segments for ONNX Runtime: make them with offramp export"):
        load(both[0], backend="onnxruntime")
    with pytest.raises(BundleError, match="no encoder for torch"):
        load(both[1], backend="torch")
    with pytest.raises(BundleError, match="leave out the device 'cuda'"):
        load(both[1], "cuda")
    with pytest.raises(BundleError, match="unknown back end 'tensorrt'"):
        load(both[0], backend="tensorrt")  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="threads=0"):
        load(both[1], threads=0)


def test_a_graph_that_is_none(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(both[1], tmp_path / "segments")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / first(manifest)["file"]).write_bytes(b"no graph")
    first(manifest)["sha256"] = exporting.sha256_of(b"no graph")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="ONNX Runtime refuses it"):
        load(folder).predict(WINDOWS, ["plain"], policy="p")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: first(m)["taps"].update(view0="nothing"), "has no output 'nothing'"),
        (lambda m: first(m)["state"][0].update(output="nothing"), "has no output 'nothing'"),
        (lambda m: first(m).update(inputs=["other"]), "takes windows, not other"),
    ],
)
def test_names_that_a_graph_does_not_have(both: tuple[Path, Path], tmp_path: Path, change, words: str) -> None:
    folder = shutil.copytree(both[1], tmp_path / "segments")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(changed(manifest, change)))
    with pytest.raises(BundleError, match=words):
        load(folder).predict(WINDOWS, ["plain"], policy="p")


def test_files_that_are_replaced_after_loading_are_not_opened(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(both[1], tmp_path / "segments")
    loaded = load(folder)
    content = (folder / "graphs.weights").read_bytes()
    (folder / "graphs.weights").unlink()
    (folder / "graphs.weights").write_bytes(content[::-1])
    with pytest.raises(BundleError, match=r"graphs\.weights is another file than when the segments were loaded"):
        loaded.predict(WINDOWS, ["plain"])


def test_an_export_that_is_killed_leaves_nothing_that_loads(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "_compared", killed)
    with pytest.raises(KeyboardInterrupt):
        export_segments(both[0], tmp_path / "segments")
    assert not (tmp_path / "segments" / MANIFEST).exists()
    with pytest.raises(BundleError, match="if this was to be an export of segments, it is not whole"):
        load(tmp_path / "segments")


def test_files_of_others_stay(both: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "segments"
    out.mkdir()
    (out / "pass-band.onnx").write_text("mine")
    export_segments(both[0], out)
    assert (out / "pass-band.onnx").read_text() == "mine"
    other = shutil.copytree(both[0], tmp_path / "other")
    with pytest.raises(OfframpError, match="is a bundle of its own: choose another folder"):
        export_segments(both[0], other)
    load(other)
    with pytest.raises(BundleError, match="holds segments: give the bundle that they are from"):
        export_segments(out, tmp_path / "again")
    (tmp_path / "taken" / MANIFEST).mkdir(parents=True)
    with pytest.raises(OfframpError, match="is a folder: choose another --out"):
        export_segments(both[0], tmp_path / "taken")
    with pytest.raises(BundleError, match="unknown exit"):
        export_segments(both[0], tmp_path / "none", ["stage9"])
    assert not (tmp_path / "none").exists()


def test_an_exit_without_a_segment(both: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(both[1], tmp_path / "segments")
    config = json.loads((folder / "config.json").read_text())
    config["tasks"]["angle"]["exit"] = "conv5"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        BundleError, match=r"no segment up to exit 'conv5', only up to stage2\.0, stage3\.0: export it with"
    ):
        load(folder).predict(WINDOWS, ["angle"])


def test_what_cannot_be_exported(both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="unknown exit 'stage9'"):
        export_segments(both[0], tmp_path / "a", ["stage9"])
    bare = shutil.copytree(both[0], tmp_path / "bare")
    (bare / "examples.safetensors").unlink()
    with pytest.raises(DataError, match="holds no example windows of task 'plain'"):
        export_segments(bare, tmp_path / "b")
    with pytest.raises(OfframpError):
        export_segments(both[0], both[0])
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    with pytest.raises(
        OfframpError, match=r"differ from the bundle by .* for task '.*' at exit .*: nothing was put in place"
    ):
        export_segments(both[0], tmp_path / "c")
    assert not (tmp_path / "c" / MANIFEST).exists()


def test_an_earlier_export_is_replaced(both: tuple[Path, Path], tmp_path: Path) -> None:
    encoder = small_shufflenet()
    other = write(tmp_path / "bundle", encoder, task(encoder, "device", "stem", IQ_SHAPE, ("a", "b")))
    folder = shutil.copytree(both[1], tmp_path / "segments")
    export_segments(other, folder)
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["pass-0-0-to-stem.onnx", "pass-0-whole-to-stem.onnx"]
    assert list(load(folder).bundle.tasks) == ["device"]


def test_the_bundle_in_the_folder_is_the_same(both: tuple[Path, Path]) -> None:
    assert (
        load(both[1]).bundle.tasks.keys() == bundle_of(small_shufflenet(), *tasks_of(small_shufflenet())).tasks.keys()
    )
