"""One task under a policy as one ONNX file for one window, in which nothing runs behind the exit where the window leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.bundle import BundleTask
from offramp.errors import OfframpError, PolicyError
from offramp.export import graph
from offramp.export.folding import fold_batchnorm
from offramp.export.modules import TRANSFORMS
from offramp.export.nesting import EXIT, REJECTED, answer_of, leave_of, nested
from offramp.export.pieces import Piece, cut_encoder
from offramp.export.source import GRAPH, ExportSource, Floats, read_source, scale_of
from offramp.files import atomic_path, check_output
from offramp.heads.modules import head_module
from offramp.policies.criteria import confidence, entropy, softmax
from offramp.policies.policy import Policy
from offramp.runtime.predictor import Prediction
from offramp.runtime.torch_segments import run_cascade

NEAR = 1e-5
"""A window whose certainty lies as close to its threshold may go either way."""


@dataclass(frozen=True)
class BranchesReport:
    """What was exported.

    Attributes:
        path: The ONNX file.
        task: Name of the task.
        policy: Name of the policy.
        exits: The exits that it consults; the output ``exit`` is an index into them.
        left: How many of the compared windows left at each of them.
        output: Name of the other output, ``probabilities`` or ``values``; the input is ``windows``.
        rejects: Whether there is the output ``rejected`` too.
        bytes: Size of the file.
        windows: How many windows the graph and the bundle were compared on.
        max_difference: Largest difference found; absolute for probabilities, relative to the largest value for values.
    """

    path: str
    task: str
    policy: str
    exits: tuple[str, ...]
    left: tuple[int, ...]
    output: str
    rejects: bool
    bytes: int
    windows: int
    max_difference: float

    @property
    def sentence(self) -> str:
        """What the command line says."""
        where = ", ".join(f"{exit} {count}" for exit, count in zip(self.exits, self.left, strict=True))
        return (
            f"{self.path}: task {self.task} under policy {self.policy}, {self.bytes / 1e6:.2f} MB; leaves where the bundle does "
            f"({where} of {self.windows} windows) and within {self.max_difference:.1e} of it"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def export_branches(
    folder: str | Path,
    task: str | None,
    policy: str,
    out: str | Path,
    windows: NDArray[np.float32] | None = None,
) -> BranchesReport:
    """Write one task under a policy as one ONNX file that takes one window, float32 ``(1, *window_shape)``.

    It gives ``probabilities`` float32 ``(1, classes)`` (for a regression ``values``), ``exit`` int64 ``(1,)``, and, for a policy with
    ``reject_below``, ``rejected`` bool ``(1,)``. The file is put in place only if, window by window, it leaves at the same exit as the
    bundle, where the certainty is not within 1e-5 of the threshold, and answers within 1e-4 of it.

    Args:
        folder: The bundle.
        task: Name of the task; None where the bundle has one.
        policy: Name of the policy. Its criterion must be confidence, entropy or margin, unless it has a single exit.
        out: The file to write.
        windows: Raw windows to compare on instead of those in the bundle, in any form that
            :meth:`offramp.runtime.Predictor.predict` takes.

    Raises:
        BundleError: The bundle cannot be used, or has no such task or policy.
        DataError: There are no windows to compare on, or an answer to one is not finite.
        PolicyError: The policy's criterion looks at more than the outputs of one exit.
        OfframpError: The ``onnx`` extra is missing, the answers differ, or the file cannot be written.
    """
    graph.require_onnx()
    folder, out = Path(folder), Path(out)
    check_output(out, GRAPH, [folder])
    source = read_source(folder, task, None, windows)
    chosen = source.predictor.policy(source.task.name, policy)
    _check_criterion(policy, chosen)
    expected = source.predictor.predict(source.raw, [source.task.name], 1, policy)[source.task.name]
    content = _graph_of(source, policy, chosen)
    left, difference = _compared(source, chosen, content, expected)
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)
    counts = tuple(np.bincount(left, minlength=len(chosen.exits)).tolist())
    return BranchesReport(
        str(out),
        source.task.name,
        policy,
        chosen.exits,
        counts,
        source.output,
        chosen.reject_below is not None,
        len(content),
        len(left),
        difference,
    )


def _check_criterion(name: str, policy: Policy) -> None:
    if len(policy.exits) == 1:  # nothing is decided
        return
    if policy.criterion not in CERTAINTIES:
        raise PolicyError(
            f"policy {name!r} decides by {policy.criterion}: a graph with branches takes {', '.join(CERTAINTIES)}; for any other "
            "criterion use --what segments"
        )


def _margin(logits: Tensor) -> Tensor:
    """As :func:`offramp.policies.criteria.margin`, whose sort torch does not translate to ONNX."""
    first, second = torch.softmax(logits, dim=1).topk(2, dim=1).values.unbind(1)
    return first - second


CERTAINTIES: dict[str, Callable[[Tensor], Tensor]] = {"confidence": confidence, "entropy": entropy, "margin": _margin}
"""The criteria that look at nothing but the outputs of one exit."""


class _Branch(nn.Module):
    """A piece with what decides behind it: the window or a state to new parts of the state, the answer and whether the window leaves.

    The first gives the transformed window too, in front, if the state keeps it. The last gives no state and, in place of whether the
    window leaves, whether the policy rejects it, if it ever does.
    """

    def __init__(self, piece: Piece, task: BundleTask, policy: Policy, number: int, keeps_window: bool) -> None:
        super().__init__()
        self.transform = TRANSFORMS[task.transform.name](task.transform) if number == 0 else nn.Identity()
        self.piece, self.policy, self.keeps_window = piece, policy, keeps_window
        self.number, self.exit = number, policy.exits[number]
        self.head = head_module(task.heads[self.exit])
        self.temperature = policy.answer_temperatures[number]
        self.output = nn.Softmax(dim=1) if task.kind == "classification" else nn.Identity()

    def forward(self, *state: Tensor) -> tuple[Tensor, ...]:
        first = self.transform(state[0])
        *fresh, tap = self.piece(first, *state[1:])
        outputs = self.head(tap)
        answer = self.output(outputs / self.temperature)
        if self.piece.last:
            return (answer,) if self.policy.reject_below is None else (answer, self.policy.rejects(self.exit, outputs))
        certainty = CERTAINTIES[self.policy.criterion](outputs / self.policy.temperatures[self.number])
        leave = certainty >= self.policy.thresholds[self.number]
        return (*([first] if self.keeps_window else []), *fresh, answer, leave)


def _graph_of(source: ExportSource, name: str, policy: Policy) -> bytes:
    """The pieces traced and composed. A part of the state that a piece leaves as it is goes on under the name that it has."""
    task, view, rejects = source.task, fold_batchnorm(source.view), policy.reject_below is not None
    window = torch.randn(1, *task.window_shape, generator=torch.Generator().manual_seed(0))
    pieces, inputs = [], [graph.INPUT]
    for number, cut in enumerate(cut_encoder([view], policy.exits, view.input.draw(1, view.shape))):
        known = ["transformed"] if number == 0 and task.transform.name != "none" else inputs
        parts = [f"state{number}_{i}" if kept is None else known[kept] for i, kept in enumerate(cut.piece.kept)]
        fresh = [part for part, kept in zip(parts, cut.piece.kept, strict=True) if kept is None]
        keeps_window = known is not inputs and known[0] in parts
        branch = _Branch(cut.piece, task, policy, number, keeps_window)
        if cut.piece.last:
            given = [answer_of(number), *([REJECTED] if rejects else [])]
        else:
            given = [*(known if keeps_window else []), *fresh, answer_of(number), leave_of(number)]
        examples = (window, *cut.state[1:]) if number == 0 else cut.state
        pieces.append(graph.traced(branch, dict(zip(inputs, examples, strict=True)), [False] * len(inputs), given))
        inputs = parts
    exits = {"offramp.exit": policy.exits[-1], "offramp.policy": name, "offramp.exits": json.dumps(policy.exits)}
    return nested(pieces, source.output, rejects, source.properties | exits)


def _compared(
    source: ExportSource, policy: Policy, content: bytes, expected: Prediction
) -> tuple[NDArray[np.int64], float]:
    """Where the graph lets each window leave, and the largest difference of its answers; refused if the bundle does not agree."""
    session = graph.open_session(content)
    names = [each.name for each in session.get_outputs()]
    left, found = np.empty(len(source.raw), np.int64), np.empty(len(source.raw))
    scale = scale_of(expected.outputs, source.task.kind)
    for index, window in enumerate(source.windows):
        given = dict(zip(names, session.run(None, {graph.INPUT: window[None]}), strict=True))
        left[index] = given[EXIT][0]
        answer = expected.outputs[index]
        if left[index] != expected.left[index]:
            answer = _answer_at(source, policy, index, left[index])
            if answer is None:
                raise OfframpError(
                    f"the exported graph of task {expected.task!r} lets window {index} leave at {policy.exits[left[index]]}, and the "
                    f"bundle at {expected.exits[index]}: nothing was written"
                )
        elif REJECTED in given and given[REJECTED][0] != expected.rejected[index]:
            _check_rejection(policy, float(answer.max()), index)
        found[index] = np.abs(given[source.output][0] - answer).max() / scale
    worst = int(np.argmax(found))
    source.check(float(found[worst]), worst)
    return left, float(found[worst])


def _answer_at(source: ExportSource, policy: Policy, index: int, left: int) -> Floats | None:
    """What the bundle answers a window ``(outputs,)`` at an exit where it might leave if it rounded otherwise; None if it might not."""
    x = torch.tensor(source.task.transform(source.windows[index : index + 1]))
    for number, exit in enumerate(policy.exits[: left + 1]):
        heads = {exit: head_module(source.task.heads[exit]).requires_grad_(False)}
        outputs = run_cascade(source.view, heads, Policy.fixed(policy.kind, exit), x).outputs
        if number < len(policy.thresholds):
            above = float(policy.certainty(exit, outputs, policy.start(1))[0][0]) - policy.thresholds[number]
            if (above if number < left else -above) > NEAR:
                return None
    answer: Floats = softmax(outputs / np.float32(policy.answer_temperatures[left]))[0]
    return answer


def _check_rejection(policy: Policy, confidence: float, index: int) -> None:
    assert policy.reject_below is not None
    if abs(confidence - policy.reject_below) > NEAR:
        raise OfframpError(
            f"the exported graph and the bundle do not agree on whether window {index} is rejected: nothing was written"
        )
