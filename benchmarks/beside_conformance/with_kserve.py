"""KServe's Python ModelServer with a model as its page on custom models shows one. The name of an input and its shape are left to the model; this one takes
its input by name, and hands on which outputs are asked for and how."""

from __future__ import annotations

import sys

import grpc
import numpy as np
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid
from tiny import INPUTS, NAME, OUTPUTS, answer


class Tiny(Model):
    def __init__(self) -> None:
        super().__init__(NAME)
        self.ready = True

    def get_input_types(self) -> list[dict[str, object]]:
        return INPUTS

    def get_output_types(self) -> list[dict[str, object]]:
        return OUTPUTS

    def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        windows = payload.get_input_by_name("windows")
        if windows is None:
            raise InvalidInput("no input windows")
        probabilities, labels = answer(windows.as_numpy())
        outputs = [
            InferOutput("probabilities", list(probabilities.shape), "FP32"),
            InferOutput("label", [len(labels)], "BYTES"),
        ]
        for output, values in zip(outputs, (probabilities, np.array(labels, dtype=np.object_)), strict=True):
            output.set_data_from_numpy(values, binary_data=payload.use_binary_outputs)
        return InferResponse(
            payload.id or generate_uuid(),
            self.name,
            outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


class OnLoopback(uvicorn.Config):
    """It listens on all addresses, and has no option to change that."""

    def __init__(self, app: str, host: str, **options: object) -> None:
        super().__init__(app, host="127.0.0.1", **options)


def _port_on_loopback(server: grpc.aio.Server, address: str) -> int:
    return _add_port(server, address.replace("[::]", "127.0.0.1"))


if __name__ == "__main__":
    uvicorn.Config = OnLoopback
    kind = type(grpc.aio.server())
    _add_port, kind.add_insecure_port = kind.add_insecure_port, _port_on_loopback
    ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), workers=1).start([Tiny()])
