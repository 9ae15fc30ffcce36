"""Weights of several ONNX graphs, each kept once in one file beside them (ONNX's external data)."""

from __future__ import annotations

import hashlib

from offramp.export import graph

SMALLEST = 128
"""Bytes; what is smaller stays in its graph, where ONNX Runtime wants to see shapes and scalars."""
ALIGNMENT = 64


class SharedWeights:
    """Takes weights out of graphs; equal ones of different graphs are the same bytes of the file."""

    def __init__(self, file: str) -> None:
        """Take the name of the file, which lies in the folder of the graphs."""
        self.file = file
        self._content = bytearray()
        self._places: dict[bytes, int] = {}

    @property
    def content(self) -> bytes:
        """What belongs into the file."""
        return bytes(self._content)

    def take_from(self, content: bytes) -> bytes:
        """A serialised graph without the weights that it holds, which it now finds in the file."""
        graph.require_onnx()
        import onnx
        from onnx.external_data_helper import set_external_data

        model = onnx.load_from_string(content)
        for tensor in model.graph.initializer:
            raw = tensor.raw_data
            if len(raw) < SMALLEST:
                continue
            set_external_data(tensor, self.file, self._place(raw), len(raw))
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.ClearField("raw_data")
        return bytes(model.SerializeToString())

    def _place(self, raw: bytes) -> int:
        digest = hashlib.sha256(raw).digest()
        if digest not in self._places:
            self._content += bytes(-len(self._content) % ALIGNMENT)
            self._places[digest] = len(self._content)
            self._content += raw
        return self._places[digest]
