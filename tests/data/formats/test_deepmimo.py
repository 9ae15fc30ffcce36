from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import check_refused, opened

from offramp.data.formats import format_of
from offramp.errors import DataError
from offramp.schema.tasks import DataSpec


def users(count: int, antennas: int = 4, subcarriers: int = 8, seed: int = 0) -> dict[str, Any]:
    """What ``DeepMIMOv3.generate_data`` gives for one base station."""
    rng = np.random.default_rng(seed)
    shape = (count, 1, antennas, subcarriers)
    channel = (1e-6 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))).astype(np.complex64)
    sight = rng.choice([-1, 0, 1], count).astype(np.int8)
    sight[:3] = (-1, 0, 1)
    paths = np.array([{"num_paths": 2, "ToA": rng.random(2), "LoS": []} for _ in range(count)])
    return {
        "location": np.array([1.0, 2.0, 3.0]),
        "user": {
            "paths": paths,
            "LoS": sight,
            "location": rng.random((count, 3)),
            "distance": rng.random(count),
            "pathloss": rng.random(count),
            "channel": channel,
        },
    }


def save(path: Path, content: Any) -> Path:
    np.save(path, content, allow_pickle=True)
    return path


def test_one_scenario(tmp_path: Path) -> None:
    content = users(200, 32, 16)
    path = save(tmp_path / "city_11_santaclara_ant32_sub16_bs3.npy", content)
    table = opened(path, "deepmimo", tmp_path)
    reached = content["user"]["LoS"] != -1
    assert table.windows.shape == (2, 32, 16)
    assert (table.default_target, table.default_group) == ("label_los", None)
    assert table.label_names["label_los"] == ("NLoS", "LoS")
    read = table.windows.read(np.arange(table.windows.count))
    # LWM's own cleaning: users without a path out, times 1e6
    cleaned = content["user"]["channel"][reached][:, 0] * 1e6
    np.testing.assert_allclose(read[:, 0] + 1j * read[:, 1], cleaned, rtol=1e-6)
    assert table.columns["label_los"].tolist() == content["user"]["LoS"][reached].tolist()
    for name in ("location", "distance", "pathloss"):
        np.testing.assert_array_equal(table.columns[name], content["user"][name][reached])
    assert set(table.columns["base_station"]) == {3}
    assert table.label_names["scenario"] == ("city_11_santaclara",)


def test_scenarios_of_a_folder_are_groups(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    contents = {
        name: users(50, seed=number)
        for number, name in enumerate(("city_1_x_ant4_sub8_bs1", "city_1_x_ant4_sub8_bs2", "city_2_y_ant4_sub8_bs1"))
    }
    for name, content in contents.items():
        save(folder / f"{name}.npy", content)
    table = opened(folder, "deepmimo", tmp_path)
    assert table.default_group == "scenario"
    assert table.label_names["scenario"] == ("city_1_x", "city_2_y")
    counts = [int((content["user"]["LoS"] != -1).sum()) for content in contents.values()]
    assert table.columns["scenario"].tolist() == np.repeat([0, 0, 1], counts).tolist()
    assert table.columns["base_station"].tolist() == np.repeat([1, 2, 1], counts).tolist()
    last = contents["city_2_y_ant4_sub8_bs1"]["user"]
    expected = last["channel"][last["LoS"] != -1][-1, 0] * 1e6
    read = table.windows.read(np.array([sum(counts) - 1]))[0]
    np.testing.assert_allclose(read[0] + 1j * read[1], expected, rtol=1e-6)


def change(**fields: Any) -> dict[str, Any]:
    content = users(20)
    for name, value in fields.items():
        if value is None:
            del content["user"][name]
        else:
            content["user"][name] = value
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"users": {}}, ["'user'"]),
        ({"user": 3}, ["'user'"]),
        (change(channel=None), ["'channel'"]),
        (change(channel=np.zeros((20, 2, 4, 8), np.complex64)), ["(20, 2, 4, 8)", "(users, 1, antennas, subcarriers)"]),
        (change(channel=np.zeros((20, 1, 4, 8))), ["float64"]),
        (change(LoS=np.full(20, 2)), ["LoS"]),
        (change(LoS=np.ones(19)), ["LoS", "20 users"]),
        (change(LoS=np.full(20, -1)), ["no user"]),
    ],
)
def test_other_content(tmp_path: Path, content: dict[str, Any], words: list[str]) -> None:
    check_refused(save(tmp_path / "a.npy", content), "a.npy", *words, format="deepmimo")


def test_channels_of_different_size(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    save(tmp_path / "data" / "a_ant4_sub8_bs1.npy", users(20))
    save(tmp_path / "data" / "b_ant8_sub8_bs1.npy", users(20, antennas=8))
    check_refused(tmp_path / "data", "b_ant8_sub8_bs1.npy", "another folder")


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hurt",)


def test_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = users(20)
    content["user"]["paths"][3] = Hostile()
    check_refused(save(tmp_path / "a.npy", content), "a.npy", f"{os.name}.system")
    assert not (tmp_path / "hurt").exists()


def test_truncated(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", users(50))
    path.write_bytes(path.read_bytes()[:-5000])
    check_refused(path, "a.npy", "truncated")


def test_other_arrays_are_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no known layout"):
        format_of(DataSpec(path=save(tmp_path / "a.npy", np.zeros((5, 3)))))
    check_refused(tmp_path / "a.npy", "a.npy", "numpy.save", format="deepmimo")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00\x08\x00{'descr'")
    check_refused(tmp_path / "b.npy", "b.npy", format="deepmimo")
