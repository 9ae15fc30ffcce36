"""What `engine_beside_mosec.py` starts: `mosec` with one worker that batches dynamically, and runs each task of a batch through its own ONNX graph.

A request is the number of a task in one byte, then a window in float32; an answer is what the graph gives, in float32. Graphs lie in the folder of the environment
variable GRAPHS as task0.onnx and so on, windows have the shape of SHAPE.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
from mosec import Server, Worker

MOST, WAIT_MS = 64, 2


class Tasks(Worker):
    """All graphs on one thread."""

    def __init__(self) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        self.shape = tuple(map(int, os.environ["SHAPE"].split(",")))
        paths = sorted(Path(os.environ["GRAPHS"]).glob("task*.onnx"))
        self.sessions = [
            onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"]) for path in paths
        ]

    def deserialize(self, data: bytes) -> tuple[int, np.ndarray]:
        return data[0], np.frombuffer(data, np.float32, offset=1).reshape(self.shape)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: list[tuple[int, np.ndarray]]) -> list[np.ndarray]:
        answers: list[np.ndarray | None] = [None] * len(data)
        for task in {task for task, _ in data}:
            places = [place for place, (asked, _) in enumerate(data) if asked == task]
            given = self.sessions[task].run(None, {"windows": np.stack([data[place][1] for place in places])})[0]
            for place, row in zip(places, given, strict=True):
                answers[place] = row
        return answers


if __name__ == "__main__":
    server = Server()
    server.append_worker(Tasks, num=1, max_batch_size=MOST, max_wait_time=WAIT_MS)
    server.run()
