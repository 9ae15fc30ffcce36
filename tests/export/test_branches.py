"""One graph with branches against the bundle: it leaves where the bundle leaves, and holds what lies behind in a branch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import (
    CSI_SHAPE,
    IQ_SHAPE,
    STANDARDIZE,
    bundle_of,
    predictor_of,
    seeing_task,
    small_lwm,
    small_shufflenet,
    task,
    write,
)

from offramp import cli
from offramp.bundle import BundleTask
from offramp.encoders.base import StagedEncoder
from offramp.errors import BundleError, DataError, OfframpError, PolicyError
from offramp.export import branches as exporting
from offramp.export.branches import BranchesReport, export_branches
from offramp.policies import Policy
from offramp.runtime import Prediction, load

TEMPERATURES, ANSWERS = (1.3, 0.8, 1.1), (0.9, 1.2, 1.4)
NEXT = 2e-6
"""How far above the first threshold a window's certainty lies."""


def windows_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((30, *shape)).astype(np.float32)


WINDOWS = windows_of(IQ_SHAPE)


def deciding(
    encoder: StagedEncoder,
    each: BundleTask,
    exits: tuple[str, ...],
    criterion: str,
    reject_below: float | None = None,
    close: bool = False,
) -> BundleTask:
    """With the policy ``p``, by which about as many windows leave at each exit; with ``close`` certainties lie next to thresholds."""
    count = len(exits)
    policy = Policy(
        "classification",
        criterion,
        exits,
        (0.0,) * (count - 1),
        TEMPERATURES[:count],
        ANSWERS[:count],
        {},
        reject_below,
    )
    staying, thresholds = windows_of(each.window_shape), []
    for exit in exits[:-1]:
        there = bundle_of(encoder, replace(each, exit=exit))
        probabilities = predictor_of(there, encoder).predict(staying, [each.name])[each.name].outputs
        certainty, _ = policy.certainty(exit, np.log(probabilities), policy.start(len(staying)))
        last, next = np.sort(certainty)[::-1][(place := len(certainty) // (count - len(thresholds))) - 1 : place + 1]
        thresholds.append(float(last) - NEXT if close else float(last + next) / 2)
        staying = staying[certainty < thresholds[-1]]
    return replace(each, policies={"p": replace(policy, thresholds=tuple(thresholds)).to_dict()})


@dataclass(frozen=True)
class Exported:
    bundle: Path
    report: BranchesReport
    windows: np.ndarray

    @property
    def graph(self) -> onnx.GraphProto:
        return onnx.load(self.report.path).graph


def exported(folder: Path, encoder: StagedEncoder, each: BundleTask) -> Exported:
    windows = windows_of(each.window_shape)
    bundle = write(folder / "bundle", encoder, each)
    return Exported(bundle, export_branches(bundle, each.name, "p", folder / "t.onnx", windows), windows)


def rejecting() -> tuple[StagedEncoder, BundleTask]:
    encoder = small_shufflenet()
    plain = seeing_task(encoder, "plain", "stage2.1", IQ_SHAPE)
    return encoder, deciding(encoder, plain, ("stem", "stage2.1", "conv5"), "confidence", 0.5, close=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("plain"), *rejecting())


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The first exit is before the encoder, so that the transformed window is part of the state behind it."""
    encoder = small_shufflenet()
    each = seeing_task(encoder, "beside", "stage3.0", IQ_SHAPE, {"stem": "statistics"}, "power_only")
    each = deciding(encoder, replace(each, transform=STANDARDIZE), ("input", "stem", "stage3.0"), "entropy")
    return exported(tmp_path_factory.mktemp("beside"), encoder, each)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    encoder = small_lwm()
    *_, first, last = [exit.name for exit in encoder.exits]
    each = deciding(encoder, seeing_task(encoder, "beam", last, CSI_SHAPE), (first, last), "margin")
    return exported(tmp_path_factory.mktemp("transformer"), encoder, each)


def bundle_says(each: Exported) -> Prediction:
    return load(each.bundle).predict(each.windows, policy="p")[each.report.task]


@pytest.mark.parametrize("name", ["plain", "beside", "transformer"])
def test_it_answers_as_the_bundle(name: str, request: pytest.FixtureRequest) -> None:
    each = request.getfixturevalue(name)
    expected, report = bundle_says(each), each.report
    session = onnxruntime.InferenceSession(report.path)
    assert [entry.name for entry in session.get_inputs()] == ["windows"]
    assert session.get_inputs()[0].shape == [1, *each.windows.shape[1:]]
    names = [entry.name for entry in session.get_outputs()]
    assert names == ["probabilities", "exit", *(["rejected"] if name == "plain" else [])]
    for index, window in enumerate(each.windows):
        given = dict(zip(names, session.run(None, {"windows": window[None]}), strict=True))
        assert given["exit"].dtype == np.int64
        assert given["exit"].shape == (1,)
        assert given["exit"][0] == expected.left[index]
        np.testing.assert_allclose(given["probabilities"], expected.outputs[index, None], atol=1e-4)
        if "rejected" in given:
            assert given["rejected"].tolist() == [expected.rejected[index]]
    assert report.left == tuple(np.bincount(expected.left, minlength=len(report.exits)))
    assert sum(count > 2 for count in report.left) >= 2
    assert expected.rejected.any() == (name == "plain")


def levels(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and, one in the other, the branches in which the window stays."""
    yield graph
    for node in graph.node:
        if node.op_type == "If":
            branches = {attribute.name: attribute.g for attribute in node.attribute}
            assert {part.op_type for part in branches["then_branch"].node} <= {"Identity", "Constant"}
            yield from levels(branches["else_branch"])


def test_what_lies_behind_an_exit_is_in_a_branch(plain: Exported) -> None:
    """Layers and their weights: the first graph holds the stem alone."""
    nested = list(levels(plain.graph))
    layers = [sum(node.op_type == "Conv" for node in level.node) for level in nested]
    assert layers[0] == 1
    assert all(layers[1:])
    encoder = small_shufflenet()
    weights = [sum(int(np.prod(each.dims)) for each in level.initializer) for level in nested]
    stem = sum(parameter.numel() for parameter in encoder.stages[0].parameters())
    assert weights[0] < stem + 100 < weights[1] < weights[2]
    assert sum(weights) < sum(parameter.numel() for parameter in encoder.parameters()) + 300


def test_it_is_one_sound_file(plain: Exported, beside: Exported) -> None:
    for each in (plain, beside):
        model = onnx.load(each.report.path)
        onnx.checker.check_model(model, full_check=True)
        stored = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(stored["offramp.exits"]) == list(each.report.exits)
        assert stored["offramp.policy"] == "p"
        assert stored["offramp.exit"] == each.report.exits[-1]
        assert stored["offramp.task"] == each.report.task
        assert b"/work" not in Path(each.report.path).read_bytes()


def test_a_policy_of_one_exit_has_no_branch(tmp_path: Path) -> None:
    """Whatever its criterion, which is not computed."""
    encoder = small_shufflenet()
    bundle = write(tmp_path / "bundle", encoder, task(encoder, "angle", "stem", IQ_SHAPE, hidden=(7,)))
    report = export_branches(bundle, None, "fixed", tmp_path / "t.onnx")
    assert (report.output, report.exits, report.left) == ("values", ("stem",), (5,))
    assert "If" not in {node.op_type for node in onnx.load(report.path).graph.node}
    values, exit = onnxruntime.InferenceSession(report.path).run(None, {"windows": WINDOWS[:1]})
    assert exit.tolist() == [0]
    np.testing.assert_allclose(values, load(bundle).predict(WINDOWS[:1])["angle"].outputs, rtol=1e-4)


def test_one_line_says_it(plain: Exported) -> None:
    report = plain.report
    first, second, third = report.left
    assert report.sentence.startswith(f"{report.path}: task plain under policy p, {report.bytes / 1e6:.2f} MB; ")
    assert f"(stem {first}, stage2.1 {second}, conv5 {third} of 30 windows)" in report.sentence
    assert "\n" not in report.sentence
    assert json.loads(json.dumps(report.to_dict()))["left"] == [first, second, third]


# --- what is compared, and refused


@pytest.fixture
def traced(plain: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is traced again: the graph is that of ``plain``, whatever the bundle."""
    content = Path(plain.report.path).read_bytes()
    monkeypatch.setattr(exporting, "_graph_of", lambda *_: content)


def changed(folder: Path, first: float = 0.0, **changes: Any) -> Path:
    """The bundle of ``plain`` with another policy, whose first threshold is so much higher."""
    encoder, each = rejecting()
    old = each.policies["p"]
    moved = {"thresholds": [old["thresholds"][0] + first, *old["thresholds"][1:]]}
    return write(folder, encoder, replace(each, policies={"p": old | moved | changes}))


@pytest.mark.usefixtures("traced")
def test_a_window_next_to_its_threshold_may_go_either_way(plain: Exported, tmp_path: Path) -> None:
    bundle = changed(tmp_path / "bundle", 2 * NEXT)
    report = export_branches(bundle, "plain", "p", tmp_path / "t.onnx", WINDOWS)
    expected = load(bundle).predict(WINDOWS, policy="p")["plain"]
    assert report.left == plain.report.left
    assert sum(expected.left == 0) == report.left[0] - 1
    assert report.max_difference < 1e-4


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first": 1e-3}, r"window \d+ leave at stem, and the bundle at (stage2\.1|conv5): nothing was"),
        ({"first": -0.2}, r"window \d+ leave at .*, and the bundle at stem: nothing was"),
        ({"answer_temperatures": [0.9, 1.2, 1.5]}, r"task 'plain' differs from the bundle by .* at window \d+, more than 0.0001"),
        ({"reject_below": 0.0}, r"do not agree on whether window \d+ is rejected: nothing was written"),
    ],
)  # fmt: skip
def test_a_graph_that_differs_is_not_put_in_place(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    bundle, out = changed(tmp_path / "bundle", **changes), tmp_path / "out" / "t.onnx"
    out.parent.mkdir()
    out.write_text("old, of offramp.version 0")
    with pytest.raises(OfframpError, match=words) as refusal:
        export_branches(bundle, "plain", "p", out, WINDOWS)
    assert "\n" not in str(refusal.value)
    assert out.read_text() == "old, of offramp.version 0"
    out.unlink()
    with pytest.raises(OfframpError):
        export_branches(bundle, "plain", "p", out, WINDOWS)
    assert not list(out.parent.iterdir())


@pytest.mark.usefixtures("traced")
def test_an_earlier_export_is_replaced_and_nothing_else(
    plain: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.onnx"
    out.write_text("old, of offramp.version 0")
    assert cli.run(["export", str(plain.bundle), "--what", "branches", "--policy", "p", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: task plain under policy p, ")
    assert out.read_bytes() == Path(plain.report.path).read_bytes()
    out.write_text("my notes")
    with pytest.raises(OfframpError, match="does not look like a graph that Offramp exported"):
        export_branches(plain.bundle, "plain", "p", out)
    assert out.read_text() == "my notes"


def test_what_cannot_be_exported(plain: Exported, tmp_path: Path) -> None:
    out = tmp_path / "t.onnx"
    with pytest.raises(BundleError, match="task 'plain' has no policy 'q': it has p"):
        export_branches(plain.bundle, "plain", "q", out)
    with pytest.raises(BundleError, match="unknown task 'x'"):
        export_branches(plain.bundle, "x", "p", out)
    with pytest.raises(DataError, match="holds no example windows"):
        export_branches(plain.bundle, "plain", "p", out, WINDOWS[:0])
    patient = changed(tmp_path / "bundle", criterion="patience", thresholds=[2, 2])
    with pytest.raises(
        PolicyError, match=r"'p' decides by patience: .* confidence, entropy, margin; .* use --what segments"
    ) as refusal:
        export_branches(patient, "plain", "p", out)
    assert "\n" not in str(refusal.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--what branches", "--what branches needs a --policy"),
        ("--what branches --policy p --int8", "leave out --int8"),
        ("--what branches --policy p --exit stem", "leave out --exit"),
        ("--what segments --policy p", "leave out --policy"),
        ("--what segments --int8", "leave out --int8"),
        ("--what torch --policy p", "leave out --policy"),
        ("--what torch --int8", "leave out --int8"),
        ("--what torch --exit stem --exit conv5", "give it once"),
        ("--policy p", "--what task ends at one exit, whatever the window: leave out --policy"),
    ],
)
def test_options_that_make_no_sense_together(
    plain: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    out = tmp_path / "t.pt2"
    assert cli.run(["export", str(plain.bundle), "--out", str(out), *line.split()]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not out.exists()
