"""Ray Serve: a proxy and one replica with dynamic batches, all options for throughput on. Raw bytes in and out."""

from __future__ import annotations

import os
import signal
import threading

os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from tasks import MOST, PORT, WAIT_MS, ServedTasks, taken


@serve.deployment(num_replicas=1, max_ongoing_requests=512, ray_actor_options={"num_cpus": 0})
class Tasks:
    def __init__(self) -> None:
        self.served = ServedTasks()

    @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=WAIT_MS / 1e3)
    async def answer(self, asked: list[tuple[int, np.ndarray]]) -> list[bytes]:
        found = self.served.answer([task for task, _ in asked], np.stack([window for _, window in asked]))
        return [row.tobytes() for row in found]

    async def __call__(self, request: Request) -> Response:
        return Response(await self.answer(taken(await request.body())), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Tasks.bind(), route_prefix="/infer")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()
