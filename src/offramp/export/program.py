"""One task of a bundle as a program of ``torch.export``, compared with the bundle before it is put in place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from offramp.errors import OfframpError
from offramp.export.graph import FIXED_BATCH, quiet
from offramp.export.source import GRAPH, ExportSource, Floats, largest_difference, read_source
from offramp.files import atomic_path, check_output


@dataclass(frozen=True)
class ProgramReport:
    """What was exported.

    Attributes:
        path: The file.
        task: Name of the task.
        exit: Where the program ends.
        output: What it gives, ``probabilities`` or ``values``.
        bytes: Size of the file.
        windows: How many windows the program and the bundle were compared on.
        max_difference: Largest difference found; absolute for probabilities, relative to the largest value for values.
    """

    path: str
    task: str
    exit: str
    output: str
    bytes: int
    windows: int
    max_difference: float

    @property
    def sentence(self) -> str:
        """What the command line says."""
        return (
            f"{self.path}: task {self.task} up to exit {self.exit} for torch.export.load, {self.bytes / 1e6:.2f} MB; within "
            f"{self.max_difference:.1e} of the bundle on {self.windows} windows"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def export_program(
    folder: str | Path,
    task: str | None,
    out: str | Path,
    exit: str | None = None,
    windows: NDArray[np.float32] | None = None,
) -> ProgramReport:
    """Write one task of a bundle as a program that torch runs without Offramp: ``torch.export.load(out).module()(windows)``.

    It takes float32 ``(batch, *window_shape)`` of any batch and gives probabilities ``(batch, classes)`` or values
    ``(batch, dimensions)``. The file is put in place only if it is within 1e-4 of the bundle on batches of 1, 3 and all windows after
    it was loaded again. Its metadata, of the same names as an ONNX file's, are extra files of the archive.

    Args:
        folder: The bundle.
        task: Name of the task; None where the bundle has one.
        out: The file to write; torch wants its name to end in ``.pt2``.
        exit: Where to end instead of the task's chosen exit.
        windows: Raw windows to compare on instead of those in the bundle, in any form that
            :meth:`offramp.runtime.Predictor.predict` takes.

    Raises:
        BundleError: The bundle cannot be used, or has no such task or exit.
        DataError: There are no windows to compare on, or an answer to one is not finite.
        OfframpError: The network cannot be traced with any batch size, the answers differ, or the file cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != ".pt2":
        raise OfframpError(
            f"{out}: torch loads programs from files whose name ends in .pt2: choose such a name for --out"
        )
    check_output(out, GRAPH, [folder])
    source = read_source(folder, task, exit, windows)
    expected = source.expected()
    program = _traced(source)
    with atomic_path(out) as temporary:
        with quiet():
            torch.export.save(program, temporary, extra_files=source.properties)
            network = torch.export.load(temporary).module()

        def answer(windows: Floats) -> Floats:
            with torch.inference_mode():
                given: Floats = network(torch.tensor(windows)).numpy()
            return given

        difference, window = largest_difference(answer, source.windows, expected, source.task.kind)
        source.check(difference, window)
        size = temporary.stat().st_size
    return ProgramReport(str(out), source.task.name, source.task.exit, source.output, size, len(expected), difference)


def _traced(source: ExportSource) -> ExportedProgram:
    network = source.network().eval().requires_grad_(False)
    example = torch.randn(2, *source.task.window_shape, generator=torch.Generator().manual_seed(0))
    try:
        with quiet():
            program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},))
    except torch._dynamo.exc.UserError:
        raise OfframpError(FIXED_BATCH) from None
    for node in program.graph.nodes:  # paths of this machine
        node.meta.pop("stack_trace", None)
    return program
