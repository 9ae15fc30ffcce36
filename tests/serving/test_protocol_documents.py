"""Bodies of the protocol: what fits is read right, and what does not is refused with the input and the expectation named."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import tritonclient.grpc.model_config_pb2 as their_config
import tritonclient.grpc.service_pb2 as theirs
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st

from offramp.serving.protocol import inference_pb2 as ours
from offramp.serving.protocol.datatypes import DTYPES, datatype_of, from_bytes, to_bytes
from offramp.serving.protocol.documents import read_request, write_answer
from offramp.serving.protocol.faults import BadRequest
from offramp.serving.protocol.requests import AnswerPart, ModelSpec, TensorSpec

SPEC = ModelSpec(
    "m",
    (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "BYTES", (-1,))),
    (TensorSpec("c", "FP64", (-1,), ("x", "y")), TensorSpec("d", "INT8", (-1,))),
)
A = {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.5, 3, 4]}
B = {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["é"]}


def body(**changes: Any) -> bytes:
    return json.dumps({"inputs": [A, B], **changes}).encode()


def test_flat_and_nested_data_are_the_same() -> None:
    for data in ([1, 2.5, 3, 4], [[1, 2.5], [3, 4]]):
        asked = read_request(SPEC, body(inputs=[{**A, "data": data}, B], id="7"), None)
        assert asked.id == "7"
        assert asked.request.inputs["a"].dtype == np.float32
        assert asked.request.inputs["a"].tolist() == [[1, 2.5], [3, 4]]
        assert asked.request.inputs["b"].tolist() == ["é".encode()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b"{", "JSON"),
        (b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1, 2], "data": [NaN, 1]}]}', "JSON"),
        (body(inputs={}), "inputs"),
        (json.dumps({}).encode(), "inputs"),
        (body(inputs=[A]), "'b' is missing"),
        (body(inputs=[A, A, B]), "twice"),
        (body(inputs=[A, B, {**B, "name": "e"}]), "unknown input 'e'"),
        (body(inputs=[{**A, "shape": [2, -2]}, B]), "at least 0"),
        (body(inputs=[{**A, "shape": [2, 2.0]}, B]), "at least 0"),
        (body(inputs=[{**A, "shape": [True, 4]}, B]), "at least 0"),
        (body(inputs=[{**A, "shape": [4, 1]}, B]), "[-1, 2]"),
        (body(inputs=[{**A, "shape": [2**40, 2**40]}, B]), "elements"),
        (body(inputs=[{**A, "data": [1, 2, 3]}, B]), "[2, 2]"),
        (body(inputs=[{**A, "data": [[1, 2, 3, 4]]}, B]), "[2, 2]"),
        (body(inputs=[{**A, "data": [[1, 2], [3]]}, B]), "unequal"),
        (body(inputs=[{**A, "data": ["1", "2", "3", "4"]}, B]), "no FP32"),
        (body(inputs=[{**A, "data": [None] * 4}, B]), "no FP32"),
        (body(inputs=[{**A, "data": "1234"}, B]), "list"),
        (body(inputs=[{**A, "datatype": "FP16"}, B]), "binary"),
        (body(inputs=[{**A, "datatype": "FP64"}, B]), "FP32 is expected"),
        (body(inputs=[{**A, "datatype": "FLOAT"}, B]), "FLOAT"),
        (body(inputs=[A, {**B, "data": [1]}]), "no texts"),
        (body(outputs=[{"name": "c"}, {"name": "c"}]), "twice"),
        (body(outputs=[{"name": "e"}]), "c, d"),
        (body(outputs=[{"name": "c", "parameters": {"binary_data": 1}}]), "binary_data"),
        (body(outputs=[{"name": "c", "parameters": {"classification": 0}}]), "classification"),
        (body(outputs=[{"name": "c", "parameters": {"shared_memory_region": "x"}}]), "shared memory"),
        (body(parameters=[]), "object"),
        (body(parameters={"x": [1]}), "single value"),
        (body(parameters={"binary_data_output": "yes"}), "binary_data_output"),
        (body(id=7), "id"),
        (b'{"inputs": [], "more": ' + b"[" * 120 + b"]" * 120 + b"}", "deep"),
        (b'{"inputs": [{"name": "a", "more": ' + b"[" * 120 + b"]" * 120 + b"}]}", "deep"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_what_does_not_fit_is_named(content: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_request(SPEC, content, None)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def binary(size_a: object = 16, size_b: object = 6) -> tuple[bytes, bytes]:
    def entry(tensor: dict[str, Any], size: object) -> dict[str, Any]:
        return {**{k: v for k, v in tensor.items() if k != "data"}, "parameters": {"binary_data_size": size}}

    head = json.dumps({"inputs": [entry(A, size_a), entry(B, size_b)]}).encode()
    tail = np.array([1, 2.5, 3, 4], "<f4").tobytes() + struct.pack("<I", 2) + "é".encode()
    return head, tail


def test_binary_tensors() -> None:
    head, tail = binary()
    asked = read_request(SPEC, head + tail, str(len(head)))
    assert asked.request.inputs["a"].tolist() == [[1, 2.5], [3, 4]]
    assert asked.request.inputs["b"].tolist() == ["é".encode()]


@pytest.mark.parametrize("length", ["-1", "1e3", "", "99999999999999999999", "٣", "0x10", "5"])
def test_absurd_lengths_of_headers(length: str) -> None:
    head, tail = binary()
    with pytest.raises(BadRequest):
        read_request(SPEC, head + tail, length)


@pytest.mark.parametrize(("a", "b"), [(-1, 6), (15, 6), (16, 5), (16, 7), (2**63, 6), (True, 6), ("16", 6), (16.0, 6)])
def test_sizes_that_do_not_fit(a: object, b: object) -> None:
    head, tail = binary(a, b)
    with pytest.raises(BadRequest):
        read_request(SPEC, head + tail, str(len(head)))


def test_bytes_behind_the_tensors_are_not_passed_over() -> None:
    head, tail = binary()
    with pytest.raises(BadRequest, match="3 bytes"):
        read_request(SPEC, head + tail + b"abc", str(len(head)))


@given(content=st.binary(max_size=300), length=st.one_of(st.none(), st.integers(-5, 400).map(str), st.text(max_size=5)))
def test_any_body_is_read_or_refused(content: bytes, length: str | None) -> None:
    with suppress(BadRequest):
        read_request(SPEC, content, length)


NUMBERS = st.sampled_from([name for name in DTYPES if name != "BYTES"])


@given(st.data())
def test_numbers_survive_their_bytes(data: st.DataObject) -> None:
    name = data.draw(NUMBERS)
    array = data.draw(arrays.arrays(DTYPES[name], arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
    assert datatype_of(array) == name
    back = from_bytes(to_bytes(array), name, array.shape, "x")
    assert back.tobytes() == array.tobytes()
    with pytest.raises(BadRequest):
        from_bytes(to_bytes(array) + b"\0", name, array.shape, "x")


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_texts_survive_their_bytes(texts: list[bytes]) -> None:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    raw = to_bytes(array)
    assert raw == b"".join(struct.pack("<I", len(each)) + each for each in texts)
    assert from_bytes(raw, "BYTES", (len(texts),), "x").tolist() == texts
    for end in range(len(raw)):
        with pytest.raises(BadRequest):
            from_bytes(raw[:end], "BYTES", (len(texts),), "x")


def test_an_answer_in_both_forms() -> None:
    part = AnswerPart({"c": np.array([0.25, 0.75]), "d": np.array([1, -1], np.int8)}, {"why": "so"})
    wanted = [{"name": "d", "parameters": {"binary_data": True}}, {"name": "c"}]
    asked = read_request(SPEC, body(outputs=wanted, id="q"), None)
    content, length = write_answer(SPEC, part, asked)
    assert length is not None
    document = json.loads(content[:length])
    assert content[length:] == b"\x01\xff"
    assert document == {
        "model_name": "m",
        "model_version": "1",
        "id": "q",
        "parameters": {"why": "so"},
        "outputs": [
            {"name": "d", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}},
            {"name": "c", "datatype": "FP64", "shape": [2], "data": [0.25, 0.75]},
        ],
    }
    best = read_request(SPEC, body(outputs=[{"name": "c", "parameters": {"classification": 5}}]), None)
    content, length = write_answer(SPEC, part, best)
    assert length is None
    assert json.loads(content)["outputs"][0]["data"] == ["0.750000:1:y", "0.250000:0:x"]


def compare(mine: Descriptor, other: Descriptor) -> int:
    """How many fields they share; each has the number and the type of the other."""
    count = 0
    for name, field in mine.fields_by_name.items():
        match = other.fields_by_name[name]
        assert (field.number, field.type, field.is_repeated) == (match.number, match.type, match.is_repeated), name
        if field.message_type is not None:
            count += compare(field.message_type, match.message_type)
        count += 1
    return count


def test_messages_are_those_of_the_public_protocol() -> None:
    fields = 0
    for name, message in ours.DESCRIPTOR.message_types_by_name.items():
        other = theirs.DESCRIPTOR.message_types_by_name.get(name)
        fields += compare(message, other or their_config.DESCRIPTOR.message_types_by_name[name])
    assert fields > 150
    numbers = {value.name: value.number for value in their_config.DESCRIPTOR.enum_types_by_name["DataType"].values}
    assert {value.name: value.number for value in ours.DataType.DESCRIPTOR.values} == numbers
