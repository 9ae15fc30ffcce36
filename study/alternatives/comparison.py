"""Exits beside quantisation, pruning and distillation at matched time, for the tasks of a finished run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alternatives.distillation import Lesson
from alternatives.networks import METHODS, Candidate, Workshop, build, count, every_exit_graph, exit_candidates
from alternatives.presentation import sentence
from alternatives.pruning import require_torch_pruning
from alternatives.records import Against, Alternative, Alternatives, Network, TaskAlternatives, Timing, Verdict
from offramp.bundle import Bundle, load_bundle
from offramp.costs import latency_of, time_interleaved
from offramp.encoders.base import StagedEncoder
from offramp.encoders.view import TaskView
from offramp.errors import OfframpError, SuiteError
from offramp.experiment.deliver import describe_environment
from offramp.experiment.features import batch_size
from offramp.experiment.prepare import Prepared, prepare
from offramp.export.graph import INPUT, open_session, require_onnx
from offramp.progress import OnStep, silent
from offramp.report.loading import load_results
from offramp.runtime.torch_backend import load_bundle_encoder
from offramp.runtime.views import TaskViews
from offramp.schema.results import Gain, Results
from offramp.schema.suite import LoadedSuite, Suite
from offramp.schema.tasks import TaskSpec
from offramp.scoring.metrics import Array
from offramp.scoring.resampling import Resamples, holm, paired_gain, summarise

BATCHES = (1, 64)
EPOCHS = 20
SECONDS = 0.1
REPEATS = 5
RESAMPLES = 8000
"""More than elsewhere: with few, no p-value is small enough for Holm's correction over some sixty comparisons."""
TIME_TOLERANCE = 0.02
"""By which measured times of the same network differ from run to run on a quiet machine."""
INTEGER = ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""What processors call the instructions that integer kernels use."""


@dataclass(frozen=True, eq=False)
class Scored:
    """A network with its metric sums on the test set per unit, ``(1, U, q)``, for paired differences."""

    row: Network
    test_sums: Array


def compare_alternatives(
    loaded: LoadedSuite,
    folder: str | Path,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    epochs: int = EPOCHS,
    on_progress: OnStep = silent,
    clock: Callable[[], float] = time.thread_time,
) -> Alternatives:
    """Build, train, score and time the alternatives of a finished run's tasks. Nothing is chosen on test data.

    Args:
        loaded: The suite that was run.
        folder: Its output folder, with ``results.json`` and ``bundle/``.
        tasks: Names of tasks; all if empty.
        methods: Of ``int8``, ``pruned``, ``distilled``.
        epochs: Most epochs of training; the best on validation is kept.
        on_progress: Called with what is being done, how much is done and how much there is.
        clock: See :func:`offramp.costs.time_interleaved`.

    Raises:
        SuiteError: An unknown task or method.
        OfframpError: The folder holds no run of this suite on this data, or a package is missing.
    """
    started, folder = time.time(), Path(folder)
    _check_methods(methods, epochs)
    results, loaded = _finished_run(loaded, folder)
    known = [task.name for task in loaded.tasks]
    if unknown := [name for name in tasks if name not in known]:
        raise SuiteError(f"unknown task {unknown[0]!r}: the suite has {', '.join(known)}")
    bundle = load_bundle(folder / "bundle")
    encoder = load_bundle_encoder(bundle, folder / "bundle")
    views = TaskViews(bundle, encoder)
    compared = {
        task.name: _compare_task(
            views.of(bundle.task(task.name)),
            bundle,
            _prepared(task, loaded, encoder, results),
            methods,
            epochs,
            loaded.suite.seed,
            on_progress,
            clock,
        )
        for task in loaded.tasks
        if task.name in (tasks or known)
    }
    return Alternatives(
        schema=1,
        offramp=version("offramp"),
        environment=describe_environment("cpu", started) | {"instructions": instructions()},
        encoder=results.encoder.name,
        tasks={name: _with_sentence(name, task) for name, task in with_verdicts(compared).items()},
    )


def instructions() -> list[str]:
    """Those of ``INTEGER`` that the processor has, as far as the system says."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return []
    return [name for name in INTEGER if name in words]


def _check_methods(methods: Sequence[str], epochs: int) -> None:
    if unknown := [method for method in methods if method not in METHODS]:
        raise SuiteError(f"unknown method {unknown[0]!r}: choose of {', '.join(METHODS)}")
    if epochs < 1:
        raise SuiteError(f"{epochs} epochs: give at least 1")
    require_onnx()
    if "pruned" in methods:
        require_torch_pruning()


def _finished_run(loaded: LoadedSuite, folder: Path) -> tuple[Results, LoadedSuite]:
    """The results in a folder and the suite with the seed that they were made with."""
    results = load_results(folder)
    seeded = loaded.with_seed(results.suite.get("seed"))
    ran = Suite.model_validate(results.suite)
    if any(getattr(ran, key) != getattr(seeded.suite, key) for key in ("encoder", "tasks", "seeds")):
        raise OfframpError(
            f"{folder} holds the run of another suite: run this one first, or name its own folder in --out"
        )
    return results, seeded


def _prepared(task: TaskSpec, loaded: LoadedSuite, encoder: StagedEncoder, results: Results) -> Prepared:
    prepared = prepare(task, loaded, encoder)
    if prepared.problem.split.sha256 != results.tasks[task.name].split_sha256:
        raise OfframpError(f"task {task.name}: the data or its split has changed since the run: run the suite again")
    return prepared


def _compare_task(
    view: TaskView,
    bundle: Bundle,
    prepared: Prepared,
    methods: Sequence[str],
    epochs: int,
    seed: int,
    on_progress: OnStep,
    clock: Callable[[], float],
) -> TaskAlternatives:
    problem, task = prepared.problem, bundle.task(prepared.task.name)

    def inputs(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return prepared.transform(prepared.dataset.windows.read(indices))

    train, val = problem.split.draws[0].folds[0]
    everything = every_exit_graph(view, task)
    exits = exit_candidates(view, task, everything)
    teacher = np.zeros((prepared.dataset.windows.count, problem.outputs), np.float32)
    (teacher[train],) = _answers(exits[-1].content, inputs, train)
    lesson = Lesson(inputs, prepared.dataset.targets, teacher, train, val, problem.metric)
    workshop = Workshop(view, task, lesson, epochs)
    notes: list[str] = []
    candidates = list(exits)
    total = count(workshop, methods)
    on_progress(f"{task.name}: networks", 0, total)
    for candidate in build(workshop, exits, methods, notes.append):
        candidates.append(candidate)
        on_progress(f"{task.name}: networks", len(candidates) - len(exits), total)
    if len(candidates) < len(exits) + total:
        on_progress(f"{task.name}: networks", total, total)
    examples = inputs(problem.split.test[: max(BATCHES)])
    timings = time_candidates(candidates, len(exits) - 1, examples, clock)
    resamples = Resamples.draw(problem.test_units.count, 1, seed + 1, RESAMPLES)
    val_answers, test_answers = (
        # All exits come from one pass.
        [
            *_answers(everything, inputs, indices),
            *(_answers(c.content, inputs, indices)[0] for c in candidates[len(exits) :]),
        ]
        for indices in (val, problem.split.test)
    )
    rows = zip(candidates, val_answers, test_answers, timings, strict=True)
    scored = [_score(prepared, *row, resamples) for row in rows]
    gain = _gains(prepared, resamples)
    fixed, others = scored[: len(exits)], scored[len(exits) :]
    chosen = next(each for each in fixed if each.row.exit == task.exit)
    sign = problem.metric.sign

    def against(each: Scored, exit: Scored | None, batch: int | None) -> Against:
        if exit is None:
            return Against(batch=batch, exit=None, gain=None, val_gain=None, verdict="faster")
        ahead = sign * (each.row.val - exit.row.val)
        return Against(batch=batch, exit=exit.row.exit, gain=gain(each, exit), val_gain=ahead, verdict="even")

    alternatives = [
        Alternative(
            network=each.row,
            chosen=against(each, chosen, None),
            matched=[against(each, _matched(each, fixed, n, sign), batch) for n, batch in enumerate(BATCHES)],
        )
        for each in others
    ]
    return TaskAlternatives(
        kind=task.kind,
        metric=task.metric,
        higher_is_better=problem.metric.higher_is_better,
        input_shape=list(prepared.input_shape),
        n_train=len(train),
        n_test=len(problem.split.test),
        chosen=task.exit,
        full=workshop.full,
        exits=[each.row for each in fixed],
        alternatives=alternatives,
        picked=pick(alternatives, chosen.row),
        notes=notes,
    )


def time_candidates(
    candidates: Sequence[Candidate], full: int, examples: NDArray[np.float32], clock: Callable[[], float]
) -> list[list[Timing]]:
    """Time each network in turns with full depth, the candidate number ``full``; a timing per batch size."""
    sessions = [open_session(candidate.content, shared_arena=True) for candidate in candidates]

    def call(session: Any, x: NDArray[np.float32]) -> Callable[[], object]:
        return lambda: session.run(None, {INPUT: x})

    found: list[list[Timing]] = [[] for _ in candidates]
    for batch in BATCHES:
        x = np.resize(examples, (batch, *examples.shape[1:]))
        for session, timings in zip(sessions, found, strict=True):
            calls = {"this": call(session, x), "full": call(sessions[full], x)}
            times = time_interleaved(calls, SECONDS, REPEATS, clock)
            relative = 1.0 if session is sessions[full] else float(np.median(times["this"] / times["full"]))
            timings.append(Timing(batch=batch, latency_ms=latency_of(times["this"]), relative=relative))
    return found


def _answers(
    content: bytes, inputs: Callable[[NDArray[np.int64]], NDArray[np.float32]], indices: NDArray[np.int64]
) -> list[NDArray[np.float32]]:
    """Each of a graph's outputs, ``(n, outputs)``, batch by batch."""
    session = open_session(content)
    step = batch_size(inputs(indices[:1]).shape[1:])
    blocks = (indices[start : start + step] for start in range(0, len(indices), step))
    batches = [session.run(None, {INPUT: inputs(block)}) for block in blocks]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _score(
    prepared: Prepared,
    candidate: Candidate,
    val_answers: NDArray[np.float32],
    test_answers: NDArray[np.float32],
    timings: list[Timing],
    resamples: Resamples,
) -> Scored:
    problem, targets = prepared.problem, prepared.dataset.targets
    metric = problem.metric
    val, test = problem.split.draws[0].folds[0][1], problem.split.test
    statistics = metric.statistics(test_answers, targets[test])
    sums = problem.test_units.sums(statistics, test)[None]
    row = Network(
        name=candidate.name,
        method=candidate.method,
        exit=candidate.exit,
        size=candidate.size,
        epochs=candidate.epochs,
        parameters=candidate.parameters,
        bytes=len(candidate.content),
        val=metric(val_answers, targets[val]),
        test=summarise(sums, metric, resamples),
        timings=timings,
    )
    return Scored(row, sums)


def _gains(prepared: Prepared, resamples: Resamples) -> Callable[[Scored, Scored], Gain]:
    problem = prepared.problem
    return lambda one, other: paired_gain(one.test_sums, other.test_sums, problem.metric, resamples, problem.test_units)


def _matched(each: Scored, fixed: Sequence[Scored], place: int, sign: float) -> Scored | None:
    """The best fixed exit on validation that takes no more time at the batch size number ``place``; None if all take more."""
    fast = [exit for exit in fixed if takes_no_more(exit.row, each.row, place)]
    return max(fast, key=lambda exit: sign * exit.row.val, default=None)


def takes_no_more(one: Network, other: Network, place: int = 0) -> bool:
    """Whether a network takes no more time than another, up to what repeated measurements differ by."""
    return one.timings[place].relative <= (1 + TIME_TOLERANCE) * other.timings[place].relative


def pick(alternatives: Sequence[Alternative], chosen: Network) -> list[str]:
    """Names: of each method and end the size that is best on validation in the time of the chosen exit, else the fastest."""
    best: dict[tuple[str, str], tuple[tuple[bool, float], str]] = {}
    for each in alternatives:
        fits = takes_no_more(each.network, chosen)
        ahead = each.chosen.val_gain if fits else -each.network.timings[0].relative
        assert ahead is not None, "the chosen exit is always there"
        key, rank = (each.network.method, each.network.exit), (fits, ahead)
        if key not in best or rank > best[key][0]:
            best[key] = rank, each.network.name
    return [name for _, name in best.values()]


def with_verdicts(tasks: Mapping[str, TaskAlternatives]) -> dict[str, TaskAlternatives]:
    """Say better or worse where an interval says so after Holm's correction over all comparisons of all tasks, both ways."""
    gains = [
        against.gain
        for task in tasks.values()
        for each in task.alternatives
        for against in (each.chosen, *each.matched)
        if against.gain is not None
    ]
    verdicts: Iterator[Verdict] = iter(
        "better" if up.significant else "worse" if down.significant else "even"
        for up, down in zip(holm(gains), holm([_reversed(gain) for gain in gains]), strict=True)
    )

    def marked(against: Against) -> Against:
        return against if against.gain is None else against.model_copy(update={"verdict": next(verdicts)})

    marked_tasks = {}
    for name, task in tasks.items():
        alternatives = [
            each.model_copy(update={"chosen": marked(each.chosen), "matched": [marked(one) for one in each.matched]})
            for each in task.alternatives
        ]
        marked_tasks[name] = task.model_copy(update={"alternatives": alternatives})
    return marked_tasks


def _reversed(gain: Gain) -> Gain:
    """The other one's gain over the first."""
    low, high = gain.ci95
    p_value = None if gain.p_value is None else 1 - gain.p_value + 1 / (1 + RESAMPLES)
    return gain.model_copy(update={"mean": -gain.mean, "ci95": (-high, -low), "p_value": p_value})


def _with_sentence(name: str, task: TaskAlternatives) -> TaskAlternatives:
    return task.model_copy(update={"sentence": sentence(name, task)})
