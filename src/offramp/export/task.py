"""One task of a bundle as an ONNX file, compared with the bundle before it is put in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.bundle import BundleTask
from offramp.costs import time_interleaved
from offramp.errors import OfframpError
from offramp.export import graph
from offramp.export.int8 import quantise
from offramp.export.source import GRAPH, largest_difference, read_source
from offramp.files import atomic_path, check_output

NEARLY = {"classification": 0.1, "regression": 0.05}
"""How far an answer in int8 may lie from the bundle's to agree with it: so much less probable a class, in the bundle's own words, or a
value so far off, relative to the largest. Two classes that are as good as tied change places with any rounding."""
LEAST_AGREEMENT = 0.9
"""Share of windows on which a graph in int8 must agree with the bundle."""


@dataclass(frozen=True)
class Int8Report:
    """What int8 gives and takes against the float32 graph of the same task.

    Attributes:
        agreement: Share of the compared windows on which it agrees with the bundle: a class to which the bundle gives at most 0.1 less
            than to its own, or a value within 5% of the largest.
        same_class: Share with the very class of the bundle; None for a regression.
        float32_bytes: Size of the float32 graph.
        latency_ms: Median time of one window in ONNX Runtime on one thread.
        float32_latency_ms: That of the float32 graph, measured in turn.
    """

    agreement: float
    same_class: float | None
    float32_bytes: int
    latency_ms: float
    float32_latency_ms: float


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        path: The ONNX file.
        task: Name of the task.
        exit: Where the graph ends.
        output: Name of the graph's output, ``probabilities`` or ``values``; its input is ``windows``.
        bytes: Size of the file.
        windows: How many windows the graph and the bundle were compared on.
        max_difference: Largest difference found; absolute for probabilities, relative to the largest value for values.
        int8: Against float32; None for a float32 graph.
    """

    path: str
    task: str
    exit: str
    output: str
    bytes: int
    windows: int
    max_difference: float
    int8: Int8Report | None = None

    @property
    def sentence(self) -> str:
        """What the command line says."""
        what = f"{self.path}: task {self.task} up to exit {self.exit}"
        size = f"{self.bytes / 1e6:.2f} MB"
        if self.int8 is None:
            return f"{what}, {size}; within {self.max_difference:.1e} of the bundle on {self.windows} windows"
        agreed, same = round(self.int8.agreement * self.windows), self.int8.same_class
        classes = "" if same is None else f", in the very class on {round(same * self.windows)}"
        return (
            f"{what} in int8, {size} (float32: {self.int8.float32_bytes / 1e6:.2f} MB), {self.int8.latency_ms:.3f} ms a window "
            f"(float32: {self.int8.float32_latency_ms:.3f} ms); agrees with the bundle on {agreed} of {self.windows} windows{classes}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def export_onnx(
    folder: str | Path,
    task: str | None,
    out: str | Path,
    exit: str | None = None,
    windows: NDArray[np.float32] | None = None,
    int8: bool = False,
) -> ExportReport:
    """Write one task of a bundle as one ONNX file with a dynamic batch axis and float32 in and out.

    The file is put in place only if ONNX Runtime answers within 1e-4 of the bundle on batches of 1, 3 and all windows. With ``int8``
    the file holds int8 weights and activations (see :func:`offramp.export.int8.quantise`), whose ranges come from those windows, and
    it is put in place only if it agrees with the bundle on at least 9 of 10 of them (see :class:`Int8Report`).

    Args:
        folder: The bundle.
        task: Name of the task; None where the bundle has one.
        out: The file to write.
        exit: Where to end instead of the task's chosen exit.
        windows: Raw windows to compare on instead of those in the bundle, in any form that
            :meth:`offramp.runtime.Predictor.predict` takes.
        int8: Whether to quantise.

    Raises:
        BundleError: The bundle cannot be used, or has no such task or exit.
        DataError: There are no windows to compare on, or an answer to one is not finite.
        OfframpError: The ``onnx`` extra is missing, the answers differ, or the file cannot be written.
    """
    graph.require_onnx()
    folder, out = Path(folder), Path(out)
    check_output(out, GRAPH, [folder])
    source = read_source(folder, task, exit, windows)
    chosen, compared, expected = source.task, source.windows, source.expected()
    content = graph.onnx_bytes(source.network(), chosen.window_shape, [source.output], source.properties)
    difference, window = largest_difference(_runner(content), compared, expected, chosen.kind)
    source.check(difference, window)
    against = None
    if int8:
        content, against = _in_int8(content, chosen, compared, expected)
        difference, _ = largest_difference(_runner(content), compared, expected, chosen.kind)
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)
    return ExportReport(
        str(out), chosen.name, chosen.exit, source.output, len(content), len(compared), difference, against
    )


def _in_int8(
    content: bytes, task: BundleTask, windows: NDArray[np.float32], expected: NDArray[np.float32]
) -> tuple[bytes, Int8Report]:
    quantised = quantise(content, windows)
    sessions = {"float32": graph.open_session(content), "int8": graph.open_session(quantised)}
    answers = sessions["int8"].run(None, {graph.INPUT: windows})[0]
    off = _off(answers, expected, task.kind)
    agreement = float(np.mean(off <= NEARLY[task.kind]))
    if not agreement >= LEAST_AGREEMENT:
        raise OfframpError(
            f"in int8 task {task.name!r} agrees with the bundle on {agreement:.0%} of {len(windows)} windows, less than "
            f"{LEAST_AGREEMENT:.0%}: nothing was written; leave --int8 out or choose another --exit"
        )
    times = time_interleaved({name: _one_window(session, windows) for name, session in sessions.items()})
    medians = {name: 1e3 * float(np.median(seconds)) for name, seconds in times.items()}
    same = float(np.mean(off == 0)) if task.kind == "classification" else None
    return quantised, Int8Report(agreement, same, len(content), medians["int8"], medians["float32"])


def _off(answers: NDArray[np.float32], expected: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """How far answers ``(n, outputs)`` lie from those expected, see :data:`NEARLY`, float32 ``(n,)``; infinite where not finite."""
    if kind == "classification":
        found = np.take_along_axis(expected, answers.argmax(1, keepdims=True), 1)[:, 0]
        off = expected.max(1) - found
    else:
        off = np.abs(answers - expected).max(1) / max(float(np.abs(expected).max()), 1e-30)
    return np.where(np.isfinite(answers).all(1), off, np.float32(np.inf))


def _one_window(session: Any, windows: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: session.run(None, {graph.INPUT: windows[:1]})


def _runner(content: bytes) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    session = graph.open_session(content)
    return lambda windows: session.run(None, {graph.INPUT: windows})[0]
