"""Recordings of radios, a bundle fitted to some of them, and what it answers to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import offramp
from offramp.bundle import TaskReference, load_reference
from offramp.data.dataset import load_dataset
from offramp.data.simulated import read_synthetic
from offramp.experiment.pipeline import run_suite
from offramp.runtime import Predictor
from offramp.runtime.predictor import Prediction
from offramp.runtime.reference import answers_of
from offramp.schema.suite import load_suite
from offramp.schema.tasks import SyntheticSpec

SESSION, SAMPLES, NEW_CLASS = 32, 512, 7
TRAINED = 320
"""Sessions that the bundle is made from; those of one radio are left out."""
SNR_DB, SEED = (10.0, 30.0), 5
SUITE = """
encoder: iq-resnet-small
tasks:
  - name: radio
    kind: classification
    shift: {shift}
    data: {data}
    head: {{pooling: statistics}}
    split: {{test: 0.2, validation: 0.4}}
seeds: [0]
controls: []
policies: {{}}
"""
Windows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Recordings:
    """What a bundle answers to whole recordings, under one policy.

    Attributes:
        predictions: One per recording.
        features: Float32 ``(windows, width)`` of each.
    """

    predictions: tuple[Prediction, ...]
    features: tuple[Windows, ...]

    def chosen(self, numbers: Sequence[int] | NDArray[np.int64]) -> Recordings:
        """Some of them."""
        return Recordings(
            tuple(self.predictions[each] for each in numbers), tuple(self.features[each] for each in numbers)
        )

    def confidence(self) -> NDArray[np.float64]:
        """Of all windows, one after the other."""
        return np.concatenate([each.confidence for each in self.predictions]).astype(np.float64)

    def reference(self, like: TaskReference, policy: str) -> TaskReference:
        """What these recordings look like, in the place of those of a bundle."""
        whole = replace(
            self.predictions[0],
            outputs=np.concatenate([each.outputs for each in self.predictions]),
            left=np.concatenate([each.left for each in self.predictions]),
            rejected=np.concatenate([each.rejected for each in self.predictions]),
        )
        return replace(
            like,
            held_out="calibration",
            groups=np.repeat(np.arange(len(self.features)), [len(each) for each in self.features]).astype(np.int32),
            features=like.projection(np.concatenate(self.features)),
            policies={policy: answers_of(whole, like.value_projection)},
        )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A bundle of the task ``radio``, and recordings that it has not seen.

    Attributes:
        predictor: The bundle.
        own: Its reference.
        usual: As those that it was fitted to.
        changed: By name of the change.
    """

    predictor: Predictor
    own: TaskReference
    usual: Recordings
    changed: dict[str, Recordings]


def answered(predictor: Predictor, windows: Windows, policy: str, exit: str, size: int) -> Recordings:
    """Answers to recordings of ``size`` windows each, one after the other."""
    whole = predictor.predict(windows, ["radio"], policy=policy)["radio"]
    features = predictor.features(windows, "radio", exit)
    rows = [slice(start, start + size) for start in range(0, len(windows), size)]
    return Recordings(
        tuple(
            replace(whole, outputs=whole.outputs[row], left=whole.left[row], rejected=whole.rejected[row])
            for row in rows
        ),
        tuple(features[row] for row in rows),
    )


def simulated(folder: Path, usual: int, changed: int, policy: str) -> Fitted:
    """Fit to 320 sessions of the scenario ``fingerprint``, without one of the radios, and answer others.

    Args:
        folder: For the bundle.
        usual: Sessions without a change.
        changed: Sessions with each change.
        policy: By which windows leave.
    """
    windows, radio, session = _sessions(0, TRAINED, SNR_DB)
    kept = radio != NEW_CLASS
    np.savez(folder / "radios.npz", sample=windows[kept], radio=radio[kept], session=session[kept])
    predictor, own = _fitted(folder, "{path: radios.npz, input: sample, target: radio, group: session}", "label")

    def answers(windows: Windows) -> Recordings:
        return answered(predictor, windows, policy, own.exit, SESSION)

    windows, radio, _ = _sessions(TRAINED, TRAINED + usual, SNR_DB)
    later, later_radio, _ = _sessions(TRAINED + usual, TRAINED + usual + changed, SNR_DB)
    weaker, _, _ = _sessions(TRAINED + usual, TRAINED + usual + changed, (SNR_DB[0] - 6, SNR_DB[1] - 6))
    known = later_radio != NEW_CLASS
    altered: dict[str, Callable[[Windows], Windows]] = {
        "carrier offset 0.02 of the sample rate": lambda x: _of_complex(_complex(x) * _rotation()),
        "IQ imbalance 1 dB and 5 degrees": lambda x: _of_complex(_imbalanced(_complex(x))),
        "gain 6 dB": lambda x: x * np.float32(10 ** (6 / 20)),
    }
    found = {"SNR 6 dB lower": answers(weaker[known])}
    found |= {name: answers(alter(later[known])) for name, alter in altered.items()}
    found["a new radio"] = answers(np.concatenate([windows[radio == NEW_CLASS], later[~known]]))
    return Fitted(predictor, own, answers(windows[radio != NEW_CLASS]), found)


def recorded(folder: Path, data: Path, policy: str) -> Fitted:
    """Fit to recordings over the air of 433 MHz devices; those of the validation and the test set are usual."""
    spec = f"{{path: {data}, target: label, group: recording, window: 2048, windows_per_recording: 32}}"
    predictor, own = _fitted(folder, spec, "both")
    task = load_suite(folder / "suite.yaml").tasks[0]
    dataset = load_dataset(task.data, "classification")
    from offramp.data.splits import load_split

    split = load_split(folder / "run" / "splits" / "radio.json", dataset)
    held = np.sort(np.concatenate([split.test, split.draws[0].folds[0][1]]))
    size = 32
    own_groups, counts = np.unique(dataset.groups[held], return_counts=True)
    whole = np.concatenate([held[dataset.groups[held] == group] for group in own_groups[counts == size]])
    usual = answered(predictor, dataset.windows.read(whole), policy, own.exit, size)
    return Fitted(predictor, own, usual, {})


def _fitted(folder: Path, data: str, shift: str) -> tuple[Predictor, TaskReference]:
    suite = folder / "suite.yaml"
    suite.write_text(SUITE.format(data=data, shift=shift))
    run_suite(load_suite(suite), folder / "run")
    bundle = folder / "run" / "bundle"
    return offramp.load(bundle), load_reference(bundle)["radio"]


def _sessions(
    first: int, last: int, snr_db: tuple[float, float]
) -> tuple[Windows, NDArray[np.int64], NDArray[np.int64]]:
    """Windows of the sessions from ``first`` to before ``last``, the radio and the session of each."""
    spec = SyntheticSpec(
        scenario="fingerprint", windows=last * SESSION, antennas=1, samples=SAMPLES, snr_db=snr_db, seed=SEED
    )
    table, rows = read_synthetic(spec), np.arange(first * SESSION, last * SESSION)
    return table.windows.read(rows), table.columns["transmitter"][rows], table.columns["session"][rows]


def _complex(windows: Windows) -> NDArray[np.complex64]:
    return (windows[:, 0] + 1j * windows[:, 1]).astype(np.complex64)


def _of_complex(signal: NDArray[np.complex64]) -> Windows:
    return np.stack([signal.real, signal.imag], axis=1).astype(np.float32)


def _rotation() -> NDArray[np.complex64]:
    return np.exp(2j * np.pi * 0.02 * np.arange(SAMPLES)).astype(np.complex64)


def _imbalanced(signal: NDArray[np.complex64]) -> NDArray[np.complex64]:
    gain = 10 ** (1 / 20) * np.exp(1j * np.deg2rad(5))
    imbalanced: NDArray[np.complex64] = ((1 + gain) / 2 * signal + (1 - gain.conjugate()) / 2 * signal.conj()).astype(
        np.complex64
    )
    return imbalanced
