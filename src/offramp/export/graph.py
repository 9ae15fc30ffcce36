"""Writing ONNX graphs, and comparing them with the bundle before anything is put in place."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from offramp.bundle import Bundle, BundleTask, load_bundle, load_examples
from offramp.errors import DataError, OfframpError
from offramp.export.folding import fold_batchnorm
from offramp.export.modules import DeployedTask
from offramp.files import atomic_path
from offramp.runtime.predictor import Predictor, load_bundle_encoder

INPUT = "windows"
TOLERANCE = 1e-4


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
    """

    path: str
    task: str
    exit: str
    output: str
    bytes: int
    windows: int
    max_difference: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def export_onnx(
    folder: str | Path,
    task: str,
    out: str | Path,
    exit: str | None = None,
    windows: NDArray[np.float32] | None = None,
) -> ExportReport:
    """Write one task of a bundle as one ONNX file with a dynamic batch axis and float32 in and out.

    The file is put in place only if ONNX Runtime answers within 1e-4 of the bundle on batches of 1, 3 and all windows.

    Args:
        folder: The bundle.
        task: Name of the task.
        out: The file to write.
        exit: Where to end instead of the task's chosen exit.
        windows: Raw windows to compare on instead of those in the bundle, in any form that
            :meth:`offramp.runtime.Predictor.predict` takes.

    Raises:
        BundleError: The bundle cannot be used, or has no such task or exit.
        DataError: There are no windows to compare on, or an answer to one is not finite.
        OfframpError: The ``onnx`` extra is missing, the answers differ, or the file cannot be written.
    """
    require_onnx()
    folder, out = Path(folder), Path(out)
    bundle = load_bundle(folder)
    chosen = bundle.task(task)
    encoder = load_bundle_encoder(bundle, folder)
    if exit is not None:
        encoder.exit_index(exit)
        chosen = replace(chosen, exit=exit)
    if windows is None:
        windows = load_examples(folder).get(task)
    if windows is None or not len(windows):
        raise DataError(f"the bundle holds no example windows of task {task!r}: give some to compare the graph on")
    predictor = Predictor(replace(bundle, tasks={task: chosen}), encoder)
    raw = predictor.raw_windows(windows)
    expected = predictor.predict(raw, [task])[task].outputs
    compared = np.asarray(raw, np.float32)
    network = DeployedTask(fold_batchnorm(encoder.truncate(chosen.exit, chosen.pooling)), chosen, chosen.exit)
    output = "probabilities" if chosen.kind == "classification" else "values"
    content = onnx_bytes(network, chosen.window_shape, [output], _properties(bundle, chosen))
    difference, window = _largest_difference(content, compared, expected, chosen.kind)
    if not difference <= TOLERANCE:
        raise OfframpError(
            f"the exported graph of task {task!r} differs from the bundle by {difference:.2g} at window {window}, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)
    return ExportReport(str(out), task, chosen.exit, output, len(content), len(compared), difference)


def onnx_bytes(
    network: nn.Module,
    shape: Sequence[int],
    outputs: Sequence[str],
    properties: Mapping[str, str] | None = None,
    optimize: bool = True,
) -> bytes:
    """A network as a serialised ONNX graph: input ``windows`` float32 ``(batch, *shape)``, a dynamic batch axis.

    Args:
        network: In evaluation mode; takes one tensor.
        shape: Shape of one window.
        outputs: Names of the outputs, in the order that the network gives them.
        properties: Metadata to store in the graph.
        optimize: Whether the exporter simplifies the graph, which folds BatchNorm too.

    Raises:
        OfframpError: The ``onnx`` extra is missing, or the network cannot be traced with any batch size.
    """
    require_onnx()
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            optimize=optimize,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise OfframpError(
            "the network fixes the batch size when it is traced, so that a graph of it takes no other: in the encoder's begin, "
            "advance and pool write x.shape[0] for len(x)"
        )
    for key, value in (properties or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


def cut_graphs(content: bytes, outputs: Sequence[str]) -> dict[str, bytes]:
    """A graph cut at each of its outputs, by the output's name: what no other output needs is left out."""
    require_onnx()
    import onnx
    import onnx.utils

    cutter = onnx.utils.Extractor(onnx.load_from_string(content))
    return {name: cutter.extract_model([INPUT], [name]).SerializeToString() for name in outputs}


def open_session(content: bytes, shared_arena: bool = False, **options: Any) -> Any:
    """An ``onnxruntime.InferenceSession`` on one thread.

    Args:
        content: The graph.
        shared_arena: Whether to take memory from the process's one arena and plan none ahead, so that sessions timed against
            each other use the same memory.
        **options: Of the session's constructor.
    """
    runtime = require_onnx()
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    if shared_arena:
        arena = runtime.OrtMemoryInfo(
            "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
        )
        runtime.create_and_register_allocator(arena, None)
        settings.add_session_config_entry("session.use_env_allocators", "1")
        settings.enable_mem_pattern = False
    return runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"], **options)


def require_onnx() -> ModuleType:
    """The module ``onnxruntime``, if it, ``onnx`` and ``onnxscript`` are installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as missing:
        raise OfframpError(f"ONNX needs the package {missing.name}: pip install offramp[onnx]") from None
    return onnxruntime  # type: ignore[no-any-return]


def _properties(bundle: Bundle, task: BundleTask) -> dict[str, str]:
    return {
        "offramp.version": importlib.metadata.version("offramp"),
        "offramp.task": task.name,
        "offramp.kind": task.kind,
        "offramp.exit": task.exit,
        "offramp.labels": json.dumps(task.label_names),
        "offramp.encoder": bundle.encoder["architecture"],
        "offramp.encoder_sha256": bundle.encoder["sha256"],
    }


def _largest_difference(
    content: bytes, windows: NDArray[np.float32], expected: NDArray[np.float32], kind: str
) -> tuple[float, int]:
    """And the window where it is; NaN where an answer is not finite."""
    session = open_session(content)
    scale = 1.0 if kind == "classification" else max(float(np.abs(expected).max()), 1e-30)
    found = np.zeros(len(windows))
    for size in {1, min(3, len(windows)), len(windows)}:
        answers = session.run(None, {INPUT: windows[:size]})[0]
        found[:size] = np.maximum(found[:size], np.abs(answers - expected[:size]).max(1) / scale)  # NaN stays
    worst = int(np.argmax(found))
    return float(found[worst]), worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints, logs and warns about its own insides."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
