"""Compiled stages against plain ones, the size of batches that graphs are recorded for, and what happens where nothing can be compiled."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import CSI_SHAPE, IQ_SHAPE, small_lwm, small_shufflenet, task, write

from offramp.encoders.base import StagedEncoder
from offramp.runtime import compiled_segments as compiling
from offramp.runtime import load
from offramp.runtime.compiled_segments import CompiledSegments
from offramp.runtime.engine import Engine

WINDOWS = np.random.default_rng(1).standard_normal((9, *IQ_SHAPE)).astype(np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    encoder = small_shufflenet()
    tasks = [task(encoder, name, exit, IQ_SHAPE, ("x", "y")) for name, exit in (("near", "stem"), ("far", "stage2.1"))]
    return write(tmp_path / "bundle", encoder, *tasks)


def test_traced_stages_give_the_same_answers(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by the compiler's front and run without its code, which takes a minute to make."""
    monkeypatch.setattr(compiling, "COMPILER", "eager")
    plain, compiled = load(bundle), load(bundle, backend="torch-compiled")
    assert compiled.backend.name == "torch-compiled"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (9, 1, 4, 0):
            for name, answer in plain.predict(WINDOWS[:count]).items():
                found = compiled.predict(WINDOWS[:count])[name].outputs
                np.testing.assert_allclose(found, answer.outputs, atol=1e-5)
        with Engine(compiled) as engine:
            expected = plain.predict(WINDOWS)["far"].outputs
            np.testing.assert_allclose(engine.predict(WINDOWS)["far"].prediction.outputs, expected, atol=1e-5)


def test_a_stage_that_cannot_be_compiled_runs_as_it_is_and_says_so(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", refuse)
    compiled = load(bundle, backend="torch-compiled")
    with pytest.warns(UserWarning, match=r"torch\.compile cannot compile stem, which runs as it is: no compiler$"):
        answers = compiled.predict(WINDOWS, ["near"])
    np.testing.assert_array_equal(answers["near"].outputs, load(bundle).predict(WINDOWS)["near"].outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled.predict(WINDOWS, ["near"])


@pytest.mark.parametrize(("encoder", "shape"), [(small_shufflenet(), IQ_SHAPE), (small_lwm(), CSI_SHAPE)])
def test_graphs_are_recorded_for_powers_of_two_alone(
    encoder: StagedEncoder, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator, with stages that only note what they are given; parts that all windows share are not filled up."""
    sizes: list[int] = []

    def noting(stage: compiling.Stage, **_: object) -> compiling.Stage:
        def run(*state: torch.Tensor) -> tuple[torch.Tensor, ...]:
            sizes.append(max(map(len, state)))
            return stage(*state)

        return run

    monkeypatch.setattr(torch, "compile", noting)
    monkeypatch.setattr(CompiledSegments, "_graphs", lambda *_: True)
    encoder.eval()
    segments, last = CompiledSegments(encoder, {"view": encoder}), len(encoder.exits) - 1
    for count in (1, 3, 5, 8):
        x = torch.randn(count, *shape)
        with segments.running():
            state, taps = segments.advance(-1, last, segments.begin(x), ["view"])
            expected = encoder.taps(x, [encoder.exits[-1].name])[encoder.exits[-1].name]
        assert max(map(len, state)) == count
        torch.testing.assert_close(taps["view"], expected, atol=1e-4, rtol=1e-4)
    assert set(sizes) == {1, 4, 8}
