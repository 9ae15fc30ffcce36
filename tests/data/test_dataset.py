from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offramp.data.dataset import load_dataset
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec, SyntheticSpec

SAMPLE = np.zeros((4, 2, 1, 8), np.int8)


def test_integer_classes_keep_their_names(write_hdf5) -> None:
    path = write_hdf5(
        sample=SAMPLE, label=[3, 0, 3, 1], other=[30, 5, 5, 200], attributes={"labels": '["a", "b", "c", "d"]'}
    )
    data = load_dataset(DataSpec(path=path, target="label"), "classification")
    assert data.label_names == ("a", "b", "d")
    assert data.targets.tolist() == [2, 0, 2, 1]
    assert data.targets.dtype == np.int64
    assert not data.grouped
    assert data.groups.tolist() == [0, 1, 2, 3]
    assert load_dataset(DataSpec(path=path, target="other"), "classification").label_names == ("5", "30", "200")
    named = load_dataset(DataSpec(path=path, target="label", labels=("w", "x", "y", "z")), "classification")
    assert named.label_names == ("w", "x", "z")


def test_text_classes_groups_and_snr(write_hdf5) -> None:
    path = write_hdf5(
        sample=SAMPLE, label=np.array(["q", "p", "q", "q"], dtype="S1"), day=[7, 9, 9, 7], snr=[1, 2.5, 3, 4]
    )
    data = load_dataset(DataSpec(path=path, target="label", group="day", snr="snr"), "classification")
    assert (data.label_names, data.targets.tolist()) == (("p", "q"), [1, 0, 1, 1])
    assert (data.group_names, data.groups.tolist(), data.grouped) == (("7", "9"), [0, 1, 1, 0], True)
    assert data.snr_db is not None
    assert data.snr_db.tolist() == [1, 2.5, 3, 4]


def test_blocks_are_cells_of_positions(write_hdf5) -> None:
    place = [[0, 0, 2], [19, 19, 2], [21, 0, 2], [-1, 0, 2]]
    path = write_hdf5(sample=SAMPLE, label=[0, 1, 0, 1], place=np.array(place, float), trial=[7, 7, 3, 7])
    spec = {"path": path, "target": "label"}

    def blocks(**block: object) -> list[int]:
        found = load_dataset(DataSpec.model_validate(spec | {"block": block}), "classification").blocks
        assert found is not None
        assert found.dtype == np.int64
        return found.tolist()

    assert blocks(columns=["place"], size=20) == [1, 1, 2, 0]
    assert blocks(columns=["trial"]) == [1, 1, 0, 1]
    assert len(set(blocks(columns=["place", "trial"], size=20))) == 3
    assert load_dataset(DataSpec.model_validate(spec), "classification").blocks is None


def test_blocks_along_a_recording(write_sigmf) -> None:
    path = write_sigmf(np.zeros(400, "<c8"), "cf32_le", [(0, 50, "a"), (100, 50, "b")])
    spec = {"path": path, "window": 25, "block": {"columns": ["recording", "start"], "size": 50}}
    assert load_dataset(DataSpec.model_validate(spec), "classification").blocks.tolist() == [0, 0, 1, 1]


def test_regression_targets(write_hdf5) -> None:
    path = write_hdf5(sample=SAMPLE, distance=[1, 2, 3, 4], place=np.ones((4, 3)))
    data = load_dataset(DataSpec(path=path, target="distance"), "regression")
    assert (data.targets.shape, data.targets.dtype, data.label_names) == ((4, 1), np.float32, ())
    assert load_dataset(DataSpec(path=path, target="place"), "regression").targets.shape == (4, 3)


def test_default_target_and_group_of_recordings(write_sigmf) -> None:
    path = write_sigmf(np.zeros(400, "<c8"), "cf32_le", [(0, 50, "a"), (100, 50, "b")])
    data = load_dataset(DataSpec(path=path, window=25), "classification")
    assert (data.label_names, data.group_names) == (("a", "b"), ("one",))
    assert data.positions is not None


def test_simulated_windows() -> None:
    data = load_dataset(
        DataSpec(synthetic=SyntheticSpec(scenario="directions", windows=100), target="sector", snr="snr_db"),
        "classification",
    )
    assert data.simulated
    assert data.label_names[0] == "-60..-45"


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"target": "lable"}, "classification", ("'lable'", "data.target", "label, negative")),
        ({"target": "label", "group": "zone"}, "classification", ("'zone'", "data.group")),
        ({"target": "label", "group": "half"}, "classification", ("'half'", "groups are")),
        ({"target": "label", "snr": "noise"}, "classification", ("'noise'", "data.snr")),
        ({"target": "negative"}, "classification", ("-1 at window 2", "regression")),
        ({"target": "half"}, "classification", ("0.5 at window 1",)),
        ({"target": "broken"}, "classification", ("window 3", "NaN")),
        ({"target": "broken"}, "regression", ("window 3", "NaN")),
        ({"target": "text"}, "regression", ("'text'", "text")),
        ({"target": "one"}, "classification", ("single class '1'",)),
        ({"target": "place"}, "classification", ("'place'", "3 values")),
        ({"target": "label", "labels": ("a",)}, "classification", ("only 1 classes", "data.labels")),
    ],
)
def test_bad_columns(write_hdf5, fields: dict[str, object], kind: str, words: tuple[str, ...]) -> None:
    path = write_hdf5(
        sample=SAMPLE,
        label=[0, 1, 0, 1],
        negative=[0, 1, -1, 2],
        half=[0, 0.5, 1, 1],
        broken=[0, 1, 1, np.nan],
        text=np.array([b"a", b"b", b"a", b"b"]),
        one=[1, 1, 1, 1],
        place=np.ones((4, 3)),
    )
    with pytest.raises(DataError) as caught:
        load_dataset(DataSpec(path=path, **fields), kind)
    message = str(caught.value)
    assert "\n" not in message
    if fields:
        assert str(path) in message
    # the columns are listed by name
    for word in words:
        assert word.split(",")[0] in message, message


@pytest.mark.parametrize(
    ("name", "target", "kind", "classes", "groups"),
    [
        ("uwb-cir.h5", "label", "classification", ("LOS", "NLOS", "NDP NLOS"), "group"),
        ("uwb-cir.h5", "distance", "regression", (), "group"),
        ("deepmimo-lwm.h5", "label_los", "classification", ("NLoS", "LoS"), "scenario"),
        ("deepmimo-lwm.h5", "location", "regression", (), "scenario"),
    ],
)
def test_real_files(real: Path, name: str, target: str, kind: str, classes: tuple[str, ...], groups: str) -> None:
    data = load_dataset(DataSpec(path=real / name, target=target, group=groups), kind)
    assert data.label_names == classes
    assert data.grouped
    assert np.isfinite(data.windows.read(np.arange(0, data.windows.count, 50))).all()
