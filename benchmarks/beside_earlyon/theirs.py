"""The same encoder and task in `earlyon`, used as its own README tells: wrap, train the exit heads, calibrate thresholds, infer.

Its `earlyon.models` imports torchvision when it is imported, although `custom_ee`, the one function used of it, needs none of it:
an empty stand-in of that module is put in place before. Nothing else of `earlyon` is touched.
"""

from __future__ import annotations

import copy
import math
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from offramp.encoders.base import StagedEncoder


def _stand_in_for_torchvision() -> None:
    models = types.ModuleType("torchvision.models")
    for name in ("efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50", "ViT_B_16_Weights", "vit_b_16"):
        setattr(models, name, None)
    package = types.ModuleType("torchvision")
    package.models = models  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": package, "torchvision.models": models})


_stand_in_for_torchvision()

from earlyon import EarlyExitConfig, EarlyExitWrapper, ExitPoint  # noqa: E402
from earlyon.core.thresholds import (  # noqa: E402
    HeadLogits,
    calibrate_thresholds,
    calibrate_thresholds_for_budget,
    collect_head_logits,
    fit_head_temperatures,
)
from earlyon.models import custom_ee  # noqa: E402
from earlyon.training import stage2_train_exits  # noqa: E402
from earlyon.training.two_stage_trainer import TrainStepLog  # noqa: E402

BATCH, EPOCHS = 128, 20
"""Of its command line and of `stage2_train_exits`, by default; so is a learning rate of 1e-3."""
LONG, FAST = 100, 3e-3
"""Epochs and learning rate of the heads that do it most justice; of the settings tried, best on validation."""
DROPS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08)
STEPS = 24
"""Accuracy drops asked of its calibration, and thresholds tried per exit, where the best of its policies is looked for."""

Loader = DataLoader[tuple[Tensor, ...]]
Cost = Callable[[NDArray[np.int64], Sequence[bool]], float]
"""Mean cost of windows that leave at these exits where these are enabled."""


class Scale(nn.Module):
    """The encoder's own scaling of its input."""

    def __init__(self, encoder: StagedEncoder) -> None:
        super().__init__()
        self.begin = encoder.begin  # a bound method: as a submodule, the encoder would count its stages twice

    def forward(self, x: Tensor) -> Tensor:
        return self.begin(x)[0]


class Pool(nn.Module):
    """The default tap: the mean over antennas and time, as in the heads of `earlyon`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Slice(nn.Module):
    """One exit's tap out of all taps side by side."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, taps: Tensor) -> Tensor:
        return taps[:, self.start : self.stop]


class Taps(nn.Module):
    """A backbone that computes nothing: taps of all exits side by side to the logits at full depth."""

    def __init__(self, widths: Mapping[str, int], head: nn.Module) -> None:
        super().__init__()
        start = 0
        for exit, width in widths.items():
            self.add_module(layer_name(exit), Slice(start, start + width))
            start += width
        self.head = copy.deepcopy(head)

    def forward(self, taps: Tensor) -> Tensor:
        *slices, head = self.children()
        for each in slices:
            tap = each(taps)
        logits: Tensor = head(tap)
        return logits


def layer_name(exit: str) -> str:
    """A module's name may hold no dot."""
    return exit.replace(".", "_")


def backbone(encoder: StagedEncoder, last: str, head: nn.Module) -> nn.Sequential:
    """The encoder up to an exit and the head there: the plain classifier that `earlyon` wraps. A copy, for it gets hooks."""
    encoder = copy.deepcopy(encoder)
    stages = [
        (layer_name(exit.name), stage)
        for exit, stage in zip(encoder.exits, encoder.stages, strict=True)
        if exit.index <= encoder.exit_index(last)
    ]
    parts = [("scale", Scale(encoder)), *stages, ("pool", Pool()), ("classifier", copy.deepcopy(head))]
    return nn.Sequential(OrderedDict(parts)).eval()


def wrap(encoder: StagedEncoder, head: nn.Module, classes: int, shape: tuple[int, ...]) -> EarlyExitWrapper:
    """Its own heads (one hidden layer of 128 units, dropout) at all exits but the last, where ours stands; untrained."""
    *early, last = [exit.name for exit in encoder.exits]
    layers = [layer_name(exit) for exit in early]
    return custom_ee(backbone(encoder, last, head), layers, classes, input_shape=(1, *shape)).eval()


def wrap_ours(
    encoder: StagedEncoder,
    heads: Mapping[str, nn.Module],
    thresholds: Sequence[float],
    temperatures: Sequence[float],
    classes: int,
    shape: tuple[int, ...],
) -> EarlyExitWrapper:
    """Our heads, thresholds and temperatures, executed by `earlyon`: the same decisions. The last of the heads ends the network."""
    *early, last = heads
    points = [
        ExitPoint(layer_name(name), layer_name(name), encoder.exits[encoder.exit_index(name)].width) for name in early
    ]
    config = EarlyExitConfig(
        backbone="custom",
        num_classes=classes,
        exit_points=points,
        confidence_thresholds=[min(max(threshold, 0.0), 1.0) for threshold in thresholds],
        enabled_exits=[threshold <= 1 for threshold in thresholds],
        temperatures=dict(zip([*(point.name for point in points), "final"], temperatures, strict=True)),
    )
    modules = {layer_name(name): nn.Sequential(Pool(), copy.deepcopy(heads[name])) for name in early}
    return EarlyExitWrapper(backbone(encoder, last, heads[last]), modules, nn.Identity(), config, (1, *shape)).eval()


def loader(windows: Tensor, labels: Tensor, shuffle: bool = False) -> Loader:
    generator = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(windows, labels), BATCH, shuffle, generator=generator)


def on_taps(model: EarlyExitWrapper, widths: Mapping[str, int]) -> EarlyExitWrapper:
    """A wrapper of the same heads that takes taps which were kept, side by side, so that the encoder need not run again."""
    taps = Taps(widths, model.backbone.get_submodule("classifier")).eval()
    layers, example = [point.layer_name for point in model.config.exit_points], torch.zeros(1, sum(widths.values()))
    twin = custom_ee(taps, layers, model.config.num_classes, example_args=(example,))
    twin.exit_heads = model.exit_heads
    twin._flops_estimate = model.flops_estimate  # those of the encoder, or its calibration would count none
    return twin


def train(model: EarlyExitWrapper, training: Loader) -> None:
    """As the README says, with the defaults of its two-stage trainer: the frozen backbone runs in every epoch."""
    stage2_train_exits(model, training, epochs=EPOCHS, on_epoch_end=lambda log: None)
    model.eval()


def train_longer(model: EarlyExitWrapper, training: Loader, validation: Loader) -> int:
    """The same trainer, longer and faster; the heads of the best epoch on validation are kept, and its number returned."""
    best: dict[str, Tensor] = {}
    scores: list[float] = []

    def keep(log: TrainStepLog) -> None:
        assert log.val_accuracy is not None
        if not scores or log.val_accuracy > max(scores):
            best.update({name: value.clone() for name, value in model.exit_heads.state_dict().items()})
        scores.append(log.val_accuracy)

    stage2_train_exits(model, training, validation, epochs=LONG, lr=FAST, on_epoch_end=keep)
    model.exit_heads.load_state_dict(best)
    model.eval()
    return 1 + int(np.argmax(scores))


@dataclass(frozen=True)
class Routing:
    """How a wrapper decides, apart from its weights."""

    policy: str
    confidence: tuple[float, ...]
    entropy: tuple[float, ...]
    enabled: tuple[bool, ...]
    temperatures: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, model: EarlyExitWrapper) -> Routing:
        config = model.config
        thresholds = tuple(config.confidence_thresholds), tuple(config.entropy_thresholds)
        return cls(config.routing_policy, *thresholds, tuple(config.enabled_exits), tuple(config.temperatures.items()))

    def apply(self, model: EarlyExitWrapper) -> EarlyExitWrapper:
        """The same wrapper, deciding so."""
        config = model.config
        config.routing_policy = self.policy
        config.confidence_thresholds, config.entropy_thresholds = list(self.confidence), list(self.entropy)
        config.enabled_exits, config.temperatures = list(self.enabled), dict(self.temperatures)
        config.validate()
        return model


def readme_routing(model: EarlyExitWrapper, validation: Loader) -> Routing:
    """As the README does it: thresholds that keep the accuracy within 1% of the full network's, no temperatures."""
    calibrate_thresholds(model, validation, target_accuracy_drop=0.01)
    return Routing.of(model)


def best_routings(
    model: EarlyExitWrapper, validation: Loader, budgets: Sequence[float], full: float, cost: Cost
) -> list[Routing | None]:
    """For each budget, the best on validation of all that its two calibrations offer: both policies, temperatures, a fine grid."""
    known = collect_head_logits(model, validation, "cpu")
    model.config.temperatures = {name: fit.temperature for name, fit in fit_head_temperatures(known).items()}
    largest = math.log(model.config.num_classes)
    grids = {"confidence": np.linspace(0.99, 0.05, STEPS), "entropy": np.linspace(0.02, 0.98, STEPS) * largest}
    found: list[tuple[float, float, Routing]] = []
    for policy, values in grids.items():
        model.config.routing_policy = policy
        grid = tuple(map(float, values))
        for asked in [*DROPS, *budgets]:
            if asked in DROPS:
                calibrate_thresholds(model, validation, asked, grid)
            else:
                calibrate_thresholds_for_budget(model, validation, min(asked / full, 1.0), grid)
            left, answers = decide(known, model)
            right = float((answers == known.targets.numpy()).mean())
            found.append((right, cost(left, model.config.enabled_exits), Routing.of(model)))
    best = []
    for budget in budgets:
        within = [each for each in found if each[1] <= budget]
        best.append(max(within, key=lambda each: (each[0], -each[1]))[2] if within else None)
    return best


def logits(model: EarlyExitWrapper, windows: Loader) -> HeadLogits:
    """Of all heads for some windows."""
    return collect_head_logits(model, windows, "cpu")


def decide(known: HeadLogits, model: EarlyExitWrapper) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where windows leave, the last exit being the full network, and their answers; its own rule, on logits that are known."""
    config, last = model.config, len(model.config.exit_points)
    left = torch.full((known.num_samples,), last)
    for index in reversed(range(last)):
        if not config.enabled_exits[index]:
            continue
        shares = torch.softmax(known.logits[index] / config.temperatures[known.head_names[index]], dim=-1)
        if config.routing_policy == "confidence":
            fires = shares.max(dim=-1).values.double() >= config.confidence_thresholds[index]
        else:
            entropy = -(shares * shares.clamp_min(1e-12).log()).sum(dim=-1)
            fires = entropy.double() <= config.entropy_thresholds[index]
        left[fires] = index
    answers = torch.stack([each.argmax(dim=-1) for each in known.logits])[left, torch.arange(known.num_samples)]
    return left.numpy(), answers.numpy()
