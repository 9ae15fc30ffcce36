"""Tests the paper's claims on simulated signals and writes docs/study.md. Hours; every finished piece is kept, so start it again after a kill.

python study/make_study.py [--runs runs/study] [--stage pretrain score scratch layers choose cost page]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from choosing import score_criteria
from energy import joules_per_call
from layers import layers_over_steps
from page import write_page
from plan import ENCODER, MAIN_RUN, PRETRAINED, PRETRAINING, RANDOM, SHOTS, TASKS, StudyTask
from probing import encoder_of, score, seen, taps_of, task_data
from scratch import score_scratch

from offramp import exit_costs, load_encoder
from offramp.files import write_text
from offramp.training.pretrain import PretrainingProgress, pretrain

PROBES = dict.fromkeys(PRETRAINED, ("neighbour", "equal_width")) | dict.fromkeys(RANDOM, ("neighbour",))
"""Beside the linear one."""


def main() -> None:
    """Run the stages that are asked for, in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/study"))
    parser.add_argument("--stage", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--only", nargs="*", help="pretraining runs, or encoders to score; all if left out")
    arguments = parser.parse_args()
    for folder in ("pretraining", "scores", "scratch", "criteria"):
        (arguments.runs / folder).mkdir(parents=True, exist_ok=True)
    for stage in arguments.stage:
        STAGES[stage](arguments.runs, arguments.only)


def _pretrain(runs: Path, only: list[str] | None) -> None:
    for name in only or PRETRAINING:
        config = PRETRAINING[name]

        def report(progress: PretrainingProgress, name: str = name, steps: int = config.steps) -> None:
            if progress.step % 100 == 0:
                print(f"{name}: step {progress.step} of {steps}, loss {progress.loss:.3f}", flush=True)

        _once(
            runs / "pretraining" / name / "encoder",
            lambda _, c=config, n=name, r=report: pretrain(c, runs / "pretraining" / n, on_step=r),
        )


def _score(runs: Path, only: list[str] | None) -> None:
    for task in TASKS:
        data = None
        for name in only or (*PRETRAINED, *RANDOM):
            out = runs / "scores" / f"{name}-{task.name}.npz"
            if out.exists():
                continue
            data = data or task_data(task)
            taps = taps_of(encoder_of(name, task, runs), data.windows)
            probes = PROBES[name]
            _once(out, lambda path, t=taps, d=data, p=probes: score(t, d, path, SHOTS, p))


def _scratch(runs: Path, only: list[str] | None) -> None:
    for task in TASKS:
        if only is None or task.name in only:
            _once(runs / "scratch" / f"{task.name}.npz", lambda path, t=task: score_scratch(task_data(t), path))


def _layers(runs: Path, only: list[str] | None) -> None:
    _once(runs / "layers.json", lambda path: layers_over_steps(runs / "pretraining" / MAIN_RUN, path))


def _choose(runs: Path, only: list[str] | None) -> None:
    for task in TASKS:
        for name in PRETRAINED:

            def choose(path: Path, name: str = name, task: StudyTask = task) -> None:
                stored = runs / "scores" / f"{name}-{task.name}.npz"
                score_criteria(encoder_of(name, task, runs), task_data(task), stored, path)

            _once(runs / "criteria" / f"{name}-{task.name}.json", choose)


def _cost(runs: Path, only: list[str] | None) -> None:
    _once(runs / "costs.json", lambda path: write_text(path, json.dumps(_costs())))


def _costs() -> dict[str, dict[str, dict[str, float | None]]]:
    """MACs, median milliseconds of one window on one thread, and joules, by input shape and exit."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for shape in sorted({(2, task.spec.antennas, task.spec.samples) for task in TASKS}):
        encoder = seen(load_encoder(ENCODER, weights="random").eval(), shape)
        window = torch.zeros(1, *shape)
        found["x".join(map(str, shape))] = {
            name: {
                "macs": cost.macs,
                "milliseconds": cost.latency_ms.p50 if cost.latency_ms else None,
                "joules": joules_per_call(lambda e=encoder, n=name, w=window: e.taps(w, [n])),
            }
            for name, cost in exit_costs(encoder, shape, seconds=2.0).items()
        }
    return found


def _page(runs: Path, only: list[str] | None) -> None:
    write_page(runs, Path(__file__).resolve().parents[1] / "docs")


def _once(out: Path, make: Callable[[Path], object]) -> None:
    """Make what is not there yet, and say how long it took."""
    if out.exists():
        return
    started = time.monotonic()
    make(out)
    print(f"{out}: {time.monotonic() - started:.0f} s", flush=True)


STAGES = {
    "pretrain": _pretrain,
    "score": _score,
    "scratch": _scratch,
    "layers": _layers,
    "choose": _choose,
    "cost": _cost,
    "page": _page,
}

if __name__ == "__main__":
    main()
