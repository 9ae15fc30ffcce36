"""LitServe with dynamic batches and its fast queue. Raw bytes in and out: it parses JSON unless told where a request comes from, and hands on what a dependency gives."""

from __future__ import annotations

from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Depends, Request, Response
from tasks import MOST, PORT, WAIT_MS, ServedTasks, taken


async def body(request: Request) -> bytes:
    return await request.body()


class Tasks(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        self.served = ServedTasks()

    def decode_request(self, request):
        return taken(request)

    def batch(self, inputs):
        return [task for task, _ in inputs], np.stack([window for _, window in inputs])

    def predict(self, batch):
        return self.served.answer(*batch)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return Response(output.tobytes(), media_type="application/octet-stream")


# as values, not as text: LitServe compares them
Tasks.decode_request.__annotations__["request"] = Annotated[bytes, Depends(body)]
Tasks.encode_response.__annotations__["return"] = Response


if __name__ == "__main__":
    api = Tasks(max_batch_size=MOST, batch_timeout=WAIT_MS / 1e3, api_path="/infer")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
