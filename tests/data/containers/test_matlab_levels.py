"""MATLAB files of level 4 and 5 beside SciPy's reader, and damaged ones, of which that dies."""

from __future__ import annotations

import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat, whosmat

from offramp.data.containers.matlab import list_mat, read_mat
from offramp.errors import DataError

RNG = np.random.default_rng(0)
NUMBERS = {
    **{name: (RNG.normal(size=(3, 4)) * 50).astype(name) for name in ("f8", "f4", "i1", "i2", "i4", "i8", "u1", "u2")},
    "complex": RNG.normal(size=(2, 3)) + 1j * RNG.normal(size=(2, 3)),
    "small": np.array([[7]], dtype="i1"),
    "empty": np.zeros((0, 3)),
}
LEVEL_5 = {
    **NUMBERS,
    "complex64": (RNG.normal(size=(2, 3, 2)) * (1 + 1j)).astype("c8"),
    "three": RNG.normal(size=(2, 3, 4)),
    "truth": np.array([[True, False]]),
    "cell": np.array([["a", 1.0]], dtype=object),
    "struct": {"a": 1.0},
    "text": np.array(["ab  ", "ä€\U0001f600"[:2] + "  "]),
}


@pytest.mark.parametrize(
    ("variables", "options"),
    [(LEVEL_5, {}), (LEVEL_5, {"do_compression": True}), (NUMBERS, {"format": "4"})],
    ids=["level 5", "compressed", "level 4"],
)
def test_beside_scipy(tmp_path: Path, variables: dict[str, Any], options: dict[str, Any]) -> None:
    path = tmp_path / "a.mat"
    savemat(path, variables, **options)
    expected, found = loadmat(path), read_mat(path)
    assert set(found.others) == {"cell", "struct"} & set(variables)
    assert set(found.arrays) | set(found.others) == set(variables)
    for name, values in found.arrays.items():
        if name == "text":
            assert values.tolist() == ["ab", "ä€"]
            continue
        assert values.dtype == expected[name].dtype
        np.testing.assert_array_equal(values, expected[name])
    listed = {variable.name: variable.kind for variable in list_mat(path).values()}
    assert listed == {name: kind for name, _, kind in whosmat(path)}
    assert list(read_mat(path, ["f4"]).arrays) == ["f4"]


@pytest.mark.parametrize("level", ["4", "5"])
def test_parts_that_are_not_finite_leave_each_other_alone(tmp_path: Path, level: str) -> None:
    """SciPy's reader multiplies by the imaginary unit, and infinity times zero is no number."""
    values = np.array([[complex(1, np.inf), complex(np.nan, 2), complex(-np.inf, 3)]])
    savemat(tmp_path / "a.mat", {"a": values}, format=level)
    with np.errstate(all="raise"):
        read = read_mat(tmp_path / "a.mat").arrays["a"]
    np.testing.assert_array_equal(read.real, values.real)
    np.testing.assert_array_equal(read.imag, values.imag)


def element(kind: int, content: bytes, order: str = "little") -> bytes:
    return kind.to_bytes(4, order) + len(content).to_bytes(4, order) + content + bytes(-len(content) % 8)  # type: ignore[arg-type]


def level_5(*parts: bytes, order: str = "little") -> bytes:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + (b"\x00\x01IM" if order == "little" else b"\x01\x00MI")
    return head + element(14, b"".join(parts), order)


def header(kind: int, *shape: int, name: bytes = b"sample", order: str = "little") -> tuple[bytes, ...]:
    sizes = b"".join(size.to_bytes(4, order, signed=True) for size in shape)  # type: ignore[arg-type]
    flags = kind.to_bytes(4, order) + bytes(4)  # type: ignore[arg-type]
    return element(6, flags, order), element(5, sizes, order), element(1, name, order)


@pytest.mark.parametrize("order", ["little", "big"])
def test_as_matlab_writes_it(tmp_path: Path, order: str) -> None:
    """Small whole numbers of a double are stored in fewer bytes, and bytes may be in either order."""
    path = tmp_path / "a.mat"
    stored = np.arange(6, dtype="<u2" if order == "little" else ">u2")
    path.write_bytes(level_5(*header(6, 2, 3, order=order), element(4, stored.tobytes(), order), order=order))
    np.testing.assert_array_equal(read_mat(path).arrays["sample"], np.arange(6).reshape(2, 3, order="F"))
    np.testing.assert_array_equal(loadmat(path)["sample"], np.arange(6).reshape(2, 3, order="F"))
    path.write_bytes(level_5(*header(4, 1, 2, order=order), element(16, "ä€".encode(), order), order=order))
    assert read_mat(path).arrays["sample"].tolist() == ["ä€"]


NUMBER = element(9, np.zeros(6).tobytes())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text that is as long as the header of a MATLAB file and is none".ljust(200),
        level_5(*header(6, 2, 3)),
        level_5(*header(6, 2, 3), element(40, np.zeros(6).tobytes())),
        level_5(*header(6, 2, 3), element(9, np.zeros(5).tobytes())),
        level_5(*header(6, 2, 3), element(9, bytes(47))),
        level_5(*header(6, -2, -3), NUMBER),
        level_5(*header(6, 2**30, 2**30), NUMBER),
        level_5(*header(6, *([1] * 40)), NUMBER),
        level_5(*header(99, 2, 3), NUMBER),
        level_5(*header(4, 2, 3), element(16, b"\xff" * 6)),
        level_5(*header(6, 2, 3), NUMBER)[:-20],
        level_5(*header(6, 2, 3), NUMBER)[:128] + element(15, zlib.compress(element(14, bytes(100)))),
        level_5(*header(6, 2, 3), NUMBER)[:128] + element(15, b"no compression"),
        level_5(*header(6, 2, 3), NUMBER)[:128] + element(7, NUMBER),
        level_5()[:128] + (5).to_bytes(4, "little") + b"\xff\xff\xff\x7f",
        bytes(4) + b"\xff\xff\xff\xff" * 2 + bytes(4) + (2).to_bytes(4, "little") + b"a\0",
        bytes(4) + (-4).to_bytes(4, "little", signed=True) + (3).to_bytes(4, "little") + bytes(4) + b"\x02\0\0\0a\0",
        bytes(4) + b"\xff\xff\xff\x7f" * 2 + bytes(4) + (2).to_bytes(4, "little") + b"a\0",
    ],
)
def test_what_cannot_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mat is no MATLAB file or damaged: copy it again"):
        read_mat(tmp_path / "a.mat")


def test_a_bomb(tmp_path: Path) -> None:
    values = element(14, b"".join((*header(6, 15_000_000, 1), element(9, bytes(120_000_000)))))
    (tmp_path / "a.mat").write_bytes(level_5()[:128] + element(15, zlib.compress(values)))
    assert list_mat(tmp_path / "a.mat")["sample"].shape == (15_000_000, 1)
    with pytest.raises(DataError, match="damaged"):
        read_mat(tmp_path / "a.mat")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    packed=st.booleans(), places=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_damage_anywhere_is_survived(tmp_path: Path, packed: bool, places: list[tuple[int, int]]) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"f4": NUMBERS["f4"], "text": LEVEL_5["text"], "three": LEVEL_5["three"]}, do_compression=packed)
    content = bytearray(path.read_bytes())
    for place, value in places:
        content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(DataError):
        assert all(values.nbytes < 10_000 for values in read_mat(path).arrays.values())
