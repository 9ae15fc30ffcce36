"""Pickles are read as the standard library reads them, and nothing in them is run."""

from __future__ import annotations

import builtins
import contextlib
import copyreg
import os
import pickle
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from python2_pickles import protocol0, protocol2

from offramp.data.containers.pickled_arrays import Payload, PickledArray
from offramp.data.containers.pickles import read_pickle, starts_dictionary
from offramp.errors import DataError

RNG = np.random.default_rng(0)
CONTENT = {
    (word, snr): RNG.standard_normal((5, 2, 300)).astype(np.float32) for word in ("QPSK", "AM-DSB") for snr in (-20, 4)
}
WRITERS = {"python 2, protocol 0": protocol0, "python 2, protocol 2": protocol2} | {
    f"protocol {number}": partial(pickle.dumps, protocol=number) for number in range(6)
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("writer", WRITERS)
def test_as_the_standard_library_reads_them(tmp_path: Path, writer: str) -> None:
    path = write(tmp_path / "a.pkl", WRITERS[writer](CONTENT))
    reference = pickle.loads(path.read_bytes(), encoding="latin1")
    found = read_pickle(path)
    assert list(found) == list(reference)
    assert starts_dictionary(path)
    for key, array in reference.items():
        assert isinstance(found[key].content, Payload)  # 12 kB: stays in the file
        np.testing.assert_array_equal(found[key].values(), array)
        np.testing.assert_array_equal(found[key].rows(np.array([3, 0, 3, 4])), array[[3, 0, 3, 4]])


ARRAYS = [
    np.arange(6, dtype=">i4").reshape(2, 3),
    np.asfortranarray(RNG.random((40, 30))),
    np.array(["ab", "c", "ü"]),
    np.array([b"ab", b"c"]),
    np.array([True, False]),
    np.array([1 + 2j, -1j], dtype=np.complex64),
    np.zeros((0, 3)),
    np.array(7.5),
    RNG.integers(0, 255, 5000).astype(np.uint8),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_arrays_of_all_types(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    found = read_pickle(write(tmp_path / "a.pkl", pickle.dumps(array, protocol)))
    np.testing.assert_array_equal(found.values(), array)
    assert found.values().dtype == array.dtype
    if array.ndim and len(array):
        np.testing.assert_array_equal(found.rows(np.array([len(array) - 1, 0])), array[[-1, 0]])


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_scalars_and_shared_objects(tmp_path: Path, protocol: int) -> None:
    shared = ["x" * 5, 1.5]
    content = {
        "none": None,
        "truth": (True, False),
        "numbers": [0, -1, 255, 256, 70_000, -(2**40), 2**80, 0.1, float("inf")],
        "text": ["", "ü\n\\'", "日本"],
        "again": [shared, shared],
        ("pair", -2): (),
        "scalars": [np.int64(-20), np.float32(0.5), np.str_("QPSK"), np.bool_(True)],
    }
    assert read_pickle(write(tmp_path / "a.pkl", pickle.dumps(content, protocol))) == content


def test_objects_in_arrays(tmp_path: Path) -> None:
    array = np.array([{"a": np.arange(3)}, None], dtype=object)
    found = read_pickle(write(tmp_path / "a.pkl", pickle.dumps(array)))
    assert found.items[1] is None
    assert found.items[0]["a"].values().tolist() == [0, 1, 2]


class Runs:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def hostile(target: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would make ``target``, and what is to be named."""
    touch = f"touch {target}"
    code = f"open({str(target)!r}, 'w')"
    calls = {
        "system": (Runs(os.system, touch), f"{os.name}.system"),
        "eval": (Runs(eval, code), "builtins.eval"),
        "exec": (Runs(exec, code), "builtins.exec"),
        "path": (Runs(Path.touch, target), "pathlib.Path.touch"),
        "load": (Runs(np.load, str(target)), "numpy.load"),
        "beside data": ({("QPSK", 0): np.zeros((1, 2, 8)), "x": Runs(os.system, touch)}, f"{os.name}.system"),
        "in an array": (np.array([Runs(os.system, touch)], dtype=object), f"{os.name}.system"),
    }
    made = {name: (pickle.dumps(content), word) for name, (content, word) in calls.items()}
    quoted = touch.encode()
    made |= {
        "global": (b"cos\nsystem\n(S'%s'\ntR." % quoted, "os.system"),
        "inst": (b"(S'%s'\nios\nsystem\n." % quoted, "os.system"),
        "obj": (b"(cos\nsystem\nS'%s'\no." % quoted, "os.system"),
        "stack global": (
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(quoted)]) + quoted + b"\x85R.",
            "os.system",
        ),
        "torch": (b"ctorch._utils\n_rebuild_tensor_v2\n(tR.", "torch._utils._rebuild_tensor_v2"),
        "persistent": (b"Pmodel\n.", "persistent"),
        "binary persistent": (b"I1\nQ.", "persistent"),
        "extension": (b"\x80\x02\x82\x01.", "extension"),
        "new object": (b"\x80\x02cnumpy\nndarray\n)\x81.", "new Python object"),
        "set": (b"\x80\x04\x8f.", "set"),
        "buffer": (b"\x80\x05\x97.", "buffer"),
        "newline in a name": (b"\x80\x04\x8c\x04os\nx\x8c\x06system\x93.", "system"),
    }
    return made


NAMES = list(hostile(Path("/nowhere")))


@pytest.mark.parametrize("name", NAMES)
def test_hostile_pickles_do_not_run(tmp_path: Path, name: str) -> None:
    target = tmp_path / "hurt"
    content, word = hostile(target)[name]
    with pytest.raises(DataError) as caught:
        read_pickle(write(tmp_path / "a.pkl", content))
    message = str(caught.value)
    assert word in message
    assert "a.pkl" in message
    assert "\n" not in message
    assert not target.exists()


def test_the_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """So that the test above can fail."""
    for name in ("system", "global", "inst", "stack global", "eval"):
        target = tmp_path / name.replace(" ", "")
        pickle.loads(hostile(target)[name][0])
        assert target.exists(), name


def test_extensions_that_another_library_registered(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 99)
    try:
        with pytest.raises(DataError, match="extension"):
            read_pickle(write(tmp_path / "a.pkl", b"\x80\x02\x82\x63S'true'\n\x85R."))
    finally:
        copyreg.remove_extension("os", "system", 99)


def test_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.pkl", pickle.dumps(CONTENT))
    asked = []
    monkeypatch.setattr(builtins, "__import__", lambda name, *_, **__: asked.append(name))
    read_pickle(path)
    monkeypatch.undo()
    assert asked == []


BOMBS = {
    "long string": b"\x80\x04\x8e" + struct.pack("<Q", 2**62),
    "long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x" * 100,
    "long number": b"\x80\x02\x8b" + struct.pack("<I", 2**31) + b"x",
    "too few bytes": pickle.dumps(np.zeros(3000)).replace(b"\xc0\x5d\x00\x00", b"\xc0\x5e\x00\x00"),
    "keys that take forever to hash": b"(d(" + b"))" + b"\x862" * 60 + b"I1\ns.",
    "negative size": pickle.dumps(np.zeros(3), 0).replace(b"I3\n", b"I-3\n"),
    "empty": b"",
    "no pickle": b"time,value\n1,2\n",
    "stops at once": b".",
    "odd dictionary": b"}(I1\nu.",
    "append to a number": b"I1\nI2\na.",
    "unknown memo": b"g7\n.",
    "unknown type": pickle.dumps(np.zeros(3), 2).replace(b"f8", b"V8"),
    "not ASCII": b"c\xff\nx\n.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_damaged_pickles(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"a\.pkl"):
        read_pickle(write(tmp_path / "a.pkl", BOMBS[name]))


@pytest.mark.parametrize("writer", WRITERS)
def test_truncated_anywhere(tmp_path: Path, writer: str) -> None:
    whole = WRITERS[writer](
        {("QPSK", 0): np.zeros((3, 2, 5), np.float32), ("BPSK", 2): np.ones((600, 2, 1), np.float32)}
    )
    ends = sorted({*range(0, min(len(whole), 400), 3), *range(0, len(whole), 997), len(whole) - 1})
    for end in ends:
        with pytest.raises(DataError):
            read_pickle(write(tmp_path / "a.pkl", whole[:end]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writer=st.sampled_from(sorted(WRITERS)),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
)
@example(writer="protocol 4", changes=[(371, 46)])  # ends with the name of a class
def test_any_damage_is_an_error_or_data(tmp_path: Path, writer: str, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WRITERS[writer]({("QPSK", 0): np.zeros((3, 2, 5), np.float32)}))
    for place, value in changes:
        content[place % len(content)] = value
    path = write(tmp_path / "a.pkl", bytes(content))
    with contextlib.suppress(DataError):
        assert isinstance(
            read_pickle(path), dict | list | tuple | str | bytes | int | float | PickledArray | Payload | None
        )


def test_other_files_do_not_start_as_a_dictionary(tmp_path: Path) -> None:
    for content in (
        b"",
        b"\x89HDF\r\n\x1a\n",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04",
        b"(a,b)",
        pickle.dumps([1]),
        pickle.dumps(np.zeros(2)),
    ):
        assert not starts_dictionary(write(tmp_path / "a", content))
    assert not starts_dictionary(tmp_path)
    assert not starts_dictionary(tmp_path / "none")


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_arrays_with_fewer_bytes_than_they_say(tmp_path: Path, protocol: int) -> None:
    """Found when the pickle is read, or when rows are."""
    values = np.arange(20_000, dtype="<f4").reshape(20, 1000)
    content = pickle.dumps({"a": values}, protocol)
    path = tmp_path / "a.p"
    for place in range(4000, len(content) - 4000, len(content) // 7):
        path.write_bytes(content[:place] + content[place + 3000 :])
        with pytest.raises(DataError, match=r"a\.p .*copy it again"):
            read_pickle(path)["a"].values()


def test_an_array_that_asks_for_more_than_the_file(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(2000, dtype="<f4"), 2)
    size = content.find((2000).to_bytes(2, "little"))
    (tmp_path / "a.p").write_bytes(content[:size] + (60_000).to_bytes(2, "little") + content[size + 2 :])
    with pytest.raises(DataError, match="copy it again"):
        read_pickle(tmp_path / "a.p")


@pytest.mark.parametrize("protocol", [0, 2])
def test_half_characters_are_no_text(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "a.p").write_bytes(pickle.dumps({"\ud800": 1}, protocol))
    with pytest.raises(DataError, match="copy it again"):
        read_pickle(tmp_path / "a.p")
