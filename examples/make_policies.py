"""Compares policies with fixed exits on the embedded suite and all examples, and writes docs/policy_results.md and README's table. Finished runs are not repeated.

python examples/make_policies.py [--runs runs/policies] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from make_readme import write_policies
from make_results import BEFORE, IMPORTS, READING

from offramp.cli.progress import Steps
from offramp.experiment.pipeline import run_suite
from offramp.files import write_text
from offramp.report.loading import load_results
from offramp.report.numbers import format_equivalence, format_score
from offramp.report.policies.text import (
    certificate_sentences,
    policy_name,
    routed_row,
    verdict_counts,
    verdict_sentence,
)
from offramp.schema.policies import GuaranteeSpec, PoliciesSpec
from offramp.schema.results import BudgetRow, Results, TaskResult
from offramp.schema.suite import LoadedSuite, load_suite

HERE = Path(__file__).resolve().parent
SEEDS = 3
NOISE_DB = 0.0
GUARANTEED = ("default", "rtl433", "rtl433-wavesfm-iq")
"""Suites with enough groups for a guarantee; a fifth of what is outside the test set is set aside for it."""
LEVEL = 0.15
"""The lowest that twenty groups can certify at delta 0.1 is 0.11."""
CALIBRATION = 0.2
DEGREES = 5.0
"""Regressions of the default suite: an answer farther off is wrong."""


def policies_suite(name: str) -> LoadedSuite:
    """A suite with policies, its first three seeds, and no controls but the constant one."""
    loaded = load_suite(None if name == "default" else HERE / f"{name}.yaml")
    suite, tasks = loaded.suite, loaded.suite.tasks
    asked = PoliciesSpec(noise_db=NOISE_DB)
    if name in GUARANTEED:
        asked = asked.model_copy(update={"guarantee": GuaranteeSpec(level=LEVEL, limit=DEGREES)})
        tasks = tuple(
            task.model_copy(update={"split": task.split.model_copy(update={"calibration": CALIBRATION})})
            for task in tasks
        )
    changed = {"policies": asked, "tasks": tasks, "controls": ("constant",), "seeds": suite.seeds[:SEEDS]}
    return LoadedSuite(suite.model_copy(update=changed), loaded.folder)


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, default=Path("runs/policies"))
    parser.add_argument("--only", nargs="*", choices=list(READING), default=list(READING))
    arguments = parser.parse_args()
    found: dict[str, Results] = {}
    for name in arguments.only:
        out = arguments.runs / name
        if not (out / "results.json").exists():
            if name in BEFORE:
                BEFORE[name](Path("runs/results"))
            if name in IMPORTS:
                importlib.import_module(IMPORTS[name])
            loaded = policies_suite(name)
            missing = [str(task.data.path) for task in loaded.tasks if task.data.path and not task.data.path.exists()]
            if missing:
                print(f"{name}: skipped, {missing[0]} is not there", file=sys.stderr)
                continue
            with Steps() as shown:
                run_suite(loaded, out, on_progress=shown)
        found[name] = load_results(out)
    write_text(HERE.parent / "docs" / "policy_results.md", _page(found))
    write_policies(verdict_counts(found.values()), HERE.parent / "README.md")


def _page(found: dict[str, Results]) -> str:
    counts = verdict_sentence(verdict_counts(found.values()))
    sections = "\n".join(_section(name, results) for name, results in found.items())
    return f"""# Fixed exits against policies

Written by `python examples/make_policies.py`: the embedded suite and the examples of [results.md](results.md) with `policies: {{noise_db: 0}}`, the first three seeds, and no controls; where a guarantee is asked for, a fifth of what is outside the test set is set aside for it. So the
fixed exit may be another one than in results.md, whose runs have all seeds and all windows. Policies, thresholds and
fixed exits are chosen on validation within a mean cost; scores are on test, intervals are 95%, paired, over groups and seeds (`†`: over blocks or windows of fewer than eight groups). A positive gain means that routing
is better. *Random* deals the same shares of windows to the same exits without looking; the *oracle* knows which answers are right. Time: executed in batches of 64 on one thread. What the words mean:
[policies.md](policies.md).

**{counts}**

{sections}"""


def _section(name: str, results: Results) -> str:
    title, _ = READING[name]
    tasks = {task: result for task, result in results.tasks.items() if result.policies is not None}
    lines = [
        f"## {title}\n",
        f"Encoder {results.encoder.name}. Budget: what the fixed exit costs that the suite's rule chose.\n",
        "| task | budget | fixed exit | routing | gain | wins | random | oracle | wins at other budgets: fixed, routing, neither | gain at matched time | wins | its time, executed |",
        "|---|---|---|---|---|---|---:|---:|---|---|---|---:|",
        *(_row(task, result) for task, result in tasks.items()),
        "",
    ]
    certified = [
        f"- **{task}**: "
        + " ".join(certificate_sentences(result.policies.certified, result.policies.shifts, result.metric))
        for task, result in tasks.items()
        if result.policies and result.policies.certified
    ]
    if certified:
        lines += ["Guarantees:\n", *certified, ""]
    warned = [
        f"- **{task}**: {warning}"
        for task, result in tasks.items()
        if result.policies
        for warning in result.policies.warnings
    ]
    if warned:
        lines += ["<details><summary>Warnings</summary>\n", *warned, "\n</details>\n"]
    return "\n".join(lines)


def _row(task: str, result: TaskResult) -> str:
    comparison, measured = result.policies, result.measured.policies
    assert comparison is not None
    assert measured is not None
    budget, timed = comparison.budgets[comparison.chosen], measured.at_matched_time
    assert timed is not None
    saved = 1 - budget.budget / (comparison.full_cost or budget.budget)
    others = [row.verdict for number, row in enumerate(comparison.budgets) if number != comparison.chosen]
    fixed, routed = measured.executed[:2]
    cells = [
        task,
        f"{budget.exit}, {saved:.0%} fewer MACs",
        f"{budget.fixed.name} {format_score(budget.fixed.test.mean, result.metric)}",
        _routed(budget, result.metric),
        _gain(budget, result),
        _verdict(budget, result),
        format_score(budget.random.test.mean, result.metric),
        format_score(comparison.oracle.test.mean, result.metric),
        ", ".join(str(others.count(verdict)) for verdict in ("fixed", "routing", "neither")),
        _gain(timed, result),
        _verdict(timed, result),
        f"{routed.milliseconds / fixed.milliseconds:.2f} ×",
    ]
    return f"| {' | '.join(cells)} |"


def _routed(budget: BudgetRow, metric: str) -> str:
    row = routed_row(budget)
    if row is None:
        return ""
    return f"{policy_name(row.name)} {format_score(row.test.mean, metric)}, at {row.cost / budget.budget:.0%} of the budget"


def _verdict(budget: BudgetRow, result: TaskResult) -> str:
    """Who wins; where neither does, within which bound the two are equivalent."""
    bound = format_equivalence(budget.gain, result.metric) if budget.verdict == "neither" else ""
    return budget.verdict + (f", within {bound}" if bound else "")


def _gain(budget: BudgetRow, result: TaskResult) -> str:
    scale = 100 if result.metric.endswith("accuracy") or result.metric.endswith("efficiency") else 1
    low, high = (f"{scale * end:.3g}" for end in budget.gain.ci95)
    mark = "" if budget.gain.unit == "group" else "†"
    return f"{scale * budget.gain.mean:+.3g} [{low}, {high}]{mark}"


if __name__ == "__main__":
    main()
