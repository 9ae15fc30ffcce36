"""Pieces of an encoder composed into one ONNX graph that goes on only where the window stays: nested ``If`` operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from offramp.export.graph import require_onnx

EXIT, REJECTED = "exit", "rejected"
"""Names of outputs."""


def answer_of(number: int) -> str:
    """What a piece calls its answer."""
    return f"answer{number}"


def leave_of(number: int) -> str:
    """What a piece but the last calls whether the window leaves behind it."""
    return f"leave{number}"


def nested(pieces: Sequence[bytes], output: str, rejects: bool, properties: Mapping[str, str]) -> bytes:
    """One graph: the first piece, and in the else branch of an ``If`` on what it decides all that follows, in the same way.

    Args:
        pieces: Serialised graphs for one window, in order. Each takes what the whole graph or the pieces before it give, by name, and
            gives its answer, float32 ``(1, outputs)``; each but the last also bool ``(1,)`` whether the window leaves.
        output: Name of the answer of the whole graph, beside which stand ``exit``, int64 ``(1,)``, the number of the piece behind which
            the window left, and with ``rejects`` ``rejected``, bool ``(1,)``.
        rejects: Whether the last piece also gives ``rejected``.
        properties: Metadata to store in the graph.
    """
    require_onnx()
    import onnx

    models = [onnx.load_from_string(content) for content in pieces]
    outer = {entry.name for model in models for entry in (*model.graph.input, *model.graph.output)}
    names = [output, EXIT, *([REJECTED] if rejects else [])]
    inner: onnx.GraphProto | None = None
    for number in reversed(range(len(models))):
        graph = models[number].graph
        _rename(graph, _prefixing(f"piece{number}.", outer))
        shape = next(entry for entry in graph.output if entry.name == answer_of(number)).type
        # Every level has names of its own: those of a branch may not be those of the graph around it.
        given = names if number == 0 else [f"{name}.behind{number - 1}" for name in names]
        if inner is None:
            ends = _ending(number, given, REJECTED if rejects else None)
        else:
            leaving = [f"{name}.at{number}" for name in names]
            then = onnx.helper.make_graph(
                _ending(number, leaving, None), f"leaves{number}", [], _values(leaving, shape)
            )
            condition = leave_of(number)
            ends = [onnx.helper.make_node("If", [condition], given, f"if{number}", then_branch=then, else_branch=inner)]
        entries = list(graph.input) if number == 0 else []
        inner = onnx.helper.make_graph(
            [*graph.node, *ends], f"piece{number}", entries, _values(given, shape), list(graph.initializer)
        )
    assert inner is not None
    whole = onnx.helper.make_model(inner, opset_imports=models[0].opset_import, ir_version=models[0].ir_version)
    onnx.helper.set_model_props(whole, dict(properties))
    return bytes(whole.SerializeToString())


def _ending(number: int, given: Sequence[str], rejected: str | None) -> list[Any]:
    """Nodes that give the outputs where a window leaves behind a piece; rejected is by that name if it may be."""
    from onnx import helper, numpy_helper

    def constant(value: Any, name: str) -> Any:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray([value])))

    nodes = [helper.make_node("Identity", [answer_of(number)], [given[0]]), constant(number, given[1])]
    for name in given[2:]:
        nodes.append(constant(False, name) if rejected is None else helper.make_node("Identity", [rejected], [name]))
    return nodes


def _values(names: Sequence[str], answer: Any) -> list[Any]:
    """Descriptions of the outputs of a graph or branch."""
    from onnx import TensorProto, helper

    kinds = (TensorProto.INT64, TensorProto.BOOL)
    beside = [helper.make_tensor_value_info(name, kind, [1]) for name, kind in zip(names[1:], kinds, strict=False)]
    return [helper.make_value_info(names[0], answer), *beside]


def _prefixing(prefix: str, outer: set[str]) -> Callable[[str], str]:
    """Names without a meaning outside of a piece get its prefix; no name at all stands for an input that is left out."""
    return lambda name: name if not name or name in outer else prefix + name


def _rename(graph: Any, name: Callable[[str], str]) -> None:
    graph.ClearField("value_info")
    for entry in (*graph.initializer, *graph.input, *graph.output):
        entry.name = name(entry.name)
    for node in graph.node:
        node.name = name(node.name)
        for names in (node.input, node.output):
            names[:] = [name(each) for each in names]
        for attribute in node.attribute:
            for part in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(part, name)
