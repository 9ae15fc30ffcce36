"""What every server beside ours serves: eight tasks, in ONNX Runtime on one thread.

The environment variable GRAPHS names a folder. Either it holds ``full.onnx``, the encoder at full depth with the heads of all tasks in one matrix behind it, so that windows of
different tasks are one batch; or ``task0.onnx`` to ``task7.onnx``, each cut at the task's own exit, and a batch runs task by task. SHAPE is that of a window, PORT where to listen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PORT = int(os.environ["PORT"])
SHAPE = tuple(map(int, os.environ["SHAPE"].split(",")))
TASKS = 8
MOST, WAIT_MS = 64, 2
"""Windows of a batch, and how long it may wait to fill. None that batches did better with another wait of 0 to 5 ms."""


class ServedTasks:
    """Windows and the number of a task each -> probabilities."""

    def __init__(self) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        graphs = Path(os.environ["GRAPHS"])
        self.cut = not (graphs / "full.onnx").exists()
        names = [f"task{number}.onnx" for number in range(TASKS)] if self.cut else ["full.onnx"]
        self.sessions = [
            onnxruntime.InferenceSession(graphs / name, settings, providers=["CPUExecutionProvider"]) for name in names
        ]

    def answer(self, tasks: Sequence[int], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) numbers and ``(N, *SHAPE)`` windows -> ``(N, classes)``."""
        if self.cut:
            return self._by_task(tasks, windows)
        values = self.sessions[0].run(None, {"windows": windows})[0].reshape(len(windows), TASKS, -1)
        logits = values[np.arange(len(windows)), list(tasks)]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def _by_task(self, tasks: Sequence[int], windows: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(windows) == 1:
            return self.sessions[tasks[0]].run(None, {"windows": windows})[0]
        asked, answers = np.array(tasks), None
        for task in set(tasks):
            places = np.flatnonzero(asked == task)
            given = self.sessions[task].run(None, {"windows": windows[places]})[0]
            if answers is None:
                answers = np.empty((len(windows), given.shape[1]), np.float32)
            answers[places] = given
        return answers


def taken(body: bytes) -> tuple[int, NDArray[np.float32]]:
    """The number of a task in one byte, then a window in float32."""
    return body[0], np.frombuffer(body, np.float32, offset=1).reshape(SHAPE)
