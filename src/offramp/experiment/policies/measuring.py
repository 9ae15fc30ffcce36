"""Policies really executed and timed on this machine, and the comparison again at matched time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offramp.costs import time_interleaved
from offramp.encoders.base import StagedEncoder, State
from offramp.experiment.policies.arrivals import bursty_arrivals, cascade_service, fit_stage_times, queueing_latency
from offramp.experiment.policies.budgets import Budget, Contest, run_contest
from offramp.policies.costs import CascadeCosts
from offramp.policies.policy import Policy
from offramp.policies.search import with_answer_temperatures
from offramp.runtime.torch_segments import run_cascade
from offramp.schema.policies import PoliciesSpec
from offramp.schema.results import Arrivals, BudgetRow, MeasuredPolicies, MeasuredRow
from offramp.scoring.metrics import Array

STAGE_ROUNDS = 5
"""Rounds in which every exit's way is timed."""
RUN_ROUNDS = 9
"""Rounds in which policies are executed."""
SLOWER = 1.05
"""A policy that is executed takes longer than a fixed exit if it takes so many times as long."""
UTILISATION = 0.5
"""Mean load of the arrival trace: of what full depth answers in full batches."""
ARRIVED = 20_000
"""Windows in the arrival trace."""
BURST = 20
"""Mean length of a burst, in mean times between arrivals, so that it means the same for fast and slow encoders."""
LEAST_SECONDS = 1e-7


@dataclass(frozen=True, eq=False)
class Machine:
    """What is executed: an encoder with the heads of one seed.

    Attributes:
        encoder: Frozen, as the task sees it.
        heads: Per exit, on the encoder's device.
        inputs: A batch of test windows behind the transform, ``(n, ...)`` on the encoder's device.
    """

    encoder: StagedEncoder
    heads: Mapping[str, nn.Module]
    inputs: Tensor

    def fixed(self, exit: str) -> Callable[[], object]:
        """A call that answers the batch at a fixed exit."""
        network, head = self.encoder.truncate(exit), self.heads[exit]
        return lambda: head(network(self.inputs)).cpu()

    def routed(self, policy: Policy) -> Callable[[], object]:
        """A call that answers the batch under a policy."""
        return lambda: run_cascade(self.encoder, self.heads, policy, self.inputs)


def measure_policies(
    contest: Contest,
    machine: Machine,
    chosen: Budget,
    fixed: str,
    asked: PoliciesSpec,
    seed: int,
) -> tuple[MeasuredPolicies, Policy]:
    """Time what was compared at matched MACs, search again at matched time, and execute that too.

    Args:
        contest: The task, its costs in MACs.
        machine: The encoder with the heads of the first seed.
        chosen: Policies at the chosen budget in MACs.
        fixed: The fixed exit of that budget.
        asked: The suite's section: criteria, and a budget or a service level in milliseconds.
        seed: Of the arrival trace.

    Returns:
        The part of the results, and the policy of the first seed that was found at matched time.

    Raises:
        PolicyError: No exit is fast enough.
    """
    full, batch = contest.exits[-1], len(machine.inputs)
    milliseconds = stage_milliseconds(machine, contest.exits)
    timed = replace(contest, costs=milliseconds)
    name, budget = fixed, float(milliseconds.fixed()[contest.exits.index(fixed)])
    if asked.budget is not None and asked.budget.latency_ms is not None:
        name, budget = "asked", asked.budget.latency_ms
    milliseconds.check_budget(budget)
    worst = asked.service_level.latency_ms if asked.service_level else None
    (matched,) = run_contest(timed, asked.criteria_for(contest.problem.task.kind), [(name, budget)], worst)
    at_time = matched.row.fixed.name
    by_time = with_answer_temperatures(matched.routed[0], contest.val[0].windows)
    policies = {"routed at matched MACs": chosen.routed[0], "routed at matched time": by_time}
    exits = dict.fromkeys([full, fixed, at_time])
    calls: dict[str, Callable[[], object]] = {exit: machine.fixed(exit) for exit in exits}
    calls |= {name: machine.routed(policy) for name, policy in policies.items()}
    times = {name: float(np.median(runs)) for name, runs in time_interleaved(calls, 0.0, RUN_ROUNDS).items()}

    def row(name: str, of: str, macs: float, score: float | None) -> MeasuredRow:
        return MeasuredRow(
            name=name,
            milliseconds=1e3 * times[of] / batch,
            macs_saved_fraction=1 - macs / float(contest.costs.fixed()[-1]),
            time_saved_fraction=1 - times[of] / times[full],
            score=score,
        )

    def fixed_row(name: str, exit: str) -> MeasuredRow:
        index = contest.exits.index(exit)
        sums = contest.fitted[index].test_sums[0].sum(0)
        return row(name, exit, float(contest.costs.fixed()[index]), float(contest.problem.metric.score(sums)))

    def routed_row(name: str) -> MeasuredRow:
        policy, test = policies[name], contest.test[0]
        decided = test.decide(policy)
        score = float(contest.problem.metric.score(test.statistics(decided, policy).sum(0)))
        return row(name, name, float(contest.leaving_costs(policy)[_executed(machine, policy)].mean()), score)

    rows = [fixed_row("full depth", full), fixed_row(f"fixed {fixed}", fixed), routed_row("routed at matched MACs")]
    measured = MeasuredPolicies(
        batch=batch,
        threads=1,
        rows=rows,
        at_matched_time=_as_executed(matched.row, times["routed at matched time"] / times[at_time]),
        executed=[fixed_row(f"fixed {at_time}", at_time), routed_row("routed at matched time")],
        arrivals=_arrivals(contest, machine, milliseconds, fixed, policies["routed at matched time"], seed),
    )
    return measured, by_time


def _as_executed(row: BudgetRow, longer: float) -> BudgetRow:
    """Routing that takes longer than the fixed exit when it is executed has not won at matched time."""
    if row.verdict == "routing" and longer > SLOWER:
        return row.model_copy(update={"verdict": "neither"})
    return row


@torch.inference_mode()
def stage_milliseconds(machine: Machine, exits: Sequence[str]) -> CascadeCosts:
    """Time of one window to every exit, and of pooling, head and a decision there, in batches as they come; medians.

    Every stage is timed by itself, from the state before it, and the way to an exit is their sum.
    """
    encoder = machine.encoder
    calls: dict[tuple[str, str], Callable[[], object]] = {
        ("stage", "begin"): partial(_settle, encoder.begin, machine.inputs)
    }
    state = encoder.begin(machine.inputs)
    for stage, exit in enumerate(exits):
        calls["stage", exit] = partial(_settle, encoder.advance, stage, state)
        state = encoder.advance(stage, state)
        calls["consult", exit] = partial(_consult, machine, exit, state)
    times = {name: float(np.median(runs)) for name, runs in time_interleaved(calls, 0.0, STAGE_ROUNDS).items()}
    scale = 1e3 / len(machine.inputs)
    stages = [times["stage", name] * scale for name in ("begin", *exits)]
    consult = tuple(times["consult", exit] * scale for exit in exits)
    return CascadeCosts(tuple(np.cumsum(stages)[1:].tolist()), consult, "ms")


def _settle(run: Callable[..., State], *given: object) -> None:
    """Run, and read something back, which waits for an accelerator."""
    run(*given)[0].flatten()[:1].cpu()


def _consult(machine: Machine, exit: str, state: State) -> None:
    """Pool, answer, and decide whom to let go by the distance to an answer before, where the runtime decides."""
    outputs = machine.heads[exit](machine.encoder.tap(machine.encoder.exit_index(exit), state))
    decided = outputs.numpy() if outputs.device.type == "cpu" else outputs
    policy = Policy("regression", "agreement", (exit, ""), (np.inf,), (1.0, 1.0), (1.0, 1.0))
    leave, _ = policy.step(exit, decided, (policy.start(len(outputs))[0], decided))
    int(leave.sum())


def _executed(machine: Machine, policy: Policy) -> NDArray[np.int64]:
    """Where the windows of the batch leave."""
    return run_cascade(machine.encoder, machine.heads, policy, machine.inputs).exit


def _arrivals(
    contest: Contest, machine: Machine, batched: CascadeCosts, fixed: str, routed: Policy, seed: int
) -> list[Arrivals]:
    """Latency of full depth, the fixed exit and the routed policy under one bursty trace, windows in order of the test set."""
    batch, exits = len(machine.inputs), contest.exits
    if batch < 2:
        return []
    single = stage_milliseconds(replace(machine, inputs=machine.inputs[:1]), exits)
    rate = UTILISATION * 1e3 / float(batched.fixed()[-1])
    times = bursty_arrivals(rate, ARRIVED / rate, seed, burst_s=BURST / rate)
    ways = {
        "full depth": ((len(exits) - 1,), np.zeros(1, dtype=np.int64)),
        f"fixed {fixed}": ((exits.index(fixed),), np.zeros(1, dtype=np.int64)),
        "routed at matched time": (
            tuple(exits.index(exit) for exit in routed.exits),
            contest.test[0].decide(routed).exit,
        ),
    }
    rows = []
    for name, (consulted, left) in ways.items():
        stages = [_stage_seconds(costs, consulted) * size for costs, size in ((single, 1), (batched, batch))]
        service = cascade_service(*fit_stage_times(np.stack(stages), np.asarray([1, batch])))
        places = np.resize(left, len(times))
        latency = 1e3 * queueing_latency(times, places, service, batch)
        p50, p95, p99 = (float(value) for value in np.percentile(latency, (50, 95, 99)))
        spread = left[np.linspace(0, len(left) - 1, batch).astype(np.int64)]
        load = rate * service(spread) / batch
        rows.append(Arrivals(name=name, p50_ms=p50, p95_ms=p95, p99_ms=p99, utilisation=load))
    return rows


def _stage_seconds(costs: CascadeCosts, consulted: Sequence[int]) -> Array:
    """Seconds of one window from one consulted exit to the next, head and decision included."""
    reach = np.asarray(costs.reach)[list(consulted)]
    seconds = (np.diff(reach, prepend=0.0) + np.asarray(costs.consult)[list(consulted)]) / 1e3
    positive: Array = np.maximum(seconds, LEAST_SECONDS)
    return positive
