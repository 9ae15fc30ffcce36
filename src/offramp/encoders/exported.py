"""Splitting any model that ``torch.export`` can trace: one graph of operations, cut behind named places.

The graph is functional (no operation writes into its input) and its batch axis is dynamic. What is alive at a cut is handed
over: the output of the named place first, then every other tensor that something behind the cut still reads, as skip
connections are. What depends on no input value, e.g. sizes, constants and tables made from parameters, is computed anew in every
stage that reads it. BatchNorm stays a module, so that its statistics can still be measured.
"""

from __future__ import annotations

import io
import logging
import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from offramp.encoders.storage import first_line
from offramp.errors import EncoderError

BATCH_NORM = torch.ops.aten._native_batch_norm_legit_no_training.default


def split_exported(model: nn.Module, places: Sequence[str], example: Tensor) -> list[nn.Module]:
    """Cut a model behind named places, in the order in which it runs them.

    Args:
        model: In inference mode; takes one tensor. The stages share its parameters.
        places: Names of submodules that run once, or of nodes of the graph.
        example: A batch of at least two windows.

    Returns:
        One module per place and one for what follows, each from the tensors of the state before it to a tuple of tensors.

    Raises:
        EncoderError: The model cannot be traced, a place is unknown, or what is alive at a cut is not batch first.
    """
    with _quiet():
        try:
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},)).run_decompositions({})
            traced: Any = program.module(check_guards=False)
        except Exception as error:  # the tracer raises what the model's own code and its many parts raise
            fixed = "Constraints violated (batch)" in str(error)
            why = "its code fixes the size of the batch, as len(x) does and x.shape[0] does not"
            raise EncoderError(f"torch.export cannot trace it: {why if fixed else first_line(error)}") from None
    graph = _Graph(model, traced)
    ends = [graph.end_of(place) for place in places]
    for (_, before), (place, after) in pairwise(zip(places, ends, strict=True)):
        if graph.position[after] <= graph.position[before]:
            raise EncoderError(f"{place!r} does not lie behind the place before it: name them in the order they run")
    states: list[list[fx.Node]] = [[graph.input]]
    states += [graph.alive(place, end) for place, end in zip(places, ends, strict=True)]
    outputs = [node for node in _nodes(graph.output.args) if isinstance(node.meta.get("val"), Tensor)]
    return [graph.extract(given, wanted) for given, wanted in pairwise([*states, outputs])]


class _Graph:
    """A traced model, and which of its nodes depend on the values of its input."""

    def __init__(self, model: nn.Module, traced: fx.GraphModule) -> None:
        self.model = model
        self.traced = traced
        self.nodes: list[fx.Node] = list(traced.graph.nodes)
        self.position = {node: number for number, node in enumerate(self.nodes)}
        self.output = self.nodes[-1]
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise EncoderError(f"the model takes {len(inputs)} tensors, not one")
        self.input = inputs[0]
        size = self.input.meta["val"].shape[0]
        if isinstance(size, int):
            raise EncoderError(f"the model works for batches of {size} alone")
        self.batch = size.node.expr
        self.dependent = dict.fromkeys([self.input])
        for node in self.nodes:
            if not _is_size(node) and any(source in self.dependent for source in node.all_input_nodes):
                self.dependent[node] = None
        self.needed = self._reached(list(_nodes(self.output.args)), set())

    def end_of(self, place: str) -> fx.Node:
        """The node with the output of a place."""
        inside = [n for n in self.nodes if n.op == "call_function" and place in _modules_of(n) and not _is_size(n)]
        if not inside:
            for node in self.dependent:
                if node in self.needed and node.name == place:
                    return node
            known = dict.fromkeys(name.split(".")[0] for node in self.dependent for name in _modules_of(node) if name)
            raise EncoderError(f"nothing called {place!r} runs: the model runs {', '.join(known)}")
        between = self.nodes[self.position[inside[0]] : self.position[inside[-1]]]
        if any(n.op == "call_function" and place not in _modules_of(n) and not _is_size(n) for n in between):
            raise EncoderError(f"{place!r} runs more than once: name a place that runs once")
        members = set(inside)
        ends = [
            n for n in inside if n in self.needed and n in self.dependent and any(u not in members for u in n.users)
        ]
        if len(ends) != 1:
            raise EncoderError(f"{place!r} gives {len(ends)} tensors that are used, not one: name another place")
        return ends[0]

    def alive(self, place: str, end: fx.Node) -> list[fx.Node]:
        """What is known behind a cut and still read there, the place's own output first."""
        last = self.position[end]
        crossing = [
            node
            for node in self.nodes[: last + 1]
            if node in self.needed
            and node in self.dependent
            and any(self.position[user] > last and user in self.needed | {self.output} for user in node.users)
        ]
        state = [end, *(node for node in crossing if node is not end)]
        for node in state:
            value = node.meta.get("val")
            if not isinstance(value, Tensor):
                raise EncoderError(f"{node.name} is alive behind {place!r} and not a tensor: name another place")
            if value.dim() == 0 or not _is_symbol(value.shape[0], self.batch):
                shape = ", ".join(map(str, value.shape))
                raise EncoderError(f"{node.name} ({shape}) is alive behind {place!r} and not batch first")
        return state

    def extract(self, given: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> fx.GraphModule:
        """The part of the graph from some tensors to others, as a module of its own."""
        graph = fx.Graph()
        copied = {node: graph.placeholder(node.name) for node in given}
        root = copied[given[0]]
        owned: dict[str, Any] = {}
        needed = self._reached(wanted, set(given))
        for node in self.nodes:
            if node not in needed or node in copied:
                continue
            norm = self._batch_norm(node)
            if norm is not None:
                owned[norm] = self.model.get_submodule(norm)
                copied[node] = graph.call_module(norm, (copied[node.all_input_nodes[0]],))
            elif node.target is operator.getitem and self._batch_norm(node.all_input_nodes[0]) is not None:
                copied[node] = copied[node.all_input_nodes[0]]
            elif node.target is torch.ops.aten.sym_size.int:
                copied[node] = graph.call_function(torch.ops.aten.sym_size.int, (root, 0))
            else:
                if node.op == "get_attr":
                    owned[str(node.target)] = _attribute(self.model, self.traced, str(node.target))
                copied[node] = graph.node_copy(node, lambda source: copied[source])
                if node.target is torch.ops.aten.view.default:  # possible with the strides of this device alone
                    copied[node].target = torch.ops.aten.reshape.default
                if isinstance(node.kwargs.get("device"), torch.device):  # wherever the encoder is by then
                    with graph.inserting_before(copied[node]):
                        device = graph.call_function(getattr, (root, "device"))
                    copied[node].update_kwarg("device", device)
        graph.output(tuple(copied[node] for node in wanted))
        return fx.GraphModule(owned, graph)

    def _reached(self, wanted: Iterable[fx.Node], stop: set[fx.Node]) -> set[fx.Node]:
        """The nodes that some are computed from, themselves included; ``stop`` are given."""
        reached: set[fx.Node] = set()
        waiting = list(wanted)
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                if node not in stop:
                    waiting += self._sources(node)
        return reached

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        if self._batch_norm(node) is not None:
            return node.all_input_nodes[:1]
        if node.target is torch.ops.aten.sym_size.int:
            if not _is_symbol(node.meta["val"], self.batch):
                raise EncoderError(f"{node.name} is a size that is not the batch's")
            return []  # read from the state
        return node.all_input_nodes

    def _batch_norm(self, node: Any) -> str | None:
        """Name of the BatchNorm module that a node is an application of."""
        if not isinstance(node, fx.Node) or node.target is not BATCH_NORM:
            return None
        name, _, what = str(getattr(node.args[3], "target", "")).rpartition(".")
        owner = self.model.get_submodule(name) if what == "running_mean" else None
        return name if isinstance(owner, _BatchNorm) else None


def _modules_of(node: fx.Node) -> list[str]:
    return [name for name, _ in node.meta.get("nn_module_stack", {}).values()]


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)


def _is_symbol(size: Any, symbol: Any) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr == symbol)


def _nodes(arguments: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(arguments, found.append)
    return found


def _attribute(model: nn.Module, traced: fx.GraphModule, name: str) -> Any:
    """A parameter or buffer of the model itself, or a constant that the tracer found."""
    for owner in (model, traced):
        try:
            return operator.attrgetter(name)(owner)
        except AttributeError:
            continue
    raise EncoderError(f"the traced graph reads {name!r}, which the model does not have")


@contextmanager
def _quiet() -> Iterator[None]:
    """The tracer warns, logs and prints about its own insides."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
