"""What `earlyon_comparison.py` runs: the suite's task `modulation` on frozen `iq-resnet`, by `earlyon` and by ours.

Same: encoder, weights, exits, windows of training, validation and test per seed, the head at full depth (ours), MACs (counted by ours
for both: encoder to where a window leaves, and every head it was asked by). Mean accuracy is over seeds and test windows.

Rows: `ours` heads of the suite (linear) or `mlp` (one hidden layer, as in `earlyon`), at one fixed exit or under a confidence policy
with thresholds per exit; `earlyon` as it comes (threshold 0.8), as its README tells (calibrated to 1% of accuracy), and at its best:
heads trained longer, temperatures, fine grid of thresholds, confidence or entropy, whatever is best on validation. Policies are matched
at three budgets of mean MACs on validation. For speed, there is also our policy with our heads executed by `earlyon`.

Times are CPU time of the one thread, so that other processes distort them less; all calls take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import theirs
import torch
from earlyon.staged import staged_model
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from ways import TASK, Answered, Indices, Ours, Outcome, Task, Theirs

from offramp.costs import time_interleaved
from offramp.experiment.features import fill_bank
from offramp.policies.policy import Policy
from offramp.runtime.torch_segments import run_cascade
from offramp.scoring.resampling import Resamples

LEAN = 0.5
"""The leanest budget: a share of full depth."""
BATCHES, BATCH_ROUNDS = (64, 256, 1024), 5
LOOPED = 64
"""Windows per timed call of what takes one window at a time."""
BUDGETS = ("as the fixed exit", "as earlyon's README", "half of full depth")


def gain(first: Outcome, second: Outcome) -> dict[str, float | list[float]]:
    """Difference of accuracy in points, paired over test windows and seeds, and its 95% interval."""
    difference = first.right.astype(np.float64) - second.right
    resamples = Resamples.draw(difference.shape[1], difference.shape[0], 0)
    draws = resamples.combine(resamples.units @ difference.T, difference.mean(1))
    low, high = np.quantile(draws, (0.025, 0.975))
    return {
        "points": round(100 * float(difference.mean()), 2),
        "ci95": [round(100 * float(low), 2), round(100 * float(high), 2)],
    }


def one_at_a_time(call: Callable[[Tensor], object], windows: Tensor, count: int = 1) -> Callable[[], object]:
    """A call that answers the next windows, one by one."""
    numbers = itertools.cycle(range(len(windows)))

    def run() -> None:
        for number in itertools.islice(numbers, count):
            call(windows[number : number + 1])

    return run


def in_batches(call: Callable[[Tensor], object], windows: Tensor, batch: int) -> Callable[[], object]:
    """A call that answers the next batch."""
    batches = windows[torch.arange(len(windows) * batch // np.gcd(len(windows), batch)) % len(windows)]
    starts = itertools.cycle(range(0, len(batches), batch))

    def run() -> object:
        start = next(starts)
        return call(batches[start : start + batch])

    return run


def speed(
    calls: Mapping[str, Callable[[Tensor], object]],
    single: Mapping[str, Callable[[Tensor], object]],
    windows: Tensor,
    rounds: int,
) -> dict[str, object]:
    """Latency of single windows for all calls, and throughput in batches; `single` takes one window at a time."""
    clock = time.thread_time
    ones = {
        name: one_at_a_time(call, windows) for name, call in {**calls, **single}.items() if "whole batch" not in name
    }
    latency = time_interleaved(ones, 0, rounds, clock)
    throughput: dict[str, dict[str, float]] = {}
    for batch in BATCHES:
        timed = {name: in_batches(call, windows, batch) for name, call in calls.items()}
        timed |= {name: one_at_a_time(call, windows, LOOPED) for name, call in single.items()}
        seconds = time_interleaved(timed, 0, BATCH_ROUNDS, clock)
        throughput[str(batch)] = {
            name: round((batch if name in calls else LOOPED) / float(np.median(of_call)))
            for name, of_call in seconds.items()
        }
    return {
        "batch_1_ms": {
            name: {f"p{percent}": round(1e3 * float(np.percentile(seconds, percent)), 3) for percent in (50, 99)}
            for name, seconds in latency.items()
        },
        "windows_per_second": throughput,
    }


def whole_batches(mine: Theirs, routing: theirs.Routing, windows: Tensor) -> dict[str, object]:
    """What `forward_inference_batched` does to batches of test windows: share of full depth's MACs, and how many left early."""
    model, rows = routing.apply(mine.model), {}
    last = len(model.config.exit_points)
    for batch in (2, 4, 8, *BATCHES):
        parts = windows.split(batch)
        exits = [model.forward_inference_batched(part).exit_taken for part in parts]
        left = np.asarray([last if exit < 0 else exit for exit in exits])
        macs = mine.mean_macs(left, model.config.enabled_exits)
        rows[str(batch)] = {
            "of_full": round(macs / mine.costs.fixed()[-1], 3),
            "batches_that_left_early": round(float((left < last).mean()), 3),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Task(arguments.seeds), Path(folder), arguments.rounds)))


def compare(task: Task, folder: Path, rounds: int) -> dict[str, object]:
    seeds = range(len(task.problem.split.draws))
    started = time.process_time()
    bank = fill_bank(task.encoder, task.prepared.dataset.windows, task.prepared.transform, folder)
    seconds = {"ours: encoder, once": time.process_time() - started}
    linear, mlp = Ours(task, bank, "linear"), Ours(task, bank, "mlp")
    seconds |= {"ours: linear heads": linear.seconds_of_one, "ours: mlp heads": mlp.seconds_of_one}
    full = float(linear.costs.fixed()[-1])
    fixed = linear.fixed_exit()

    trained, tuned, at_best, budgets, epochs = [], [], [], [], []
    outcomes: dict[str, list[Answered]] = {"earlyon, as it comes": [], "earlyon, as its README": []}
    widths = {exit.name: exit.width for exit in task.encoder.exits}

    def side_by_side(rows: Indices) -> Tensor:
        return torch.from_numpy(np.concatenate([bank.taps(name)[rows] for name in task.names], axis=1))

    for seed in seeds:
        head = linear.heads[seed][task.names[-1]]
        train, held = task.folds(seed)
        validation, test = task.loader(held), task.loader(task.test)
        kept, kept_held = (
            theirs.loader(side_by_side(rows), task.labels(rows), rows is train) for rows in (train, held)
        )
        mine, longer = Theirs(task, head), Theirs(task, head)
        started = time.process_time()
        if seed == 0:
            theirs.train(mine.model, task.loader(train, shuffle=True))
            seconds["earlyon: heads as its README, 20 epochs"] = time.process_time() - started
        else:
            theirs.train(theirs.on_taps(mine.model, widths), kept)
        known = theirs.logits(mine.model, test)
        outcomes["earlyon, as it comes"].append(mine.answers(theirs.Routing.of(mine.model), known))
        routing = theirs.readme_routing(mine.model, validation)
        outcomes["earlyon, as its README"].append(mine.answers(routing, known))
        left, _ = theirs.decide(theirs.logits(mine.model, validation), mine.model)
        asked = [float(linear.costs.fixed()[fixed]), mine.mean_macs(left, mine.model.config.enabled_exits), LEAN * full]

        twin = theirs.on_taps(longer.model, widths)
        started = time.process_time()
        epochs.append(theirs.train_longer(twin, kept, kept_held))
        seconds.setdefault("earlyon: heads on kept taps, 100 epochs", time.process_time() - started)
        found = theirs.best_routings(twin, kept_held, asked, full, longer.mean_macs)
        known = theirs.logits(longer.model, test)
        at_best.append([longer.answers(each, known) if each else None for each in found])
        trained.append((mine, routing))
        tuned.append((longer, found))
        budgets.append(asked)

    rows = {
        "full depth": linear.at_exit(-1),
        "ours, fixed exit": linear.at_exit(fixed),
        **{name: Outcome.of(of_seeds) for name, of_seeds in outcomes.items()},
    }
    policies = linear.policies(budgets)
    routed = {"ours": policies, "ours, mlp heads": mlp.policies(budgets)}
    gains = {"ours, fixed exit - full depth": gain(rows["ours, fixed exit"], rows["full depth"])}
    for number, budget in enumerate(BUDGETS):
        for name, ways, found in (("ours", linear, policies), ("ours, mlp heads", mlp, routed["ours, mlp heads"])):
            rows[f"{name}, policy, {budget}"] = ways.under([of_seed[number] for of_seed in found])
        best = [of_seed[number] for of_seed in at_best]
        if all(best):
            rows[f"earlyon at its best, {budget}"] = Outcome.of(best)
        rival = f"earlyon at its best, {budget}" if all(best) else "earlyon, as its README"
        for name in routed:
            gains[f"{name}, policy, {budget} - {rival}"] = gain(rows[f"{name}, policy, {budget}"], rows[rival])
    readme = "earlyon, as its README"
    gains[f"ours, policy, {BUDGETS[1]} - {readme}"] = gain(rows[f"ours, policy, {BUDGETS[1]}"], rows[readme])
    return {
        "benchmark": "earlyon_comparison",
        "versions": {name: version(name) for name in ("earlyon", "fvcore", "offramp", "torch", "numpy")},
        "task": TASK,
        "encoder": "iq-resnet, pretrained, frozen",
        "windows": {"train": len(train), "validation": len(held), "test": len(task.test), "classes": task.classes},
        "seeds": len(outcomes[readme]),
        "full_macs": full,
        "fixed_exit": task.names[fixed],
        "rows": {name: row.row(full) for name, row in rows.items()},
        "gains": gains,
        "best_epochs": epochs,
        "fit_cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
        **executed(task, linear, policies[0], fixed, trained[0], tuned[0], rounds),
    }


def executed(
    task: Task,
    ours: Ours,
    policies: list[Policy],
    fixed: int,
    readme: tuple[Theirs, theirs.Routing],
    best: tuple[Theirs, list[theirs.Routing | None]],
    rounds: int,
) -> dict[str, object]:
    """Everything on one thread, with the first seed's heads: speed, and whether what runs decides as what was counted."""
    windows, heads, encoder = task.windows(task.test), ours.heads[0], task.encoder
    policy = policies[-1]

    def cut(exit: str) -> nn.Module:
        return nn.Sequential(encoder.truncate(exit), heads[exit]).eval()

    def cascade(policy: Policy) -> Callable[[Tensor], object]:
        return lambda x: run_cascade(encoder, heads, policy, x)

    mine, routing = readme
    routed = routing.apply(mine.model)
    staged = staged_model(routed).eval()
    same = theirs.wrap_ours(
        encoder,
        {exit: heads[exit] for exit in policy.exits},
        policy.thresholds,
        policy.temperatures,
        task.classes,
        task.shape,
    )
    same_staged = staged_model(same).eval()
    calls: dict[str, Callable[[Tensor], object]] = {
        "full depth": cut(task.names[-1]),
        "ours, fixed exit": cut(task.names[fixed]),
        **{f"ours, policy, {budget}": cascade(each) for budget, each in zip(BUDGETS, policies, strict=True)},
        "earlyon, as its README, whole batch": routed.forward_inference_batched,
    }
    single: dict[str, Callable[[Tensor], object]] = {
        "earlyon, as its README": routed,
        "earlyon, as its README, staged": staged.infer,
        f"our policy and heads in earlyon, {BUDGETS[-1]}": same,
        f"our policy and heads in earlyon, {BUDGETS[-1]}, staged": same_staged.infer,
    }
    longer, routings = best
    if routings[-1] is not None:
        single[f"earlyon at its best, {BUDGETS[-1]}, staged"] = (
            staged_model(routings[-1].apply(longer.model)).eval().infer
        )
    decided = run_cascade(encoder, heads, policy, windows)
    names = [*range(len(policy.exits) - 1), -1]
    one_by_one = np.asarray([names.index(same(window[None]).exit_taken) for window in windows])
    left, _ = theirs.decide(theirs.logits(mine.model, task.loader(task.test)), mine.model)
    exits = [*range(len(task.names) - 1), -1]
    theirs_left = np.asarray([exits.index(routed(window[None]).exit_taken) for window in windows])
    return {
        "agreement": {
            "our policy, executed as simulated": float((decided.exit == ours.tests[0].decide(policy).exit).mean()),
            "our policy in earlyon, same exits": float((decided.exit == one_by_one).mean()),
            "earlyon, executed as counted": float((theirs_left == left).mean()),
        },
        "consulted": {
            "ours": {budget: list(each.exits) for budget, each in zip(BUDGETS, policies, strict=True)},
            "earlyon, as its README": [name for name, on in zip(task.names, routing.enabled, strict=False) if on],
        },
        "whole_batch": whole_batches(mine, routing, windows),
        **speed(calls, single, windows, rounds),
    }


if __name__ == "__main__":
    main()
