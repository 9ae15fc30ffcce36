"""Two processes on one run: what they compute together is what one computes alone on all of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from tiny_architecture import Tiny
from torch import Tensor, nn
from torch.nn import functional

from offramp.encoders.registry import load_encoder, register_encoder
from offramp.errors import TrainingError
from offramp.training import pretrain as module
from offramp.training import sources
from offramp.training.checkpoint import TrainingState
from offramp.training.config import PretrainingConfig
from offramp.training.contrastive import info_nce
from offramp.training.pretrain import pretrain
from offramp.training.processes import Processes, averaged, gathered, joined

CONFIG = PretrainingConfig(encoder="tiny-test", steps=3, batch=8)


def projected(layer: nn.Module, rows: Tensor) -> Tensor:
    return functional.normalize(layer(rows), dim=1)


def made() -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer and six pairs of views."""
    layer = nn.Linear(5, 4)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 5, generator=draws))
        layer.bias.zero_()
    first = torch.randn(6, 5, generator=draws)
    return layer, first, first + torch.randn(6, 5, generator=draws)


def free_port() -> str:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return str(probing.getsockname()[1])


def member(rank: int, folder: Path, ports: tuple[str, str]) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = ports[0]
    layer, first, second = made()
    with joined("cpu") as processes:
        replica = processes.replicated(layer)
        own = slice(3 * rank, 3 * rank + 3)
        pairs = (gathered(projected(replica, rows[own])) for rows in (first, second))
        loss, matched = info_nce(*pairs, temperature=0.5)
        loss.backward()  # type: ignore[no-untyped-call]
        mean = averaged(torch.tensor(float(rank)))
    result = {"loss": loss.detach(), "matched": matched, "weight": layer.weight.grad, "mean": mean}

    os.environ["MASTER_PORT"] = ports[1]
    register_encoder(Tiny)
    sources.probe_exits = lambda encoder: {}
    module.draw_probe = lambda lines, path: None
    states: list[TrainingState] = []
    blocks: list[int] = []
    view_pairs = sources.view_pairs
    module.TrainingState = lambda *given: states.append(TrainingState(*given)) or states[0]
    sources.view_pairs = lambda *given: blocks.append(given[5]) or view_pairs(*given)  # type: ignore[func-returns-value]
    steps: list[int] = []
    pretrain(CONFIG, folder / "run", on_step=lambda progress: steps.append(progress.views))
    weights = {f"run.{name}": parameter.detach() for name, parameter in states[0].model.named_parameters()}
    torch.save(result | weights | {"blocks": blocks, "steps": steps}, folder / f"{rank}.pt")


def test_two_processes_do_what_one_does_with_all_of_it(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(member, (tmp_path, (free_port(), free_port())), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))

    layer, one, other = made()
    loss, matched = info_nce(projected(layer, one), projected(layer, other), temperature=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    for result in (first, second):
        torch.testing.assert_close(result["loss"], loss.detach())
        assert result["matched"] == matched
        torch.testing.assert_close(result["weight"], layer.weight.grad)
        assert result["mean"] == 0.5

    names = [name for name in first if name.startswith("run.")]
    assert len(names) > 20
    assert all(torch.equal(first[name], second[name]) for name in names)
    trained = dict(load_encoder(tmp_path / "run" / "encoder").named_parameters())
    initial = dict(load_encoder("tiny-test", weights="random").named_parameters())
    for name, parameter in trained.items():
        assert torch.equal(parameter, first[f"run.encoder.{name}"])
        assert not torch.equal(parameter, initial[name])
    assert first["blocks"] == [0, 2, 4]  # each process draws data of its own,
    assert second["blocks"] == [1, 3, 5]
    assert first["steps"] == [16, 16, 16]  # and one alone reports, on all of it
    assert second["steps"] == []


def test_alone_nothing_is_exchanged() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gathered(rows) is rows
    assert averaged(rows.sum()) == rows.sum().detach()
    with joined("cpu") as processes:
        assert processes == Processes(0, 1, "cpu")
        assert processes.leads
        layer = nn.Linear(2, 2)
        assert processes.replicated(layer) is layer


def test_a_batch_that_cannot_be_shared_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Three:
        def __enter__(self) -> Processes:
            return Processes(0, 3, "cpu")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(module, "joined", lambda device: Three())
    with pytest.raises(TrainingError, match="a batch of 8 cannot be shared by 3 processes: use a multiple"):
        pretrain(CONFIG, tmp_path)
