"""Windows as other libraries hold them: the same numbers, or one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import IQ_SHAPE
from torch import Tensor

from offramp.errors import BundleError, DataError
from offramp.runtime import Predictor, load
from offramp.runtime.arrays import array_of

WINDOWS = np.random.default_rng(0).standard_normal((3, *IQ_SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def predictor(iq_folder: Path) -> Predictor:
    return load(iq_folder)


def test_answers_differ_from_window_to_window(predictor: Predictor) -> None:
    """Else the tests below would say nothing."""
    outputs = predictor.predict(WINDOWS, ["modulation"])["modulation"].outputs
    assert np.abs(outputs - outputs[0]).max(1)[1:].min() > 1e-3


@pytest.mark.parametrize(
    ("make", "rounded"),
    [
        (lambda t: t.bfloat16(), torch.bfloat16),
        (lambda t: t.half(), torch.float16),
        (lambda t: t.to(torch.float8_e4m3fn), torch.float8_e4m3fn),
        (lambda t: t.double(), torch.float32),
        (lambda t: t.to(torch.int16), torch.int16),
        (lambda t: t.clone().requires_grad_(), torch.float32),
        (lambda t: torch.nn.Parameter(t), torch.float32),
        (lambda t: torch.complex(torch.zeros_like(t), -t).conj().imag, torch.float32),
        (lambda t: t.transpose(1, 3).contiguous().transpose(1, 3), torch.float32),
        (list, torch.float32),
        (lambda t: t.tolist(), torch.float32),
        (lambda t: t.numpy().astype(np.longdouble), torch.float32),
        (lambda t: np.ma.array(t.numpy()), torch.float32),
    ],
)
def test_what_holds_the_same_numbers(predictor: Predictor, make: Callable[[Tensor], Any], rounded: torch.dtype) -> None:
    windows = torch.from_numpy(WINDOWS)
    expected = predictor.predict(windows.to(rounded).float(), ["modulation"])["modulation"].outputs
    found = predictor.predict(make(windows), ["modulation"])["modulation"].outputs
    np.testing.assert_array_equal(found, expected)


def test_complex_half_precision_keeps_its_parts() -> None:
    given = torch.view_as_complex(torch.randn(4, 2).half())
    found = array_of(given)
    assert found.dtype == np.complex64
    np.testing.assert_array_equal(found, given.to(torch.complex64).numpy())


class Unwilling:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("not\nnow")


RAGGED = WINDOWS.tolist()
RAGGED[1][0][0] = RAGGED[1][0][0][:-1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.to_sparse(), r"windows are sparse_coo: give x.to_dense\(\)"),
        (lambda t: t[0, 0].to_sparse_csr(), r"windows are sparse_csr: give x.to_dense\(\)"),
        (lambda t: t.to("meta"), "on the device meta, which holds no values"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"quantised: give x.dequantize\(\)"),
        (lambda t: torch.nested.nested_tensor([t[0], t[1][:1]]), "nested: give windows of one shape"),
        (lambda t: torch.nested.nested_tensor([t[0], t[1]], layout=torch.jagged), "nested"),
        (lambda t: torch.tensor(1.0), "a single number"),
        (lambda t: RAGGED, "no array of numbers .*inhomogeneous"),
        (lambda t: [t[0], t[1].clone().requires_grad_()], "no array of numbers"),
        (lambda t: [t[0].bfloat16()], "no array of numbers"),
        (lambda t: np.array([None, {}], dtype=object), "windows are object: they must be numbers"),
        (lambda t: np.ma.masked_greater(t.numpy(), 1), "masked entries"),
        (lambda t: None, "must be numbers"),
        (lambda t: (window for window in t), "must be numbers"),
        (lambda t: Unwilling(), "no array of numbers .*: not$"),
        (lambda t: [[10**400]], "must be numbers"),
        (lambda t: np.zeros(3, dtype=[("re", "f4"), ("im", "f4")]), "must be numbers"),
        (lambda t: np.zeros(3, "M8[s]"), "must be numbers"),
    ],
)
def test_what_does_not_is_one_line(predictor: Predictor, make: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        predictor.predict(make(torch.from_numpy(WINDOWS)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 2.5}, DataError),
        ({"batch_size": "many"}, DataError),
        ({"batch_size": None}, DataError),
        ({"tasks": 5}, BundleError),
        ({"tasks": [1]}, BundleError),
        ({"tasks": [["modulation"]]}, BundleError),
        ({"policy": ["routed"]}, BundleError),
    ],
)
def test_options_of_another_type(predictor: Predictor, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options)).removesuffix("s")):
        predictor.predict(WINDOWS, **options)
