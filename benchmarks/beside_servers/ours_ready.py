"""Our server in front of a model that computes nothing: its answer, one row as a task gives it, is there when it is asked. What it takes is what serving takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from offramp.serving.process import run_models
from offramp.serving.protocol.requests import AnswerPart, InferRequest, ModelSpec, Pending, TensorSpec
from offramp.serving.settings import ServerSettings

SHAPE = tuple(map(int, os.environ["SHAPE"].split(",")))
CLASSES = 8


class ReadyModel:
    def __init__(self, name: str) -> None:
        texts = {"label": b"3", "exit": b"stem", "reason": b"fixed"}
        outputs = (
            TensorSpec("probabilities", "FP32", (-1, CLASSES)),
            *(TensorSpec(each, "BYTES", (-1,)) for each in texts),
        )
        self.spec = ModelSpec(name, (TensorSpec("windows", "FP32", (-1, *SHAPE)),), outputs)
        row = np.full((1, CLASSES), 1 / CLASSES, np.float32)
        said = {each: np.array([text], object) for each, text in texts.items()}
        self.part = AnswerPart({"probabilities": row, **said}, {"task": name, "slice": "default", "age_ms": 0.1})

    def ask(self, request: InferRequest) -> Sequence[Pending]:
        done: Future[AnswerPart] = Future()
        done.set_result(self.part)
        return [Pending(done, lambda part: part)]

    def go_on(self) -> bool:
        return False


if __name__ == "__main__":
    models = {f"task{number}": ReadyModel(f"task{number}") for number in range(CLASSES)}
    nowhere = Path()
    settings = ServerSettings(nowhere, nowhere, port=int(os.environ["PORT"]), grpc_port=int(os.environ["RPC_PORT"]))
    run_models(models, settings, lambda *_: None)
