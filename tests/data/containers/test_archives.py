from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from offramp.data.containers.archives import MAX_MEMBERS, read_npz
from offramp.errors import DataError


def packed(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name if "." in name else f"{name}.npy", content)
    return path


def saved(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def declared(shape: str, body: bytes = b"", dtype: str = "<f4") -> bytes:
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_npz(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert all(word in message for word in (path.name, *words)), message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_as_numpy_reads_it(tmp_path: Path, save: object) -> None:
    arrays = {
        "a": np.arange(12, dtype=">i2").reshape(3, 4),
        "by columns": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        "text": np.array(["ä", "\U0001f600", ""]),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(3 + 4j),
        "bytes": np.array([b"a", b"bc"]),
        "pairs": np.zeros(2, [("r", "f4"), ("i", "f4")]),
    }
    save(tmp_path / "a.npz", **arrays)  # type: ignore[operator]
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(
    ("local", "central", "value", "words"),
    [
        (6, 8, 0x01, "encrypted"),
        (6, 8, 0x20, "encrypted"),
        (6, 8, 0x40, "encrypted"),
        (8, 10, 99, "packed in a way"),
        (8, 10, zipfile.ZIP_LZMA, "packed in a way"),
        (None, 6, 200, "damaged"),
    ],
)
def test_flags_of_a_member(tmp_path: Path, local: int | None, central: int, value: int, words: str) -> None:
    path = packed(tmp_path / "a.npz", sample=saved(np.zeros((2, 2))))
    content = bytearray(path.read_bytes())
    if local is not None:
        content[content.find(b"PK\x03\x04") + local] = value
    content[content.find(b"PK\x01\x02") + central] = value
    path.write_bytes(content)
    refused(path, words)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_of_packing(tmp_path: Path, method: int) -> None:
    refused(packed(tmp_path / "a.npz", method, sample=saved(np.zeros(2))), "packed in a way")


def test_members_that_are_no_arrays(tmp_path: Path) -> None:
    refused(packed(tmp_path / "a.npz", **{"readme.txt": b"text"}), "'readme.txt' is no array")
    refused(packed(tmp_path / "b.npz", sample=b"text"), "damaged")
    refused(packed(tmp_path / "c.npz", sample=declared("(2,)", b"x", "|O")), "pickled Python objects")
    (tmp_path / "d.npz").write_bytes(b"no archive")
    refused(tmp_path / "d.npz", "not an npz file")


@pytest.mark.parametrize(
    "shape",
    ["(3,)", "(1099511627776,)", f"({2**70},)", "(-2,)", "(2, -1)", "(0,)", "((2,),)", "(2.0,)", "2", f"({'1,' * 40})"],
)
def test_shapes_that_do_not_fit_what_is_stored(tmp_path: Path, shape: str) -> None:
    refused(packed(tmp_path / "a.npz", sample=declared(shape, bytes(8))))


def test_bombs(tmp_path: Path) -> None:
    zeros = declared("(30000000,)", bytes(120_000_000))
    path = packed(tmp_path / "a.npz", sample=zeros)
    assert path.stat().st_size < 200_000
    refused(path, "would unpack to 120,0", "bomb")
    several = packed(tmp_path / "b.npz", **{f"a{number}": zeros[: 2**25] for number in range(3)})
    refused(several, "bomb")
    lying = bytearray(path.read_bytes())
    place = lying.find(b"PK\x01\x02") + 24
    lying[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(lying)
    refused(path)


def test_too_many_members(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.npz", **{f"a{number}": b"" for number in range(MAX_MEMBERS + 1)})
    refused(path, f"at most {MAX_MEMBERS:,}")


@pytest.mark.parametrize("code", [0x110000, 0xD800, 0xFFFFFFFF])
def test_text_that_is_not_unicode(tmp_path: Path, code: int) -> None:
    refused(packed(tmp_path / "a.npz", text=declared("(1,)", struct.pack("<I", code), "<U1")), "not Unicode")


def test_no_file_that_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npz")
    refused(tmp_path / "a.npz", "FIFO")
