"""What callers hand over as windows: arrays, tensors and lists of any library, as one NumPy array of numbers, or refused in one line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offramp.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def array_of(x: ArrayLike | Tensor) -> NDArray[np.generic]:
    """Windows as an array, of whatever dtype they have; bfloat16 and the other small floats of torch as float32.

    Raises:
        DataError: Lists of unequal length, objects that are no array, masked entries; a sparse, quantised or nested tensor, or one
            without values.
    """
    if _is_tensor(x):
        return _array_of_tensor(x)
    if np.ma.is_masked(x):
        raise DataError("windows hold masked entries: fill them, or leave those windows out")
    try:
        return np.asarray(x)
    except Exception as error:  # whatever the objects of others raise
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise DataError(f"windows are no array of numbers (N, ...), all of one shape: {reason}") from None


def _is_tensor(x: object) -> TypeGuard[Tensor]:
    """Without importing torch: where it is not, there are no tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _array_of_tensor(x: Tensor) -> NDArray[np.generic]:
    import torch

    if x.is_quantized:
        kind = "quantised: give x.dequantize()"
    elif x.is_nested:
        kind = "nested: give windows of one shape"
    elif x.layout != torch.strided:
        kind = f"{str(x.layout).removeprefix('torch.')}: give x.to_dense()"
    elif x.device.type == "meta":
        kind = "on the device meta, which holds no values"
    else:
        plain = x.detach().cpu().resolve_conj().resolve_neg()
        if plain.is_complex():
            plain = plain.to(torch.complex64) if plain.dtype == torch.complex32 else plain
        elif plain.is_floating_point() and plain.dtype not in (torch.float16, torch.float32, torch.float64):
            plain = plain.float()
        try:
            array: NDArray[np.generic] = plain.numpy()
            return array
        except TypeError:  # a dtype of torch alone, such as bits8
            kind = f"{plain.dtype}: they must be numbers that convert to float32"
    raise DataError(f"windows are {kind}")
