"""What a folder of segments holds: a bundle without its encoder, one ONNX file per piece of the encoder, and a manifest of how they fit.

The manifest, ``segments.json``, is documented in ``docs/deploying.md``. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from offramp.bundle import Bundle
from offramp.errors import BundleError
from offramp.opening import read_json, regular_file
from offramp.schema.problems import first_problem
from offramp.schema.strict import StrictModel

MANIFEST = "segments.json"
SCHEMA = 2
WEIGHTS: Literal["graphs.weights"] = "graphs.weights"
AGAIN = "export the segments again"


class StatePart(StrictModel):
    """One tensor of the state behind a segment.

    Attributes:
        output: Name of the segment's output that holds it; None where it is one of the segment's inputs, unchanged.
        kept: Which input that is; None for an output.
        shared: Whether all windows share it: it has no batch axis, and stays as it is when windows leave.
    """

    output: str | None = None
    kept: int | None = Field(default=None, ge=0)
    shared: bool = False

    @model_validator(mode="after")
    def _one(self) -> StatePart:
        if (self.output is None) == (self.kept is None):
            raise ValueError("a part of the state is an output or a kept input")
        return self


class HashedFile(StrictModel):
    """A file of the folder.

    Attributes:
        file: Its name.
        sha256: Of what is in it.
    """

    file: str = Field(pattern=r"^[A-Za-z0-9._-]+\.(onnx|weights)$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class SegmentFile(HashedFile):
    """The graph of a piece of the encoder, from the exit before (or the input) to an exit.

    Attributes:
        to: The exit where it ends.
        inputs: Names of its inputs: ``windows``, or the state of the segment before in its order.
        state: The state behind it; empty for the last one.
        taps: Names of its outputs that heads take, by name of the view.
    """

    to: str
    inputs: list[str] = Field(min_length=1)
    state: list[StatePart]
    taps: dict[str, str]


class SegmentedPass(StrictModel):
    """The segments that some tasks share, in order of depth.

    Attributes:
        tasks: The name of its view by task: tasks with the same view share their taps.
        shape: Of one window behind the transform.
        segments: At least one.
        whole: For each segment the graph from the input to its exit in one piece, which gives the taps of all exits up to there under
            the names that the segments give them: what a pass needs from which nothing leaves on the way.
    """

    tasks: dict[str, str] = Field(min_length=1)
    shape: list[int] = Field(min_length=1)
    segments: list[SegmentFile] = Field(min_length=1)
    whole: list[HashedFile]

    @model_validator(mode="after")
    def _fits(self) -> SegmentedPass:
        if len(self.whole) != len(self.segments):
            raise ValueError(f"{len(self.whole)} whole graphs for {len(self.segments)} segments")
        width = 1
        for segment in self.segments:
            if len(segment.inputs) != width:
                raise ValueError(
                    f"{segment.file} takes {len(segment.inputs)} tensors, and the segment before gives {width}"
                )
            if any(part.kept is not None and part.kept >= width for part in segment.state):
                raise ValueError(f"{segment.file} keeps an input that it does not have")
            if missing := set(self.tasks.values()) - set(segment.taps):
                raise ValueError(f"{segment.file} has no tap {sorted(missing)[0]}")
            width = len(segment.state)
        return self


class WeightsFile(HashedFile):
    """The file that all graphs read; its name stands in each of them."""

    file: Literal["graphs.weights"] = WEIGHTS


class Manifest(StrictModel):
    """All of ``segments.json``.

    Attributes:
        schema_version: Of this document.
        encoder: Hash of the encoder that the segments are cut from.
        weights: Those of all graphs, each once.
        passes: One per transform and set of BatchNorm statistics that tasks have in common.
    """

    schema_version: int = Field(alias="schema")
    encoder: str
    weights: WeightsFile
    passes: list[SegmentedPass] = Field(min_length=1)

    @property
    def files(self) -> list[str]:
        """Names of all files."""
        graphs = [file.file for each in self.passes for file in (*each.segments, *each.whole)]
        return [self.weights.file, *graphs]


def load_manifest(folder: Path, bundle: Bundle) -> Manifest:
    """Read and check ``segments.json``, and that each file is the one that was exported.

    Raises:
        BundleError: It is damaged or of another version, files are missing or others, or it does not fit the bundle beside it.
    """
    path = folder / MANIFEST
    found = read_json(path, BundleError, AGAIN)
    schema = found.get("schema") if isinstance(found, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise BundleError(f"{path} has another schema than {SCHEMA}, which this version of offramp reads: {AGAIN}")
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        raise BundleError(f"{path} is damaged: {first_problem(error)}; {AGAIN}") from None
    if manifest.encoder != bundle.encoder["sha256"]:
        raise BundleError(f"{path} is of another encoder than the heads beside it were fitted on: {AGAIN}")
    held = [task for each in manifest.passes for task in each.tasks]
    if sorted(held) != sorted(bundle.tasks):
        raise BundleError(f"{path} is of other tasks than the bundle beside it has: {AGAIN}")
    for file in (manifest.weights, *(file for each in manifest.passes for file in (*each.segments, *each.whole))):
        _check_file(folder / file.file, file.sha256)
    return manifest


def sha256_of(content: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


def _check_file(path: Path, expected: str) -> None:
    if not path.exists():
        raise BundleError(f"{path} is missing: {AGAIN}")
    regular_file(path, BundleError)
    if sha256_of(path.read_bytes()) != expected:
        raise BundleError(
            f"{path} is not the file that {MANIFEST} names: it is damaged, or of another encoder; {AGAIN}"
        )
