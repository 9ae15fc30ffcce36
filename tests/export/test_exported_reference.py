"""A folder of segments has the bundle's reference, and gives the features that belong to it without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import IQ_SHAPE, seeing_task, small_shufflenet, write

from offramp.bundle import REFERENCE, load_bundle, load_reference, save_reference
from offramp.errors import BundleError
from offramp.export.segments import export_segments
from offramp.runtime import load
from offramp.runtime.reference import fit_projection, task_reference

WINDOWS = np.random.default_rng(1).standard_normal((40, *IQ_SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle whose reference is taken at an exit that no window leaves at, as after a policy was withdrawn."""
    folder = tmp_path_factory.mktemp("reference")
    encoder = small_shufflenet()
    beside = seeing_task(encoder, "beside", "stage3.0", IQ_SHAPE, {"stage2.0": "statistics"}, "handmade")
    bundle = write(folder / "bundle", encoder, seeing_task(encoder, "plain", "stage3.1", IQ_SHAPE), beside)
    predictor = load(bundle)
    references = {}
    for name, exit in (("plain", "stem"), ("beside", "stage2.0")):
        stored = predictor.bundle.task(name)
        outputs = {stored.exit: predictor.features(WINDOWS, name, stored.exit)}
        outputs = {stored.exit: stored.heads[stored.exit](outputs[stored.exit])}
        features = predictor.features(WINDOWS, name, exit)
        projection = fit_projection(features, 16)
        groups = np.repeat(np.arange(10), 4)
        references[name] = task_reference(
            stored, exit, outputs, features, projection, None, groups, True, "calibration"
        )
    save_reference(references, bundle)
    export_segments(bundle, folder / "segments")
    return bundle, folder / "segments"


def test_it_is_carried_over(folders: tuple[Path, Path]) -> None:
    bundle, segments = folders
    assert (segments / REFERENCE).read_bytes() == (bundle / REFERENCE).read_bytes()


@pytest.mark.parametrize("name", ["plain", "beside"])
def test_features_of_segments_are_those_of_the_bundle(folders: tuple[Path, Path], name: str) -> None:
    bundle, segments = folders
    reference = load_reference(segments)[name]
    exported = load(segments)
    assert exported.backend.name == "onnxruntime"
    for size in (1, 40):
        features = exported.features(WINDOWS, name, reference.exit, batch_size=size)
        np.testing.assert_allclose(features, load(bundle).features(WINDOWS, name, reference.exit), atol=1e-4)
        np.testing.assert_allclose(reference.projection(features), reference.features, atol=1e-3)
    with pytest.raises(BundleError, match="there is no segment up to exit 'conv5'"):
        exported.features(WINDOWS, name, "conv5")


def test_features_need_no_torch(folders: tuple[Path, Path]) -> None:
    code = (
        "import sys, numpy as np, offramp\n"
        "from offramp.bundle import load_reference\n"
        "folder, shape = sys.argv[1], eval(sys.argv[2])\n"
        "from pathlib import Path\n"
        "reference = load_reference(Path(folder))['plain']\n"
        "features = offramp.load(folder).features(np.zeros((2, *shape), np.float32), 'plain', reference.exit)\n"
        "assert features.shape[0] == 2\n"
        "sys.exit('torch' in sys.modules)"
    )
    asked = [sys.executable, "-c", code, str(folders[1]), str(IQ_SHAPE)]
    assert subprocess.run(asked, check=False).returncode == 0


def test_without_one_an_older_is_taken_away(folders: tuple[Path, Path], tmp_path: Path) -> None:
    encoder = small_shufflenet()
    bare = write(tmp_path / "bundle", encoder, seeing_task(encoder, "plain", "stem", IQ_SHAPE))
    reference = load_reference(folders[0])["plain"]
    (tmp_path / "segments").mkdir()
    save_reference({"plain": reference}, tmp_path / "segments")
    export_segments(bare, tmp_path / "segments")
    assert not (tmp_path / "segments" / REFERENCE).exists()


def test_one_of_another_encoder_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    encoder = small_shufflenet()
    bundle = write(tmp_path / "bundle", encoder, seeing_task(encoder, "plain", "stem", IQ_SHAPE))
    reference = load_reference(folders[0])["plain"]
    save_reference({"plain": replace(reference, exit="stage9")}, bundle)
    with pytest.raises(BundleError, match="unknown exit 'stage9'"):
        export_segments(bundle, tmp_path / "segments")
    assert load_bundle(bundle)  # it is not looked at by what does not need it
