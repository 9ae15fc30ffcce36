"""The kit's own reading and writing of tensors, against numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.serving.conformance.tensors import (
    DATATYPES,
    FORMATS,
    TensorDescription,
    WireTensor,
    difference,
    from_bytes,
    from_json,
    sample,
    to_bytes,
    to_json,
)

KINDS = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"} | {
    f"{sign}INT{bits}": f"<{'u' if sign else 'i'}{bits // 8}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}
shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3)


def test_all_datatypes_of_fixed_width_are_here() -> None:
    assert set(KINDS) == set(FORMATS)


@given(st.sampled_from(list(KINDS)), shapes)
def test_numbers_are_written_as_numpy_writes_them(datatype: str, shape: list[int]) -> None:
    tensor = sample(TensorDescription("x", datatype, tuple(shape)))
    array = np.array(tensor.elements, KINDS[datatype]).reshape(shape)
    assert to_bytes(tensor) == array.tobytes()
    assert to_json(tensor, nested=True) == array.tolist()
    assert to_json(tensor) == array.reshape(-1).tolist()
    assert from_bytes("x", datatype, tensor.shape, array.tobytes()) == tensor
    for nested in (False, True):
        data = json.loads(json.dumps(to_json(tensor, nested)))
        assert from_json("x", datatype, tensor.shape, data) == tensor


@given(st.lists(st.binary(max_size=5), max_size=5))
def test_elements_of_bytes_stand_behind_their_lengths(elements: list[bytes]) -> None:
    tensor = WireTensor("x", "BYTES", (len(elements),), tuple(elements))
    raw = b"".join(np.uint32(len(element)).tobytes() + element for element in elements)
    assert to_bytes(tensor) == raw
    assert from_bytes("x", "BYTES", tensor.shape, raw) == tensor


def test_bf16_is_the_upper_half_of_fp32() -> None:
    tensor = sample(TensorDescription("x", "BF16", (9,)))
    wide = np.array(tensor.elements, "<f4").view("<u4") >> 16
    assert to_bytes(tensor) == wide.astype("<u2").tobytes()
    assert from_bytes("x", "BF16", (9,), to_bytes(tensor)) == tensor


@pytest.mark.parametrize("datatype", DATATYPES)
def test_open_dimensions_are_one_and_the_first_is_the_batch(datatype: str) -> None:
    assert sample(TensorDescription("x", datatype, (-1, 3, -1))).shape == (1, 3, 1)
    two = sample(TensorDescription("x", datatype, (-1, 3, -1)), batch=2)
    assert two.shape == (2, 3, 1)
    assert len(two.elements) == 6


@pytest.mark.parametrize("shape", [(10**6, 10**6), (1,) * 33])
def test_inputs_that_are_too_large_are_not_made(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="more than"):
        sample(TensorDescription("x", "FP32", shape))


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", (2,), [1.0]),
        ("FP32", (1,), ["1"]),
        ("FP32", (1,), [True]),
        ("FP32", (1,), [None]),
        ("FP32", (1,), {"a": 1}),
        ("INT8", (1,), [200]),
        ("INT8", (1,), [1.5]),
        ("UINT8", (1,), [-1]),
        ("BOOL", (1,), [2]),
        ("BYTES", (1,), [1]),
        ("FP32", (1,), [[[1.0]]]),
        ("INT32", (1,), [10**400]),
        ("INT32", (1,), [float("inf")]),
    ],
)
def test_data_that_do_not_fit_are_refused(datatype: str, shape: tuple[int, ...], data: object) -> None:
    with pytest.raises(ValueError, match="output x"):
        from_json("x", datatype, shape, data)


@pytest.mark.parametrize("raw", [b"\1", b"\1\0\0\0", b"\5\0\0\0ab", b"\0\0\0\0\0\0\0\0", b""])
def test_lengths_of_bytes_that_lead_astray(raw: bytes) -> None:
    with pytest.raises(ValueError, match="output x"):
        from_bytes("x", "BYTES", (1,), raw)


def test_what_tells_answers_apart() -> None:
    one = WireTensor("x", "FP32", (2,), (1.0, float("nan")))
    other = WireTensor("y", "BYTES", (1,), (b"a",))
    assert difference([one, other], [other, one]) == ""
    assert difference([one], [WireTensor("x", "FP32", (2,), (1.00001, float("nan")))]) == ""
    assert "element 0" in difference([one], [WireTensor("x", "FP32", (2,), (1.01, float("nan")))])
    assert "element 1" in difference([one], [WireTensor("x", "FP32", (2,), (1.0, 0.0))])
    assert "outputs" in difference([one], [one, other])
    assert "FP64" in difference([one], [WireTensor("x", "FP64", (2,), one.elements)])
    assert "[1, 2]" in difference([one], [WireTensor("x", "FP32", (1, 2), one.elements)])
