"""results.json from the top down: encoder, tasks, exits, controls."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from offramp.schema.results.policies import MeasuredPolicies, PolicyComparison
from offramp.schema.results.scores import Gain, Latency, Part, Score
from offramp.schema.tasks import Pooling


class ExitRow(Part):
    """One exit: what it costs and how it scores. MACs count encoder and head for one window."""

    exit: str
    macs: int = Field(ge=0)
    macs_saved_fraction: float = Field(description="Against the full encoder with its head")
    pooling: Pooling = Field("default", description="Of the tap that the head takes")
    val: Score
    test: Score


class BestExit(ExitRow):
    """The exit with the best validation score, shown beside the chosen one whatever the rule."""

    gain_over_full: Gain = Field(description="On test; never claimed as significant, since the chosen exit is")


class Selection(Part):
    """What the choice of the exit looked at, all of it on validation. Margin and gains are in the metric's unit."""

    rule: Literal["non-inferior", "best", "budget"]
    margin: float = Field(description="The tolerance: how much worse than full depth is still good enough")
    gain_lower: dict[str, float] = Field(
        description="By exit: lower end of its gain over full depth, one-sided 95% for all exits at once; 0 for full depth"
    )
    non_inferior: str = Field(description="Shallowest exit whose lower end is above minus the margin")
    bonferroni: str = Field(description="What Bonferroni's correction of the same bootstrap would choose")


class FeatureRow(Part):
    """A control without an encoder: a fixed feature row, or a constant."""

    test: Score
    val: Score | None = None
    width: int = 0
    description: str = ""
    gain: Gain | None = Field(None, description="Our chosen exit against this control")


class ExitControl(Part):
    """A control with exits: a randomly initialised encoder, or taps cut to equal width."""

    exits: list[ExitRow] = Field(min_length=1)
    chosen: ExitRow
    draws: int = 1
    gain: Gain | None = Field(None, description="Our chosen exit against this control's chosen exit")
    description: str = ""


class Measured(Part):
    """What was timed on this machine; not reproduced bit for bit."""

    latency_ms: dict[str, Latency]
    threads: int
    batch: int
    sentence: str = Field("", description="The task's sentence with the time saved")
    policies: MeasuredPolicies | None = None


class SnrScores(Part):
    """Test score by SNR, mean over seeds: equal-count bins."""

    edges_db: list[float] = Field(description="One more than there are bins")
    chosen: list[float]
    full: list[float]


class GroupScore(Part):
    """Test score of one group, mean over seeds; given where there are fewer than eight."""

    group: str
    n: int
    chosen: float
    full: float


class Confidence(Part):
    """What the chosen exit's confidence is worth: the probability of the answer, at a temperature fitted on validation.

    The bundle's answers have this temperature, at a fixed exit as under a policy.
    """

    temperature: float = Field(description="By which the bundle divides the logits of the chosen exit; first seed")
    ece_before: float = Field(
        description="Expected calibration error on test at temperature 1, 15 bins, mean over seeds"
    )
    ece_after: float = Field(description="The same at each seed's own temperature")


class TaskResult(Part):
    """Everything about one task."""

    kind: Literal["classification", "regression"]
    metric: str
    higher_is_better: bool
    shift: str
    input_shape: list[int]
    n_train: int = Field(description="Of the first seed")
    n_val: int
    n_test: int
    n_groups: int
    n_test_groups: int = 0
    n_test_units: int = Field(0, description="What the intervals resample on test: see gain_over_full.unit")
    n_val_units: int = Field(0, description="The same for the choice of the exit, outside the test set")
    split_sha256: str
    val_by_group: bool = Field(
        True, description="False where too few groups were left to divide train and validation by"
    )
    simulated: bool = False
    notes: list[str] = Field([], description="Sentences on the data: what was passed over, filled up or left out")
    label_names: list[str] = Field([])
    pooling: Pooling | Literal["attention", "auto"] = Field("default", description="Of the taps that the heads take")
    side: str | None = Field(None, description="Side features beside every tap, and by themselves at the exit `input`")
    statistics: Literal["own", "recalibrated"] = Field(
        "own", description="Of BatchNorm: from pretraining, or measured anew without labels outside the test set"
    )
    exits: list[ExitRow] = Field(min_length=1)
    chosen: ExitRow
    full: ExitRow
    gain_over_full: Gain
    best: BestExit | None = Field(None, description="The best exit on validation; None in results of older versions")
    selection: Selection | None = None
    margin: float | None = Field(
        None, description="The tolerance in the metric's unit, of the full encoder's test score where it is relative"
    )
    saving_confirmed: bool | None = Field(
        None, description="Whether the test interval of gain_over_full is above minus the margin; None at full depth"
    )
    no_claim: str | None = Field(
        None, description="Why the task counts for no claim and no summary; None where it counts"
    )
    controls: dict[str, FeatureRow | ExitControl]
    confusion: list[list[int]] | None = Field(
        None, description="Chosen exit, first seed, test: rows true, columns predicted"
    )
    by_snr: SnrScores | None = None
    by_group: list[GroupScore] = Field([])
    confidence: Confidence | None = Field(None, description="Of classifications")
    policies: PolicyComparison | None = Field(None, description="Where the suite asks for policies")
    measured: Measured
    sentence: str = Field(description="Reproduced bit for bit; the one with the time saved is in measured")


class ExitInfo(Part):
    """An exit of the encoder."""

    name: str
    index: int
    width: int
    params: int


class EncoderInfo(Part):
    """The encoder that was used."""

    name: str
    params: int
    sha256: str
    exits: list[ExitInfo]


class RunSummary(Part):
    """A run in a few numbers, over the tasks that count."""

    tasks: int
    left_out: list[str] = Field(description="Tasks that count for no claim")
    mean_macs_saved_fraction: float = Field(
        description="Of chosen exits; 0 where the exit does not beat a constant answer"
    )
    leave_early: int = Field(description="Tasks that leave before the end")
    confirmed: int = Field(description="Of these, savings confirmed on test")
    ood_tasks: int
    ood_beats_full: int = Field(
        description="OOD tasks whose gain over full depth is above zero after Holm's correction"
    )


class Results(Part):
    """results.json."""

    version: Literal[1] = Field(1, alias="schema")
    offramp: str
    suite: dict[str, Any]
    environment: dict[str, Any]
    encoder: EncoderInfo
    tasks: dict[str, TaskResult]
    summary: RunSummary | None = Field(None, description="None in results of older versions")
