"""Writes docs/study.md: numbers from the stored scores, verdicts by the rules that stand here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from claims import FEW, ID, MANY, OOD, Claim, claims, listed
from figures import layers_over_steps, over_random_against_labels, scores_against_macs, similarity
from plan import (
    ENCODER,
    LABEL_SEEDS,
    MAIN_RUN,
    PRETRAINED,
    PRETRAINING,
    RANDOM,
    SCRATCH_EXITS,
    SCRATCH_SEEDS,
    SCRATCH_SHOTS,
    SHOTS,
    TASKS,
    TEST_WINDOWS,
)
from summary import TOLERANCE, Saving, Study

from offramp.files import write_text
from offramp.training.curves import draw_probe

EARLIER = Path(__file__).with_name("earlier_claims.json")
"""What this page said before heads saw more than a mean and pretraining saw labels."""
LEVEL = 0.01
"""The ID probe has levelled off if it gains at most one point over the last doubling of steps."""


def write_page(runs: Path, docs: Path) -> None:
    """Write ``docs/study.md`` and its pictures in ``docs/figures/``."""
    study = Study(runs)
    layers = json.loads((runs / "layers.json").read_text())
    figures = docs / "figures"
    figures.mkdir(exist_ok=True)
    scores_against_macs(study, FEW, figures / "study-scores-10.svg")
    scores_against_macs(study, MANY, figures / "study-scores-500.svg")
    over_random_against_labels(study, figures / "study-labels.svg")
    layers_over_steps(layers, figures / "study-layers.svg")
    similarity(layers, figures / "study-similarity.svg")
    draw_probe(_probe_lines(layers), figures / "study-pretraining.svg")
    savings = {task.name: study.saving(task) for task in TASKS}
    found = claims(study, savings)
    parts = [
        _head(),
        _verdicts(found),
        _curves(),
        _labels(study),
        _controls(study),
        _depth(study),
        _savings(study, savings),
        _pretraining(study, layers),
        _layers(layers),
        _choosing(study),
        _failures(study, found),
    ]
    write_text(docs / "study.md", "\n\n".join(parts) + "\n")


def _head() -> str:
    return f"""# Study: which of the paper's claims hold here

Written by `make study` (hours; it goes on after a kill). *Fast Wireless Foundation Models with Early-Exits* (arXiv 2606.29640) claims that an early
exit saves up to 93% of the FLOPs, and that intermediate exits beat the full encoder on tasks it was not pretrained for. Here both are put
to the test with `{ENCODER}` and simulated signals ([simulation.md](simulation.md)); nothing here is a recording.

- **Tasks**: {len(ID)} ID, {len(OOD)} OOD, those of the embedded suite with more windows. {TEST_WINDOWS:,} test windows each. `fingerprint` is divided by sessions.
{_no_claims()}- **Labels**: {", ".join(map(str, SHOTS))} per class, {LABEL_SEEDS} draws of each. The encoder stays frozen.
- **Head**: logistic regression on mean and standard deviation of a stage, with features by hand beside them, as in a run; `input` is the exit before the encoder, with features by
  hand alone. Random weights get the same heads. Strength and the exit are chosen by accuracy on held-out labels (four folds of ten labels per class; of more, one fold in four),
  never on test windows.
- **Encoders**: {len(PRETRAINED)} pretraining runs, {len(RANDOM)} encoders of random weights. BatchNorm statistics of both are measured on the task's windows, without labels.
- **Intervals**: 95%, resampling test windows (sessions), label draws and runs independently. Three runs are few, so that they say less about a fourth run than about
  further windows.

"Points" are points of accuracy."""


def _no_claims() -> str:
    """One line per task that counts for no claim."""
    left_out = [task for task in TASKS if task.no_claim is not None]
    return "".join(
        f"- **Left out**: `{task.name}` stands in every table and counts for no claim, no correction and no mean of the claims: {task.no_claim}.\n"
        for task in left_out
    )


def _verdicts(found: list[Claim]) -> str:
    earlier = json.loads(EARLIER.read_text())
    rows = []
    for claim in found:
        before = earlier.get(claim.text)
        then = f"{_verdict(before['holds'])}: {before['evidence']}" if before else ""
        rows.append([claim.text, _verdict(claim.holds), claim.evidence, then])
    head = [
        "claim",
        "holds here",
        "evidence (points, 95% interval)",
        "before: `iq-resnet`, contrastive, heads on the mean of a stage",
    ]
    return "## In short\n\n" + _table(head, rows)


def _verdict(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _curves() -> str:
    return f"""## Score against MACs

{FEW} labels per class:

![Accuracy of every exit against MACs, {FEW} labels per class](figures/study-scores-10.svg)

{MANY} labels per class:

![Accuracy of every exit against MACs, {MANY} labels per class](figures/study-scores-500.svg)

Bands span the runs. Green squares: the network cut at `{"` and `".join(SCRATCH_EXITS)}` and trained on these labels alone. Dotted: the exit `input`, features by hand
without the encoder."""


def _labels(study: Study) -> str:
    head = ["task", "shift", *[f"{shots}" for shots in SHOTS]]
    rows, gains = [], []
    for task in TASKS:
        scores = [
            f"{_percent(study.stack(PRETRAINED, task.name, shots))} / {_percent(study.stack(RANDOM, task.name, shots))}"
            for shots in SHOTS
        ]
        rows.append([task.name, task.shift, *scores])
        gains.append([task.name, task.shift, *[str(study.over_random(task.name, shots)) for shots in SHOTS]])
    return f"""## Against random weights, by labels per class

Accuracy in %, pretrained / random, each at the exits that it chose:

{_table(head, rows)}

Pretrained minus random, points:

{_table(head, gains)}

![Gain over random weights and over the full encoder, by labels per class](figures/study-labels.svg)"""


def _controls(study: Study) -> str:
    rows = []
    for task in TASKS:
        scratch = study.scratch(task.name)
        cells = [
            _percent(study.stack(PRETRAINED, task.name, MANY)),
            _percent(study.stack(PRETRAINED, task.name, MANY, probe="neighbour")),
            str(study.over_random(task.name, MANY, probe="neighbour")),
            f"{100 * study.by_hand(task.name, MANY):.1f}",
            *[f"{100 * value:.1f}" for value in scratch[:, SCRATCH_SHOTS.index(MANY)]],
            *[f"{100 * value:.1f}" for value in scratch[:, SCRATCH_SHOTS.index(FEW)]],
        ]
        rows.append([task.name, *cells])
    head = ["task", "pretrained", "nearest neighbours", "their gain over random", "by hand"]
    head += [f"scratch, {name}, {shots} labels" for shots in (MANY, FEW) for name in SCRATCH_EXITS]
    return f"""## Other probes and other ways to get there

{MANY} labels per class unless said otherwise. Nearest neighbours: five, by cosine of standardised taps, at the same exits. From scratch: the network cut at that exit,
every weight trained on these labels, mean of {SCRATCH_SEEDS} runs.

{_table(head, rows)}"""


def _depth(study: Study) -> str:
    holds = {budget: study.gains_that_hold(budget) for budget in (FEW, MANY)}
    rows = []
    for task in TASKS:
        cells = [task.name, task.shift]
        for budget in (FEW, MANY):
            mark = " *" if holds[budget].get(task.name) else ""
            cells += [", ".join(study.exits_chosen(task.name, budget)[:2]), f"{study.depth(task, budget):.0%}"]
            cells += [f"{study.over_full(task.name, budget)}{mark}"]
        rows.append([*cells, str(study.over_full(task.name, MANY, probe="equal_width"))])
    head = ["task", "shift"]
    for budget in (FEW, MANY):
        head += [f"exits chosen, {budget} labels", "MACs needed", "gain over full"]
    head += [f"at equal width, {MANY} labels"]
    return f"""## Preferred depth

The exits that were chosen most often, the mean share of MACs they need, and what they gain over the last exit, points. `*`: above zero after Holm's correction over the
tasks that count.

{_table(head, rows)}"""


def _savings(study: Study, savings: dict[str, Saving]) -> str:
    rows = []
    for task in TASKS:
        saving = savings[task.name]
        shares = [f"{share:.0%}" for share in (saving.macs, saving.macs_in_order, saving.time)]
        rows.append([task.name, ", ".join(saving.exits[:3]), *shares, str(saving.difference)])
    joules = [costs["joules"] for of_shape in study.costs.values() for costs in of_shape.values()]
    energy = (
        "Energy is left out: this machine's counters of the processor package cannot be read."
        if None in joules
        else "Energy per window of the full encoder, whole package, upper estimate: "
        + ", ".join(
            f"{1e3 * float(list(costs.values())[-1]['joules'] or 0):.2f} mJ ({shape})"
            for shape, costs in study.costs.items()
        )
        + "."
    )
    return f"""## Largest saving without loss

The shallowest exit that is non-inferior (at most {TOLERANCE:.0%} worse, one-sided 97.5%, Bonferroni-corrected over the exits, by held-out windows of {MANY} labels per class);
the last column checks it on the test set. These are means over {len(PRETRAINED)} pretraining runs and {LABEL_SEEDS} draws of labels, each with an exit of its own; what one
run of the embedded suite saves, with its own tolerance, stands in [results.md](results.md). Time is the median of one window on one thread. `in order`: testing from the last exit on without correction, which stops at the
first exit that is worse and so misses better ones behind it.

{_table(["task", "exits", "MACs saved", "in order", "time saved", "test accuracy minus full"], rows)}

{energy}"""


def _pretraining(study: Study, layers: list[dict[str, Any]]) -> str:
    rows = []
    for name in PRETRAINED:
        config = PRETRAINING[name]
        what = f"{config.objective}, labels {config.labels}, {config.steps:,} steps, seed {config.seed}"
        scores = [
            f"{_percent(study.stack((name,), task.name, MANY))} ({_relative_depth(study, name, task.name)}; "
            f"{study.over_full(task.name, MANY, names=(name,)).mean * 100:+.1f})"
            for task in TASKS
        ]
        rows.append([what, *scores])
    rows.append(["random weights, mean of 3", *[_percent(study.stack(RANDOM, task.name, MANY)) for task in TASKS]])
    last, before = layers[-1], layers[-2]
    change = ", ".join(
        f"{task} {100 * before['probe'][task][-1]:.1f} to {100 * last['probe'][task][-1]:.1f}%"
        for task in last["probe"]
    )
    rising = [task for task in last["probe"] if last["probe"][task][-1] - before["probe"][task][-1] > LEVEL]
    levelled = f"{listed(rising)} has not levelled off" if rising else "both have levelled off"
    return f"""## Pretraining: three seeds

Accuracy in % at {MANY} labels per class at the chosen exits; in brackets the mean position of the chosen exit, 0 the first and 1 the last, and what it gains over the last exit, points.
What other objectives, labels and views give: [objectives.md](objectives.md).

{_table(["pretraining", *[task.name for task in TASKS]], rows)}

![ID probe of every exit against steps](figures/study-pretraining.svg)

The picture and the next section are of the run `{MAIN_RUN}` of {PRETRAINING[MAIN_RUN].steps:,} steps, whose weights ship. The ID probe of its last exit over the last doubling
({before["step"]:,} to {last["step"]:,} steps): {change}. So {levelled}."""


def _relative_depth(study: Study, name: str, task: str) -> str:
    scores = study.scores(name, task)
    return f"{scores.chosen(MANY).mean() / (len(scores.exits) - 1):.2f}"


def _layers(layers: list[dict[str, Any]]) -> str:
    first, last = layers[0], layers[-1]
    early, late = 1, len(last["exits"]) - 1
    return f"""## Why, layer by layer

1,000 transmissions nobody was pretrained on, two augmented views of each; BatchNorm statistics measured anew for every snapshot.

![Effective rank and invariance of every exit, by steps](figures/study-layers.svg)

![Similarity of the exits, by steps](figures/study-similarity.svg)

- Invariance to the views (intraclass correlation) at the last exit goes from {first["intraclass_correlation"][late]:.2f} to {last["intraclass_correlation"][late]:.2f}; at `{last["exits"][early]}` from
  {first["intraclass_correlation"][early]:.2f} to {last["intraclass_correlation"][early]:.2f}.
- The partner is found among 1,000 in {first["retrieval"][late]:.0%} of cases before and {last["retrieval"][late]:.0%} after, at the last exit; at `{last["exits"][early]}` in {first["retrieval"][early]:.0%} and
  {last["retrieval"][early]:.0%}.
- Effective rank of the last exit: {first["effective_rank"][late]:.1f} before, {last["effective_rank"][late]:.1f} after; of `{last["exits"][early]}`: {first["effective_rank"][early]:.1f} and
  {last["effective_rank"][early]:.1f}.
- Similarity (CKA, unbiased) of `{last["exits"][early]}` and the last exit: {first["cka"][early][late]:.2f} before, {last["cka"][early][late]:.2f} after.
- All numbers: `runs/study/layers.json`."""


def _choosing(study: Study) -> str:
    parts = []
    for budget in (FEW, 100):
        regrets = study.regrets(budget)
        order = sorted(regrets, key=lambda name: regrets[name][:, 0].mean())
        rows = [
            [
                name,
                *[f"{100 * value:.1f}" for value in regrets[name][:, 0]],
                f"{100 * regrets[name][:, 0].mean():.1f}",
                f"{regrets[name][:, 1].mean():.2f}",
            ]
            for name in order
        ]
        parts.append(
            f"{budget} labels per class:\n\n"
            + _table(["criterion", *[task.name for task in TASKS], "mean", "Kendall's tau"], rows)
        )
    tables = "\n\n".join(parts)
    return f"""## Choosing the exit with few labels or none

Regret: the best exit's test accuracy minus that of the exit a criterion picks, points. Effective rank and LiDAR (8 augmented views of 250 windows) see no labels; LogME,
H-score and held-out accuracy see those that the head is fitted on.

{tables}"""


def _failures(study: Study, found: list[Claim]) -> str:
    lines = [f"- {claim.text}: {claim.evidence}." for claim in found if not claim.holds]
    for task in TASKS:
        ours = float(study.stack(PRETRAINED, task.name, MANY).mean())
        by_hand = study.by_hand(task.name, MANY)
        if by_hand > ours:
            lines.append(
                f"- Features by hand beat the pretrained encoder on {task.name}: {100 * by_hand:.1f} against {100 * ours:.1f}%."
            )
        scratch = study.scratch(task.name)
        for budget in SCRATCH_SHOTS:
            best = float(scratch[:, SCRATCH_SHOTS.index(budget)].max())
            frozen = float(study.stack(PRETRAINED, task.name, budget).mean())
            if best > frozen:
                lines.append(
                    f"- Training from scratch on {budget} labels per class beats the frozen encoder on {task.name}: {100 * best:.1f} against {100 * frozen:.1f}%."
                )
    regrets = study.regrets(FEW)
    rule = regrets["held-out accuracy"][:, 0].mean()
    better = [name for name in regrets if regrets[name][:, 0].mean() < rule]
    if better:
        lines.append(
            f"- With {FEW} labels per class held-out accuracy is not the best way to choose an exit: {listed(better)} cost less."
        )
    lines.append("- Fixed exits against routing by sample is not tested here.")
    return "## What did not hold\n\n" + "\n".join(lines)


def _probe_lines(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "step": one["step"],
            "scores": {task: dict(zip(one["exits"], values, strict=True)) for task, values in one["probe"].items()},
        }
        for one in layers
    ]


def _percent(right: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    return f"{100 * right.mean():.1f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
