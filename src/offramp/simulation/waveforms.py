"""A batch of waveforms, with the parameters of their symbols as far as they have any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Waveforms:
    """N complex baseband signals of about unit power.

    Attributes:
        signal: complex64 ``(N, samples)``.
        samples_per_symbol: float32 ``(N,)``; of a spread signal, per chip; NaN where there is no train of symbols.
        rolloff: float32 ``(N,)``, of a root-raised-cosine pulse; NaN where there is none.
    """

    signal: Tensor
    samples_per_symbol: Tensor
    rolloff: Tensor

    @classmethod
    def of(cls, signal: Tensor, samples_per_symbol: Tensor | None = None, rolloff: Tensor | None = None) -> Waveforms:
        """Waveforms whose unknown parameters have no meaning."""
        nothing = torch.full((len(signal),), torch.nan, device=signal.device)
        return cls(
            signal,
            nothing if samples_per_symbol is None else samples_per_symbol,
            nothing if rolloff is None else rolloff,
        )
