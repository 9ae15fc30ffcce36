"""A bundle's encoder as its tasks see it."""

from __future__ import annotations

from collections.abc import Iterable

from offramp.bundle import STATISTICS, Bundle, BundleTask
from offramp.encoders.base import StagedEncoder
from offramp.encoders.recalibration import with_statistics
from offramp.encoders.view import TaskView
from offramp.errors import BundleError, EncoderError


class TaskViews:
    """Makes views; tasks with the same BatchNorm statistics share one encoder."""

    def __init__(self, bundle: Bundle, encoder: StagedEncoder) -> None:
        """Take a bundle and the encoder that belongs to it.

        Raises:
            BundleError: The bundle's BatchNorm statistics are of another encoder.
        """
        self._encoders: dict[str | None, StagedEncoder] = {None: encoder}
        try:
            for name, statistics in bundle.statistics.items():
                self._encoders[name] = with_statistics(encoder, statistics)
        except EncoderError as error:
            raise BundleError(f"{STATISTICS}: {error}; save the bundle again") from None

    def of(self, task: BundleTask) -> TaskView:
        """The encoder as a task's heads see it.

        Raises:
            EncoderError: It does not take the task's windows, or the side features are not to be had.
            BundleError: Heads do not take its taps.
        """
        shape = task.transform.output_shape(task.window_shape)
        encoder = self._encoders[task.statistics]
        encoder.input.check(shape)
        view = TaskView(encoder, shape, task.poolings, task.side)
        for exit, head in task.heads.items():
            given = view.tap_shapes[exit]
            taken: tuple[int, ...] = (head.inputs,)
            if head.positions is not None:
                taken = (len(head.positions), head.inputs)
            elif head.query is not None:
                taken = (*given[:1], head.inputs)
            if taken != given:
                raise BundleError(
                    f"head of task {task.name!r} at exit {exit!r} takes taps of shape {taken} where the encoder gives "
                    f"{given}: save the bundle again"
                )
        return view


def sharing_a_pass(views: Iterable[TaskView]) -> list[TaskView]:
    """Views of one encoder, so that one pass with the state of any of them serves all."""
    listed = list(views)
    carried = list(dict.fromkeys(view.side for view in listed if view.side is not None))
    return [view if view.carried == tuple(carried) else view.carrying(carried) for view in listed]
