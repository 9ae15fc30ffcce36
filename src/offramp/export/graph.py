"""ONNX graphs of networks, and sessions that run them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from offramp.errors import OfframpError

INPUT = "windows"
FIXED_BATCH = (
    "the network fixes the batch size when it is traced, so that a graph of it takes no other: in the encoder's begin, advance and pool "
    "write x.shape[0] for len(x)"
)


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
    return traced(network, {INPUT: example}, [True], outputs, properties, optimize)


def traced(
    network: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    batched: Sequence[bool],
    outputs: Sequence[str],
    properties: Mapping[str, str] | None = None,
    optimize: bool = True,
) -> bytes:
    """A network of one input or more as a serialised ONNX graph.

    Args:
        network: Takes them in their order, as ``forward(*inputs)``.
        inputs: Examples by name, of at least two windows where their number is dynamic.
        batched: Of which of them the first axis is that of the windows, which is dynamic; the others are traced as they are. With none
            the graph takes as many windows as the examples are, which may be one.
        outputs, properties, optimize: As in :func:`onnx_bytes`.
    """
    require_onnx()
    batch = torch.export.Dim("batch")
    axes = tuple({0: batch} if dynamic else None for dynamic in batched)
    with quiet():
        program = torch.onnx.export(
            _Spread(network).eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(axes,),
            optimize=optimize,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    given = [entry.type.tensor_type.shape for entry, dynamic in zip(model.graph.input, batched, strict=True) if dynamic]
    if not all(shape.dim[0].dim_param for shape in given):
        raise OfframpError(FIXED_BATCH)
    for part in (*model.graph.node, *model.graph.value_info):  # the exporter's notes, among them paths of this machine
        part.ClearField("metadata_props")
    for key, value in (properties or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


class _Spread(nn.Module):
    """Takes any number of inputs, so that all networks are traced in one way."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        answer: torch.Tensor | tuple[torch.Tensor, ...] = self.network(*inputs)
        return answer


def cut_graphs(content: bytes, groups: Sequence[Sequence[str]]) -> list[bytes]:
    """For each group of its outputs a graph of what that group needs, and of nothing else."""
    require_onnx()
    import onnx
    import onnx.utils

    cutter = onnx.utils.Extractor(onnx.load_from_string(content))
    return [cutter.extract_model([INPUT], list(names)).SerializeToString() for names in groups]


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, torch's exporters do not print, log and warn about their own insides."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
