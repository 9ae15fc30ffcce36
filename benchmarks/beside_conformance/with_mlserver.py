"""A model of MLServer as its page on custom runtimes shows one: inputs decoded by its codecs, outputs encoded by them. The name of an input, its shape and
which outputs are asked for are left to the model; this one takes its input by name."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse
from tiny import answer


class Tiny(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        found = {tensor.name: self.decode(tensor, default_codec=NumpyCodec) for tensor in payload.inputs}
        if "windows" not in found:
            raise InferenceError("no input windows")
        probabilities, labels = answer(found["windows"])
        outputs = [NumpyCodec.encode_output("probabilities", probabilities), StringCodec.encode_output("label", labels)]
        outputs[1].shape = [len(labels)]  # the codec's own is [N, 1]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
