"""Latency of every exit on one thread, in torch and in ONNX Runtime, each interleaved with full depth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from rich.table import Table
from torch import nn

from offramp.bundle import load_bundle
from offramp.costs import exit_costs, latency_of, time_interleaved
from offramp.encoders.base import StagedEncoder
from offramp.errors import OfframpError
from offramp.export.folding import fold_batchnorm
from offramp.export.graph import INPUT, cut_graphs, onnx_bytes, open_session
from offramp.export.modules import EveryExit
from offramp.heads.modules import head_module
from offramp.runtime.torch_backend import load_bundle_encoder
from offramp.runtime.views import TaskViews
from offramp.schema.results import Latency

BACKENDS = ("torch", "onnxruntime")
REPEATS = 5
# ONNX Runtime folds BatchNorm when it loads a graph: without these names it runs the graph as it was exported.
UNFOLDED = ["ConvBNFusion", "BatchNormalizationFusion", "ConvMulFusion", "ConvAddFusion"]


@dataclass(frozen=True)
class ExitTime:
    """How long one exit takes.

    Attributes:
        exit: Name of the exit.
        macs_saved_fraction: Of the full depth's MACs.
        time_saved_fraction: Of the full depth's time: median over pairs of calls that alternated.
        latency_ms: Percentiles of the time of one call on the whole batch.
    """

    exit: str
    macs_saved_fraction: float
    time_saved_fraction: float
    latency_ms: Latency


@dataclass(frozen=True)
class Run:
    """All exits, in order of depth, with one backend (``torch`` or ``onnxruntime``) and batch size."""

    backend: str
    batch: int
    exits: tuple[ExitTime, ...]


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        encoder: Its architecture.
        task: The task whose heads were included; None for the encoder alone.
        input_shape: Of one window, as the encoder takes it.
        threads: Always 1.
        folded: Whether BatchNorm was folded into convolutions.
        runs: One per backend and batch size.
    """

    encoder: str
    task: str | None
    input_shape: tuple[int, ...]
    threads: int
    folded: bool
    runs: tuple[Run, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        dumped: dict[str, Any] = TypeAdapter(Bench).dump_python(self, mode="json")
        return dumped

    def table(self) -> Table:
        """For the terminal: a row per exit; per run the median in ms and the time saved."""
        title = f"{self.encoder} at {self.input_shape}, {f'task {self.task}, ' if self.task else ''}one thread"
        table = Table(title=title, caption="median of one call in ms (time saved against full depth)")
        table.add_column("exit")
        table.add_column("MACs saved", justify="right")
        for run in self.runs:
            table.add_column(f"{run.backend}\nbatch {run.batch}", justify="right")
        for row in zip(*(run.exits for run in self.runs), strict=True):
            cells = [f"{cell.latency_ms.p50:.3g} ({cell.time_saved_fraction:.0%})" for cell in row]
            table.add_row(row[0].exit, f"{row[0].macs_saved_fraction:.0%}", *cells)
        return table


def bench_bundle(folder: str | Path, task: str | None = None, batches: Sequence[int] = (1, 64)) -> Bench:
    """Latency of every exit of a bundle's encoder with the heads of one task (the first if None), BatchNorm folded.

    Raises:
        BundleError: The bundle cannot be used, or has no such task.
        OfframpError: The ``onnx`` extra is missing.
    """
    bundle = load_bundle(Path(folder))
    chosen = bundle.task(task or next(iter(bundle.tasks)))
    heads = {exit: head_module(head) for exit, head in chosen.heads.items()}
    view = TaskViews(bundle, load_bundle_encoder(bundle, Path(folder))).of(chosen)
    return _bench(view, view.shape, heads, chosen.name, batches, True, BACKENDS, REPEATS, time.perf_counter)


def bench_encoder(
    encoder: StagedEncoder,
    input_shape: tuple[int, ...],
    batches: Sequence[int] = (1, 64),
    fold: bool = True,
    backends: Sequence[str] = BACKENDS,
    repeats: int = REPEATS,
    clock: Callable[[], float] = time.perf_counter,
) -> Bench:
    """Latency from input to tap at every exit.

    Args:
        encoder: Any encoder on the CPU; it is left as it was.
        input_shape: Shape of one window.
        batches: Batch sizes.
        fold: Whether to fold BatchNorm; if not, ONNX Runtime is kept from doing so too.
        backends: ``torch``, ``onnxruntime`` or both.
        repeats: Smallest number of calls per exit.
        clock: See :func:`offramp.costs.time_interleaved`.
    """
    return _bench(encoder, tuple(input_shape), {}, None, batches, fold, backends, repeats, clock)


def _bench(
    encoder: StagedEncoder,
    shape: tuple[int, ...],
    heads: Mapping[str, nn.Module],
    task: str | None,
    batches: Sequence[int],
    fold: bool,
    backends: Sequence[str],
    repeats: int,
    clock: Callable[[], float],
) -> Bench:
    if not batches or min(batches) < 1:
        raise OfframpError(f"batch sizes {tuple(batches)}: give at least one, each 1 or more")
    costs = exit_costs(encoder, shape, heads, measure=False)
    network = fold_batchnorm(encoder).requires_grad_(False) if fold else encoder
    everything = EveryExit(network, dict(heads)).eval()
    sessions = _sessions(everything, shape, fold) if "onnxruntime" in backends else {}
    macs = {name: cost.macs for name, cost in costs.items()}
    runs = []
    for batch in batches:
        x = np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
        for backend in backends:
            calls = {
                name: _torch_call(everything, name, x) if backend == "torch" else _onnx_call(sessions[name], x)
                for name in macs
            }
            runs.append(Run(backend, batch, _against_full(calls, macs, repeats, clock)))
    return Bench(encoder.architecture, task, shape, 1, fold, tuple(runs))


def _against_full(
    calls: Mapping[str, Callable[[], object]], macs: Mapping[str, int], repeats: int, clock: Callable[[], float]
) -> tuple[ExitTime, ...]:
    """Each exit alternates with full depth alone: both stay in the caches, as a deployed network does."""
    last = list(macs)[-1]
    exits = []
    for name, call in calls.items():
        times = time_interleaved({"exit": call, "full": calls[last]}, repeats=repeats, clock=clock)
        saved = 1 - float(np.median(times["exit"] / times["full"])) if name != last else 0.0
        exits.append(ExitTime(name, 1 - macs[name] / macs[last], saved, latency_of(times["exit"])))
    return tuple(exits)


def _torch_call(network: EveryExit, exit: str, x: NDArray[np.float32]) -> Callable[[], object]:
    truncated = network.encoder.truncate(exit)
    head = network.heads[network.encoder.exit_index(exit)]
    windows = torch.from_numpy(x)
    return lambda: head(truncated(windows))


def _onnx_call(session: Any, x: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: session.run(None, {INPUT: x})


def _sessions(network: EveryExit, shape: tuple[int, ...], fold: bool) -> dict[str, Any]:
    """A session per exit: one export of all exits, cut at each one's output.

    They share one memory arena: arenas of their own would take gigabytes together, and favour the small ones.
    """
    names = [exit.name for exit in network.encoder.exits]
    options: dict[str, Any] = {} if fold else {"disabled_optimizers": UNFOLDED}
    graphs = dict(
        zip(names, cut_graphs(onnx_bytes(network, shape, names, optimize=fold), [[n] for n in names]), strict=True)
    )
    return {name: open_session(graph, shared_arena=True, **options) for name, graph in graphs.items()}
