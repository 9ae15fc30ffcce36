"""Published ways to exit early, by name: how an encoder is trained for its exits, and by what its windows leave them.

* ``deebert`` (Xin et al., "DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference", ACL 2020, arXiv 2004.12993): training in
  two stages, entropy.
* ``berxit`` (Xin et al., "BERxiT: Early Exiting for BERT with Better Fine-Tuning and Extension to Regression", EACL 2021): alternating
  training, and one linear layer on the hidden state of every exit that learns to exit, :class:`HiddenHalting`.
* ``layerskip`` (Elhoushi et al., "LayerSkip: Enabling Early Exit Inference and Self-Speculative Decoding", ACL 2024, arXiv
  2404.16710): layer dropout, a shared early-exit loss and one head for all exits, confidence. Its self-speculative decoding drafts and
  verifies tokens of a language model that generates; an encoder that answers once has nothing to draft, so that it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from torch import Tensor, nn

from offramp.bundle import Head
from offramp.encoders.base import StagedEncoder
from offramp.errors import DataError, PolicyError, TrainingError
from offramp.heads.modules import head_module
from offramp.policies.criteria import Array
from offramp.policies.policy import Memory, Policy
from offramp.policies.simulation import Decisions
from offramp.runtime.torch_segments import run_cascade
from offramp.schema.tasks import Kind
from offramp.training.exits.config import ExitTraining, Method
from offramp.training.exits.trainer import TrainedExits, train_exits

Halting = Literal["entropy", "confidence", "hidden"]
Taps = Mapping[str, NDArray[np.float32]]
"""Per exit ``(N, width)``."""

BATCH = 256
PENALTY = 1e-3
"""Of squared weights on standardised taps, per window."""


@dataclass(frozen=True)
class PublishedMethod:
    """What a published method consists of.

    Attributes:
        title: As its authors write it.
        method: How it trains, a method of :class:`ExitTraining`.
        halting: By what windows leave: a criterion of :mod:`offramp.policies.criteria`, or ``hidden`` for :class:`HiddenHalting`.
        regression: Whether it is for regression too.
    """

    title: str
    method: Method
    halting: Halting
    regression: bool = False


PUBLISHED: dict[str, PublishedMethod] = {
    "deebert": PublishedMethod("DeeBERT", "two-stage", "entropy"),
    "berxit": PublishedMethod("BERxiT", "alternating", "hidden", regression=True),
    "layerskip": PublishedMethod("LayerSkip", "layerskip", "confidence"),
}
"""All published methods by name."""


def published_method(name: str) -> PublishedMethod:
    """A method by name; raises :class:`TrainingError` if there is none."""
    if name not in PUBLISHED:
        raise TrainingError(f"unknown method {name!r}: choose one of {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


@dataclass(frozen=True, eq=False)
class HiddenHalting:
    """One linear layer, shared by all exits, from the tap to how certain the exit is of its answer (BERxiT).

    Attributes:
        weight: float32 ``(width,)``.
        bias: Of the logit.
    """

    weight: NDArray[np.float32]
    bias: float

    def certainty(self, taps: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the taps of one exit ``(N, width)`` to ``(N,)`` float32 in [0, 1]; NaN where a tap is."""
        certain: NDArray[np.float32] = expit(taps @ self.weight + np.float32(self.bias)).astype(np.float32)
        return certain


def fit_hidden_halting(taps: Taps, outputs: Taps, targets: NDArray[Any], kind: Kind) -> HiddenHalting:
    """Fit the layer by mean squared error against how right each exit is: 1 or 0 for classes, ``1 - tanh(|error|)`` for values.

    The error of a value is its root mean square over the dimensions, in units of the targets' spread. Deterministic.

    Args:
        taps: Of the exits that decide, all of one width; the last exit decides nothing and need not be among them.
        outputs: Of their heads, per exit logits ``(N, classes)`` or values ``(N, dimensions)``.
        targets: Classes ``(N,)`` or values ``(N, dimensions)``.
        kind: ``classification`` or ``regression``.

    Raises:
        DataError: There are no windows, shapes do not fit, or something is not finite; names the exit.
        TrainingError: The exits' widths differ.
    """
    if not taps or not len(targets):
        raise DataError("learning to exit needs an exit and a window: there is none")
    widths = {exit: tap.shape[-1] for exit, tap in taps.items()}
    if len(set(widths.values())) > 1:
        raise TrainingError(f"exits share the layer that learns to exit, but their widths differ: {widths}")
    for exit, tap in taps.items():
        if exit not in outputs or not len(tap) == len(outputs[exit]) == len(targets):
            raise DataError(f"exit {exit!r}: give a tap and an output for each of {len(targets)} targets")
        if not (np.isfinite(tap).all() and np.isfinite(outputs[exit]).all()):
            raise DataError(
                f"exit {exit!r}: taps or outputs are not all finite; check the heads and the encoder's weights"
            )
    wanted = np.concatenate([rightness(outputs[exit], targets, kind) for exit in taps])
    rows = np.concatenate(list(taps.values())).astype(np.float64)
    centre, spread = rows.mean(0), rows.std(0)
    spread = np.where(spread > 1e-6 * np.maximum(1, np.abs(centre)), spread, np.inf)
    rows = np.column_stack([(rows - centre) / spread, np.ones(len(rows))])

    def error(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        said = expit(rows @ parameters)
        weight = np.append(parameters[:-1], 0)
        gradient = 2 * rows.T @ ((said - wanted) * said * (1 - said)) / len(rows) + 2 * PENALTY * weight
        return float(((said - wanted) ** 2).mean() + PENALTY * weight @ weight), gradient

    start = np.append(np.zeros(rows.shape[1] - 1), logit(np.clip(wanted.mean(), 0.01, 0.99)))
    found = minimize(error, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8}).x
    weight = found[:-1] / spread
    return HiddenHalting(weight.astype(np.float32), float(found[-1] - weight @ centre))


def rightness(outputs: NDArray[np.floating], targets: NDArray[Any], kind: Kind) -> NDArray[np.float64]:
    """How right answers are, ``(N,)`` in [0, 1]: what the layer of BERxiT learns; see :func:`fit_hidden_halting`."""
    if kind == "classification":
        right: NDArray[np.float64] = (outputs.argmax(1) == targets).astype(np.float64)
        return right
    values = np.asarray(targets, dtype=np.float64)
    if values.shape != outputs.shape or not np.isfinite(values).all():
        raise DataError(f"outputs {outputs.shape} and targets {values.shape}: give finite values of one shape")
    spread = values.std(0)
    error = (outputs - values) / np.where(spread > 0, spread, 1.0)
    close: NDArray[np.float64] = 1 - np.tanh(np.sqrt((error**2).mean(1)))
    return close


class HiddenPolicy(Policy):
    """A policy whose certainty stands in the last column of the outputs, where :class:`HeadWithHalting` puts it."""

    def certainty(self, exit: str, outputs: Array, memory: Memory) -> tuple[Array, Memory]:
        self._index(exit)
        return outputs[:, -1], memory

    def to_dict(self) -> dict[str, Any]:
        """Refused: bundles hold policies that see outputs alone."""
        raise PolicyError(
            "a policy on hidden states cannot be stored in a bundle: choose the criterion learned_halting"
        )


class HeadWithHalting(nn.Module):
    """A head with the layer that learns to exit: taps ``(N, width)`` to ``(N, outputs + 1)``, the certainty last."""

    def __init__(self, head: Head, halting: HiddenHalting) -> None:
        super().__init__()
        self.head = head_module(head)
        self.halting = nn.Linear(len(halting.weight), 1)
        with torch.no_grad():
            self.halting.weight.copy_(torch.from_numpy(halting.weight)[None])
            self.halting.bias.fill_(halting.bias)

    def forward(self, taps: Tensor) -> Tensor:
        return torch.cat([self.head(taps), torch.sigmoid(self.halting(taps))], dim=1)


@dataclass(frozen=True, eq=False)
class PublishedExits:
    """An encoder trained by a published method.

    Attributes:
        method: Which.
        kind: ``classification`` or ``regression``.
        trained: The encoder and a head per exit.
        halting: The layer that learned to exit, where the method has one.
    """

    method: PublishedMethod
    kind: Kind
    trained: TrainedExits
    halting: HiddenHalting | None

    @property
    def exits(self) -> tuple[str, ...]:
        """The exits, in order of depth."""
        return tuple(self.trained.heads)

    def heads(self) -> dict[str, nn.Module]:
        """Modules that count and run: a head per exit, with the layer that learned to exit beside it where there is one."""
        if self.halting is None:
            return {exit: head_module(head) for exit, head in self.trained.heads.items()}
        return {exit: HeadWithHalting(head, self.halting) for exit, head in self.trained.heads.items()}

    def policy(self, threshold: float = np.inf) -> Policy:
        """The rule with one threshold for all exits, as the methods have it; windows leave where the certainty reaches it."""
        ones = (1.0,) * len(self.exits)
        thresholds = (float(threshold),) * (len(self.exits) - 1)
        if self.halting is None:
            return Policy(self.kind, self.method.halting, self.exits, thresholds, ones, ones)
        criterion = (
            "confidence" if self.kind == "classification" else "agreement"
        )  # never asked: the certainty is given
        return HiddenPolicy(self.kind, criterion, self.exits, thresholds, ones, ones)

    def predict(self, x: Tensor, threshold: float) -> Decisions:
        """Answer windows, each at the exit where it leaves; nothing runs for a window that has left.

        Args:
            x: Input ``(N, *encoder.input.shape)`` on the encoder's device.
            threshold: Of the certainty, shared by all exits.
        """
        encoder = self.trained.encoder
        device = next(encoder.parameters()).device
        heads = {exit: head.to(device).eval() for exit, head in self.heads().items()}
        decided = run_cascade(encoder.eval(), heads, self.policy(threshold), x)
        if self.halting is None:
            return decided
        return Decisions(decided.exit, decided.outputs[:, :-1], decided.rejected)


@dataclass(frozen=True, eq=False)
class ExitRows:
    """What exits say about some windows.

    Attributes:
        taps: Per exit float32 ``(N, width)``.
        outputs: Per exit float32 ``(N, outputs)``, of the heads.
    """

    taps: Taps
    outputs: dict[str, NDArray[np.float32]] = field(repr=False)


@torch.inference_mode()
def exit_rows(encoder: StagedEncoder, heads: Mapping[str, Head], x: Tensor) -> ExitRows:
    """Taps and outputs of the exits that have heads, from one pass in inference mode, 256 windows at a time."""
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    batches = [encoder.taps(x[at : at + BATCH].to(device), list(heads)) for at in range(0, len(x), BATCH)]
    encoder.train(training)
    taps = {exit: torch.cat([batch[exit] for batch in batches]).float().cpu().numpy() for exit in heads}
    return ExitRows(taps, {exit: head(taps[exit]) for exit, head in heads.items()})


def train_published(
    name: str,
    encoder: StagedEncoder,
    inputs: Tensor,
    targets: Tensor | NDArray[Any],
    kind: Kind,
    outputs: int,
    validation: tuple[Tensor, NDArray[Any]],
    exits: Sequence[str] = (),
    **options: Any,
) -> PublishedExits:
    """Train a copy of an encoder by a published method; the encoder given stays as it is.

    The papers fine-tune a pretrained BERT or Llama; this starts from the weights that ``encoder`` has. BERxiT's layer that learns to
    exit is fitted in the end, on the validation windows: exits know the training windows too well to learn from them where they err.

    Args:
        name: A key of :data:`PUBLISHED`.
        encoder: To start from.
        inputs: ``(N, *encoder.input.shape)``.
        targets: Classes ``(N,)`` or values ``(N, outputs)``.
        kind: ``classification`` or ``regression``.
        outputs: Classes, or dimensions of a value.
        validation: Inputs and targets that nothing was trained on.
        exits: Those that get heads; all if empty. The papers' stand behind every layer, none behind the embedding.
        options: Other settings of :class:`ExitTraining`: steps, batch, learning_rate, seed ...

    Raises:
        TrainingError: There is no such method, it is not for regression, or a setting does not fit.
        EncoderError: An exit is unknown, or the inputs do not fit the encoder.
        DataError: Targets do not fit, or something is NaN or infinite.
    """
    method = published_method(name)
    if kind == "regression" and not method.regression:
        raise TrainingError(f"{method.title} leaves by the probabilities of classes: choose berxit for regression")
    if "method" in options:
        raise TrainingError(f"{method.title} trains by {method.method}: leave the setting method out")
    config = ExitTraining(method=method.method, exits=tuple(exits), **options)
    trained = train_exits(encoder, inputs, targets, kind, outputs, config)
    halting = None
    if method.halting == "hidden":
        deciding = dict(list(trained.heads.items())[:-1]) or trained.heads
        rows = exit_rows(trained.encoder, deciding, validation[0])
        halting = fit_hidden_halting(rows.taps, rows.outputs, np.asarray(validation[1]), kind)
    return PublishedExits(method, kind, trained, halting)
