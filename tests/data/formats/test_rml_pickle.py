from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from layouts import check_refused, opened
from python2_pickles import protocol0, protocol2

from offramp.data.dataset import load_dataset
from offramp.schema.tasks import DataSpec

RNG = np.random.default_rng(0)
CONTENT = {
    (word, snr): RNG.standard_normal((count, 2, 128)).astype(np.float32)
    for word, count in (("QPSK", 7), ("8PSK", 5))
    for snr in (-20, 18)
}


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("RML2016.10a_dict.pkl", protocol0),
        ("RML2016.10b.dat", protocol2),
        ("RML22.01A", pickle.dumps),
        ("RML22.01A.pkl", lambda content: pickle.dumps(content, 2)),
    ],
)
def test_windows_and_columns(tmp_path: Path, name: str, writer) -> None:
    path = tmp_path / name
    path.write_bytes(writer(CONTENT))
    table = opened(path, "rml-pickle", tmp_path)
    assert table.windows.shape == (2, 1, 128)
    assert table.label_names == {"modulation": ("8PSK", "QPSK")}
    assert (table.default_target, table.default_group) == ("modulation", None)
    start = 0
    for (word, snr), array in CONTENT.items():
        rows = np.arange(start, start + len(array))
        np.testing.assert_array_equal(table.windows.read(rows), array[:, :, None])
        assert {table.label_names["modulation"][number] for number in table.columns["modulation"][rows]} == {word}
        assert set(table.columns["snr"][rows]) == {snr}
        start += len(array)
    data = load_dataset(DataSpec(path=path, target="modulation", snr="snr"), "classification")
    assert data.label_names == ("8PSK", "QPSK")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([np.zeros((3, 2, 128))], ["dictionary"]),
        ({}, ["dictionary"]),
        ({"QPSK": np.zeros((3, 2, 128))}, ["'QPSK'", "(modulation, snr)"]),
        ({("QPSK", 0, 1): np.zeros((3, 2, 128))}, ["(modulation, snr)"]),
        ({("QPSK", 0): [1, 2, 3]}, ["('QPSK', 0)", "array"]),
        ({("QPSK", 0): np.zeros((3, 128))}, ["('QPSK', 0)", "array"]),
        ({("QPSK", 0): np.zeros((3, 128, 2))}, ["(3, 128, 2)"]),
        ({("QPSK", 0): np.zeros((3, 2, 128)), ("BPSK", 0): np.zeros((3, 2, 64))}, ["BPSK", "(3, 2, 64)", "one length"]),
        ({("QPSK", 0): np.zeros((0, 2, 128))}, ["(0, 2, 128)"]),
        ({("QPSK", 0): np.array([["a"]])}, ["array"]),
    ],
)
def test_other_content(tmp_path: Path, content: object, words: list[str]) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    check_refused(path, "a.pkl", *words)


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hurt",)


def test_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(CONTENT | {("BPSK", 0): Hostile()}))
    check_refused(path, "a.pkl", f"{os.name}.system")
    assert not (tmp_path / "hurt").exists()


def test_not_a_number_is_named_by_its_window(tmp_path: Path) -> None:
    broken = {key: array.copy() for key, array in CONTENT.items()}
    broken["QPSK", 18][3, 1, 9] = np.nan
    (tmp_path / "a.pkl").write_bytes(protocol0(broken))
    check_refused(tmp_path / "a.pkl", "window 10 holds NaN")


def test_truncated(tmp_path: Path) -> None:
    whole = protocol0(CONTENT)
    (tmp_path / "a.dat").write_bytes(whole[: len(whole) // 2])
    check_refused(tmp_path / "a.dat", "a.dat", "truncated")
