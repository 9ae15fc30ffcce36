"""What the study compares: tasks, label budgets, encoders, seeds."""

from __future__ import annotations

from dataclasses import dataclass

from offramp.schema.tasks import Shift, SyntheticSpec
from offramp.training.config import PretrainingConfig

SHOTS = (10, 100, 500)
LABEL_SEEDS = 3
TEST_WINDOWS = 2560
ENCODER = "iq-resnet-small"
STEPS = 6000
POOLING, SIDE = "statistics", "handmade"
"""What every head sees of every exit, as in the embedded suite."""


@dataclass(frozen=True)
class StudyTask:
    """A simulated task whose windows suffice for 500 labels per class and a test set.

    Attributes:
        name: As in the embedded suite.
        shift: From what the encoders were pretrained on.
        spec: The windows.
        target: Column to predict.
        group: Column that must not cross from train to test.
        no_claim: Why it is shown but counts for no claim; None where it counts.
    """

    name: str
    shift: Shift
    spec: SyntheticSpec
    target: str
    group: str | None = None
    no_claim: str | None = None


def _task(
    name: str,
    shift: Shift,
    classes: int,
    target: str,
    group: str | None = None,
    no_claim: str | None = None,
    **spec: object,
) -> StudyTask:
    windows = 600 * classes + TEST_WINDOWS
    settings = {"windows": windows, "seed": 100} | spec
    return StudyTask(name, shift, SyntheticSpec.model_validate(settings), target, group, no_claim)


TASKS = (
    _task("modulation", "id", 25, "modulation", scenario="signals"),
    _task("direction_sector", "id", 8, "sector", scenario="directions"),
    _task("rml2016", "domain", 11, "modulation", scenario="rml2016", antennas=1, samples=128, snr_db=(-20, 18)),
    _task(
        "fingerprint",
        "label",
        12,  # sessions are unevenly spread over the 8 transmitters
        "transmitter",
        "session",
        scenario="fingerprint",
        antennas=1,
        samples=512,
        snr_db=(10, 30),
    ),
    _task(
        "interference",
        "both",
        15,
        "emitter",
        no_claim="filters with random weights solve it",
        scenario="interference",
        antennas=1,
        samples=128,
        snr_db=(-10, 20),
    ),
    _task("beam", "both", 8, "beam", scenario="beam", antennas=1, samples=256, snr_db=(10, 30)),
)

COUNTED = tuple(task for task in TASKS if task.no_claim is None)
"""Those that claims and means over tasks are about."""

MAIN_RUN = "seed0"
"""Its weights ship."""
PRETRAINED = (MAIN_RUN, "seed1", "seed2")
PRETRAINING: dict[str, PretrainingConfig] = {
    name: PretrainingConfig(encoder=ENCODER, steps=STEPS, objective="mixed", labels="general", seed=seed)
    for seed, name in enumerate(PRETRAINED)
}
"""All runs by name."""
RANDOM = ("random-0", "random-1", "random-2")
"""Random weights, BatchNorm statistics measured without labels."""
SCRATCH_SHOTS = (10, 500)
SCRATCH_SEEDS = 2
SCRATCH_EXITS = ("stage1.1", "stage3.1")
