"""What runs in the background: never before anything else, never beside it, however long it waits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from offramp.runtime.engine.scheduler import BACKGROUND, FAIR, PassQueue
from offramp.runtime.engine.timing import PassTiming

TIMING = PassTiming((1, 2, 4, 8), tuple((0.01, 0.011, 0.012, 0.013) for _ in range(4)))
"""Two segments and two whole passes; large batches are nearly as cheap as small ones."""


@dataclass(eq=False)
class Windows:
    """A job of one window to the last segment."""

    name: str
    priority: int = 0
    unit: int = 0
    deadline: float = math.inf
    arrived: float = 0.0
    count: int = 1
    last: int = 1
    wanted: bool = True


def order(queue: PassQueue[Windows], now: float) -> list[list[str]]:
    """Names in each batch until nothing waits."""
    batches = []
    while (choice := queue.choose(now)) is not None:
        batch, dropped = queue.take(choice, now)
        assert not dropped
        batches.append([job.name for job in batch.jobs])
        for job in batch.jobs:
            if job.unit < job.last:
                job.unit += 1
                queue.add(job)
    return batches


def test_what_waits_long_in_the_background_still_goes_last() -> None:
    queue: PassQueue[Windows] = PassQueue(TIMING, 8)
    queue.add(Windows("shadow", BACKGROUND))
    now = 100 * FAIR  # a request without deadline would be due long since
    for number in range(3):
        queue.add(Windows(f"real {number}", priority=5, arrived=now))
    batches = order(queue, now)
    real = [f"real {number}" for number in range(3)]
    assert batches == [real, real, ["shadow"], ["shadow"]]


def test_it_goes_with_its_own_kind() -> None:
    queue: PassQueue[Windows] = PassQueue(TIMING, 8)
    for number in range(3):
        queue.add(Windows(f"shadow {number}", BACKGROUND))
    assert order(queue, 0.0) == [["shadow 0", "shadow 1", "shadow 2"]] * 2


def test_others_of_low_priority_are_due_some_time() -> None:
    """So that the first test is about the background alone."""
    queue: PassQueue[Windows] = PassQueue(TIMING, 8)
    queue.add(Windows("patient", BACKGROUND - 1))
    now = 100 * FAIR
    queue.add(Windows("real", arrived=now))
    assert order(queue, now)[0][:2] == ["real", "patient"]
