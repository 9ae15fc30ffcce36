"""KServe's Python ModelServer, a model per task. It has no batches of its own. Open Inference Protocol with binary tensors in and out; its lines per request in the log are off."""

from __future__ import annotations

import logging

import kserve.logging
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from tasks import PORT, TASKS, ServedTasks

served = ServedTasks()


class Task(Model):
    def __init__(self, number: int) -> None:
        super().__init__(f"task{number}")
        self.number, self.ready = number, True

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        found = served.answer([self.number], payload.inputs[0].as_numpy())
        output = InferOutput("probabilities", list(found.shape), "FP32")
        output.set_data_from_numpy(found, binary_data=True)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=True)


if __name__ == "__main__":
    kserve.logging.configure_logging()
    for name in ("kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server = ModelServer(http_port=PORT, enable_grpc=False, enable_latency_logging=False, workers=1)
    server.start([Task(number) for number in range(TASKS)])
