"""Static int8: where it acts, what it changes, and by how little."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.export.graph import INPUT, open_session
from offramp.export.int8 import quantise

CHANNELS, CLASSES, SAMPLES = 8, 3, 32


def weights() -> dict[str, np.ndarray]:
    """Output channels of different size, so that one scale for all would be too coarse for the small ones."""
    rng = np.random.default_rng(0)
    size = np.geomspace(0.3, 3, CHANNELS)
    return {
        "gain": np.array([1e-3], np.float32),
        "kernel": (rng.standard_normal((CHANNELS, 2, 1, 5)) * size[:, None, None, None]).astype(np.float32),
        "matrix": rng.standard_normal((CLASSES, CHANNELS)).astype(np.float32),
        "bias": rng.standard_normal(CLASSES).astype(np.float32),
    }


@pytest.fixture(scope="module")
def graph() -> bytes:
    """Scale, convolve, rectify, average over time, a linear layer."""
    nodes = [
        helper.make_node("Mul", [INPUT, "gain"], ["scaled"], "scale"),
        helper.make_node("Conv", ["scaled", "kernel"], ["convolved"], "convolve", pads=[0, 2, 0, 2]),
        helper.make_node("Relu", ["convolved"], ["rectified"], "rectify"),
        helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["outputs"], "head", transB=1),
    ]
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 2, 1, SAMPLES])
    answer = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", CLASSES])
    constants = [numpy_helper.from_array(array, name) for name, array in weights().items()]
    opset = helper.make_opsetid("", 18)
    made = helper.make_model(
        helper.make_graph(nodes, "g", [given], [answer], constants), opset_imports=[opset], ir_version=9
    )
    return bytes(made.SerializeToString())


def windows(count: int, seed: int = 0) -> np.ndarray:
    return (1e3 * np.random.default_rng(seed).standard_normal((count, 2, 1, SAMPLES))).astype(np.float32)


@pytest.fixture(scope="module")
def quantised(graph: bytes) -> bytes:
    return quantise(graph, windows(300))


def test_answers_stay_close_at_any_batch_size(graph: bytes, quantised: bytes):
    plain, integer = open_session(graph), open_session(quantised)
    for count in (1, 7):
        x = windows(count, seed=1)
        expected, found = (session.run(None, {INPUT: x})[0] for session in (plain, integer))
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_weights_are_int8_with_a_scale_per_output_channel(quantised: bytes):
    shape = weights()["kernel"].shape
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(quantised).graph.initializer
    }
    kernel = next(array for name, array in stored.items() if name.startswith("kernel") and array.shape == shape)
    scale = next(array for name, array in stored.items() if name.startswith("kernel") and array.shape == (CHANNELS,)
                 and array.dtype == np.float32)  # fmt: skip
    assert kernel.dtype == np.int8
    step = scale[:, None, None, None]
    assert (np.abs(kernel * step - weights()["kernel"]) <= 0.5001 * step).all()


def test_what_stands_before_the_first_layer_stays_float(quantised: bytes):
    nodes = onnx.load_from_string(quantised).graph.node
    (scaling,) = [node for node in nodes if node.op_type == "Mul"]
    assert list(scaling.input) == [INPUT, "gain"]
    assert not [node for node in nodes if node.op_type == "QuantizeLinear" and INPUT in node.input]


def test_ranges_come_from_the_windows_given(graph: bytes, quantised: bytes):
    x = windows(64, seed=2)
    expected = open_session(graph).run(None, {INPUT: x})[0]
    quiet = open_session(quantise(graph, 0.05 * windows(300))).run(None, {INPUT: x})[0]
    well = open_session(quantised).run(None, {INPUT: x})[0]
    assert np.abs(quiet - expected).mean() > 5 * np.abs(well - expected).mean()


def test_sums_of_a_transformer_stay_float():
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", [INPUT, "matrix"], ["projected"], "project"),
        helper.make_node("Add", ["projected", INPUT], ["residual"], "add"),
        helper.make_node("Tanh", ["residual"], ["squashed"], "squash"),
        helper.make_node("MatMul", ["squashed", "head"], ["outputs"], "answer"),
    ]
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 16])
    answer = helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", CLASSES])
    shapes = {"matrix": (16, 16), "head": (16, CLASSES)}
    constants = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), n) for n, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, "g", [given], [answer], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = rng.standard_normal((200, 16)).astype(np.float32)
    found = onnx.load_from_string(quantise(made.SerializeToString(), x))
    assert [node.op_type for node in found.graph.node if "residual" in node.input] == ["Tanh"]
    stored = {tensor.name for tensor in found.graph.initializer}
    assert {"matrix_quantized", "head_quantized"} <= stored
