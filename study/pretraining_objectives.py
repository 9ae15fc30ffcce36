"""Which way of pretraining serves the embedded suite? One table of ID tasks to choose by, and one of OOD tasks to look at.

Every exit of every encoder gets the suite's heads. All scores are of validation windows; no test score is shown. Choose by the ID
table: whoever chooses by the other one has no OOD tasks left. Every finished task of an encoder is kept in the output folder, so start
it again after a kill.

python study/pretraining_objectives.py today=iq-resnet mixed=runs/mixed/encoder [--seeds 2] [--pooling suite default statistics] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offramp.encoders.registry import packaged_weights
from offramp.encoders.storage import is_encoder_folder, read_config
from offramp.experiment.features import remove_banks
from offramp.experiment.prepare import Context, features_of, fit_exits, load, prepare
from offramp.files import write_text
from offramp.progress import silent
from offramp.schema.suite import LoadedSuite, load_suite
from offramp.schema.tasks import TaskSpec
from offramp.scoring.metrics import METRICS
from offramp.scoring.resampling import summarise

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "pretraining-objectives"
HEAD = "suite"
"""Of the choices of ``--pooling``: every task's own."""


@dataclass(frozen=True)
class Candidate:
    """An encoder to compare.

    Attributes:
        label: What tables call it.
        source: Registered name or encoder folder.
    """

    label: str
    source: str

    @property
    def made(self) -> str:
        """How it was pretrained, as far as its folder says so."""
        folder = Path(self.source) if is_encoder_folder(Path(self.source)) else packaged_weights(self.source)
        provenance = read_config(folder).get("provenance", {}) if folder else {}
        settings: dict[str, Any] = provenance.get("pretraining", {})
        if not settings:
            return ""
        labels = settings.get("labels", "") if provenance.get("labels") else "none"
        views = settings.get("views", "same")
        return f"{settings['objective']}, labels {labels}, views {views}, {provenance.get('step', settings['steps'])} steps"


@dataclass(frozen=True)
class ExitScore:
    """Validation score of one exit, mean over the seeds, and its share of the operations, head included."""

    exit: str
    share: float
    score: float


Scores = list[ExitScore]


def main() -> None:
    """Score what is missing, then write both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encoders", nargs="+", metavar="LABEL=ENCODER", help="registered name or encoder folder")
    parser.add_argument("--seeds", type=int, default=2, help="draws of training and validation windows")
    parser.add_argument(
        "--pooling",
        nargs="+",
        default=[HEAD],
        help="of every task's head: default, statistics, quantiles; suite: its own. Of the first every exit is shown, of the others the best",
    )
    parser.add_argument("--tasks", nargs="*", help="those of the suite; all if left out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--page", type=Path, help="where to write the tables; in the output folder if left out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    candidates = [Candidate(*text.partition("=")[::2]) for text in arguments.encoders]
    scores: dict[str, dict[str, dict[str, Scores]]] = {}
    for pooling in arguments.pooling:
        suite = asked_suite(load_suite(), arguments.seeds, pooling, arguments.tasks)
        scores[pooling] = {each.label: scores_of(each, suite, arguments.out) for each in candidates}
    page = written(candidates, suite.tasks, scores[arguments.pooling[0]])
    if len(scores) > 1:
        page += "\n" + "\n".join(by_pooling(suite.tasks, scores)) + "\n"
    write_text(arguments.page or arguments.out / "objectives.md", page)
    print(page)


def asked_suite(loaded: LoadedSuite, seeds: int, pooling: str, tasks: Sequence[str] | None) -> LoadedSuite:
    """The suite with other seeds, heads that pool otherwise, and some of its tasks."""
    kept = []
    for task in loaded.suite.tasks:
        if tasks and task.name not in tasks:
            continue
        head = task.head if pooling == HEAD else task.head.model_copy(update={"pooling": pooling})
        kept.append(task.model_copy(update={"head": head}))
    changes = {"seeds": list(range(seeds)), "tasks": kept, "controls": [], "policies": None}
    return replace(loaded, suite=loaded.suite.model_copy(update=changes))


def scores_of(candidate: Candidate, suite: LoadedSuite, out: Path) -> dict[str, Scores]:
    """Every exit's validation score by task, from the output folder as far as they are there."""
    source = str(Path(candidate.source).resolve()) if Path(candidate.source).is_dir() else candidate.source
    spec = suite.encoder.model_copy(update={"name": source})
    loaded = replace(suite, suite=suite.suite.model_copy(update={"encoder": spec}))
    encoder = load(loaded, "cpu")
    context = Context(encoder, loaded, out / "features", "cpu", silent)
    scores = {}
    for task in loaded.tasks:
        place = (
            out
            / encoder.fingerprint()[:12]
            / f"{task.name}-{task.head.pooling}-{task.head.side}-{len(loaded.suite.seeds)}.json"
        )
        if not place.exists():
            print(f"{candidate.label}: {task.name}", flush=True)
            write_text(place, json.dumps([asdict(exit) for exit in _scored(context, task)]))
            remove_banks(context.features)
        scores[task.name] = [ExitScore(**exit) for exit in json.loads(place.read_text())]
    return scores


def _scored(context: Context, task: TaskSpec) -> Scores:
    prepared = prepare(task, context.loaded, context.encoder)
    fitted, _ = fit_exits(context, prepared, features_of(context, prepared, context.encoder, "encoder"), "heads")
    full = prepared.costs[-1].macs
    return [
        ExitScore(exit.name, cost.macs / full, summarise(exit.val_sums, prepared.problem.metric).mean)
        for exit, cost in zip(fitted, prepared.costs, strict=True)
    ]


def best_exit(scores: Scores, task: TaskSpec) -> ExitScore:
    """The best on validation; of equals the shallowest."""
    sign = METRICS[task.metric_name].sign
    return max(scores, key=lambda exit: sign * exit.score)


def mean_accuracy(scores: dict[str, Scores], tasks: Sequence[TaskSpec]) -> float:
    """Of the best exits of the ID tasks that are scored by accuracy: what to choose by."""
    best = [best_exit(scores[task.name], task).score for task in tasks if task.metric_name == "accuracy"]
    return float(np.mean(best)) if best else float("nan")


def written(candidates: Sequence[Candidate], tasks: Sequence[TaskSpec], scores: dict[str, dict[str, Scores]]) -> str:
    """Both tables as Markdown."""
    known = [task for task in tasks if task.shift == "id"]
    unseen = [task for task in tasks if task.shift != "id"]
    lines = [
        "# Pretraining objectives",
        "",
        "Validation scores, means over the seeds. In brackets the exit and its share of the MACs.",
    ]
    lines += ["", "| encoder | made by |", "|---|---|"]
    lines += [f"| {each.label} | {each.made} |" for each in candidates]
    if known:
        means = {row: mean_accuracy(of_row, known) for row, of_row in scores.items()}
        ranked = sorted(means, key=lambda row: -means[row])
        lines += ["", "## ID tasks: choose by these", ""]
        lines += [f"Mean accuracy of the best exits: {'; '.join(f'{row} {means[row]:.3f}' for row in ranked)}."]
        lines += _table(known, scores)
    if unseen:
        lines += ["", "## OOD tasks: to look at, never to choose by"]
        lines += _table(unseen, scores)
    return "\n".join(lines) + "\n"


def by_pooling(tasks: Sequence[TaskSpec], scores: dict[str, dict[str, dict[str, Scores]]]) -> list[str]:
    """The best exit of every encoder with every pooling: one small table for each task."""
    lines = [
        "## Every encoder with every pooling",
        "",
        "The best exit on validation. `suite` is every task's own pooling.",
    ]
    for task in tasks:
        lines += ["", f"### {task.name}, {task.metric_name}, by pooling", ""]
        lines += [f"| encoder | {' | '.join(scores)} |", f"|---|{'---|' * len(scores)}"]
        for label in next(iter(scores.values())):
            best = [best_exit(of_pooling[label][task.name], task) for of_pooling in scores.values()]
            cells = " | ".join(f"{each.score:.3f} ({each.exit}, {each.share:.0%})" for each in best)
            lines.append(f"| {label} | {cells} |")
    return lines


def _table(tasks: Sequence[TaskSpec], scores: dict[str, dict[str, Scores]]) -> list[str]:
    lines = []
    for task in tasks:
        lines += [
            "",
            f"### {task.name}, {task.metric_name}",
            "",
            "| encoder | best exit | full depth | every exit |",
            "|---|---|---|---|",
        ]
        for row, of_row in scores.items():
            of_task = of_row[task.name]
            best, full = best_exit(of_task, task), of_task[-1]
            every = ", ".join(f"{exit.score:.3g} ({exit.share:.0%})" for exit in of_task)
            lines.append(f"| {row} | {best.score:.3f} ({best.exit}, {best.share:.0%}) | {full.score:.3f} | {every} |")
    return lines


if __name__ == "__main__":
    main()
