"""One pretraining run in several processes, as ``torchrun`` starts them: who leads, and what they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from offramp.errors import TrainingError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Processes:
    """This process among all of a run.

    Attributes:
        rank: Number of this process; 0 leads: it alone writes files and reports progress.
        count: Number of processes.
        device: Where this process computes, e.g. ``"cuda:1"``.
    """

    rank: int
    count: int
    device: str

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share_of(self, pairs: int) -> int:
        """How many of a step's pairs this process draws."""
        return pairs // self.count

    def normalised_together(self, model: M) -> M:
        """The model, its BatchNorm statistics taken over all processes where the device can do so (CUDA)."""
        if self.count > 1 and self.device.startswith("cuda"):
            converted: M = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return converted
        return model

    def replicated(self, model: nn.Module) -> nn.Module:
        """The model so wrapped that its gradients are averaged over all processes."""
        return DistributedDataParallel(model) if self.count > 1 else model


def leads() -> bool:
    """Whether this process is the one that reports, known before any process has been joined."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the other processes of a ``torchrun``; alone without one.

    Args:
        device: ``"cpu"``, or ``"cuda"`` for each process's own accelerator on its machine.

    Raises:
        TrainingError: There are more processes than accelerators on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Processes(0, 1, device)
        return
    on_cuda = device.startswith("cuda")
    if on_cuda:
        own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= there:
            raise TrainingError(f"process {own + 1} of this machine has no accelerator: start at most {there} on it")
        device = f"cuda:{own}"
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes one below the other, in order of rank; gradients flow back to each."""
    if not dist.is_initialized():
        return rows
    everyone: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return everyone


class _Gather(torch.autograd.Function):
    """Each process's loss depends on the rows of all, so the gradient of own rows is a sum over the processes."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def averaged(value: Tensor) -> Tensor:
    """A number's mean over all processes, so that all of them take the same decisions."""
    mean = value.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean
