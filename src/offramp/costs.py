"""What every exit costs: multiply-accumulate operations, parameters, and measured latency on one thread."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from offramp.encoders.base import StagedEncoder
from offramp.encoders.taps import inference
from offramp.errors import EncoderError
from offramp.schema.results import Latency

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

WARM_UP = 2
MAX_ROUNDS = 2000


@dataclass(frozen=True)
class ExitCost:
    """The cost of leaving at an exit, for one window: what it takes to reach its tap, and its head.

    MACs are multiply-accumulate operations of matrix products and convolutions, and of side features by their own formula.

    Attributes:
        exit: Name of the exit.
        reach_macs: Of the encoder up to the exit's tap.
        head_macs: Of the head; 0 without one.
        params: Parameters that run up to the exit, with its head if given.
        latency_ms: Of the whole way from input to tap or head output; None if it was not measured.
    """

    exit: str
    reach_macs: int
    head_macs: int
    params: int
    latency_ms: Latency | None = None

    @property
    def macs(self) -> int:
        """Of the encoder up to the exit, with its head if given."""
        return self.reach_macs + self.head_macs


def exit_costs(
    encoder: StagedEncoder,
    input_shape: tuple[int, ...],
    heads: Mapping[str, nn.Module] | None = None,
    measure: bool = True,
    batch: int = 1,
    seconds: float = 0.3,
    pooling: str = "default",
) -> dict[str, ExitCost]:
    """Cost of every exit for one input shape, in order of depth.

    Args:
        encoder: Any encoder, on any device; neither its weights nor its mode change.
        input_shape: Shape of one window, e.g. ``(2, antennas, time)``; a batch axis of 1 in front is accepted too.
        heads: A module for each exit, from its tap to ``(N, outputs)``; exits that it lacks are counted without head.
        measure: Whether to measure latency too.
        batch: Windows per measured call. MACs are always for one window.
        seconds: Measuring time per exit, on average over the exits; at least 20 calls each are timed.
        pooling: Of the taps that the heads take: see :meth:`StagedEncoder.tap`.

    Raises:
        EncoderError: The encoder does not take this shape, or ``heads`` names an unknown exit.
    """
    shape = _window_shape(encoder, tuple(input_shape))
    heads = dict(heads or {})
    for name in heads:
        encoder.exit_index(name)
    macs = _count_macs(encoder, shape, heads, pooling)
    latencies = exit_latencies(encoder, shape, heads, batch, seconds, pooling) if measure else {}
    return {
        exit.name: ExitCost(
            exit.name,
            *macs[exit.name],
            params=exit.params + _parameters(heads.get(exit.name)),
            latency_ms=latencies.get(exit.name),
        )
        for exit in encoder.exits
    }


def exit_latencies(
    encoder: StagedEncoder,
    shape: tuple[int, ...],
    heads: Mapping[str, nn.Module],
    batch: int = 1,
    seconds: float = 0.3,
    pooling: str = "default",
) -> dict[str, Latency]:
    """Latency from input to tap or head output at every exit; arguments as for :func:`exit_costs`."""
    model = copy.deepcopy(encoder).eval()
    device = next(model.parameters()).device
    x = encoder.input.draw(batch, shape).to(device)

    def call(name: str) -> Callable[[], object]:
        network = model.truncate(name, pooling)
        head = copy.deepcopy(heads[name]).eval().to(device) if name in heads else nn.Identity()
        # Reading the result back waits for an accelerator.
        return lambda: head(network(x)).cpu()

    return measure_latency({exit.name: call(exit.name) for exit in encoder.exits}, seconds)


def measure_latency(
    calls: Mapping[str, Callable[[], object]], seconds: float = 0.3, repeats: int = 20
) -> dict[str, Latency]:
    """Latency of each call on one thread: see :func:`time_interleaved`."""
    return {name: latency_of(times) for name, times in time_interleaved(calls, seconds, repeats).items()}


def latency_of(seconds: NDArray[np.float64]) -> Latency:
    """Percentiles of the times of single calls, ``(rounds,)`` seconds."""
    p50, p95, p99 = (float(value) for value in np.percentile(seconds * 1e3, (50, 95, 99)))
    return Latency(p50=p50, p95=p95, p99=p99)


def time_interleaved(
    calls: Mapping[K, Callable[[], object]],
    seconds: float = 0.3,
    repeats: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, NDArray[np.float64]]:
    """Time some calls round by round, each round in another order, so that drift, caches and neighbours favour none.

    Torch runs on one thread, in inference mode; its thread count is restored afterwards.

    Args:
        calls: What to time, by name.
        seconds: Time to spend per call, on average over the calls.
        repeats: Smallest number of rounds, even if they take longer.
        clock: Seconds now; ``time.thread_time`` leaves out what other processes take from this thread.

    Returns:
        Seconds of every single call, float64 ``(rounds,)`` by name.
    """
    times: dict[K, list[float]] = {name: [] for name in calls}
    order, shuffler, rounds = list(calls), random.Random(0), 0
    with _one_thread(), inference():
        for call in calls.values():
            for _ in range(WARM_UP):
                call()
        deadline = time.perf_counter() + seconds * len(calls)
        while rounds < repeats or (time.perf_counter() < deadline and rounds < MAX_ROUNDS):
            shuffler.shuffle(order)
            for name in order:
                times[name].append(_seconds(calls[name], clock))
            rounds += 1
    return {name: np.asarray(seconds) for name, seconds in times.items()}


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _window_shape(encoder: StagedEncoder, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == len(encoder.input.shape) + 1 and shape[0] == 1:
        shape = shape[1:]
    encoder.input.check(shape)
    return shape


def _count_macs(
    encoder: StagedEncoder, shape: tuple[int, ...], heads: Mapping[str, nn.Module], pooling: str
) -> dict[str, tuple[int, int]]:
    """MACs of one window to every exit's tap, and of its head. The meta device runs nothing, and there fused attention is counted too."""
    model = copy.deepcopy(encoder).to("meta").eval()
    macs = {}
    with torch.no_grad():
        prefix, state = _counted(lambda: model.begin(torch.empty(1, *shape, dtype=model.input.dtype, device="meta")))
        for exit in encoder.exits:
            stage, state = _counted(lambda exit=exit, state=state: model.advance(exit.index, state))  # type: ignore[misc]
            prefix += stage + model.uncounted_macs(exit.index, shape)
            pool, tap = _counted(lambda exit=exit, state=state: model.tap(exit.index, state, pooling))  # type: ignore[misc]
            head = heads.get(exit.name)
            macs[exit.name] = prefix + pool, _head_macs(head, tap) if head is not None else 0
    return macs


def _head_macs(head: nn.Module, tap: Tensor) -> int:
    try:
        return _counted(lambda: copy.deepcopy(head).to("meta")(tap))[0]
    except RuntimeError as error:
        raise EncoderError(f"a head does not take taps of width {tap.shape[-1]}: {error}") from None


def _counted(call: Callable[[], T]) -> tuple[int, T]:
    with FlopCounterMode(display=False) as counter:
        result = call()
    return counter.get_total_flops() // 2, result


def _parameters(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0
