"""Static int8 quantisation with ONNX Runtime: weights per channel, activations with ranges from training windows.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv 1712.05877), as ONNX Runtime does it with pairs of QuantizeLinear and DequantizeLinear that it fuses into integer kernels.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offramp.export.graph import INPUT, require_onnx

CALIBRATION_WINDOWS = 256
CALIBRATION_BATCH = 32
LAYERS = ("Conv", "Gemm", "MatMul")
JOINTS = ("Add", "Relu")
"""Quantised beside the layers of convolutional networks, which so stay in int8 from layer to layer. In transformers they carry the
residual stream, whose few large values would leave the others few steps."""


def quantise(content: bytes, windows: NDArray[np.float32]) -> bytes:
    """A graph with int8 weights and uint8 activations that takes and gives float32 as before.

    What stands before the first layer, such as scaling a window to unit power, stays float32: its range is that of the receiver's gain.

    Args:
        content: A serialised ONNX graph with the input ``windows``.
        windows: Training windows as the graph takes them, float32 ``(n, *shape)``; the first 256 set the ranges.

    Raises:
        OfframpError: The ``onnx`` extra is missing.
    """
    require_onnx()
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends the preparation that it has just had
    try:
        with tempfile.TemporaryDirectory() as folder:
            given, prepared, done = (str(Path(folder) / f"{name}.onnx") for name in ("given", "prepared", "done"))
            Path(given).write_bytes(content)
            # The exporter has simplified the graph already, and without running it the batch axis stays dynamic.
            quant_pre_process(given, prepared, skip_optimization=True, skip_symbolic_shape=True)
            model = onnx.load(prepared)
            attends = any(node.op_type == "MatMul" for node in model.graph.node)
            quantization.quantize_static(
                prepared,
                done,
                _reader(windows[:CALIBRATION_WINDOWS]),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                # Signed activations run at half the speed of unsigned ones on x86.
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=[*LAYERS] if attends else [*LAYERS, *JOINTS],
                nodes_to_exclude=_before_the_first_layer(model),
            )
            return Path(done).read_bytes()
    finally:
        logging.disable(previous)


def _reader(windows: NDArray[np.float32]) -> Any:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Hands out the windows batch by batch, then None."""

        def __init__(self) -> None:
            self.batches = iter(np.array_split(windows, -(-len(windows) // CALIBRATION_BATCH)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


def _before_the_first_layer(model: Any) -> list[str]:
    """Names of the nodes that no layer's output reaches; nodes are in topological order."""
    behind: set[str] = set()
    before = []
    for node in model.graph.node:
        if node.op_type in LAYERS or any(name in behind for name in node.input):
            behind.update(node.output)
        else:
            before.append(node.name)
    return before
