"""mosec with one worker and dynamic batches. Raw bytes in and out."""

from __future__ import annotations

import numpy as np
from mosec import Server, Worker
from tasks import MOST, WAIT_MS, ServedTasks, taken


class Tasks(Worker):
    def __init__(self) -> None:
        self.served = ServedTasks()

    def deserialize(self, data: bytes) -> tuple[int, np.ndarray]:
        return taken(data)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: list[tuple[int, np.ndarray]]) -> list[np.ndarray]:
        return list(self.served.answer([task for task, _ in data], np.stack([window for _, window in data])))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Tasks, num=1, max_batch_size=MOST, max_wait_time=WAIT_MS)
    server.run()
