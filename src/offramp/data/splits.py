"""Which windows train, choose, certify and test. Test and calibration groups are fixed once; seeds redraw the rest; groups never cross."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from offramp.data.dataset import Dataset
from offramp.errors import DataError
from offramp.files import write_text
from offramp.opening import read_json
from offramp.schema.metrics import Kind
from offramp.schema.tasks import SplitSpec

SCHEMA = 1
RESHUFFLES = 20
"""Tries to find folds in which every class is on both sides."""
MAX_FOLDS = 20
"""A fraction is met as so many folds out of at most so many."""
COLUMNS = 64
QUANTILES = 10
"""Regression targets are stratified by this many quantile bins, or fewer where they would be too small."""
SHOT_FOLDS = 5
"""Folds of the cross-validation inside the shots."""

TEST, VALIDATION, CALIBRATION = 1, 2, 3
"""Keep the random streams apart."""

Indices = NDArray[np.int64]


def _none() -> Indices:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Draw:
    """What one seed learns from and chooses on.

    Attributes:
        seed: The seed.
        folds: Pairs of train and validation indices: one pair, or those of a cross-validation inside the shots.
        final: Indices that the final heads learn on: train, or all shots.
        by_group: Whether train and validation share no group in any fold. False only where that is impossible: see
            :func:`make_split`.
    """

    seed: int
    folds: tuple[tuple[Indices, Indices], ...]
    final: Indices
    by_group: bool


@dataclass(frozen=True)
class Split:
    """The test set, one draw per seed, and what is set aside for guarantees; all indices sorted, int64.

    Attributes:
        test: Indices of the test set, the same for all seeds.
        draws: One per seed.
        sha256: Over the windows' fingerprint and all indices.
        calibration: Indices of the windows that guarantees are computed on and that nothing else is fitted to or chosen on, the
            same for all seeds; empty where the suite asked for none.
    """

    test: Indices
    draws: tuple[Draw, ...]
    sha256: str
    calibration: Indices = field(default_factory=_none)

    def remaining(self, count: int) -> Indices:
        """Which of ``count`` windows are neither in the test set nor in the calibration set: what may be fitted to."""
        return np.setdiff1d(np.arange(count), np.union1d(self.test, self.calibration))


def make_split(
    dataset: Dataset, spec: SplitSpec, kind: Kind, shots: int | None, seeds: Sequence[int], base_seed: int
) -> Split:
    """Fix the test set and the calibration set, then draw train and validation once per seed.

    Fractions are met by whole groups as well as they allow, with classes (or quantile bins of a regression target) spread evenly:
    some of the folds of scikit-learn's ``StratifiedGroupKFold``, or ``StratifiedKFold`` where every window is its own group.
    A class is in train and validation of every seed, in the calibration set, and in the test set too unless that was named.

    Without ``shots`` a draw has one fold. If only one group is left outside the test set, its windows are divided
    (``Draw.by_group`` is then False). With ``shots`` a draw has that many windows of each class, and min(5, shots) folds of
    cross-validation inside them: by whole groups where every class has enough of them for every fold to train on all classes, otherwise by
    windows (``by_group`` is False).

    Args:
        dataset: What to divide.
        spec: The test set, the calibration and the validation fraction. From a saved split only the test set is taken.
        kind: ``classification`` or ``regression``.
        shots: Windows per class for train and validation together; None for all.
        seeds: One draw each.
        base_seed: Seeds the test set, the calibration set and, with each seed, its draw.

    Raises:
        DataError: Unknown test groups, a single group, or a class with fewer windows or groups than the division needs.
    """
    divider = _Divider(dataset, kind)
    later = ("validation", "training") if shots is None else ("training",)
    test = _test_set(divider, spec, base_seed, later if spec.calibration is None else ("calibration", *later))
    rest = np.setdiff1d(np.arange(dataset.windows.count), test)
    if not len(rest):
        raise DataError(f"{divider.name}: all windows are in the test set: name fewer test groups")
    divider.check_known(test, rest)
    calibration = _none()
    if spec.calibration is not None:
        rest, calibration = divider.hold_out(
            rest, spec.calibration, [CALIBRATION, base_seed], "calibration", later=later
        )
    draws = tuple(
        divider.draw(rest, spec.validation, [VALIDATION, base_seed, seed], seed)
        if shots is None
        else divider.draw_shots(rest, shots, [VALIDATION, base_seed, seed], seed)
        for seed in seeds
    )
    return Split(test, draws, _digest(dataset, test, draws, calibration), calibration)


def save_split(split: Split, dataset: Dataset, path: Path) -> None:
    """Write a split as JSON."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "fingerprint": dataset.windows.fingerprint,
        "sha256": split.sha256,
        "test": split.test.tolist(),
        "draws": [
            {
                "seed": draw.seed,
                "by_group": draw.by_group,
                "final": draw.final.tolist(),
                "folds": [
                    {"train": train.tolist(), "validation": validation.tolist()} for train, validation in draw.folds
                ],
            }
            for draw in split.draws
        ],
    }
    if len(split.calibration):
        content["calibration"] = split.calibration.tolist()
    write_text(path, json.dumps(content) + "\n")


def load_split(path: Path, dataset: Dataset) -> Split:
    """Read what :func:`save_split` wrote.

    Raises:
        DataError: The file is missing, damaged or belongs to other windows.
    """
    if not os.path.lexists(path):
        raise DataError(f"{path} does not exist: correct split.file")
    content = read_json(path, DataError, "it is not a saved split: take splits/TASK.json of a run")
    try:
        test = _indices(content["test"])
        draws = tuple(
            Draw(
                seed=int(draw["seed"]),
                folds=tuple((_indices(fold["train"]), _indices(fold["validation"])) for fold in draw["folds"]),
                final=_indices(draw["final"]),
                by_group=bool(draw["by_group"]),
            )
            for draw in content["draws"]
        )
        fingerprint, sha256 = content["fingerprint"], content["sha256"]
        calibration = _indices(content.get("calibration", []))
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is not a saved split: take splits/TASK.json of a run") from error
    if fingerprint != dataset.windows.fingerprint:
        raise DataError(f"{path} belongs to other windows than {dataset.windows.name}: draw a new split")
    if sha256 != _digest(dataset, test, draws, calibration):
        raise DataError(f"{path} was changed after it was saved: its hash differs; draw a new split")
    return Split(test, draws, sha256, calibration)


def _test_set(divider: _Divider, spec: SplitSpec, base_seed: int, later: tuple[str, ...]) -> Indices:
    """The test set; if it is a fraction, a group of every class stays outside for each of the sets divided off ``later``."""
    dataset = divider.dataset
    everything = np.arange(dataset.windows.count)
    if spec.file is not None:
        return load_split(spec.file, dataset).test
    if dataset.grouped and len(dataset.group_names) == 1:
        raise DataError(
            f"{divider.name} has the single group {dataset.group_names[0]!r}: choose another data.group or leave it out"
        )
    if isinstance(spec.test, float):
        return divider.hold_out(everything, spec.test, [TEST, base_seed], "test", later=later)[1]
    unknown = [name for name in spec.test if name not in dataset.group_names]
    if unknown or not spec.test:
        known = ", ".join(dataset.group_names[:10]) + (", ..." if len(dataset.group_names) > 10 else "")
        known = known or "none: set data.group"
        raise DataError(
            f"{divider.name} has no group {', '.join(unknown) or 'named'} to test on: its groups are {known}"
        )
    wanted = [dataset.group_names.index(name) for name in spec.test]
    return everything[np.isin(dataset.groups, wanted)]


class _Divider:
    """Divides windows of one data set; remembers what to keep together and what to spread."""

    def __init__(self, dataset: Dataset, kind: Kind) -> None:
        self.dataset = dataset
        self.name = dataset.windows.name
        self.classes = dataset.targets.astype(np.int64) if kind == "classification" else None
        self.groups = dataset.groups if dataset.grouped else None

    def check_known(self, test: Indices, rest: Indices) -> None:
        """Every class of the test set must be learnable from the rest."""
        if self.classes is not None:
            for missing in np.setdiff1d(self.classes[test], self.classes[rest]):
                raise DataError(
                    f"{self.name}: class {self._label(missing)} is only in the test set: test on other groups or leave the class out"
                )

    def draw(self, pool: Indices, fraction: float, entropy: list[int], seed: int) -> Draw:
        """Train and validation from all of the pool."""
        by_group = self.groups is None or len(np.unique(self.groups[pool])) > 1
        train, validation = self.hold_out(pool, fraction, entropy, "validation", by_group)
        return Draw(seed, ((train, validation),), train, by_group)

    def draw_shots(self, pool: Indices, shots: int, entropy: list[int], seed: int) -> Draw:
        """A few windows of each class, and cross-validation inside them."""
        assert self.classes is not None, "shots are for classification"
        generator = np.random.default_rng(entropy)
        present, number = np.unique(self.classes[pool], return_counts=True)
        if number.min() < shots:
            label = self._label(present[number.argmin()])
            raise DataError(
                f"{self.name}: class {label} has {number.min()} windows outside the test set and shots is {shots}: "
                f"lower shots to {number.min()} or less"
            )
        drawn = [generator.choice(pool[self.classes[pool] == label], shots, replace=False) for label in present]
        final = np.sort(np.concatenate(drawn))
        folds_wanted, random_state = min(SHOT_FOLDS, shots), _integer(generator)
        if self.groups is not None:
            folds = list(_folds(self.classes[final], self.groups[final], folds_wanted, random_state))
            if len(folds) == folds_wanted and all(self._complete(final, final[~held]) for held in folds):
                return Draw(seed, tuple((final[~held], final[held]) for held in folds), final, by_group=True)
        folds = list(_folds(self.classes[final], None, folds_wanted, random_state))
        return Draw(seed, tuple((final[~held], final[held]) for held in folds), final, by_group=self.groups is None)

    def hold_out(
        self,
        pool: Indices,
        fraction: float,
        entropy: list[int],
        purpose: str,
        by_group: bool = True,
        later: tuple[str, ...] = ("training",),
    ) -> tuple[Indices, Indices]:
        """Divide ``pool`` into what stays and about ``fraction`` that is held out.

        What stays has a group of every class for each of the sets into which it is divided ``later``.
        """
        keep = len(later)
        groups = self.groups[pool] if self.groups is not None and by_group else None
        units = np.arange(len(pool)) if groups is None else groups
        share = _share(fraction)
        strata, fewest = self._strata(pool, units, share.denominator)
        if fewest <= keep:
            raise DataError(self._impossible(pool, units, (purpose, *later)))
        # with as many folds as the rarest class has groups, each fold has one of them: the fraction gives way to the classes
        number = max(keep + 1, min(fewest, MAX_FOLDS))
        nearest = Fraction(min(max(1, round(fraction * number)), number - keep), number)
        attempts = [share] * RESHUFFLES + [nearest] * RESHUFFLES
        for attempt, part in enumerate(attempts):
            generator = np.random.default_rng([*entropy, attempt])
            folds = list(_folds(strata, groups, part.denominator, _integer(generator)))
            # the first folds hold the largest groups, so which ones are held out is drawn too
            chosen = generator.permutation(len(folds))[: part.numerator]
            held = np.any([folds[place] for place in chosen], axis=0) if folds else np.zeros(len(pool), dtype=bool)
            if (
                held.any()
                and not held.all()
                and self._complete(pool, pool[held])
                and self._complete(pool, pool[~held], keep)
            ):
                return pool[~held], pool[held]
        raise DataError(self._impossible(pool, units, (purpose, *later)))

    def _strata(self, pool: Indices, units: Indices, folds: int) -> tuple[Indices, int]:
        """What to spread evenly, and the fewest units that a stratum has."""
        if self.classes is not None:
            return self.classes[pool], int(_units_per_class(self.classes[pool], units)[1].min())
        targets = self.dataset.targets[pool]
        # a few columns at a time: a target may have thousands
        columns = (targets[:, at : at + COLUMNS].astype(np.float64) for at in range(0, targets.shape[1], COLUMNS))
        variance = np.concatenate([block.var(axis=0) for block in columns])
        leading = targets[:, variance.argmax()].astype(np.float64)
        number = len(np.unique(units))
        bins = max(1, min(QUANTILES, number // folds))
        edges = np.unique(np.quantile(leading, np.linspace(0, 1, bins + 1)[1:-1]))
        return np.searchsorted(edges, leading, side="right").astype(np.int64), number

    def _complete(self, pool: Indices, part: Indices, least: int = 1) -> bool:
        """Whether every class of ``pool`` has at least so many groups in ``part``; without groups, so many windows."""
        if self.classes is None:
            return True
        present, number = _units_per_class(self.classes[part], self.dataset.groups[part])
        return len(present) == len(np.unique(self.classes[pool])) and int(number.min()) >= least

    def _impossible(self, pool: Indices, units: Indices, sets: tuple[str, ...]) -> str:
        unit, advice = "group", "choose a finer data.group, name test groups, set shots or leave the class out"
        if self.groups is None or len(np.unique(units)) == len(pool):
            unit, advice = "window", "add windows of it or leave the class out"
        if self.classes is None:
            number, subject = len(np.unique(units)), self.name
        else:
            present, numbers = _units_per_class(self.classes[pool], units)
            least = present[numbers.argmin()]
            number = int(numbers.min())
            subject = f"{self.name}: class {self._label(least)} with {(self.classes[pool] == least).sum()} windows"
        counted = f"{number} {unit}" + "s" * (number != 1)
        named = f"{', '.join(sets[:-1])} and {sets[-1]}"
        needed = "" if number >= len(sets) else f"; it takes {len(sets)} at least"
        return f"{subject} has {counted}, which cannot be divided into {named} sets{needed}: {advice}"

    def _label(self, label: Any) -> str:
        return repr(self.dataset.label_names[int(label)])


def _folds(strata: Indices, groups: Indices | None, number: int, random_state: int) -> Iterator[NDArray[np.bool_]]:
    """Masks of the folds of a shuffled stratified division; fewer than ``number`` where there are too few groups or windows."""
    splitter: Callable[..., Any] = StratifiedKFold if groups is None else StratifiedGroupKFold
    largest = int(np.bincount(strata).max())
    number = min(number, largest, len(strata) if groups is None else len(np.unique(groups)))
    if number < 2:
        return
    with warnings.catch_warnings():
        # a class with fewer members than folds is checked for by the caller
        warnings.simplefilter("ignore", UserWarning)
        for _, held in splitter(number, shuffle=True, random_state=random_state).split(strata, strata, groups):
            mask = np.zeros(len(strata), dtype=bool)
            mask[held] = True
            if mask.any():
                yield mask


def _units_per_class(classes: Indices, units: Indices) -> tuple[Indices, Indices]:
    """The classes present, and of how many groups or windows each is."""
    pairs = np.unique(classes * (units.max() + 1) + units)
    return np.unique(pairs // (units.max() + 1), return_counts=True)


def _share(fraction: float) -> Fraction:
    """A fraction as few folds out of few."""
    share = Fraction(fraction).limit_denominator(MAX_FOLDS)
    if 0 < share < 1:
        return share
    return Fraction(1, round(1 / fraction)) if fraction < 0.5 else Fraction(MAX_FOLDS - 1, MAX_FOLDS)


def _integer(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))


def _indices(values: list[int]) -> Indices:
    return np.asarray(values, dtype=np.int64)


def _digest(dataset: Dataset, test: Indices, draws: Sequence[Draw], calibration: Indices) -> str:
    digest = hashlib.sha256(dataset.windows.fingerprint.encode())
    for draw_indices in [
        test,
        *(part for draw in draws for fold in draw.folds for part in fold),
        *(draw.final for draw in draws),
        *([calibration] if len(calibration) else []),
    ]:
        digest.update(len(draw_indices).to_bytes(8, "little"))
        digest.update(draw_indices.astype("<i8").tobytes())
    return digest.hexdigest()
