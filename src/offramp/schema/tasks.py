"""What a task is: the part of a suite that names a prediction problem, its data, its split and its head."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from offramp.schema.metrics import METRIC_INFO, Kind

SignalScenario = Literal["signals", "directions", "rml2016", "fingerprint", "interference", "beam"]
ChannelModel = Literal["cdl-a", "cdl-b", "cdl-c", "cdl-d", "cdl-e", "umi-nlos", "umi-los"]
ONE_ANTENNA = ("rml2016", "interference", "beam")
MISMATCHED = ("fingerprint", "beam")
MAX_SAMPLES = 2**31
"""Longest window, and longest step between windows."""
Shift = Literal["id", "label", "domain", "both", "unknown"]


class Spec(BaseModel):
    """Base of everything a user writes: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SyntheticSpec(Spec):
    """Windows made by the package's own generator instead of a file.

    Attributes:
        scenario: What is simulated: ``signals`` (target ``modulation``), ``directions`` (``sector``, ``angle``), ``rml2016``
            (``modulation``), ``fingerprint`` (``transmitter``), ``interference`` (``emitter``), ``beam`` (``beam``).
        windows: How many.
        antennas: Antennas of the receiver; one for ``rml2016``, ``interference`` and ``beam``.
        samples: Length of a window.
        snr_db: Range of the SNR in the whole sampled band, dB.
        seed: Of everything drawn.
        mismatch: ``fingerprint`` and ``beam``: whether transmitters, or elements of the array, differ at all. Without, no method can
            beat chance.
    """

    scenario: SignalScenario = "signals"
    windows: Annotated[int, Field(gt=0)] = 6000
    antennas: Annotated[int, Field(gt=0)] = 4
    samples: Annotated[int, Field(ge=64)] = 256
    snr_db: tuple[float, float] = (-6.0, 18.0)
    seed: int = 0
    mismatch: bool = True

    @model_validator(mode="after")
    def _fits_scenario(self) -> SyntheticSpec:
        if self.scenario in ONE_ANTENNA and self.antennas != 1:
            raise ValueError(f"scenario {self.scenario} has one antenna: set antennas: 1")
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db {list(self.snr_db)}: give the lower end first")
        if self.scenario == "rml2016" and math.ceil(self.snr_db[0] / 2) > math.floor(self.snr_db[1] / 2):
            raise ValueError(f"snr_db {list(self.snr_db)}: rml2016 has even numbers of dB: give a range that holds one")
        if not self.mismatch and self.scenario not in MISMATCHED:
            raise ValueError(f"mismatch is for {' and '.join(MISMATCHED)}: leave it out of scenario {self.scenario}")
        return self


class ChannelSpec(Spec):
    """MIMO-OFDM channels over time instead of a file: the models of 3GPP TR 38.901, drawn by sionna (extra ``sim``).

    Attributes:
        scenario: ``channels``.
        windows: How many.
        antennas: Antennas of the base station, a uniform linear array.
        models: Channel models that take turns; only ``umi-nlos`` and ``umi-los`` know where the user is.
        snr_db: Range of the SNR of the past slots, per antenna and subcarrier, dB. Future slots have no noise.
        seed: Of everything drawn.
    """

    scenario: Literal["channels"]
    windows: Annotated[int, Field(gt=0)] = 4000
    antennas: Annotated[int, Field(ge=2, le=64)] = 16
    models: Annotated[tuple[ChannelModel, ...], Field(min_length=1)] = get_args(ChannelModel)
    snr_db: tuple[float, float] = (0.0, 25.0)
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _ascending(self) -> ChannelSpec:
        if self.snr_db[0] > self.snr_db[1]:
            raise ValueError(f"snr_db {list(self.snr_db)}: give the lower end first")
        return self


def _kind_of_synthetic(value: object) -> str | None:
    scenario = value.get("scenario", "signals") if isinstance(value, dict) else getattr(value, "scenario", "signals")
    if scenario == "channels":
        return "ChannelSpec"
    return "SyntheticSpec" if scenario in get_args(SignalScenario) else None


Synthetic = Annotated[
    Annotated[SyntheticSpec, Tag("SyntheticSpec")] | Annotated[ChannelSpec, Tag("ChannelSpec")],
    Discriminator(
        _kind_of_synthetic,
        custom_error_type="scenario",
        custom_error_message=f"scenario is one of {', '.join(get_args(SignalScenario))}, channels",
    ),
]
"""What a suite writes under ``synthetic:``; the scenario says which."""


ONE_PATH, SEVERAL_PATHS = "path-or-pattern", "list-of-paths"


def _one_or_several(value: object) -> str:
    return SEVERAL_PATHS if isinstance(value, list | tuple) else ONE_PATH


Paths = Annotated[
    Annotated[Path, Tag(ONE_PATH)] | Annotated[tuple[Path, ...], Field(min_length=1), Tag(SEVERAL_PATHS)],
    Discriminator(_one_or_several),
]
"""One path or pattern, or a list of them."""


class LabelSpec(Spec):
    """Labels of recordings from where they lie.

    Attributes:
        from_: ``folder`` (the name of the folder that holds the recording) or ``file`` (its own name without suffix). Written
            ``from``.
        pattern: Regular expression with one group, searched in that name; what the group matches is the label. The whole name if
            None, which only ``folder`` may be.
    """

    from_: Literal["folder", "file"] = Field(alias="from")
    pattern: str | None = None

    @model_validator(mode="after")
    def _one_group(self) -> LabelSpec:
        if self.pattern is None:
            if self.from_ == "file":
                raise ValueError('label from file needs a pattern with one group, e.g. pattern: "([a-z]+)_"')
            return self
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(f"label.pattern {self.pattern!r} is not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"label.pattern {self.pattern!r} has {groups} groups: it needs one, around the label")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, str | None]:
        return {"from": self.from_, "pattern": self.pattern}


class BlockSpec(Spec):
    """Which windows of a group are neighbours that depend on each other, for intervals where there are few groups.

    Attributes:
        columns: Columns that together say where a window lies, such as ``location``; ``start`` is the first sample of a window that was
            cut from a recording.
        size: Edge of a cell, in the unit of the columns' numbers; every distinct value is a block of its own if None. Text is taken as
            it is.
    """

    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    size: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class DataSpec(Spec):
    """Where windows, targets and groups come from.

    Attributes:
        path: A file, a folder of SigMF recordings, a pattern such as ``day*/*.h5``, or a list of these, of one layout; relative to
            the suite file.
        synthetic: Simulated windows; instead of ``path``.
        format: Layout of the file, e.g. ``hdf5``; recognised by the file itself if None.
        input: Array that holds the windows; the format's own if None (``sample`` in HDF5 and npz files).
        target: Column with labels or values; None where only windows are needed.
        group: Column whose values never cross from one split to another; the layout's own if None, and where it has none every
            window on its own.
        block: Windows within a group that depend on each other; none do if None. For intervals alone: it changes no split.
        snr: Column with each window's SNR in dB, for scores by SNR.
        labels: Names of the classes 0, 1, ..., where the file has none.
        window: Recordings: samples, or packets, per window.
        hop: Recordings: samples between the starts of windows; ``window`` if None.
        cut: SigMF: from annotations, from the stretches that no annotation covers, from everywhere; or ``auto``, each recording
            from its annotations if it has any, else from everywhere.
        windows_per_recording: Recordings: at most this many windows of one recording, spread evenly; all if None.
        resample: SigMF: the sample rate, Hz, that recordings of another are brought to; all must have one rate if None.
        label: SigMF: labels from the names of folders or files instead of the annotations.
        skip_bad: Name unusable files among several and pass them over; refuse them if False.
        allow_outside: Whether files may name others, or links lead to such, that lie outside of the folder of ``path``.
    """

    path: Paths | None = None
    synthetic: Synthetic | None = None
    format: str | None = None
    input: str | None = None
    target: str | None = None
    group: str | None = None
    block: BlockSpec | None = None
    snr: str | None = None
    labels: tuple[str, ...] | None = None
    window: Annotated[int, Field(gt=0, le=MAX_SAMPLES)] | None = None
    hop: Annotated[int, Field(gt=0, le=MAX_SAMPLES)] | None = None
    cut: Literal["annotations", "unannotated", "all", "auto"] = "annotations"
    windows_per_recording: Annotated[int, Field(gt=0, le=MAX_SAMPLES)] | None = None
    resample: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    label: LabelSpec | None = None
    skip_bad: bool = False
    allow_outside: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> DataSpec:
        if (self.path is None) == (self.synthetic is None):
            raise ValueError("give either path or synthetic")
        return self


class SplitSpec(Spec):
    """Which windows are the test set, fixed once for all seeds.

    Attributes:
        test: Names of groups, or the fraction of windows (whole groups) to hold out.
        calibration: Fraction of the windows outside the test set (whole groups) that is set aside, once for all seeds, for the
            guarantees of policies and for nothing else; none if None.
        validation: Fraction of the remaining windows (whole groups) that each seed holds out for choosing.
        file: A split saved earlier (``splits/TASK.json`` of a run), instead of ``test``.
    """

    test: tuple[str, ...] | Annotated[float, Field(gt=0, lt=1)] = 0.25
    calibration: Annotated[float, Field(gt=0, lt=1)] | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.25
    file: Path | None = None

    @field_validator("test", mode="before")
    @classmethod
    def _names_or_fraction(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple(str(name) for name in value)
        if not isinstance(value, float) or not 0 < value < 1:
            raise ValueError("give names of test groups such as [city_12] or a fraction between 0 and 1")
        return value


class DegradeSpec(Spec):
    """A harder input than the one that the target may have been computed from: noise, and antennas that are not observed.

    Attributes:
        name: ``degrade``.
        snr_db: Noise at this SNR, dB; none if None.
        antennas: As many are observed, evenly spread over the array, and the others are zero; all if None.
    """

    name: Literal["degrade"]
    snr_db: Annotated[float, Field(allow_inf_nan=False)] | None = None
    antennas: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _degrades(self) -> DegradeSpec:
        if self.snr_db is None and self.antennas is None:
            raise ValueError("degrade needs snr_db, antennas or both")
        return self


class SpectrogramSpec(Spec):
    """Spectrograms of a given number of frames, e.g. square images for an encoder of images.

    Attributes:
        name: ``spectrogram``.
        frames: Along time; they step as far as the window allows.
    """

    name: Literal["spectrogram"]
    frames: Annotated[int, Field(ge=2)]


def _kind_of_transform(value: object) -> str:
    if isinstance(value, str):
        return "str"
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "SpectrogramSpec" if name == "spectrogram" else "DegradeSpec"


TransformSpec = Annotated[
    Annotated[Literal["none", "standardize", "spectrogram"], Tag("str")]
    | Annotated[DegradeSpec, Tag("DegradeSpec")]
    | Annotated[SpectrogramSpec, Tag("SpectrogramSpec")],
    Discriminator(_kind_of_transform),
]
"""A name, or a name with its settings."""


Pooling = Literal["default", "statistics", "quantiles", "second_order", "tokens"]
BEFORE_ENCODER = "input"
"""The exit of tasks with side features at which the encoder does not run at all."""
AUTO: tuple[Pooling, ...] = ("default", "statistics", "quantiles")
"""What ``pooling: auto`` chooses from."""


class HeadSpec(Spec):
    """The small per-task module on a tap.

    Attributes:
        kind: ``linear``, or ``mlp`` with one hidden layer.
        pooling: How the positions of a stage become one tap: ``default`` is the encoder's own, mostly a mean; ``statistics`` is mean and
            standard deviation, ``quantiles`` five quantiles over positions, ``second_order`` is ``statistics`` and, while a stage still
            has several antennas, the mean products of what neighbours hear; ``auto`` takes at every exit whichever of the first three is best on
            validation. ``attention`` is a mean whose weights a query, learned with the head, gives to the positions. ``tokens`` stands for one linear head that every position of the encoder shares: each position gives the entries of
            the target that belong to it.
        side: Features of the encoder's input that stand beside every tap, and by themselves at the exit ``input``, before the encoder:
            ``handmade``, ``handmade_level_free``, ``power_only``, ``dft_power``, or ``MODULE:FUNCTION`` of an imported module.
    """

    kind: Literal["linear", "mlp"] = "linear"
    pooling: Pooling | Literal["attention", "auto"] = "default"
    side: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Those that are tried at every exit."""
        if self.pooling == "auto":
            return AUTO
        return ("tokens",) if self.pooling == "attention" else (self.pooling,)

    @model_validator(mode="after")
    def _tokens_are_linear(self) -> HeadSpec:
        if self.pooling in ("tokens", "attention") and self.kind != "linear":
            raise ValueError(f"pooling: {self.pooling} takes kind: linear, not {self.kind}")
        return self


class TaskSpec(Spec):
    """One prediction problem; ``no_claim`` is the reason for which it is shown but counts for no claim and no summary."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    kind: Kind = "classification"
    shift: Shift = "unknown"
    data: DataSpec
    split: SplitSpec = SplitSpec()
    transform: TransformSpec = "none"
    shots: Annotated[int, Field(ge=2)] | None = None
    metric: str | None = None
    head: HeadSpec = HeadSpec()
    no_claim: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> TaskSpec:
        if self.metric is not None:
            if self.metric not in METRIC_INFO:
                raise ValueError(f"unknown metric {self.metric!r}: choose one of {', '.join(METRIC_INFO)}")
            if METRIC_INFO[self.metric].kind != self.kind:
                raise ValueError(
                    f"metric {self.metric!r} is for {METRIC_INFO[self.metric].kind}, the task is {self.kind}"
                )
        if self.shots is not None and self.kind != "classification":
            raise ValueError("shots counts labels per class: leave it out for regression")
        if self.head.pooling == "tokens" and self.kind != "regression":
            raise ValueError("head.pooling: tokens is for regression of a target with values per position")
        if self.data.target is None:
            raise ValueError("data.target is missing: name the column to predict")
        return self

    @property
    def metric_name(self) -> str:
        """The metric, by default accuracy for classification and mean error for regression."""
        return self.metric or ("accuracy" if self.kind == "classification" else "mean_error")
