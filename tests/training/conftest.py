"""A tiny architecture by name, and a probe of few windows, so that whole pretraining runs take a second."""

from __future__ import annotations

import pytest
from tiny_architecture import Tiny

from offramp.encoders import registry
from offramp.encoders.base import StagedEncoder
from offramp.training import pretrain, probe, sources


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTERED", registry.REGISTERED | {"tiny-test": Tiny})
    monkeypatch.setattr(probe, "BLOCK", 16)
    monkeypatch.setattr(probe, "FIT_BLOCKS", 2)
    monkeypatch.setattr(probe, "SCORED_BLOCKS", 1)


@pytest.fixture
def _without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that any bit of the encoder decides, in no time; and no picture."""

    def scores(encoder: StagedEncoder) -> probe.Scores:
        return {"modulation": {"stem": int(encoder.fingerprint()[:8], 16) / 2**32}}

    monkeypatch.setattr(sources, "probe_exits", scores)
    monkeypatch.setattr(pretrain, "draw_probe", lambda lines, path: None)
