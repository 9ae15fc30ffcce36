"""MLServer with adaptive batches, in one process: its own pool of workers costs more than it brings on one core. Its HTTP knows no binary tensors: a window comes as text in base64,
which it takes faster than a list of 2,048 numbers; probabilities leave as a list."""

from __future__ import annotations

import asyncio

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from tasks import MOST, PORT, SHAPE, WAIT_MS, ServedTasks


class Tasks(MLModel):
    async def load(self) -> bool:
        self.served = ServedTasks()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        windows, tasks = payload.inputs
        found = self.served.answer(
            NumpyCodec.decode_input(tasks).ravel().tolist(),
            np.stack([np.frombuffer(each, np.float32).reshape(SHAPE) for each in Base64Codec.decode_input(windows)]),
        )
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", found)])


async def main() -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=PORT,
        grpc_port=0,
        metrics_endpoint=None,
        parallel_workers=0,
        debug=False,
        gzip_enabled=False,
    )
    server = MLServer(settings)
    model = ModelSettings(name="tasks", implementation=Tasks, max_batch_size=MOST, max_batch_time=WAIT_MS / 1e3)
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
