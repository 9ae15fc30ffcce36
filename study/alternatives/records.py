"""The schema of alternatives.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from offramp.schema.results import Gain, Latency, Part, Score

Method = Literal["exit", "int8", "pruned", "distilled", "tuned"]
Verdict = Literal["better", "worse", "even", "faster"]


class Timing(Part):
    """Measured on this machine with one thread: time of the processor that computes, so that other processes do not count."""

    batch: int
    latency_ms: Latency
    relative: float = Field(description="Of full depth's time: median over pairs of calls that alternated")


class Network(Part):
    """One network that answers a task, from the encoder's input to the head's outputs."""

    name: str
    method: Method
    exit: str = Field(description="Where it ends; the last exit is full depth")
    size: float | None = Field(None, description="pruned: fraction of each width taken away; distilled: fraction left")
    epochs: int | None = Field(None, description="Epochs of training kept, chosen on validation")
    parameters: int | None = Field(None, description="Without BatchNorm, which is folded")
    bytes: int = Field(description="Of the ONNX file")
    val: float
    test: Score = Field(description="Of the first seed")
    timings: list[Timing]


class Against(Part):
    """Against a fixed exit: the chosen one, or the best on validation among those that take no more time."""

    batch: int | None = Field(description="At which times were matched; None for the chosen exit, whatever the times")
    exit: str | None = Field(description="None where every exit takes more time")
    gain: Gain | None
    val_gain: float | None = Field(description="Positive is better, whatever the metric's direction")
    verdict: Verdict = Field(
        description="better or worse after Holm's correction over all comparisons, resampled by group; else even"
    )


class Alternative(Part):
    """What a user would do instead, or on top."""

    network: Network
    chosen: Against
    matched: list[Against] = Field(description="One per batch size of the timings")


class TaskAlternatives(Part):
    """One task."""

    kind: str
    metric: str
    higher_is_better: bool
    input_shape: list[int]
    n_train: int
    n_test: int
    chosen: str
    full: str
    exits: list[Network] = Field(description="float32, in order of depth; heads of the bundle")
    alternatives: list[Alternative]
    picked: list[str] = Field(
        description="Of each method, alone and combined: the size that is best on validation in the time of the chosen exit, "
        "one window at a time; the fastest if none is as fast"
    )
    notes: list[str] = Field([], description="What could not be built, and why")
    sentence: str = ""


class Alternatives(Part):
    """alternatives.json."""

    version: Literal[1] = Field(1, alias="schema")
    offramp: str
    environment: dict[str, Any]
    encoder: str
    threads: int = 1
    tasks: dict[str, TaskAlternatives]
